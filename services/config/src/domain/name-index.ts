/**
 * Ids by name, with pages in the order of the names. The order is made by the first page that is asked for and kept up
 * from then on, so that loading a whole database costs no sorting.
 */
export class NameIndex {
  readonly #ids = new Map<string, number>()
  #sorted: string[] | undefined

  get size(): number {
    return this.#ids.size
  }

  get(name: string): number | undefined {
    return this.#ids.get(name)
  }

  set(name: string, id: number): void {
    if (this.#sorted && !this.#ids.has(name)) {
      this.#sorted.splice(lowerBound(this.#sorted, name), 0, name)
    }
    this.#ids.set(name, id)
  }

  /** Forgets the name if it still belongs to this id. */
  delete(name: string, id: number): void {
    if (this.#ids.get(name) !== id) return
    this.#ids.delete(name)
    this.#sorted?.splice(lowerBound(this.#sorted, name), 1)
  }

  ids(): Iterable<number> {
    return this.#ids.values()
  }

  /** Ids in the order of their names, from the first name that is `from` or comes after it. */
  *idsFrom(from: string): Generator<number, void, undefined> {
    this.#sorted ??= [...this.#ids.keys()].sort()
    for (let at = lowerBound(this.#sorted, from); at < this.#sorted.length; at++) {
      const id = this.#ids.get(this.#sorted[at] ?? '')
      if (id !== undefined) yield id
    }
  }
}

/** Index of the first name that is not before `name`. */
function lowerBound(names: readonly string[], name: string): number {
  let low = 0
  let high = names.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((names[middle] ?? '') < name) low = middle + 1
    else high = middle
  }
  return low
}
