import { WATCH_BATCH_MAX } from './bus.ts'

/** What a watch received and nobody took yet; taken in batches. */
export class BatchQueue<E> {
  #events: E[] = []
  #wake: (() => void) | undefined

  get size(): number {
    return this.#events.length
  }

  push(event: E): void {
    this.#events.push(event)
    this.#wake?.()
  }

  /** Resolves when there is something to take, or when `interrupt` is called. */
  async filled(): Promise<void> {
    if (this.#events.length > 0) return
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#wake = resolve
    await promise
    this.#wake = undefined
    // One turn of the event loop, so that all that came in one read is one batch.
    await new Promise(setImmediate)
  }

  interrupt(): void {
    this.#wake?.()
  }

  /** At most `WATCH_BATCH_MAX` events, none if there are none. */
  take(): E[] {
    if (this.#events.length <= WATCH_BATCH_MAX) {
      const all = this.#events
      this.#events = []
      return all
    }
    return this.#events.splice(0, WATCH_BATCH_MAX)
  }
}
