import { Credits } from './credits.ts'

/** Units that somebody may use at once, of which one a second comes back … */
export const BUDGET_MAX_UNITS = 5_000
/**
 * … and in the long run no more than these a day. At 1 KiB an action one member fills 10 MiB of the audit log in a day, so
 * its 2 GiB come to the alarm at 0.8 after 160 days.
 */
export const BUDGET_DAY_UNITS = 10_000
const DAY_MS = 24 * 3_600_000

/**
 * What each member, or each token, may have written into the audit log: nothing is ever removed from it, and when it is full
 * nothing is done any more.
 */
export class AuditBudget {
  readonly #soon = new Credits({ unitsMax: BUDGET_MAX_UNITS, unitsPerMs: 1 / 1000 })
  readonly #daily = new Credits({
    unitsMax: BUDGET_DAY_UNITS,
    unitsPerMs: BUDGET_DAY_UNITS / DAY_MS,
  })

  /** Takes units of somebody's share. Milliseconds until there are so many, and none is taken; 0 if they are. */
  take(who: string, units: number, nowMs: number): number {
    const waitMs = Math.max(
      this.#soon.waitMs(who, units, nowMs),
      this.#daily.waitMs(who, units, nowMs),
    )
    if (waitMs > 0) return waitMs
    this.#soon.take(who, units, nowMs)
    this.#daily.take(who, units, nowMs)
    return 0
  }
}
