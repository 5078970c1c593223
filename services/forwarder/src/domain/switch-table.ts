import {
  type Candidate,
  type CarrierChoice,
  carrierBetween,
  gatewayAddress,
  type IpAddress,
} from '@weft/net'
import { Holders } from './holders.ts'
import type { HostRows, RowsTouched } from './host-rows.ts'
import type { Ports } from './ports.ts'
import type { Endpoint, Network, Peer, Revisions } from './rows.ts'
import { TenantLocks } from './tenant-locks.ts'

/** A network as the data plane has it. */
export interface NetworkEntry {
  readonly id: number
  readonly vni: number
  readonly mtuBytes: number
  readonly gatewayV4: IpAddress | undefined
  readonly gatewayV6: IpAddress | undefined
}

/** Another host as the data plane has it: one entry for each carrier that goes there. */
export type PeerEntry = VxlanPeer | SealedPeer

interface PeerNetworks {
  readonly hostId: number
  /** The networks that both hosts have and whose frames may take this carrier, in ascending order. */
  readonly networkIds: readonly number[]
}

export interface VxlanPeer extends PeerNetworks {
  readonly carrier: 'vxlan'
  readonly local: IpAddress
  readonly remote: IpAddress
  readonly isForeign: boolean
}

export interface SealedPeer extends PeerNetworks {
  readonly carrier: 'sealed'
  /** X25519 public key in hexadecimal digits. */
  readonly tunnelKey: string
  /** The one before, from which it is heard as well; empty for none. */
  readonly previousTunnelKey: string
  readonly candidates: readonly Candidate[]
}

type PeerCarrier = PeerEntry['carrier']
const PEER_CARRIERS: readonly PeerCarrier[] = ['vxlan', 'sealed']

export type TableChange =
  | { readonly kind: 'put-network'; readonly value: NetworkEntry }
  | { readonly kind: 'put-peer'; readonly value: PeerEntry }
  | { readonly kind: 'put-endpoint'; readonly value: Endpoint }
  | { readonly kind: 'delete-endpoint'; readonly id: number }
  | { readonly kind: 'delete-peer'; readonly id: number; readonly carrier: PeerCarrier }
  | { readonly kind: 'delete-network'; readonly id: number }

/** How a pair of endpoints is joined, as far as this host's own rows say. */
export type Join =
  | {
      readonly kind: 'joined'
      readonly mechanism: 'same-host' | 'direct'
      readonly carrier: 'none' | 'vxlan' | 'sealed'
      readonly targetHostId: number
      readonly targetEpoch: bigint
    }
  | {
      readonly kind: 'refused'
      readonly reason: 'no-common-trusted-zone' | 'encryption-unavailable' | 'tenant-locked'
      readonly network: Network
      readonly target: Peer
    }
  /** The rows do not tell (yet). */
  | { readonly kind: 'unknown' }

/**
 * What the data plane of this host should hold: the controller's rows, with what is attached here laid over them. Rows
 * are late when an endpoint has just come or gone here, and the host itself knows best.
 *
 * It notes what differs from what was taken by `takeChanges`, so that the cost of a change is the change's size.
 */
export class SwitchTable {
  readonly hostId: number
  readonly #rows: HostRows
  readonly #ports: Ports
  readonly #locks: TenantLocks
  readonly #dirty = {
    networks: new Set<number>(),
    endpoints: new Set<number>(),
    peers: new Set<number>(),
  }
  readonly #taken = {
    networks: new Set<number>(),
    endpoints: new Set<number>(),
    /** By host. */
    peers: new Map<number, readonly PeerEntry[]>(),
  }
  /** The data plane has keys, and seals. */
  #isSealing = false
  /** The time by which former tunnel keys end, in milliseconds since 1970. */
  #nowMs = 0
  /** Of VNIs the networks, of MACs the endpoints: the data plane takes no table in which two have the same. */
  readonly #holders = { networks: new Holders(), endpoints: new Holders() }
  /** What lost to another: 1 where its row is passed over, 2 where also what is attached here is. */
  readonly #passedOver = {
    networks: new Map<number, number>(),
    endpoints: new Map<number, number>(),
  }
  /** By host, by network: the ids of the endpoints that are there. */
  readonly #members: Map<number, Map<number, Set<number>>> = new Map()
  /** Where the members index has each endpoint. */
  readonly #indexed: Map<number, { hostId: number; networkId: number }> = new Map()

  /** `locks` has to be of the same rows; nothing is locked by default. */
  constructor(
    hostId: number,
    rows: HostRows,
    ports: Ports,
    locks: TenantLocks = new TenantLocks(rows),
  ) {
    this.hostId = hostId
    this.#rows = rows
    this.#ports = ports
    this.#locks = locks
    this.#touchAll()
  }

  get hostName(): string {
    return this.#rows.self?.name ?? `${this.hostId}`
  }

  /** Name of a host, or its id where no row names it; empty for none. */
  hostNameOf(hostId: number): string {
    if (hostId === this.hostId) return this.hostName
    return this.peer(hostId)?.name ?? (hostId === 0 ? '' : `${hostId}`)
  }

  get hasChanges(): boolean {
    return this.#dirty.networks.size + this.#dirty.endpoints.size + this.#dirty.peers.size > 0
  }

  /** Rows that do not count, because another network has their VNI, or another endpoint of the network their MAC. */
  get passedOverCount(): number {
    return this.#passedOver.networks.size + this.#passedOver.endpoints.size
  }

  get sizes(): { networks: number; endpoints: number; peers: number } {
    return {
      networks: this.#taken.networks.size,
      endpoints: this.#taken.endpoints.size,
      peers: this.#taken.peers.size,
    }
  }

  /** Every other host as it was taken last, by carrier. */
  *peerEntries(): Generator<PeerEntry, void, undefined> {
    for (const entries of this.#taken.peers.values()) yield* entries
  }

  /** Says whether the data plane seals. Without it no host is reached by the sealed carrier, and none by a plain one instead. */
  setSealing(isSealing: boolean): void {
    if (this.#isSealing === isSealing) return
    this.#isSealing = isSealing
    for (const hostId of this.#rows.peers.keys()) this.#dirty.peers.add(hostId)
  }

  /** Has the former tunnel keys of peers end whose time has come. */
  endTunnelKeys(nowMs: number): void {
    for (const [hostId, { value }] of this.#rows.peers) {
      const untilMs = value.sealing?.previous?.untilMs ?? 0
      if (untilMs > this.#nowMs && untilMs <= nowMs) this.#dirty.peers.add(hostId)
    }
    this.#nowMs = nowMs
  }

  /** A network that counts: one that the rows have, or that something attached here is in. */
  network(id: number): Network | undefined {
    const level = this.#passedOver.networks.get(id) ?? 0
    const row = level === 0 ? this.#rows.networks.get(id)?.value : undefined
    if (row && this.#locks.isVouchedFor(row)) return row
    if (level > 1) return undefined
    for (const port of this.#ports) if (port.network.id === id) return port.network
    return undefined
  }

  /** The endpoint where it is now; undefined for one that is nowhere yet, that the rows have here and nothing attached, that is at a revoked host, whose network does not count, or that a locked tenant does not let be there. */
  endpoint(id: number): Endpoint | undefined {
    const level = this.#passedOver.endpoints.get(id) ?? 0
    const row = level === 0 ? this.#rows.endpoints.get(id)?.value : undefined
    const port = this.#ports.get(id)
    if (port) {
      if (level > 1 || !this.network(port.network.id)) return undefined
      // Where nobody is believed by a row alone, what is attached here is as it was attached, and nowhere does a row move it
      // into another network.
      return row?.networkId === port.network.id && !this.#locks.isGuarded(port.network)
        ? { ...row, hostId: this.hostId }
        : { ...port.endpoint, hostId: this.hostId }
    }
    if (!row || row.hostId === this.hostId || row.hostId === 0) return undefined
    if (this.#rows.isRevokedHost(row.hostId)) return undefined
    return this.#isPlaced(row) ? row : undefined
  }

  /** The newest states from which the rows of these endpoints were derived. */
  endpointRevisions(ids: readonly number[]): Revisions {
    let config = 0n
    let location = 0n
    for (const id of ids) {
      const revisions = this.#rows.endpoints.get(id)?.revisions
      if (!revisions) continue
      if (revisions.config > config) config = revisions.config
      if (revisions.location > location) location = revisions.location
    }
    return { config, location }
  }

  /** Another host, unless its key was revoked. */
  peer(hostId: number): Peer | undefined {
    return this.#rows.isRevokedHost(hostId) ? undefined : this.#rows.peers.get(hostId)?.value
  }

  /** Notes that a row or a port changed. */
  touch({ kind, id }: RowsTouched): void {
    switch (kind) {
      case 'network':
        this.#dirty.networks.add(id)
        // What a network demands of its links decides which peers its frames may go to.
        for (const [hostId, networks] of this.#members) {
          if (networks.has(id)) this.#dirty.peers.add(hostId)
        }
        if (!this.#locks.isIdle) this.#touchEndpointsOf(id)
        return
      case 'statement':
        // Nothing that the data plane has. What counts by it is touched once all statements are reviewed.
        return
      case 'endpoint':
        this.#dirty.endpoints.add(id)
        this.#reindex(id)
        return
      case 'peer':
        this.#dirty.peers.add(id)
        return
      case 'self':
        for (const hostId of this.#rows.peers.keys()) this.#dirty.peers.add(hostId)
        return
    }
  }

  /** Other things count in networks of locked tenants than before. */
  touchLocks(): void {
    for (const id of this.#rows.networks.keys()) this.#dirty.networks.add(id)
    for (const id of this.#rows.peers.keys()) this.#dirty.peers.add(id)
    for (const id of this.#rows.endpoints.keys()) this.touch({ kind: 'endpoint', id })
  }

  /** The port of an endpoint was added or removed. */
  touchPort(endpointId: number, networkId: number): void {
    this.touch({ kind: 'network', id: networkId })
    this.touch({ kind: 'endpoint', id: endpointId })
  }

  /** The data plane lost what it had, or nobody knows what it has: the next changes are the whole table. */
  forgetTaken(): void {
    for (const ids of Object.values(this.#taken)) ids.clear()
    for (const ids of Object.values(this.#dirty)) ids.clear()
    this.#touchAll()
    // Who holds something may be gone by now.
    for (const id of this.#holders.networks.ids()) this.#dirty.networks.add(id)
    for (const id of this.#holders.endpoints.ids()) this.#dirty.endpoints.add(id)
  }

  /** The changes since the last call: what is leant on first, so that no prefix of them names what is not there. */
  takeChanges(): TableChange[] {
    this.#settle()
    const puts: TableChange[] = []
    const deletes: TableChange[] = []
    for (const id of this.#dirty.networks) {
      const network = this.network(id)
      if (network) puts.push({ kind: 'put-network', value: networkEntry(network) })
      else if (this.#taken.networks.has(id)) deletes.push({ kind: 'delete-network', id })
      note(this.#taken.networks, id, network)
    }
    for (const id of this.#dirty.peers) {
      const before = this.#taken.peers.get(id) ?? []
      const entries = this.#peerEntriesOf(id)
      for (const value of entries) puts.push({ kind: 'put-peer', value })
      for (const { carrier } of before) {
        if (entries.some((entry) => entry.carrier === carrier)) continue
        deletes.unshift({ kind: 'delete-peer', id, carrier })
      }
      if (entries.length > 0) this.#taken.peers.set(id, entries)
      else this.#taken.peers.delete(id)
    }
    for (const id of this.#dirty.endpoints) {
      const endpoint = this.endpoint(id)
      if (endpoint) puts.push({ kind: 'put-endpoint', value: endpoint })
      else if (this.#taken.endpoints.has(id)) deletes.unshift({ kind: 'delete-endpoint', id })
      note(this.#taken.endpoints, id, endpoint)
    }
    for (const ids of Object.values(this.#dirty)) ids.clear()
    return [...puts, ...deletes]
  }

  /** How a packet of an endpoint that is attached here reaches another one, by this host's own rows. */
  join(sourceId: number, targetId: number): Join {
    const target = this.endpoint(targetId)
    const source = this.endpoint(sourceId)
    if (!target || source?.hostId !== this.hostId || source.networkId !== target.networkId)
      return { kind: 'unknown' }
    if (target.hostId === this.hostId) {
      return {
        kind: 'joined',
        mechanism: 'same-host',
        carrier: 'none',
        targetHostId: this.hostId,
        targetEpoch: target.epoch,
      }
    }
    const network = this.network(target.networkId)
    const peer = this.peer(target.hostId)
    if (!network || !peer || !this.#rows.self) return { kind: 'unknown' }
    const choice = this.#choose(network, peer)
    if (choice === undefined) {
      return { kind: 'refused', reason: 'tenant-locked', network, target: peer }
    }
    if (choice.carrier === 'refused') {
      const reason =
        choice.reason === 'encryption-required'
          ? 'encryption-unavailable'
          : 'no-common-trusted-zone'
      return { kind: 'refused', reason, network, target: peer }
    }
    return {
      kind: 'joined',
      mechanism: 'direct',
      carrier: choice.carrier,
      targetHostId: target.hostId,
      targetEpoch: target.epoch,
    }
  }

  /** Undefined if the network's tenant is locked, and does not let the peer be in it there. */
  #choose(network: Network, peer: Peer): CarrierChoice | undefined {
    const { addresses = [], canSeal = false } = this.#rows.self ?? {}
    const choice = carrierBetween(
      { addresses, canSeal: canSeal && this.#isSealing },
      { addresses: peer.addresses, canSeal: peer.sealing !== undefined },
      network.encryption,
    )
    const plainTo = choice.carrier === 'vxlan' ? choice.remote : undefined
    return this.#locks.isMember(network, peer, plainTo) ? choice : undefined
  }

  #isPlaced(endpoint: Endpoint): boolean {
    const network = this.network(endpoint.networkId)
    return network !== undefined && this.#locks.isPlaced(endpoint, network)
  }

  /** Decides who has which VNI and MAC; and an endpoint comes and goes with its network. */
  #settle(): void {
    const attached = new Set<number>()
    for (const { network } of this.#ports) attached.add(network.id)
    this.#settleHolders(
      'networks',
      (id) => attached.has(id),
      (id) => {
        const network = this.network(id)
        return network && `${network.vni}`
      },
    )
    const changed = new Set<number>()
    for (const id of this.#dirty.networks) {
      if (this.#taken.networks.has(id) !== (this.network(id) !== undefined)) changed.add(id)
    }
    if (changed.size > 0) {
      for (const [hostId, networks] of this.#members) {
        if ([...networks.keys()].some((id) => changed.has(id))) this.#dirty.peers.add(hostId)
      }
      for (const [id, { value }] of this.#rows.endpoints) {
        if (changed.has(value.networkId)) this.touch({ kind: 'endpoint', id })
      }
      for (const { endpoint, network } of this.#ports) {
        if (changed.has(network.id)) this.touch({ kind: 'endpoint', id: endpoint.id })
      }
    }
    const reviewed = this.#settleHolders(
      'endpoints',
      (id) => this.#ports.get(id) !== undefined,
      (id) => {
        const endpoint = this.endpoint(id)
        return endpoint && `${endpoint.networkId} ${endpoint.mac}`
      },
    )
    for (const id of reviewed) this.#reindex(id)
  }

  /**
   * Whoever has a key keeps it, unless what is attached here needs it; of those that come together the lowest id has it.
   * Returns those that are passed over now and were not before, or the other way round.
   */
  #settleHolders(
    kind: 'networks' | 'endpoints',
    isAttached: (id: number) => boolean,
    keyOf: (id: number) => string | undefined,
  ): number[] {
    const holders = this.#holders[kind]
    const passedOver = this.#passedOver[kind]
    const dirty = this.#dirty[kind]
    const held = new Set<number>()
    const levels = new Map<number, number>()
    // A set that grows meanwhile is walked to its new end.
    for (const id of dirty) {
      if (holders.isHolding(id)) held.add(id)
      levels.set(id, passedOver.get(id) ?? 0)
      for (const waiting of holders.release(id)) dirty.add(waiting)
    }
    const rank = (id: number): number => {
      if (!isAttached(id)) return held.has(id) ? 4 : 5
      return held.has(id) ? (levels.get(id) ?? 0) : 3
    }
    for (const id of [...dirty].sort((a, b) => rank(a) - rank(b) || a - b)) {
      for (const level of [0, 1, 2]) {
        if (level === 0) passedOver.delete(id)
        else passedOver.set(id, level)
        const key = keyOf(id)
        if (key === undefined) break
        const holder = holders.holderOf(key)
        if (holder !== undefined && isAttached(id) && !isAttached(holder)) {
          levels.set(holder, 0)
          holders.release(holder)
          holders.wait(key, holder)
          passedOver.set(holder, 1)
          dirty.add(holder)
        }
        if (holders.take(key, id)) break
        holders.wait(key, id)
      }
    }
    return [...levels].flatMap(([id, level]) => (level === (passedOver.get(id) ?? 0) ? [] : [id]))
  }

  #touchEndpointsOf(networkId: number): void {
    for (const [id, { value }] of this.#rows.endpoints) {
      if (value.networkId === networkId) this.touch({ kind: 'endpoint', id })
    }
  }

  #peerEntriesOf(hostId: number): PeerEntry[] {
    const peer = this.peer(hostId)
    if (!peer) return []
    const found: { choice: Exclude<CarrierChoice, { carrier: 'refused' }>; networkId: number }[] =
      []
    for (const networkId of this.#members.get(hostId)?.keys() ?? []) {
      const network = this.network(networkId)
      const choice = network && this.#choose(network, peer)
      if (choice && choice.carrier !== 'refused') found.push({ choice, networkId })
    }
    return PEER_CARRIERS.flatMap((carrier) => {
      const taking = found.filter(({ choice }) => choice.carrier === carrier)
      const [first] = taking
      if (!first) return []
      const networkIds = taking.map(({ networkId }) => networkId).sort((a, b) => a - b)
      return this.#peerEntry(peer, first.choice, networkIds)
    })
  }

  #peerEntry(
    { hostId, isForeign, sealing }: Peer,
    choice: Exclude<CarrierChoice, { carrier: 'refused' }>,
    networkIds: readonly number[],
  ): PeerEntry[] {
    if (choice.carrier === 'vxlan') return [{ hostId, ...choice, isForeign, networkIds }]
    if (!sealing) return []
    const { tunnelKey, previous, candidates } = sealing
    const previousTunnelKey = previous && previous.untilMs > this.#nowMs ? previous.tunnelKey : ''
    return [{ hostId, carrier: 'sealed', tunnelKey, previousTunnelKey, candidates, networkIds }]
  }

  #touchAll(): void {
    for (const id of this.#rows.networks.keys()) this.#dirty.networks.add(id)
    for (const id of this.#rows.peers.keys()) this.#dirty.peers.add(id)
    for (const id of this.#rows.endpoints.keys()) this.touch({ kind: 'endpoint', id })
    for (const { endpoint, network } of this.#ports) this.touchPort(endpoint.id, network.id)
  }

  #reindex(id: number): void {
    const old = this.#indexed.get(id)
    const endpoint = this.endpoint(id)
    if (old && (old.hostId !== endpoint?.hostId || old.networkId !== endpoint.networkId)) {
      const networks = this.#members.get(old.hostId)
      const members = networks?.get(old.networkId)
      members?.delete(id)
      if (members?.size === 0) {
        networks?.delete(old.networkId)
        if (networks?.size === 0) this.#members.delete(old.hostId)
        this.#dirty.peers.add(old.hostId)
      }
      this.#indexed.delete(id)
    }
    if (!endpoint || endpoint.hostId === this.hostId) return
    const { hostId, networkId } = endpoint
    const networks = getOrMake(this.#members, hostId, () => new Map<number, Set<number>>())
    const members = getOrMake(networks, networkId, () => new Set<number>())
    if (members.size === 0) this.#dirty.peers.add(hostId)
    members.add(id)
    this.#indexed.set(id, { hostId, networkId })
  }
}

/** What the data plane needs to know of a network. */
export function networkEntry(network: Network): NetworkEntry {
  const gateways = network.prefixes.map(gatewayAddress)
  return {
    id: network.id,
    vni: network.vni,
    mtuBytes: network.mtuBytes,
    gatewayV4: gateways.find((gateway) => gateway?.family === 4),
    gatewayV6: gateways.find((gateway) => gateway?.family === 6),
  }
}

function note(ids: Set<number>, id: number, present: object | undefined): void {
  if (present) ids.add(id)
  else ids.delete(id)
}

function getOrMake<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  const present = map.get(key)
  if (present !== undefined) return present
  const made = make()
  map.set(key, made)
  return made
}
