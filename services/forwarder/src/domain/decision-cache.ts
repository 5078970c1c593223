import type { ErrorInfo } from '@weft/errors'
import { BoundedMap } from './bounded-map.ts'
import type { CacheStatus } from './cache-status.ts'

/** What is known of a connection when it is decided. */
export interface Facts {
  readonly network: number
  readonly source: number
  readonly target: number
  readonly ipProtocol: number
  readonly sourcePort: number
  readonly targetPort: number
}

export type FactName = keyof Facts

/** How routing-policy answered, and the facts on which the answer depends. */
export interface Decision {
  readonly protocol: string
  readonly rule: string
  readonly dependsOn: readonly FactName[]
  readonly error: ErrorInfo | undefined
}

export interface GivenDecision {
  readonly decision: Decision
  readonly revision: bigint
  readonly givenAtMs: number
  readonly horizonMs: number
}

/** Sum: 65,536 entries of some 250 bytes are 16 MB at most. */
const ENTRIES_MAX = 65_536

/** How long an error is taken for granted, in milliseconds. */
const NEGATIVE_HORIZON_MS = 1_000

/**
 * Answers of routing-policy, each found again by every connection that agrees with it in the facts on which it depends.
 * All are of one revision of the rule table: two of one revision that both fit a connection say the same.
 */
export class DecisionCache {
  readonly #entries: BoundedMap<string, GivenDecision>
  /** The sets of facts on which answers depended so far: there are as many as rules look at different facts. */
  readonly #shapes: Map<string, readonly FactName[]> = new Map()
  #revision = 0n
  #hits = 0
  #misses = 0
  #staleAnswers = 0
  #horizonMs = 0

  constructor(entriesMax: number = ENTRIES_MAX) {
    this.#entries = new BoundedMap(entriesMax)
  }

  get(facts: Facts, nowMs: number): GivenDecision | undefined {
    const given = this.#find(facts, ({ givenAtMs, horizonMs }) => nowMs - givenAtMs <= horizonMs)
    if (given) this.#hits++
    else this.#misses++
    return given
  }

  /** The answer however old: for when nobody can be asked. */
  getExpired(facts: Facts): GivenDecision | undefined {
    return this.#find(facts, ({ decision }) => decision.error === undefined)
  }

  put(facts: Facts, given: GivenDecision): void {
    if (given.revision < this.#revision) return
    this.announceRevision(given.revision)
    const shape = shapeOf(given.decision.dependsOn)
    this.#shapes.set(shape, given.decision.dependsOn)
    const horizonMs = given.decision.error
      ? Math.min(given.horizonMs, NEGATIVE_HORIZON_MS)
      : given.horizonMs
    this.#entries.set(keyOf(shape, given.decision.dependsOn, facts), { ...given, horizonMs })
    this.#horizonMs = given.horizonMs
  }

  /** The rule table is at this revision: answers of older ones are dropped. */
  announceRevision(revision: bigint): void {
    if (revision <= this.#revision) return
    this.#revision = revision
    this.clear()
  }

  /** Changes of the rule table may have been missed. */
  clear(): void {
    this.#entries.clear()
    this.#shapes.clear()
  }

  countStaleAnswer(): void {
    this.#staleAnswers++
  }

  status(nowMs: number): CacheStatus {
    let oldest = nowMs
    for (const [, { givenAtMs }] of this.#entries) oldest = Math.min(oldest, givenAtMs)
    return {
      entries: this.#entries.size,
      revision: this.#revision,
      oldestAgeMs: nowMs - oldest,
      horizonMs: this.#horizonMs,
      hits: this.#hits,
      misses: this.#misses,
      staleAnswers: this.#staleAnswers,
    }
  }

  #find(facts: Facts, isUsable: (given: GivenDecision) => boolean): GivenDecision | undefined {
    for (const [shape, names] of this.#shapes) {
      const given = this.#entries.get(keyOf(shape, names, facts))
      if (given && isUsable(given)) return given
    }
    return undefined
  }
}

function shapeOf(names: readonly FactName[]): string {
  return [...names].sort().join(',')
}

function keyOf(shape: string, names: readonly FactName[], facts: Facts): string {
  return `${shape}:${[...names]
    .sort()
    .map((name) => facts[name])
    .join(',')}`
}
