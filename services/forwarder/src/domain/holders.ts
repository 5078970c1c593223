/** Who holds which of the keys that only one may hold at a time, and who waits for one of them. */
export class Holders {
  readonly #byKey: Map<string, number> = new Map()
  readonly #byId: Map<number, string> = new Map()
  readonly #waiting: Map<string, Set<number>> = new Map()
  readonly #waitsFor: Map<number, Set<string>> = new Map()

  isHolding(id: number): boolean {
    return this.#byId.has(id)
  }

  /** All that hold something or wait for it. */
  *ids(): Generator<number, void, undefined> {
    yield* this.#byId.keys()
    yield* this.#waitsFor.keys()
  }

  holderOf(key: string): number | undefined {
    return this.#byKey.get(key)
  }

  /** False if another one holds the key. */
  take(key: string, id: number): boolean {
    const holder = this.#byKey.get(key)
    if (holder !== undefined) return holder === id
    this.#byKey.set(key, id)
    this.#byId.set(id, key)
    return true
  }

  wait(key: string, id: number): void {
    const ids = this.#waiting.get(key) ?? new Set()
    this.#waiting.set(key, ids.add(id))
    const keys = this.#waitsFor.get(id) ?? new Set()
    this.#waitsFor.set(id, keys.add(key))
  }

  /** Lets go of what it holds, and waits for nothing; returns who waits for what it held. */
  release(id: number): readonly number[] {
    for (const key of this.#waitsFor.get(id) ?? []) {
      const ids = this.#waiting.get(key)
      ids?.delete(id)
      if (ids?.size === 0) this.#waiting.delete(key)
    }
    this.#waitsFor.delete(id)
    const key = this.#byId.get(id)
    if (key === undefined) return []
    this.#byId.delete(id)
    this.#byKey.delete(key)
    return [...(this.#waiting.get(key) ?? [])]
  }
}
