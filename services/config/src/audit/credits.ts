/** How much somebody may use. */
export interface Allowance {
  /** At once. */
  readonly unitsMax: number
  /** Comes back of it. */
  readonly unitsPerMs: number
}

/** Those who are remembered, more than there are hosts and users together: 100 bytes each. */
const REMEMBERED_MAX = 49_152

interface Share {
  readonly units: number
  readonly atMs: number
}

/** What is left to each of an allowance that each has. Times are of a clock that never goes back. */
export class Credits {
  readonly #allowance: Allowance
  readonly #shares = new Map<string, Share>()

  constructor(allowance: Allowance) {
    this.#allowance = allowance
  }

  /** Milliseconds until somebody has so many units; 0 if it is so. */
  waitMs(who: string, units: number, nowMs: number): number {
    const missing = units - this.#leftTo(who, nowMs)
    return missing > 0 ? Math.ceil(missing / this.#allowance.unitsPerMs) : 0
  }

  take(who: string, units: number, nowMs: number): void {
    const left = this.#leftTo(who, nowMs)
    this.#shares.delete(who)
    this.#shares.set(who, { units: left - units, atMs: nowMs })
    if (this.#shares.size <= REMEMBERED_MAX) return
    const [oldest] = this.#shares.keys()
    if (oldest !== undefined) this.#shares.delete(oldest)
  }

  #leftTo(who: string, nowMs: number): number {
    const { unitsMax, unitsPerMs } = this.#allowance
    const share = this.#shares.get(who)
    return share ? Math.min(unitsMax, share.units + (nowMs - share.atMs) * unitsPerMs) : unitsMax
  }
}
