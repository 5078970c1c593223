import { isEqual } from './equal.ts'
import {
  type Endpoint,
  isOlder,
  type Network,
  type Peer,
  type Revisions,
  type Row,
  type RowChange,
  RowKind,
  rowId,
  type Self,
  type StampedRow,
} from './rows.ts'

/** The rows of this host that a call changed. */
export interface RowsTouched {
  readonly kind: RowKind
  readonly id: number
}

interface Stamped<T> {
  readonly value: T
  readonly revisions: Revisions
}

/**
 * What the controller says this host needs to know: the last rows, from the bus or from disk.
 *
 * The bucket is derived data in memory and may vanish. So a row goes away only when its deletion is said, or when a
 * complete new set of rows lacks it. The set is complete when its snapshot has ended and holds the host's own row, which
 * the controller writes last. A row never goes back to an older state.
 */
export class HostRows {
  readonly networks: Map<number, Stamped<Network>> = new Map()
  readonly endpoints: Map<number, Stamped<Endpoint>> = new Map()
  readonly peers: Map<number, Stamped<Peer>> = new Map()
  readonly #self: Map<number, Stamped<Self>> = new Map()
  #resync: { seen: Set<string>; hasEnded: boolean; self: Revisions | undefined } | undefined

  get self(): Self | undefined {
    return this.#self.get(0)?.value
  }

  get size(): number {
    return this.#self.size + this.networks.size + this.peers.size + this.endpoints.size
  }

  /** True from `beginResync` until the new set of rows is complete. */
  get isResyncing(): boolean {
    return this.#resync !== undefined
  }

  /** The newest state of the VN database and of the locations that any row knows. */
  get revisions(): Revisions {
    let config = 0n
    let location = 0n
    for (const { revisions } of this.all()) {
      if (revisions.config > config) config = revisions.config
      if (revisions.location > location) location = revisions.location
    }
    return { config, location }
  }

  /** A new set of rows follows: the present ones stay until it is complete. */
  beginResync(): void {
    this.#resync = { seen: new Set(), hasEnded: false, self: undefined }
  }

  /** The snapshot has been read to its end. Returns the rows that went because the new set lacks them. */
  endSnapshot(): RowsTouched[] {
    if (this.#resync) this.#resync.hasEnded = true
    return this.#finishResync()
  }

  /** Takes one change; returns the rows that are different now. */
  apply(change: RowChange): RowsTouched[] {
    if (change.kind === 'delete') {
      const had = this.#tableOf(change.rowKind).delete(change.id)
      return had ? [{ kind: change.rowKind, id: change.id }] : []
    }
    const { row, revisions } = change
    const id = rowId(row)
    const table = this.#tableOf(row.kind)
    const present = table.get(id)
    const touched: RowsTouched[] = []
    if (!present || !isOlder(revisions, present.revisions)) {
      table.set(id, { value: row.value, revisions })
      if (!isEqual(present?.value, row.value)) touched.push({ kind: row.kind, id })
    }
    if (this.#resync) {
      this.#resync.seen.add(keyOf(row.kind, id))
      if (row.kind === RowKind.Self) this.#resync.self = revisions
      touched.push(...this.#finishResync())
    }
    return touched
  }

  /** Every row, to be kept on disk. */
  *all(): Generator<StampedRow, void, undefined> {
    for (const { value, revisions } of this.#self.values())
      yield { row: { kind: 'self', value }, revisions }
    for (const { value, revisions } of this.networks.values())
      yield { row: { kind: 'network', value }, revisions }
    for (const { value, revisions } of this.peers.values())
      yield { row: { kind: 'peer', value }, revisions }
    for (const { value, revisions } of this.endpoints.values())
      yield { row: { kind: 'endpoint', value }, revisions }
  }

  #finishResync(): RowsTouched[] {
    const resync = this.#resync
    if (!resync?.hasEnded || !resync.self) return []
    this.#resync = undefined
    const gone: RowsTouched[] = []
    for (const { row, revisions } of this.all()) {
      const id = rowId(row)
      // A row from a newer state than the whole set was written after it: the set says nothing about it.
      if (resync.seen.has(keyOf(row.kind, id)) || isOlder(resync.self, revisions)) continue
      gone.push({ kind: row.kind, id })
    }
    for (const { kind, id } of gone) this.#tableOf(kind).delete(id)
    return gone
  }

  #tableOf(kind: RowKind): Map<number, Stamped<Row['value']>> {
    switch (kind) {
      case 'network':
        return this.networks
      case 'endpoint':
        return this.endpoints
      case 'peer':
        return this.peers
      case 'self':
        return this.#self
    }
  }
}

function keyOf(kind: RowKind, id: number): string {
  return `${kind}.${id}`
}
