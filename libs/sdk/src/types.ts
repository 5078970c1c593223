import type { IpAddress, MacAddress, Prefix } from '@weft/net'

/** Names an endpoint. */
export interface EndpointRef {
  readonly tenant: string
  readonly network: string
  readonly endpoint: string
}

/** Names a network. */
export interface NetworkRef {
  readonly tenant: string
  readonly network: string
}

export interface Labels {
  readonly [name: string]: string
}

/** What every object of the VN database has. */
export interface Stored {
  /** Never reused. */
  readonly id: number
  readonly name: string
  readonly labels: Labels
  /** Revision of the VN database at which it was last written. */
  readonly revision: bigint
  readonly createdAt: Date
}

export interface Tenant extends Stored {}

export interface Zone extends Stored {
  readonly trusted: boolean
}

export type HostKind = 'weft' | 'vxlan-peer'

export interface HostAddress {
  readonly address: IpAddress
  readonly zone: string
}

export interface Host extends Stored {
  readonly kind: HostKind
  readonly addresses: readonly HostAddress[]
  readonly capabilities: readonly string[]
  readonly wireVersions: readonly number[]
  readonly sealedListener: SealedListener
  /** When its keys were revoked; undefined if they are not. */
  readonly revokedAt: Date | undefined
  /** Until when it may act without renewing its certificate; undefined for one that was never enrolled. */
  readonly horizon: Date | undefined
}

/** Where the sealed transport of a host is reached. */
export interface SealedListener {
  /** UDP, at every underlay address. */
  readonly port: number
  /** More addresses at which packets come to it. */
  readonly configured: readonly SocketAddress[]
}

/** A UDP address. */
export interface SocketAddress {
  readonly address: IpAddress
  readonly port: number
}

export type Encryption = 'required' | 'outside-trusted-zones'

export interface Network extends Stored {
  readonly tenant: string
  readonly vni: number
  readonly prefixes: readonly Prefix[]
  readonly mtuBytes: number
  readonly encryption: Encryption
}

export interface Endpoint extends Stored {
  readonly tenant: string
  readonly network: string
  readonly mac: MacAddress
  readonly addresses: readonly IpAddress[]
  /** Sources besides its addresses that it may send from. */
  readonly allow: readonly Prefix[]
  /** The host that it is assigned to. */
  readonly host: string | undefined
}

export const ROLES = ['owner', 'operator', 'subscriber', 'auditor'] as const
export type Role = (typeof ROLES)[number]

export interface Grant {
  /** Undefined for the whole domain. */
  readonly tenant: string | undefined
  /** `unknown` only from a server that has more roles. */
  readonly role: Role | 'unknown'
}

export interface User extends Stored {
  readonly grants: readonly Grant[]
  readonly hasLoggedIn: boolean
}

/** What lets one host join, or one user log in. Its text is told once only, when it is made. */
export interface Token {
  readonly id: number
  readonly purpose: 'join' | 'login'
  readonly expiresAt: Date
  /** Whose endpoints the host may carry; empty for all. */
  readonly tenants: readonly string[]
  readonly zone: string | undefined
  readonly hostLabels: Labels
  /** The only name that may be taken. */
  readonly hostName: string | undefined
  /** The host that joined by it. */
  readonly usedBy: string | undefined
  readonly revision: bigint
  readonly createdAt: Date
}

export interface CreateToken {
  /** By default an hour, at most a day. */
  readonly ttlMs?: number
  readonly tenants?: readonly string[]
  readonly zone?: string
  readonly labels?: Labels
  readonly hostName?: string
}

export interface CreateTenant {
  readonly name: string
  readonly labels?: Labels
}

export interface CreateZone {
  readonly name: string
  readonly trusted: boolean
  readonly labels?: Labels
}

export interface CreateHost {
  readonly name: string
  /** By default `weft`. */
  readonly kind?: HostKind
  readonly addresses: readonly HostAddress[]
  /** By default port 61820 of its addresses. */
  readonly sealedListener?: SealedListener
  readonly labels?: Labels
}

export interface CreateNetwork extends NetworkRef {
  readonly prefixes: readonly Prefix[]
  /** By default 1320. */
  readonly mtuBytes?: number
  /** By default `LINK_ENCRYPTION_DEFAULT` of `@weft/net`. */
  readonly encryption?: Encryption
  /** By default a free one. */
  readonly vni?: number
  readonly labels?: Labels
}

export interface CreateEndpoint extends EndpointRef {
  /** By default one that goes with the first address. */
  readonly mac?: MacAddress
  /** A family that is not given gets a free address. */
  readonly addresses?: readonly IpAddress[]
  readonly allow?: readonly Prefix[]
  /** For a foreign host, which attaches nothing itself: its name. */
  readonly vxlanPeer?: string
  readonly labels?: Labels
}

/** What a host joins to an endpoint. */
export type Attachment = DeviceAttachment | WireguardAttachment

export type DeviceAttachment =
  | {
      readonly kind: 'netns'
      /** For example `/run/netns/web`. */
      readonly path: string
      /** Name of the device inside, by default `eth0`. */
      readonly device?: string
      /** Leaves routes alone; by default the network's prefixes are reached through the device. */
      readonly keepRoutes?: boolean
    }
  | { readonly kind: 'tap'; readonly device: string }

/** A client of the WireGuard protocol. Keys are of 32 bytes, in base64, as WireGuard has them. */
export interface WireguardAttachment {
  readonly kind: 'wireguard'
  readonly publicKey: string
  /** A secret, shared by client and host. */
  readonly presharedKey?: string
  /** Where clients find the host is known already: it need not name an address. */
  readonly isReachable?: boolean
}

/** A WireGuard client as the port of its host. */
export interface WireguardPort {
  readonly kind: 'wireguard'
  readonly publicKey: string
  readonly hasPresharedKey: boolean
  /** The host has had another tunnel key since the client's file was made: attach the client again, and give it the new file. */
  readonly isVoid: boolean
  /** How it is; undefined as long as the host's data plane says nothing of it. */
  readonly connection: OpenConnection | undefined
}

/** What a WireGuard client has to know of its host and network. */
export interface WireguardAccess {
  readonly hostPublicKey: string
  /** Where the host is reached, best first. */
  readonly candidates: readonly Candidate[]
  readonly prefixes: readonly Prefix[]
  readonly mtuBytes: number
}

export interface PortCounters {
  readonly receivedPackets: bigint
  readonly receivedBytes: bigint
  readonly sentPackets: bigint
  readonly sentBytes: bigint
  /** By verdict name; with the drops they sum to `receivedPackets`. */
  readonly verdicts: { readonly [name: string]: bigint }
  readonly drops: { readonly [reason: string]: bigint }
}

export interface Port extends EndpointRef {
  readonly endpointId: number
  readonly attachment: DeviceAttachment | WireguardPort
  /** Device on the host's side. */
  readonly hostDevice: string
  readonly mac: MacAddress
  readonly addresses: readonly IpAddress[]
  readonly mtuBytes: number
  readonly state: 'up' | 'lost' | 'unknown'
  readonly attachedAt: Date
  readonly counters: PortCounters
}

export interface Connection {
  readonly tenant: string
  readonly network: string
  readonly source: string
  readonly target: string
  readonly targetHost: string
  readonly mechanism: 'same-host' | 'direct' | 'relayed' | 'unknown'
  readonly carrier: CarrierWord
  readonly protocol: string
  readonly rule: string
  readonly ageMs: number
  readonly horizonMs: number
  readonly idleMs: number
  /** The answers are the host's own, because nobody could be asked. */
  readonly stale: boolean
  /** Why it is refused, where it is. */
  readonly refused:
    | { readonly code: string; readonly message: string; readonly remedy: string }
    | undefined
}

export type CarrierWord = 'none' | 'vxlan' | 'sealed' | 'unknown'
export type OpenConnectionState = 'idle' | 'connecting' | 'open' | 'unreachable' | 'unknown'
/** Undefined where there is none, or one that this version does not know. */
export type CipherWord = 'chacha20-poly1305' | 'aes-256-gcm' | undefined
export type OffloadWord = 'udp-gso' | 'udp-gro' | 'tap-gso' | 'equal-tail' | 'unknown'

/** The connection from one host to another by one carrier, or to a WireGuard client. What was not measured is undefined. */
export interface OpenConnection {
  /** 0 for a client. */
  readonly hostId: number
  /** Name of the other host; empty if it is gone, and for a client. */
  readonly host: string
  /** The endpoint that a client is attached as; undefined for a host. */
  readonly client: EndpointRef | undefined
  readonly carrier: CarrierWord
  readonly state: OpenConnectionState
  /** Why it is unreachable, empty otherwise. */
  readonly reason: string
  readonly endpoint: SocketAddress | undefined
  readonly rttUs: number | undefined
  readonly jitterUs: number | undefined
  /** In millionths. */
  readonly lossPpm: number | undefined
  /** Largest UDP payload that was found to arrive. */
  readonly pathMtuBytes: number | undefined
  readonly sentPackets: bigint
  readonly sentBytes: bigint
  readonly receivedPackets: bigint
  readonly receivedBytes: bigint
  /** Since when it has been open without a gap. */
  readonly openSince: Date | undefined
  readonly lastHandshake: Date | undefined
  readonly cipher: CipherWord
  readonly offloads: readonly OffloadWord[]
}

/** An open connection as its host reported it to the control server. */
export interface ReportedConnection extends OpenConnection {
  /** Since it was reported. */
  readonly ageMs: number
}

/** A UDP address at which a host may be reached. */
export interface Candidate extends SocketAddress {
  readonly kind: 'own' | 'configured' | 'observed'
}

export interface OffloadState {
  readonly offload: OffloadWord
  readonly inUse: boolean
  /** Why it is not in use, empty otherwise. */
  readonly reason: string
}

/** The sealed transport of a host. */
export interface SealingStatus {
  readonly available: boolean
  /** Why it is not, empty otherwise. */
  readonly problem: string
  readonly listenPort: number
  /** What is offered to other hosts. */
  readonly cipher: CipherWord
  readonly speeds: readonly { readonly cipher: CipherWord; readonly bytesPerSecond: bigint }[]
  readonly offloads: readonly OffloadState[]
  /** The keys of all handshakes are written to a file. */
  readonly keyLogged: boolean
  /** Where other hosts see this one. */
  readonly observed: readonly Candidate[]
  /** Frames and datagrams dropped, by reason. */
  readonly drops: { readonly [reason: string]: bigint }
  /** Sends, receives and writes that went another way than the fastest, by way. */
  readonly fallbacks: { readonly [way: string]: bigint }
  /** Messages of handshakes and control frames of peers that led to nothing, by reason. */
  readonly refusals: { readonly [reason: string]: bigint }
}

export interface Dependency {
  readonly name: string
  readonly address: string
  readonly health: 'ok' | 'stale' | 'unknown'
  /** Since it last answered. */
  readonly ageMs: number
  readonly error: string
}

export interface CacheStatus {
  readonly entries: number
  readonly revision: bigint
  readonly oldestAgeMs: number
  readonly horizonMs: number
  readonly hits: bigint
  readonly misses: bigint
  readonly staleAnswers: bigint
}

export interface UnderlayDevice {
  readonly name: string
  readonly addresses: readonly IpAddress[]
  readonly mtuBytes: number
  readonly encapsulation: string
  readonly decapsulation: string
  readonly reason: string
}

export interface HostStatus {
  readonly hostId: number
  readonly host: string
  readonly version: string
  readonly shuttleVersion: string
  readonly kernel: string
  readonly dependencies: readonly Dependency[]
  readonly tableRevision: bigint
  readonly tableAgeMs: number
  /** The tables came from disk and nobody has confirmed them since. */
  readonly fromDisk: boolean
  readonly resolutions: CacheStatus
  readonly decisions: CacheStatus
  readonly underlayDevices: readonly UnderlayDevice[]
  readonly networks: number
  readonly endpoints: number
  readonly peers: number
  readonly ports: number
  readonly flows: number
  /** Drops that belong to no port, by reason. */
  readonly drops: { readonly [reason: string]: bigint }
  /** Undefined on a host that does not seal. */
  readonly sealing: SealingStatus | undefined
  /** How many connections to other hosts there are, by `CARRIER STATE`. */
  readonly openConnections: { readonly [name: string]: number }
}

/** What a detach has come to. */
export interface Detached {
  /** False if there was nothing to detach. */
  readonly detached: boolean
  /** Config or location-resolver has not heard of it yet: until then the endpoint counts as attached. Its host tells them until they have. */
  readonly unheard: boolean
}

export interface PingOptions {
  readonly tenant: string
  readonly network: string
  /** Source endpoint, attached at the host that is asked. */
  readonly source: string
  readonly target: IpAddress
  readonly count: number
  readonly intervalMs: number
  readonly timeoutMs: number
  readonly payloadBytes: number
  readonly signal?: AbortSignal
}

export type PingReply =
  | { readonly sequence: number; readonly outcome: 'answered'; readonly rttNs: bigint }
  | { readonly sequence: number; readonly outcome: 'timed-out' }
  | { readonly sequence: number; readonly outcome: 'unreachable'; readonly problem: string }

export interface ServerInfo {
  readonly version: string
  readonly replicaId: string
  /** Revision of the VN database to which the replica is caught up. */
  readonly revision: bigint
  readonly isController: boolean
  readonly busServer: string
  readonly busConnected: boolean
}
