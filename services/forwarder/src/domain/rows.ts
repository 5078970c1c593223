import type {
  Candidate,
  IpAddress,
  LinkEncryption,
  MacAddress,
  Prefix,
  UnderlayAddress,
} from '@weft/net'

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
  /** What the host there says itself, by its signature. */
  readonly placement?: Placement
}

/** An endpoint as a host that has it reported it. */
export interface Placement {
  /** Ed25519 public key of the host in hexadecimal digits. */
  readonly signerKey: string
  readonly hostId: number
  readonly networkId: number
  readonly endpointId: number
  readonly mac: MacAddress
  readonly addresses: readonly IpAddress[]
  readonly allowedPrefixes: readonly Prefix[]
}

/** A host that shares a network with this one. */
export interface Peer {
  readonly hostId: number
  readonly name: string
  /** A machine with a plain VXLAN device, without a forwarder. */
  readonly isForeign: boolean
  readonly addresses: readonly PeerAddress[]
  /** Ed25519 public key in hexadecimal digits; empty for a host that is not enrolled. */
  readonly identityKey: string
  /** X25519 public key in hexadecimal digits; empty for a host that is not enrolled. */
  readonly tunnelKey?: string
  /** Undefined for a host that cannot seal, or of which nobody knows a tunnel key by its own word. */
  readonly sealing?: PeerSealing
}

/** What is needed to seal what goes to a host. Keys are X25519, in hexadecimal digits. */
export interface PeerSealing {
  /** By the word of the host itself: signed with its identity key. */
  readonly tunnelKey: string
  /** The key before, from which it is heard until then (milliseconds since 1970). */
  readonly previous: { readonly tunnelKey: string; readonly untilMs: number } | undefined
  /** Where it may be, best first. */
  readonly candidates: readonly Candidate[]
}

/** An underlay address with the name of its zone. */
export interface PeerAddress extends UnderlayAddress {
  readonly zoneName: string
}

/** This host, as the VN database has it. */
export interface Self {
  readonly name: string
  readonly addresses: readonly PeerAddress[]
  /** Its record has the capability. */
  readonly canSeal: boolean
  /** UDP port on which its sealed transport is to listen. */
  readonly sealedPort: number
  /** More addresses at which packets come to it, as an operator says. */
  readonly configured: readonly Candidate[]
}

/** What somebody says as a tenant. The signature is right; whether it is the tenant's is not judged yet. */
export interface Statement {
  readonly id: number
  readonly tenantId: number
  readonly tenant: string
  /** Of two about the same the higher one counts. */
  readonly number: bigint
  /** Ed25519 public key in hexadecimal digits, as all keys here. */
  readonly signerKey: string
  readonly about: StatementAbout
}

export type StatementAbout =
  /** From now on this key speaks for the tenant; an empty one says that it is locked no longer. */
  | { readonly kind: 'key'; readonly publicKey: string }
  /** The network is the tenant's. */
  | {
      readonly kind: 'network'
      readonly networkId: number
      readonly network: string
      readonly vni: number
    }
  /** The host is in the network, and links to it may be plain at these addresses. */
  | {
      readonly kind: 'membership'
      readonly networkId: number
      readonly hostId: number
      readonly identityKey: string
      readonly tunnelKey: string
      readonly plainAddresses: readonly IpAddress[]
    }
  /** The holder of the key says where endpoints with these addresses are. */
  | {
      readonly kind: 'delegation'
      readonly networkId: number
      readonly delegateKey: string
      readonly prefixes: readonly Prefix[]
    }

/** The state of the VN database and of the locations from which something was derived. */
export interface Revisions {
  readonly config: bigint
  readonly location: bigint
}

export const RowKind = {
  Statement: 'statement',
  Network: 'network',
  Endpoint: 'endpoint',
  Peer: 'peer',
  Self: 'self',
} as const
export type RowKind = (typeof RowKind)[keyof typeof RowKind]

/** One row of what the controller says this host needs to know. */
export type Row =
  | { readonly kind: 'statement'; readonly value: Statement }
  | { readonly kind: 'network'; readonly value: Network }
  | { readonly kind: 'endpoint'; readonly value: Endpoint }
  | { readonly kind: 'peer'; readonly value: Peer }
  | { readonly kind: 'self'; readonly value: Self }

/** What the directory signed along with a row. */
export interface Stamp {
  /** The state from which the row was derived. */
  readonly revisions: Revisions
  /** Until when this host may act on the row, in milliseconds since 1970. */
  readonly notAfterMs: number
  /** The row as it came, with its signature: what vouches for it after a restart. */
  readonly proof: Uint8Array
}

/** A row with what was signed along with it. */
export interface StampedRow extends Stamp {
  readonly row: Row
}

/** What happened to a row in the watched bucket. */
export type RowChange =
  | (StampedRow & { readonly kind: 'put' })
  | { readonly kind: 'delete'; readonly rowKind: RowKind; readonly id: number }

/** The id by which a row is known among its kind; 0 for the host itself, of which there is one. */
export function rowId(row: Row): number {
  switch (row.kind) {
    case 'statement':
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
