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
export const DENIAL_WINDOW_MS = 10_000
/** Kinds of denials that are told apart; further ones are counted together. 1,001 rows of at most 1.2 KiB: 1.2 MiB. */
export const DENIALS_MAX = 1_000
/**
 * Entries that denials may make: this many at once, and one a second in the long run, since whoever wants the log to be
 * full only has to be denied. At 500 bytes an entry, a replica writes at most 41 MiB of them a day.
 */
const ENTRIES_BURST = 100
const ENTRIES_PER_MS = 1 / 1000

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
  #budget = ENTRIES_BURST
  #filledAtMs: number

  constructor(nowMs: number) {
    this.#filledAtMs = nowMs
  }

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

  /** What is to be written down now. */
  take(nowMs: number): CountedDenial[] {
    this.#budget += Math.max(0, nowMs - this.#filledAtMs) * ENTRIES_PER_MS
    this.#budget = Math.min(ENTRIES_BURST, this.#budget)
    this.#filledAtMs = nowMs
    const taken: CountedDenial[] = []
    for (const [key, row] of this.#rows) {
      if (nowMs - row.writtenAtMs < DENIAL_WINDOW_MS) continue
      if (row.count > 0 && this.#budget < 1) continue
      this.#rows.delete(key)
      if (row.count === 0) continue
      // Behind the others, so that each has its turn when there is more to tell than may be told.
      this.#rows.set(key, row)
      taken.push(this.#take(row, nowMs))
    }
    const { count, writtenAtMs } = this.#others
    if (count > 0 && nowMs - writtenAtMs >= DENIAL_WINDOW_MS && this.#budget >= 1) {
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

  #take(row: Row, nowMs: number): CountedDenial {
    const { denial, count } = row
    this.#budget--
    row.count = 0
    row.writtenAtMs = nowMs
    return { ...denial, count }
  }
}
