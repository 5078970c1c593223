import { CANDIDATES_MAX, SEALED_PORT_DEFAULT } from '@weft/net'
import { type Candidate, CandidateKind } from '@weft/proto/weftline/common/v1/common.ts'
import type { Host } from '@weft/proto/weftline/config/v1/records.ts'
import { HostKind } from '@weft/proto/weftline/config/v1/records.ts'
import type { EndpointRow, HostRow, PeerAddress } from '@weft/proto/weftline/config/v1/rows.ts'
import type { Change, Database } from './database.ts'
import type { Locations, Observation } from './locations.ts'
import { OpenConnections } from './open-connections.ts'
import { contentOf, networkOf } from './tenant-locks.ts'

/** In the order in which they are written: what a row refers to is there before it, and `self` says that a host's rows are complete. */
export const rowKinds = ['statement', 'network', 'peer', 'endpoint', 'self'] as const
export type RowKind = (typeof rowKinds)[number]

/** Names one row of one host; `id` is that of the statement, network, peer host, endpoint or the host itself. */
export interface RowKey {
  readonly hostId: number
  readonly kind: RowKind
  readonly id: number
}

type Visit = (key: RowKey) => void

/**
 * What every host has to know, derived from the VN database and the observed locations. A host has a network while an
 * endpoint of it is assigned to the host, and gets nothing of any other. Two hosts are peers while they have a network in
 * common. Another host's endpoint has a row once its location is known and agrees with its assignment; an own one has a
 * row from its assignment on. Hosts that others manage get no rows: nobody there would read them. A revoked host gets none
 * either, is nobody's peer, and nothing is located at it. Of a locked tenant a host has the keys, what they say of the
 * networks that it has, and with endpoints there what the hosts themselves have reported.
 */
export class HostRows {
  readonly #database: Database
  readonly #locations: Locations
  readonly #connections: OpenConnections

  constructor(
    database: Database,
    locations: Locations,
    connections: OpenConnections = new OpenConnections(),
  ) {
    this.#database = database
    this.#locations = locations
    this.#connections = connections
  }

  /** The row as it has to be now, or undefined if there has to be none. Whoever hands it out says until when it holds. */
  row(key: RowKey): HostRow | undefined {
    const host = this.#database.host(key.hostId)
    const row = host && getsRows(host) ? this.#content(host, key) : undefined
    return (
      row && {
        hostId: key.hostId,
        configRevision: this.#database.revision,
        locationRevision: this.#locations.revision,
        row,
        notAfterUnixMs: 0n,
      }
    )
  }

  /** Every key that may have a row now, host by host, each in the order of `rowKinds`. */
  *allKeys(): Generator<RowKey, void, undefined> {
    for (const hostId of this.#database.hostIds()) {
      const host = this.#database.host(hostId)
      if (!host || !getsRows(host)) continue
      const networks = [...this.#database.networksOfHost(hostId).keys()]
      for (const id of new Set(networks.flatMap((network) => this.#statementIds(network)))) {
        yield { hostId, kind: 'statement', id }
      }
      for (const id of networks) yield { hostId, kind: 'network', id }
      const peers = new Set(
        networks.flatMap((network) => [...this.#database.hostsOfNetwork(network).keys()]),
      )
      for (const id of peers) yield { hostId, kind: 'peer', id }
      for (const network of networks) {
        for (const id of this.#database.endpointNames(network)?.ids() ?? []) {
          yield { hostId, kind: 'endpoint', id }
        }
      }
      yield { hostId, kind: 'self', id: hostId }
    }
  }

  /** Visits the keys of all rows that a change, which has been applied, may have made, altered or ended. */
  affectedBy(change: Change, visit: Visit): void {
    switch (change.kind) {
      case 'tenant':
        for (const id of this.#database.networkNames(change.id)?.ids() ?? []) {
          this.#networkRows(id, visit)
        }
        return
      case 'zone':
        for (const id of this.#database.hostsOfZone(change.id)) this.#hostRows(id, visit)
        return
      case 'host':
        this.#hostRows(change.id, visit)
        // It never comes back under the same id, so this is done once, and once more when the record is removed.
        if (change.after && isRevoked(change.after)) this.#allRowsOf(change.id, visit)
        // What it reported is handed on with its key.
        else if (!isSameKey(change.before, change.after)) this.#endpointsAt(change.id, visit)
        return
      case 'network':
        this.#networkRows(change.id, visit)
        return
      case 'endpoint': {
        const { id, before, after } = change
        const networkId = after?.networkId ?? before?.networkId ?? 0
        this.#endpointRows(networkId, id, visit)
        const from = before?.hostId ?? 0
        const to = after?.hostId ?? 0
        if (from === to) return
        const hosts = this.#database.hostsOfNetwork(networkId)
        if (from !== 0 && !hosts.has(from)) this.#membershipRows(from, networkId, visit)
        if (to !== 0 && hosts.get(to) === 1) this.#membershipRows(to, networkId, visit)
        if (from !== 0) visit({ hostId: from, kind: 'endpoint', id })
        return
      }
      case 'statement':
        this.#statementRows(change, visit)
        return
      // Who belongs to the domain is told by certificates and revocations, and by no row.
      case 'token':
      case 'user':
      case 'revokedKey':
        return
    }
  }

  /** The same for a change of an endpoint's observed location. */
  affectedByLocation(endpointId: number, visit: Visit): void {
    const endpoint = this.#database.endpoint(endpointId)
    if (endpoint) this.#endpointRows(endpoint.networkId, endpointId, visit)
  }

  /** The same for a host that others see elsewhere than before. */
  affectedByObserved(hostId: number, visit: Visit): void {
    this.#hostRows(hostId, visit)
  }

  #content(host: Host, { kind, id }: RowKey): HostRow['row'] | undefined {
    const database = this.#database
    switch (kind) {
      case 'self':
        return {
          $case: 'self',
          value: {
            name: host.name,
            addresses: this.#peerAddresses(host),
            capabilities: host.capabilities,
            sealedPort: sealedPortOf(host),
            configured: host.sealedListener?.configured ?? [],
          },
        }
      case 'statement': {
        const statement = this.#hasStatement(host.id, id) && database.statement(id)?.statement
        return statement ? { $case: 'statement', value: { id, statement } } : undefined
      }
      case 'network': {
        const network = database.network(id)
        if (!network || !database.networksOfHost(host.id).has(id)) return undefined
        const tenantName = database.tenant(network.tenantId)?.name ?? ''
        return { $case: 'network', value: { network, tenantName } }
      }
      case 'endpoint': {
        const endpoint = database.endpoint(id)
        if (!endpoint || !database.networksOfHost(host.id).has(endpoint.networkId)) {
          return undefined
        }
        const location = this.#location(id, endpoint.hostId)
        if (!location && endpoint.hostId !== host.id) return undefined
        return {
          $case: 'endpoint',
          value: {
            endpointId: id,
            networkId: endpoint.networkId,
            name: endpoint.name,
            mac: endpoint.mac,
            addresses: endpoint.addresses,
            allowedPrefixes: endpoint.allowedPrefixes,
            locationHostId: location?.hostId ?? 0,
            epoch: location?.epoch ?? 0n,
            placement: this.#placement(endpoint.networkId, location),
          },
        }
      }
      case 'peer': {
        const peer = database.host(id)
        if (!peer || isRevoked(peer)) return undefined
        if (id === host.id || !this.#shareNetwork(host.id, id)) return undefined
        return {
          $case: 'peer',
          value: {
            hostId: id,
            name: peer.name,
            kind: peer.kind,
            addresses: this.#peerAddresses(peer),
            identityKey: peer.identityKey,
            tunnelKey: peer.tunnelKey,
            capabilities: peer.capabilities,
            wireVersions: peer.wireVersions,
            tunnelStatement: peer.tunnelStatement,
            candidates: this.#candidates(peer),
          },
        }
      }
    }
  }

  /** Where the endpoint counts as being: where it was observed, if that is where it is assigned. */
  #location(endpointId: number, assignedHostId: number): Observation | undefined {
    if (assignedHostId === 0) return undefined
    const host = this.#database.host(assignedHostId)
    if (host && isRevoked(host)) return undefined
    // Nobody reports for a foreign host: what is assigned to it is there.
    if (host?.kind === HostKind.HOST_KIND_VXLAN_PEER) return { hostId: assignedHostId, epoch: 0n }
    const observed = this.#locations.get(endpointId)
    return observed?.hostId === assignedHostId ? observed : undefined
  }

  /** What the host of an endpoint says of it, where hosts trust nobody else. */
  #placement(networkId: number, location: Observation | undefined): EndpointRow['placement'] {
    const tenantId = this.#database.network(networkId)?.tenantId ?? 0
    const { hostId = 0, report } = location ?? {}
    const signerKey = this.#database.host(hostId)?.identityKey
    if (!report?.length || !signerKey?.length) return undefined
    return this.#database.locks.isChartered(tenantId, networkId) ? { report, signerKey } : undefined
  }

  /** Whether the host has a network that the statement is about; for a key any network of its tenant. */
  #hasStatement(hostId: number, id: number): boolean {
    const { locks } = this.#database
    const record = locks.statement(id)
    const content = locks.content(id)
    if (!record || !content) return false
    const networks = this.#database.networksOfHost(hostId)
    const isOwn = (networkId: number): boolean =>
      this.#database.network(networkId)?.tenantId === record.tenantId
    if (content.about?.$case === 'key') return [...networks.keys()].some(isOwn)
    return networks.has(networkOf(content)) && isOwn(networkOf(content))
  }

  /** Statements that a host has to know because it has the network. */
  #statementIds(networkId: number): number[] {
    const { locks } = this.#database
    const tenantId = this.#database.network(networkId)?.tenantId ?? 0
    return [...locks.keyIds(tenantId), ...locks.ofNetwork(networkId)]
  }

  #shareNetwork(one: number, other: number): boolean {
    const networks = this.#database.networksOfHost(one)
    const others = this.#database.networksOfHost(other)
    const [few, many] = networks.size < others.size ? [networks, others] : [others, networks]
    for (const id of few.keys()) if (many.has(id)) return true
    return false
  }

  #peerAddresses(host: Host): PeerAddress[] {
    return host.underlayAddresses.map(({ address, zoneId }) => {
      const zone = this.#database.zone(zoneId)
      return { address, zoneId, zoneName: zone?.name ?? '', trusted: zone?.trusted ?? false }
    })
  }

  /** Where the sealed transport of a host may be reached: at first its own addresses, each place once. */
  #candidates(host: Host): Candidate[] {
    if (host.tunnelStatement === undefined) return []
    const port = sealedPortOf(host)
    const others = [
      ...(host.sealedListener?.configured ?? []),
      ...this.#connections.observed(host.id),
    ]
    const own = host.underlayAddresses
      .slice(0, CANDIDATES_MAX - others.length)
      .map(({ address }) => ({ address, port, kind: CandidateKind.CANDIDATE_KIND_OWN }))
    const places = new Map<string, Candidate>()
    for (const candidate of [...own, ...others]) {
      const place = `${candidate.address.toString('hex')}:${candidate.port}`
      if (!places.has(place)) places.set(place, candidate)
    }
    return [...places.values()]
  }

  #networkRows(networkId: number, visit: Visit): void {
    for (const hostId of this.#database.hostsOfNetwork(networkId).keys()) {
      visit({ hostId, kind: 'network', id: networkId })
    }
  }

  #endpointRows(networkId: number, endpointId: number, visit: Visit): void {
    for (const hostId of this.#database.hostsOfNetwork(networkId).keys()) {
      visit({ hostId, kind: 'endpoint', id: endpointId })
    }
  }

  /** A statement at every host that has to know it; a key or charter also decides what endpoints are handed on with. */
  #statementRows(change: Extract<Change, { kind: 'statement' }>, visit: Visit): void {
    const { id, before, after } = change
    const record = after ?? before
    const content = record && contentOf(record)
    const about = content?.about?.$case
    const networkIds =
      content && about !== 'key'
        ? [networkOf(content)]
        : (this.#database.networkNames(record?.tenantId ?? 0)?.ids() ?? [])
    for (const networkId of networkIds) {
      for (const hostId of this.#database.hostsOfNetwork(networkId).keys()) {
        visit({ hostId, kind: 'statement', id })
      }
      if (about === 'membership' || about === 'delegation') continue
      for (const endpointId of this.#database.endpointNames(networkId)?.ids() ?? []) {
        this.#endpointRows(networkId, endpointId, visit)
      }
    }
  }

  /** The host's own row, and its row at every peer. */
  #hostRows(id: number, visit: Visit): void {
    visit({ hostId: id, kind: 'self', id })
    for (const networkId of this.#database.networksOfHost(id).keys()) {
      for (const hostId of this.#database.hostsOfNetwork(networkId).keys()) {
        visit({ hostId, kind: 'peer', id })
      }
    }
  }

  /** Everything that the host has, and what its peers have of the endpoints that are assigned to it. */
  #allRowsOf(hostId: number, visit: Visit): void {
    for (const networkId of this.#database.networksOfHost(hostId).keys()) {
      this.#membershipRows(hostId, networkId, visit)
    }
    this.#endpointsAt(hostId, visit)
  }

  /** Endpoints that are assigned to the host, at every host that knows them. */
  #endpointsAt(hostId: number, visit: Visit): void {
    for (const networkId of this.#database.networksOfHost(hostId).keys()) {
      for (const id of this.#database.endpointNames(networkId)?.ids() ?? []) {
        if (this.#database.endpoint(id)?.hostId === hostId) this.#endpointRows(networkId, id, visit)
      }
    }
  }

  /** All that a host has of a network because it has that network. */
  #membershipRows(hostId: number, networkId: number, visit: Visit): void {
    for (const id of this.#statementIds(networkId)) visit({ hostId, kind: 'statement', id })
    visit({ hostId, kind: 'network', id: networkId })
    for (const other of this.#database.hostsOfNetwork(networkId).keys()) {
      visit({ hostId, kind: 'peer', id: other })
      visit({ hostId: other, kind: 'peer', id: hostId })
    }
    for (const id of this.#database.endpointNames(networkId)?.ids() ?? []) {
      visit({ hostId, kind: 'endpoint', id })
    }
  }
}

function sealedPortOf({ sealedListener }: Host): number {
  return sealedListener?.port || SEALED_PORT_DEFAULT
}

function getsRows(host: Host): boolean {
  return host.kind === HostKind.HOST_KIND_WEFT && !isRevoked(host)
}

function isSameKey(before: Host | undefined, after: Host | undefined): boolean {
  return !before || !after || before.identityKey.equals(after.identityKey)
}

function isRevoked({ revokedAtUnixMs }: Host): boolean {
  return revokedAtUnixMs > 0n
}
