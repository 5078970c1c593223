import { counter, type Logger } from '@weft/telemetry'
import { SUBSCRIPTION_PENDING_MAX_BYTES, type SubscribeOptions } from './bus.ts'

const CONCURRENCY_DEFAULT = 64

const droppedTotal = counter<'pattern'>({
  name: 'weft_bus_dropped_total',
  help: 'Messages dropped because too many waited for their handlers, by pattern',
  labels: ['pattern'],
})

/** Runs the handlers of one subscription: some at once, the others wait within bounds. */
export class HandlerQueue<M> {
  readonly #pattern: string
  readonly #handle: (message: M) => void | Promise<void>
  readonly #options: SubscribeOptions
  readonly #log: Logger
  readonly #waiting: { readonly message: M; readonly sizeBytes: number }[] = []
  #waitingBytes = 0
  #running = 0
  #isOverflowing = false
  #idle: PromiseWithResolvers<void> | undefined

  constructor(
    pattern: string,
    handle: (message: M) => void | Promise<void>,
    options: SubscribeOptions,
    log: Logger,
  ) {
    this.#pattern = pattern
    this.#handle = handle
    this.#options = options
    this.#log = log
  }

  push(message: M, sizeBytes: number): void {
    if (this.#running < (this.#options.concurrency ?? CONCURRENCY_DEFAULT)) {
      void this.#run(message)
      return
    }
    if (this.#waitingBytes + sizeBytes > SUBSCRIPTION_PENDING_MAX_BYTES) {
      droppedTotal.add(1, { pattern: this.#pattern })
      if (!this.#isOverflowing) {
        this.#log.warn(
          { pattern: this.#pattern },
          'messages are dropped: the handlers are too slow',
        )
        this.#isOverflowing = true
      }
      return
    }
    this.#waiting.push({ message, sizeBytes })
    this.#waitingBytes += sizeBytes
  }

  /** Resolves when nothing waits and nothing runs. */
  async settled(): Promise<void> {
    if (this.#running === 0) return
    this.#idle ??= Promise.withResolvers<void>()
    await this.#idle.promise
  }

  async #run(first: M): Promise<void> {
    this.#running++
    let message: M | undefined = first
    while (message !== undefined) {
      try {
        await this.#handle(message)
      } catch (error) {
        this.#log.error({ err: error, pattern: this.#pattern }, 'a message could not be handled')
      }
      const next = this.#waiting.shift()
      this.#waitingBytes -= next?.sizeBytes ?? 0
      message = next?.message
    }
    this.#running--
    // Told when the backlog is gone, so that what is read anew is not overtaken by what waited.
    if (this.#isOverflowing) {
      this.#isOverflowing = false
      this.#options.onOverflow?.()
    }
    if (this.#running === 0) this.#idle?.resolve()
  }
}
