import type { IpAddress } from '@weft/net'
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
  type Stamp,
  type StampedRow,
  type Statement,
} from './rows.ts'

/** The rows of this host that a call changed. */
export interface RowsTouched {
  readonly kind: RowKind
  readonly id: number
}

interface Stamped<T> extends Stamp {
  readonly value: T
}

/** What is known apart from the rows themselves, to be kept on disk with them. */
export interface RowsState {
  /** The newest revision of the VN database that any accepted row was derived from. */
  readonly newestConfigRevision: bigint
  /** The rights of this host are over, and no complete set of rows has come since. */
  readonly hasRunOut: boolean
}

/**
 * What the controller says this host needs to know: the last rows, from the bus or from disk.
 *
 * The bucket is derived data in memory and may vanish. So a row goes away only when its deletion is said, or when a
 * complete new set of rows lacks it. The set is complete when its snapshot has ended and holds the host's own row, which
 * the controller writes last. A row never goes back to an older state.
 *
 * Nobody signs deletions, so a row that was deleted could be brought back by whoever kept it. But rows are written in the
 * order of the states that they are derived from: one that is new here and older than what has come before is refused.
 *
 * A row ends by itself when its time is over. Peers whose key was revoked, and the endpoints there, stay among the rows, for
 * the host may get another key, and count as not there.
 */
export class HostRows {
  /** What tenants say; each ends with its row or by itself, whichever comes first. */
  readonly statements: Map<number, Stamped<Statement>> = new Map()
  readonly networks: Map<number, Stamped<Network>> = new Map()
  readonly endpoints: Map<number, Stamped<Endpoint>> = new Map()
  readonly peers: Map<number, Stamped<Peer>> = new Map()
  readonly #self: Map<number, Stamped<Self>> = new Map()
  #resync: { seen: Set<string>; hasEnded: boolean; self: Revisions | undefined } | undefined
  #newestConfigRevision = 0n
  #hasRunOut = false
  /** States of rows that ended by themselves. They are not new when they come again: a clock may have been wrong. */
  readonly #ended: Map<string, Revisions> = new Map()
  /** No row ends before this. */
  #nextEndMs = Infinity
  readonly #isRevoked: (identityKey: string) => boolean
  readonly #revokedHosts = new Set<number>()

  /** `isRevoked` says whether a key (hexadecimal digits) is void; see `reviewRevocations`. */
  constructor(isRevoked: (identityKey: string) => boolean = () => false) {
    this.#isRevoked = isRevoked
  }

  /** Takes what was kept on disk, in any order, before anything else comes. */
  restore(kept: Iterable<StampedRow>, { newestConfigRevision, hasRunOut }: RowsState): void {
    for (const row of kept) this.#put(row)
    if (newestConfigRevision > this.#newestConfigRevision) {
      this.#newestConfigRevision = newestConfigRevision
    }
    this.#hasRunOut ||= hasRunOut
  }

  get state(): RowsState {
    return { newestConfigRevision: this.#newestConfigRevision, hasRunOut: this.#hasRunOut }
  }

  /** The rights of this host are over: what it had by them is to go. */
  get hasRunOut(): boolean {
    return this.#hasRunOut
  }

  /** Says so where no row does: there are none, or not all. Returns whether that is new. */
  runOut(): boolean {
    if (this.self || this.#hasRunOut) return false
    this.#hasRunOut = true
    return true
  }

  /** When the first of the present rows ends, if no newer ones come; undefined if there are none. */
  get horizonMs(): number | undefined {
    let horizonMs: number | undefined
    for (const { notAfterMs } of this.all()) horizonMs = Math.min(notAfterMs, horizonMs ?? Infinity)
    return horizonMs
  }

  /** No row ends before this; Infinity if there are none. */
  get nextEndMs(): number {
    return this.#nextEndMs
  }

  /** Whether the key of a peer was revoked. */
  isRevokedHost(hostId: number): boolean {
    return this.#revokedHosts.has(hostId)
  }

  get self(): Self | undefined {
    return this.#self.get(0)?.value
  }

  get size(): number {
    const { statements, networks, peers, endpoints } = this
    return this.#self.size + statements.size + networks.size + peers.size + endpoints.size
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

  /** Whether a row is older than what is known already: somebody sends it once more. */
  isOutdated({ row, revisions }: StampedRow): boolean {
    const id = rowId(row)
    const present = this.#tableOf(row.kind).get(id)
    const known = present?.revisions ?? this.#ended.get(keyOf(row.kind, id))
    return known ? isOlder(revisions, known) : revisions.config < this.#newestConfigRevision
  }

  /** Takes away what holds no longer; returns the rows that went. */
  expire(nowMs: number): RowsTouched[] {
    if (nowMs < this.#nextEndMs) return []
    const ended: StampedRow[] = []
    this.#nextEndMs = Infinity
    for (const stamped of this.all()) {
      if (stamped.notAfterMs <= nowMs) ended.push(stamped)
      else this.#nextEndMs = Math.min(this.#nextEndMs, stamped.notAfterMs)
    }
    return ended.map(({ row, revisions }) => {
      const { kind } = row
      const id = rowId(row)
      this.#delete(kind, id)
      this.#ended.set(keyOf(kind, id), revisions)
      if (kind === RowKind.Self) this.#hasRunOut = true
      return { kind, id }
    })
  }

  /** Other keys are void now than before; returns the rows that count differently by it. */
  reviewRevocations(): RowsTouched[] {
    return [...this.peers.keys()].flatMap((id) =>
      this.#review(id) ? [{ kind: RowKind.Peer, id }, ...this.#endpointsAt(id)] : [],
    )
  }

  /** Takes one change; returns the rows that are different now. */
  apply(change: RowChange): RowsTouched[] {
    if (change.kind === 'delete') {
      return this.#delete(change.rowKind, change.id)
        ? [{ kind: change.rowKind, id: change.id }]
        : []
    }
    const { row, revisions } = change
    const id = rowId(row)
    const touched: RowsTouched[] = []
    if (!this.isOutdated(change)) touched.push(...this.#put(change))
    else if (!this.#tableOf(row.kind).has(id)) return []
    if (this.#resync) {
      this.#resync.seen.add(keyOf(row.kind, id))
      if (row.kind === RowKind.Self) this.#resync.self = revisions
      touched.push(...this.#finishResync())
    }
    return touched
  }

  /** Every row, to be kept on disk. */
  *all(): Generator<StampedRow, void, undefined> {
    for (const { value, ...stamp } of this.#self.values()) {
      yield { row: { kind: 'self', value }, ...stamp }
    }
    for (const { value, ...stamp } of this.statements.values()) {
      yield { row: { kind: 'statement', value }, ...stamp }
    }
    for (const { value, ...stamp } of this.networks.values()) {
      yield { row: { kind: 'network', value }, ...stamp }
    }
    for (const { value, ...stamp } of this.peers.values()) {
      yield { row: { kind: 'peer', value }, ...stamp }
    }
    for (const { value, ...stamp } of this.endpoints.values()) {
      yield { row: { kind: 'endpoint', value }, ...stamp }
    }
  }

  #put({ row, revisions, notAfterMs, proof }: StampedRow): RowsTouched[] {
    const id = rowId(row)
    const table = this.#tableOf(row.kind)
    const before = table.get(id)?.value
    table.set(id, { value: row.value, revisions, notAfterMs, proof })
    this.#ended.delete(keyOf(row.kind, id))
    this.#nextEndMs = Math.min(this.#nextEndMs, notAfterMs)
    if (revisions.config > this.#newestConfigRevision) {
      this.#newestConfigRevision = revisions.config
    }
    if (row.kind === RowKind.Self) this.#hasRunOut = false
    const touched: RowsTouched[] = []
    if (!isEqual(before, row.value)) touched.push({ kind: row.kind, id })
    if (row.kind === RowKind.Peer && this.#review(id)) touched.push(...this.#endpointsAt(id))
    return touched
  }

  #delete(kind: RowKind, id: number): boolean {
    if (kind === RowKind.Peer) this.#revokedHosts.delete(id)
    this.#ended.delete(keyOf(kind, id))
    return this.#tableOf(kind).delete(id)
  }

  /** Notes whether the peer's key is void; returns whether that is new. */
  #review(hostId: number): boolean {
    const key = this.peers.get(hostId)?.value.identityKey ?? ''
    const isRevoked = key !== '' && this.#isRevoked(key)
    if (isRevoked === this.#revokedHosts.has(hostId)) return false
    if (isRevoked) this.#revokedHosts.add(hostId)
    else this.#revokedHosts.delete(hostId)
    return true
  }

  #endpointsAt(hostId: number): RowsTouched[] {
    const touched: RowsTouched[] = []
    for (const [id, { value }] of this.endpoints) {
      if (value.hostId === hostId) touched.push({ kind: RowKind.Endpoint, id })
    }
    return touched
  }

  #finishResync(): RowsTouched[] {
    const resync = this.#resync
    if (!resync?.hasEnded || !resync.self) return []
    this.#resync = undefined
    this.#ended.clear()
    const gone: RowsTouched[] = []
    for (const { row, revisions } of this.all()) {
      const id = rowId(row)
      // A row from a newer state than the whole set was written after it: the set says nothing about it.
      if (resync.seen.has(keyOf(row.kind, id)) || isOlder(resync.self, revisions)) continue
      gone.push({ kind: row.kind, id })
    }
    for (const { kind, id } of gone) this.#delete(kind, id)
    return gone
  }

  #tableOf(kind: RowKind): Map<number, Stamped<Row['value']>> {
    switch (kind) {
      case 'statement':
        return this.statements
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

/** The underlay addresses of this host, as far as it knows them. */
export function ownAddresses({ self }: Pick<HostRows, 'self'>): IpAddress[] {
  return (self?.addresses ?? []).map(({ address }) => address)
}
