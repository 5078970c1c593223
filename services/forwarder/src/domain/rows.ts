import type { IpAddress, LinkEncryption, MacAddress, Prefix, UnderlayAddress } from '@weft/net'

/** A virtual layer-2 segment that has an endpoint at this host. */
export interface Network {
  readonly id: number
  readonly tenant: string
  readonly name: string
  readonly vni: number
  readonly prefixes: readonly Prefix[]
  readonly mtuBytes: number
  readonly encryption: LinkEncryption
}

/** An endpoint of such a network, where it is. */
export interface Endpoint {
  readonly id: number
  readonly networkId: number
  readonly name: string
  readonly mac: MacAddress
  readonly addresses: readonly IpAddress[]
  /** Sources besides `addresses` that it may send from. */
  readonly allowedPrefixes: readonly Prefix[]
  /** The host on which it was observed; 0 for none yet. */
  readonly hostId: number
  /** Fencing number of the location: grows with every change of host. */
  readonly epoch: bigint
}

/** A host that shares a network with this one. */
export interface Peer {
  readonly hostId: number
  readonly name: string
  /** A machine with a plain VXLAN device, without a forwarder. */
  readonly isForeign: boolean
  readonly addresses: readonly PeerAddress[]
}

/** An underlay address with the name of its zone. */
export interface PeerAddress extends UnderlayAddress {
  readonly zoneName: string
}

/** This host, as the VN database has it. */
export interface Self {
  readonly name: string
  readonly addresses: readonly PeerAddress[]
}

/** The state of the VN database and of the locations from which something was derived. */
export interface Revisions {
  readonly config: bigint
  readonly location: bigint
}

export const RowKind = {
  Network: 'network',
  Endpoint: 'endpoint',
  Peer: 'peer',
  Self: 'self',
} as const
export type RowKind = (typeof RowKind)[keyof typeof RowKind]

/** One row of what the controller says this host needs to know. */
export type Row =
  | { readonly kind: 'network'; readonly value: Network }
  | { readonly kind: 'endpoint'; readonly value: Endpoint }
  | { readonly kind: 'peer'; readonly value: Peer }
  | { readonly kind: 'self'; readonly value: Self }

/** What happened to a row in the watched bucket. */
export type RowChange =
  | { readonly kind: 'put'; readonly row: Row; readonly revisions: Revisions }
  | { readonly kind: 'delete'; readonly rowKind: RowKind; readonly id: number }

/** A row with the state from which it was derived. */
export interface StampedRow {
  readonly row: Row
  readonly revisions: Revisions
}

/** The id by which a row is known among its kind; 0 for the host itself, of which there is one. */
export function rowId(row: Row): number {
  switch (row.kind) {
    case 'network':
    case 'endpoint':
      return row.value.id
    case 'peer':
      return row.value.hostId
    case 'self':
      return 0
  }
}

/** True if `a` was derived from a state before `b`. */
export function isOlder(a: Revisions, b: Revisions): boolean {
  return a.config < b.config || (a.config === b.config && a.location < b.location)
}
