import { OverloadedError } from '@weft/errors'

/** Watchers at one replica … */
const WATCHERS_MAX = 1024
/** … and of them those of one caller, so that a few callers leave room for others. */
export const WATCHERS_PER_CALLER_MAX = 16

/** Tells watchers which endpoints may have changed their location. */
export class ChangeFeed {
  readonly #watchers = new Set<Watcher>()
  readonly #countByCaller = new Map<string, number>()

  /** `tenantId`: whose the endpoint is; undefined where nobody knows any more. */
  touch(endpointId: number, networkId: number, tenantId: number | undefined): void {
    for (const watcher of this.#watchers) watcher.touch(endpointId, networkId, tenantId)
  }

  /** Has all watchers judge again what they may hear of. */
  stir(): void {
    for (const watcher of this.#watchers) watcher.stir()
  }

  /** Watches one network, or all with 0, for a caller until the signal is aborted. Throws `OverloadedError`. */
  watch(networkId: number, caller: string, signal: AbortSignal): Watcher {
    if (this.#watchers.size >= WATCHERS_MAX) {
      throw new OverloadedError({ what: 'Watch', limit: WATCHERS_MAX })
    }
    const count = this.#countByCaller.get(caller) ?? 0
    if (count >= WATCHERS_PER_CALLER_MAX) {
      throw new OverloadedError({ what: `Watch by ${caller}`, limit: WATCHERS_PER_CALLER_MAX })
    }
    const watcher = new Watcher(networkId, signal)
    // Nobody would hear of its end.
    if (signal.aborted) return watcher
    this.#watchers.add(watcher)
    this.#countByCaller.set(caller, count + 1)
    signal.addEventListener('abort', () => this.#forget(watcher, caller), { once: true })
    return watcher
  }

  #forget(watcher: Watcher, caller: string): void {
    this.#watchers.delete(watcher)
    const count = (this.#countByCaller.get(caller) ?? 1) - 1
    if (count > 0) this.#countByCaller.set(caller, count)
    else this.#countByCaller.delete(caller)
  }
}

/** What a slow watcher has not taken yet is kept once per endpoint, so it never holds more than there are endpoints. */
export class Watcher {
  readonly #networkId: number
  readonly #signal: AbortSignal
  /** With the tenant of each, since of an endpoint that is gone it cannot be looked up any more. */
  #touched = new Map<number, number | undefined>()
  #isStirred = false
  #wake: () => void = () => {}

  constructor(networkId: number, signal: AbortSignal) {
    this.#networkId = networkId
    this.#signal = signal
    signal.addEventListener('abort', () => this.#wake(), { once: true })
  }

  touch(endpointId: number, networkId: number, tenantId: number | undefined): void {
    if (this.#networkId !== 0 && this.#networkId !== networkId) return
    this.#touched.set(endpointId, tenantId ?? this.#touched.get(endpointId))
    this.#wake()
  }

  stir(): void {
    this.#isStirred = true
    this.#wake()
  }

  /**
   * Waits until endpoints were touched, and takes them all with their tenants, or it was stirred; undefined once the signal is
   * aborted.
   */
  async take(): Promise<ReadonlyMap<number, number | undefined> | undefined> {
    if (this.#touched.size === 0 && !this.#isStirred && !this.#signal.aborted) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    if (this.#signal.aborted) return undefined
    const touched = this.#touched
    this.#touched = new Map()
    this.#isStirred = false
    return touched
  }
}
