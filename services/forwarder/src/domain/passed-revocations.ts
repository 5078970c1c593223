/** A frame between hosts takes no more. */
const STATEMENT_BYTES_MAX = 1_024
/** The shuttle takes no more. */
const STATEMENTS_MAX = 8

/** A statement about void keys that the directory made. */
export interface RevocationStatement {
  /** Revision of the VN database. */
  readonly number: bigint
  /** Hexadecimal digits. */
  readonly keys: readonly string[]
  /** As it goes from host to host. */
  readonly bytes: Uint8Array
}

/** The newest statements about void keys, as few as name them all, for peers who hear nothing from the control plane. */
export class PassedRevocations {
  #kept: readonly RevocationStatement[] = []

  /** What peers are told, the newest first. */
  get statements(): readonly Uint8Array[] {
    return this.#kept.map(({ bytes }) => bytes)
  }

  /** Takes in a statement if it is short enough and names a key that no other does; returns whether peers are to be told of it. */
  take(statement: RevocationStatement): boolean {
    const known = new Set(this.#kept.flatMap(({ keys }) => keys))
    if (statement.bytes.length > STATEMENT_BYTES_MAX) return false
    if (statement.keys.every((key) => known.has(key))) return false
    const newestFirst = [...this.#kept, statement].sort((a, b) =>
      a.number < b.number ? 1 : a.number > b.number ? -1 : 0,
    )
    this.#kept = coverOf(newestFirst).slice(0, STATEMENTS_MAX)
    return this.#kept.includes(statement)
  }
}

/** Leaves out statements whose keys are all named by those before them. */
function coverOf(statements: readonly RevocationStatement[]): RevocationStatement[] {
  const named = new Set<string>()
  return statements.filter(({ keys }) => {
    const isNeeded = keys.some((key) => !named.has(key))
    for (const key of keys) named.add(key)
    return isNeeded
  })
}
