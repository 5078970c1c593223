/** Units that somebody may use at once … */
export const BUDGET_MAX_UNITS = 5_000
/** … and this much comes back. At 1 KiB an action, one member fills the audit log with at most 84 MiB a day. */
const UNITS_PER_MS = 1 / 1000
/** Those who are remembered, more than there are hosts and users together: 100 bytes each. */
const MEMBERS_MAX = 49_152

interface Share {
  readonly units: number
  readonly atMs: number
}

/**
 * What each member, or each token, may have written into the audit log: nothing is ever removed from it, and when it is full
 * nothing is done any more.
 */
export class AuditBudget {
  readonly #shares = new Map<string, Share>()

  /** Takes units of somebody's share. Milliseconds until there are so many, and none is taken; 0 if they are. */
  take(who: string, units: number, nowMs: number): number {
    const share = this.#shares.get(who)
    const left = share ? unitsAt(share, nowMs) : BUDGET_MAX_UNITS
    if (left < units) return Math.ceil((units - left) / UNITS_PER_MS)
    this.#shares.delete(who)
    this.#shares.set(who, { units: left - units, atMs: nowMs })
    if (this.#shares.size > MEMBERS_MAX) {
      const [oldest] = this.#shares.keys()
      if (oldest !== undefined) this.#shares.delete(oldest)
    }
    return 0
  }
}

function unitsAt({ units, atMs }: Share, nowMs: number): number {
  return Math.min(BUDGET_MAX_UNITS, units + (nowMs - atMs) * UNITS_PER_MS)
}
