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
import type { PeerEntry, SealedPeer } from './switch-table.ts'

/** RFC 7348. */
const VXLAN_PORT = 4_789

/** What the shuttle says of its sealed peers: a snapshot in chunks, then changes. What was said before it stays until it is complete. */
export class SealedStates {
  #states: Map<number, OpenConnection> = new Map()
  #observed: readonly Candidate[] = []
  /** Hosts that the snapshot under way has named; undefined once it is complete. */
  #snapshot: Set<number> | undefined

  /** Where other hosts see this one. */
  get observed(): readonly Candidate[] {
    return this.#observed
  }

  get(hostId: number): OpenConnection | undefined {
    return this.#states.get(hostId)
  }

  /** A new stream begins. */
  begin(): void {
    this.#snapshot = new Set()
  }

  apply({ connections, goneHostIds, observed, snapshotComplete }: WatchSealedResponse): void {
    for (const connection of connections) {
      this.#states.set(connection.hostId, connection)
      this.#snapshot?.add(connection.hostId)
    }
    for (const hostId of goneHostIds) this.#states.delete(hostId)
    if (observed) this.#observed = observed.candidates
    if (!this.#snapshot || !snapshotComplete) return
    for (const hostId of this.#states.keys()) {
      if (!this.#snapshot.has(hostId)) this.#states.delete(hostId)
    }
    this.#snapshot = undefined
  }

  /** The process that had the sessions is gone, and they with it. */
  clear(): void {
    this.#states = new Map()
    this.#observed = []
    this.#snapshot = undefined
  }
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

/** Names a connection of a host. */
export function connectionKey({ hostId, carrier }: OpenConnection): string {
  return `${hostId} ${carrier}`
}

/** How many there are of each carrier and state: `sealed open`. */
export function countByState(connections: readonly OpenConnection[]): Map<string, number> {
  const counts = new Map<string, number>()
  for (const { carrier, state } of connections) {
    const word = carrier === Carrier.CARRIER_SEALED ? 'sealed' : 'vxlan'
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

function seenAt({ address: bytes, port }: Candidate): Seen[] {
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
  }
}
