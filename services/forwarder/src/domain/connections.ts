import type { Answer } from './answers.ts'
import { BoundedMap } from './bounded-map.ts'
import { isEqual } from './equal.ts'
import { pairKey } from './resolution-cache.ts'

/** As many as the data plane holds flows. Sum: 131,072 entries of some 250 bytes are 32 MB at most. */
const CONNECTIONS_MAX = 131_072

/** How long a refusal is believed before somebody is asked again, in milliseconds. */
const REFUSAL_CHECK_MS = 5_000

/** The pairs of endpoints that talk through this host, with the answers by which they do. */
export class Connections {
  readonly #answers: BoundedMap<string, Answer> = new BoundedMap(CONNECTIONS_MAX)

  get size(): number {
    return this.#answers.size
  }

  get(sourceId: number, targetId: number): Answer | undefined {
    return this.#answers.get(pairKey(sourceId, targetId))
  }

  /** Whether by this answer packets go another way than before. */
  isChange({ facts, action }: Answer): boolean {
    return !isEqual(this.#answers.get(pairKey(facts.source, facts.target))?.action, action)
  }

  put(answer: Answer): void {
    this.#answers.set(pairKey(answer.facts.source, answer.facts.target), answer)
  }

  forget(sourceId: number, targetId: number): void {
    this.#answers.delete(pairKey(sourceId, targetId))
  }

  /** Connections whose answer should be given anew: it was our own, is past its horizon, or is a refusal. */
  due(nowMs: number, countMax: number): Answer[] {
    const due: Answer[] = []
    for (const [, answer] of this.#answers) {
      if (due.length === countMax) break
      const ageMs = nowMs - answer.givenAtMs
      const horizonMs =
        answer.action.kind === 'refused'
          ? Math.min(answer.horizonMs, REFUSAL_CHECK_MS)
          : answer.horizonMs
      if (answer.isStale || ageMs > horizonMs) due.push(answer)
    }
    return due
  }

  /** Forgets the connections whose flows are not among these pairs any more. */
  retain(pairs: ReadonlySet<string>): void {
    for (const [key] of [...this.#answers]) if (!pairs.has(key)) this.#answers.delete(key)
  }
}
