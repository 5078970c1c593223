import { type Allowance, Credits } from './credits.ts'

/** Somebody was refused. */
export interface Denial {
  /** As URI; empty for somebody unknown. */
  readonly who: string
  /** Address of the caller. */
  readonly from: string
  /** Full method name. */
  readonly action: string
  readonly object: string
  readonly tenant: string
  /** Error code. */
  readonly reason: string
}

/** A denial as it is written down. */
export interface CountedDenial extends Denial {
  /** How many it stands for. */
  readonly count: number
}

/** Denials of one who, action and reason are written at once, and then counted for this long. */
const DENIAL_WINDOW_MS = 10_000
/** Kinds of denials that are told apart; further ones are counted together. 1,001 rows of at most 1.2 KiB: 1.2 MiB. */
const DENIALS_MAX = 1_000
/** Kinds that are not told apart are one entry in this time. */
const OTHERS_WINDOW_MS = 60_000
const DAY_MS = 24 * 3_600_000
/**
 * Entries that denials may make, since whoever wants the log to be full only has to be denied. All together: this many at once,
 * and one a second. At 500 bytes an entry, a replica writes at most 41 MiB of them a day …
 */
const OF_ALL: Allowance = { unitsMax: 100, unitsPerMs: 1 / 1000 }
/** … of one member in the long run 500, so 250 KiB a day … */
const OF_A_MEMBER: Allowance = { unitsMax: 500, unitsPerMs: 500 / DAY_MS }
/** … and of all together who are nobody, which anybody can be, one a minute: 700 KiB a day. */
const OF_NOBODY: Allowance = { unitsMax: 10, unitsPerMs: 1 / 60_000 }

interface Row {
  denial: Denial
  count: number
  writtenAtMs: number
}

const OTHERS: Denial = {
  who: '',
  from: '',
  action: '',
  object: '',
  tenant: '',
  reason: 'denials that were not told apart',
}

/** Counts denials. What is not written down yet is never forgotten, only told later and in fewer words. */
export class Denials {
  readonly #rows = new Map<string, Row>()
  readonly #others: Row = { denial: OTHERS, count: 0, writtenAtMs: Number.NEGATIVE_INFINITY }
  readonly #ofAll = new Credits(OF_ALL)
  readonly #ofMembers = new Credits(OF_A_MEMBER)
  readonly #ofNobody = new Credits(OF_NOBODY)

  /** True if it is the first of its kind, so that there may be something to write down at once. */
  add(denial: Denial): boolean {
    const key = JSON.stringify([denial.who, denial.action, denial.reason])
    const row = this.#rows.get(key)
    if (row) {
      row.count++
      row.denial = denial
      return false
    }
    if (this.#rows.size >= DENIALS_MAX) {
      this.#others.count++
      return false
    }
    this.#rows.set(key, { denial, count: 1, writtenAtMs: Number.NEGATIVE_INFINITY })
    return true
  }

  /** What is to be written down now; of callers who are nobody only if there is `roomForNobody`. */
  take(nowMs: number, { roomForNobody }: { readonly roomForNobody: boolean }): CountedDenial[] {
    const taken: CountedDenial[] = []
    for (const [key, row] of this.#rows) {
      if (nowMs - row.writtenAtMs < DENIAL_WINDOW_MS) continue
      const { who } = row.denial
      if (row.count > 0 && who === '' && !roomForNobody) continue
      if (row.count > 0 && !this.#mayTell(who, nowMs)) continue
      this.#rows.delete(key)
      if (row.count === 0) continue
      // Behind the others, so that each has its turn when there is more to tell than may be told.
      this.#rows.set(key, row)
      this.#sharesOf(who).take(who, 1, nowMs)
      taken.push(this.#take(row, nowMs))
    }
    const { count, writtenAtMs } = this.#others
    const isTurn = count > 0 && nowMs - writtenAtMs >= OTHERS_WINDOW_MS
    // Nobody knows how many of them are of nobody.
    if (isTurn && roomForNobody && this.#ofAll.waitMs('', 1, nowMs) === 0) {
      taken.push(this.#take(this.#others, nowMs))
    }
    return taken
  }

  /** All that is not written down yet, however much it is: nothing comes after it. */
  takeAll(): CountedDenial[] {
    const rows = [...this.#rows.values(), this.#others].filter(({ count }) => count > 0)
    this.#rows.clear()
    this.#others.count = 0
    return rows.map(({ denial, count }) => ({ ...denial, count }))
  }

  #mayTell(who: string, nowMs: number): boolean {
    return this.#ofAll.waitMs('', 1, nowMs) === 0 && this.#sharesOf(who).waitMs(who, 1, nowMs) === 0
  }

  #sharesOf(who: string): Credits {
    return who === '' ? this.#ofNobody : this.#ofMembers
  }

  #take(row: Row, nowMs: number): CountedDenial {
    const { denial, count } = row
    this.#ofAll.take('', 1, nowMs)
    row.count = 0
    row.writtenAtMs = nowMs
    return { ...denial, count }
  }
}
