import { asWeftError } from '@weft/errors'
import { untraced } from '@weft/telemetry'
import { backOffMs } from './domain/back-off.ts'
import { Breaker, type BreakerStatus } from './domain/breaker.ts'
import type { Events } from './events.ts'
import { pause } from './loop.ts'

/** How often something that answers is asked whether it still does. */
const PROBE_MS = 5_000
/** Longest wait between two probes of something that does not answer: it is noticed that fast when it is back. */
const PROBE_CAP_MS = 1_000
const PROBE_TIMEOUT_MS = 1_000

/** Errors that say that nobody answered, or not to us: it is of no use to ask further. Others are an answer. */
const SILENCE: ReadonlySet<string> = new Set([
  'unavailable',
  'deadline-exceeded',
  'cancelled',
  'unauthenticated',
  'certificate-refused',
])

/** A service that this host asks, with a breaker before it: while it is silent it is probed in the background, and nobody waits for it. */
export class Dependency {
  readonly name: string
  readonly address: string
  readonly #breaker: Breaker
  readonly #events: Events
  /** Ends the wait for the next probe. */
  #wake = new AbortController()

  constructor(name: string, address: string, events: Events) {
    this.name = name
    this.address = address
    this.#breaker = new Breaker(Date.now())
    this.#events = events
  }

  get isAnswering(): boolean {
    return this.#breaker.isClosed
  }

  status(nowMs: number): BreakerStatus {
    return this.#breaker.status(nowMs)
  }

  /** Asks, and notes whether somebody answered; an error that is an answer counts as one. */
  async ask<T>(question: () => Promise<T>): Promise<T> {
    try {
      const answer = await question()
      this.succeeded()
      return answer
    } catch (error) {
      const { code, message } = asWeftError(error)
      if (SILENCE.has(code)) this.failed(message)
      else this.succeeded()
      throw error
    }
  }

  succeeded(): void {
    if (this.#breaker.succeeded(Date.now())) this.#events.dependencyFound(this.name)
  }

  failed(error: string): void {
    if (!this.#breaker.failed(error)) return
    this.#events.dependencyLost(this.name, error)
    this.#wake.abort()
  }

  /** Probes until the signal is aborted. */
  async keepProbing(
    probe: (options: {
      readonly timeoutMs: number
      readonly signal: AbortSignal
    }) => Promise<unknown>,
    signal: AbortSignal,
  ): Promise<void> {
    for (let attempt = 0; !signal.aborted; ) {
      this.#wake = new AbortController()
      await untraced(() =>
        this.ask(() => probe({ timeoutMs: PROBE_TIMEOUT_MS, signal })).catch(() => {}),
      )
      attempt = this.isAnswering ? 0 : attempt + 1
      // Spread over the interval, so that hosts that start together do not ask together.
      const waitMs =
        attempt === 0
          ? PROBE_MS * (0.75 + Math.random() / 2)
          : backOffMs(attempt, Math.random(), 100, PROBE_CAP_MS)
      await pause(waitMs, attempt === 0 ? AbortSignal.any([signal, this.#wake.signal]) : signal)
    }
  }
}
