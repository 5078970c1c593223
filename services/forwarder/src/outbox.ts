/** Messages of which one side says when they are there and the other takes them in order. Ends once it is closed and empty. */
export class Outbox<T> implements AsyncIterable<T> {
  readonly #messages: T[] = []
  #wake: (() => void) | undefined
  #isClosed = false

  push(message: T): void {
    if (this.#isClosed) return
    this.#messages.push(message)
    this.#wake?.()
  }

  close(): void {
    this.#isClosed = true
    this.#wake?.()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    for (;;) {
      const message = this.#messages.shift()
      if (message !== undefined) yield message
      else if (this.#isClosed) return
      else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve
        })
        this.#wake = undefined
      }
    }
  }
}
