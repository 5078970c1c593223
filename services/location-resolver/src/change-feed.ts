import { OverloadedError } from '@weft/errors'

/** Watchers at one replica. */
const WATCHERS_MAX = 1024

/** Tells watchers which endpoints may have changed their location. */
export class ChangeFeed {
  readonly #watchers = new Set<Watcher>()

  touch(endpointId: number, networkId: number): void {
    for (const watcher of this.#watchers) watcher.touch(endpointId, networkId)
  }

  /** Watches one network, or all with 0, until the signal is aborted. Throws `OverloadedError`. */
  watch(networkId: number, signal: AbortSignal): Watcher {
    if (this.#watchers.size >= WATCHERS_MAX) {
      throw new OverloadedError({ what: 'Watch', limit: WATCHERS_MAX })
    }
    const watcher = new Watcher(networkId, signal)
    this.#watchers.add(watcher)
    signal.addEventListener('abort', () => this.#watchers.delete(watcher), { once: true })
    return watcher
  }
}

/** What a slow watcher has not taken yet is kept once per endpoint, so it never holds more than there are endpoints. */
export class Watcher {
  readonly #networkId: number
  readonly #signal: AbortSignal
  #touched = new Set<number>()
  #wake: () => void = () => {}

  constructor(networkId: number, signal: AbortSignal) {
    this.#networkId = networkId
    this.#signal = signal
    signal.addEventListener('abort', () => this.#wake(), { once: true })
  }

  touch(endpointId: number, networkId: number): void {
    if (this.#networkId !== 0 && this.#networkId !== networkId) return
    this.#touched.add(endpointId)
    this.#wake()
  }

  /** Waits until endpoints were touched and takes them all; undefined once the signal is aborted. */
  async take(): Promise<ReadonlySet<number> | undefined> {
    if (this.#touched.size === 0 && !this.#signal.aborted) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    if (this.#signal.aborted) return undefined
    const touched = this.#touched
    this.#touched = new Set()
    return touched
  }
}
