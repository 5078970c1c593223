import { setTimeout as delay } from 'node:timers/promises'
import { counter, type Logger } from '@weft/telemetry'

/** Pause before a watch is set up again: full jitter up to this, doubling from `RETRY_MIN_MS`. */
const RETRY_MIN_MS = 100
const RETRY_MAX_MS = 5000
const FAILURES_COUNTED_MAX = 10

const restartsTotal = counter<'bucket'>({
  name: 'weft_bus_watch_restarts_total',
  help: 'Times that a watch was set up again, by bucket',
  labels: ['bucket'],
})

/** Counts and paces the tries to set up one watch. */
export class WatchRetry {
  readonly #bucket: string
  readonly #prefix: string
  readonly #log: Logger
  readonly #signal: AbortSignal
  #failures = 0

  constructor(bucket: string, prefix: string, log: Logger, signal: AbortSignal) {
    this.#bucket = bucket
    this.#prefix = prefix
    this.#log = log
    this.#signal = signal
  }

  succeeded(): void {
    this.#failures = 0
  }

  failed(err: unknown): void {
    const facts = { err, bucket: this.#bucket, prefix: this.#prefix }
    this.#log.debug(facts, 'a watch could not be set up')
  }

  /** Returns at once when the watch is over. */
  async pause(): Promise<void> {
    const signal = this.#signal
    if (signal.aborted) return
    restartsTotal.add(1, { bucket: this.#bucket })
    const pauseMs = Math.random() * Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** this.#failures)
    this.#failures = Math.min(this.#failures + 1, FAILURES_COUNTED_MAX)
    await delay(pauseMs, undefined, { signal }).catch(() => undefined)
  }
}
