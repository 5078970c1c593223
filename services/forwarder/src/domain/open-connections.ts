import { type IpAddress, ipFromBytes, ipToBytes } from '@weft/net'
import {
  type Candidate,
  Carrier,
  Cipher,
  ConnectionState,
  type OpenConnection,
} from '@weft/proto/weftline/common/v1/common.ts'
import type { WatchSealedResponse } from '@weft/proto/weftline/shuttle/v1/sealing.ts'
import { natOf, natsPart, type Seen } from './nat.ts'
import type { Port } from './ports.ts'
import type { PeerEntry, SealedPeer } from './switch-table.ts'

/** RFC 7348. */
const VXLAN_PORT = 4_789

/** What the shuttle says of its sealed peers: a snapshot in chunks, then changes. What was said before it stays until it is complete. */
export class SealedStates {
  #states: Map<number, OpenConnection> = new Map()
  /** WireGuard clients by endpoint. */
  #clients: Map<number, OpenConnection> = new Map()
  #observed: readonly Candidate[] = []
  /** What the snapshot under way has named; undefined once it is complete. */
  #snapshot: { readonly hosts: Set<number>; readonly clients: Set<number> } | undefined

  /** Where other hosts see this one. */
  get observed(): readonly Candidate[] {
    return this.#observed
  }

  get(hostId: number): OpenConnection | undefined {
    return this.#states.get(hostId)
  }

  /** Of the WireGuard client that is attached as the endpoint. */
  client(endpointId: number): OpenConnection | undefined {
    return this.#clients.get(endpointId)
  }

  /** A new stream begins. */
  begin(): void {
    this.#snapshot = { hosts: new Set(), clients: new Set() }
  }

  apply(said: WatchSealedResponse): void {
    for (const connection of said.connections) {
      const { hostId, endpointId } = connection
      if (endpointId === 0) {
        this.#states.set(hostId, connection)
        this.#snapshot?.hosts.add(hostId)
      } else {
        this.#clients.set(endpointId, connection)
        this.#snapshot?.clients.add(endpointId)
      }
    }
    for (const hostId of said.goneHostIds) this.#states.delete(hostId)
    for (const endpointId of said.goneEndpointIds) this.#clients.delete(endpointId)
    if (said.observed) this.#observed = said.observed.candidates
    if (!this.#snapshot || !said.snapshotComplete) return
    keepOnly(this.#states, this.#snapshot.hosts)
    keepOnly(this.#clients, this.#snapshot.clients)
    this.#snapshot = undefined
  }

  /** The process that had the sessions is gone, and they with it. */
  clear(): void {
    this.#states = new Map()
    this.#clients = new Map()
    this.#observed = []
    this.#snapshot = undefined
  }
}

function keepOnly(map: Map<number, unknown>, wanted: ReadonlySet<number>): void {
  for (const id of map.keys()) if (!wanted.has(id)) map.delete(id)
}

/** What the shuttle says of a peer that does not answer. */
const NO_ANSWER = 'no-answer'
/** Of one that cannot: both hosts are behind NATs, of which one gives every peer another port. */
const SYMMETRIC_NAT = 'symmetric-nat'

/** The connections to all other hosts that the tables have, by each carrier, from a host with these addresses of its own. */
export function openConnections(
  peers: Iterable<PeerEntry>,
  states: SealedStates,
  own: readonly IpAddress[],
): OpenConnection[] {
  const found: OpenConnection[] = []
  const nat = natOf(own, states.observed.flatMap(seenAt))
  for (const peer of peers) {
    if (peer.carrier === 'vxlan') {
      found.push(plainTo(peer))
      continue
    }
    const said = states.get(peer.hostId) ?? untold(peer.hostId)
    const isParted = said.reason === NO_ANSWER && natsPart(nat, natBefore(peer))
    found.push(isParted ? { ...said, reason: SYMMETRIC_NAT } : said)
  }
  return found.sort((a, b) => a.hostId - b.hostId || a.carrier - b.carrier)
}

/** How the WireGuard clients among what is attached here are. Config is told nothing of them: their host alone knows. */
export function clientConnections(ports: Iterable<Port>, states: SealedStates): OpenConnection[] {
  return [...ports]
    .filter(({ attachment }) => attachment.kind === 'wireguard')
    .map(({ endpoint: { id } }) => states.client(id) ?? { ...untold(0), endpointId: id })
    .sort((a, b) => a.endpointId - b.endpointId)
}

/** Names a connection of a host. */
export function connectionKey({ hostId, endpointId, carrier }: OpenConnection): string {
  return `${hostId} ${endpointId} ${carrier}`
}

/** How many there are of each carrier and state: `sealed open`, `client open`. */
export function countByState(connections: readonly OpenConnection[]): Map<string, number> {
  const counts = new Map<string, number>()
  for (const { carrier, state, endpointId } of connections) {
    const word =
      endpointId !== 0 ? 'client' : carrier === Carrier.CARRIER_SEALED ? 'sealed' : 'vxlan'
    const name = `${word} ${STATE_WORDS[state] ?? 'unknown'}`
    counts.set(name, (counts.get(name) ?? 0) + 1)
  }
  return counts
}

const STATE_WORDS: { readonly [state: number]: string } = {
  [ConnectionState.CONNECTION_STATE_IDLE]: 'idle',
  [ConnectionState.CONNECTION_STATE_CONNECTING]: 'connecting',
  [ConnectionState.CONNECTION_STATE_OPEN]: 'open',
  [ConnectionState.CONNECTION_STATE_UNREACHABLE]: 'unreachable',
}

/** The NAT of a peer, as far as its candidates show. */
function natBefore({ candidates }: SealedPeer): ReturnType<typeof natOf> {
  const reached = candidates.filter(({ kind }) => kind !== 'observed')
  const seen = candidates.filter(({ kind }) => kind === 'observed')
  return natOf(
    reached.map(({ address }) => address),
    seen,
  )
}

export function seenAt({ address: bytes, port }: Candidate): Seen[] {
  const address = ipFromBytes(bytes)
  return address ? [{ address, port }] : []
}

/** A carrier without sessions is open as long as it is in the tables. */
function plainTo({ hostId, remote }: Extract<PeerEntry, { carrier: 'vxlan' }>): OpenConnection {
  return {
    ...untold(hostId),
    carrier: Carrier.CARRIER_VXLAN,
    state: ConnectionState.CONNECTION_STATE_OPEN,
    address: ipToBytes(remote),
    port: VXLAN_PORT,
  }
}

/** One of which the shuttle has not said anything yet. */
function untold(hostId: number): OpenConnection {
  return {
    hostId,
    carrier: Carrier.CARRIER_SEALED,
    state: ConnectionState.CONNECTION_STATE_IDLE,
    reason: '',
    address: Buffer.alloc(0),
    port: 0,
    rttUs: 0n,
    jitterUs: 0n,
    lossPpm: 0,
    pathMtuBytes: 0,
    sentPackets: 0n,
    sentBytes: 0n,
    receivedPackets: 0n,
    receivedBytes: 0n,
    openSinceUnixMs: 0n,
    lastHandshakeUnixMs: 0n,
    cipher: Cipher.CIPHER_UNSPECIFIED,
    offloads: [],
    endpointId: 0,
  }
}
