import { setTimeout as sleep } from 'node:timers/promises'

/** Waits, or returns early when the signal is aborted. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => {})
}

/**
 * Work of which one run at a time is enough: what is asked for while a run is under way shares the next one. The promise
 * settles with the run that began after the call, so it covers everything that was changed before.
 */
export class Coalesced {
  readonly #work: () => Promise<void>
  #current: Promise<void> = Promise.resolve()
  #next: Promise<void> | undefined

  constructor(work: () => Promise<void>) {
    this.#work = work
  }

  run(): Promise<void> {
    if (this.#next) return this.#next
    const next = this.#current
      .catch(() => {})
      .then(() => {
        this.#next = undefined
        return this.#work()
      })
    this.#current = next
    this.#next = next
    return next
  }

  /** Resolves once no run is under way or asked for. */
  async idle(): Promise<void> {
    while (this.#next) await this.#next.catch(() => {})
    await this.#current.catch(() => {})
  }
}

/** Lets one task at a time run for each key, in the order of their calls. */
export class KeyedLock {
  readonly #tails: Map<string, Promise<unknown>> = new Map()

  async run<T>(key: string, task: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(key) ?? Promise.resolve()
    const mine = before.then(task, task)
    this.#tails.set(key, mine)
    try {
      return await mine
    } finally {
      if (this.#tails.get(key) === mine) this.#tails.delete(key)
    }
  }
}
