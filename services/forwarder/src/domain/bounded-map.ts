/** A map that holds at most `sizeMax` entries: a new one pushes out the one that was used least recently. */
export class BoundedMap<K, V> {
  readonly #sizeMax: number
  readonly #onEvict: (key: K, value: V) => void
  // A Map iterates in the order of insertion: the first entry is the one that was used least recently.
  readonly #entries: Map<K, V> = new Map()

  constructor(sizeMax: number, onEvict: (key: K, value: V) => void = () => {}) {
    this.#sizeMax = sizeMax
    this.#onEvict = onEvict
  }

  get size(): number {
    return this.#entries.size
  }

  get(key: K): V | undefined {
    const value = this.#entries.get(key)
    if (value === undefined) return undefined
    this.#entries.delete(key)
    this.#entries.set(key, value)
    return value
  }

  set(key: K, value: V): void {
    this.#entries.delete(key)
    this.#entries.set(key, value)
    if (this.#entries.size <= this.#sizeMax) return
    for (const [oldKey, oldValue] of this.#entries) {
      this.#entries.delete(oldKey)
      this.#onEvict(oldKey, oldValue)
      return
    }
  }

  delete(key: K): V | undefined {
    const value = this.#entries.get(key)
    this.#entries.delete(key)
    return value
  }

  clear(): void {
    this.#entries.clear()
  }

  [Symbol.iterator](): IterableIterator<[K, V]> {
    return this.#entries.entries()
  }
}
