import { InvalidArgumentError, StatementRefusedError } from '@weft/errors'
import { ipFromBytes, isPort, isUnicastAddress, OBSERVED_CANDIDATES_MAX } from '@weft/net'
import {
  type Candidate,
  CandidateKind,
  type OpenConnection,
} from '@weft/proto/weftline/common/v1/common.ts'
import type { ConnectionReport } from '@weft/proto/weftline/status/v1/status.ts'
import { isLinkLocal } from './requests/link-local.ts'

/** Connections in one report. */
const REPORTED_MAX = 256
/** Connections of one host that are kept. */
const KEPT_PER_HOST_MAX = 1_024
/** Connections of all hosts that are kept: 26 of each of 10,000 hosts. Sum: 262,144 of some 400 bytes are 105 MB. */
const KEPT_MAX = 262_144
/** What is not said again for this long counts no more. Hosts say everything again within 30 s. */
const SAID_FOR_MS = 90_000
/**
 * Others are told of new observed addresses of a host at most once in so long on average, because each host that shares a network
 * with it gets a row; and a few times at once: a NAT that has begun anew is seen by one peer after the other.
 */
const OBSERVED_PAUSE_MS = 30_000
const OBSERVED_AT_ONCE = 4
const REASON = /^[a-z][a-z0-9-]{0,63}$/
const OFFLOADS_MAX = 8

/** A connection as its host reported it. */
export interface Reported {
  readonly connection: OpenConnection
  /** Since it was reported. */
  readonly ageMs: number
}

interface Said {
  readonly connection: OpenConnection
  readonly atMs: number
}

interface HostSays {
  sentAtUnixMs: bigint
  /** By the other host and the carrier. */
  readonly connections: Map<string, Said>
  observed: readonly Candidate[]
  /** One change of them is due for each `OBSERVED_PAUSE_MS` since then. */
  observedDueMs: number
}

/** What hosts say of their open connections, in memory alone: whoever restarts hears it again. */
export class OpenConnections {
  readonly #hosts = new Map<number, HostSays>()
  #kept = 0

  /** How many are kept of all hosts. */
  get size(): number {
    return this.#kept
  }

  /**
   * Takes a report whose signature was verified. Returns whether others see the host elsewhere than before.
   * @throws StatementRefusedError for one that is not newer than the last; InvalidArgumentError for one that is too large
   */
  take(report: ConnectionReport, nowMs: number): boolean {
    const { hostId, sentAtUnixMs, connections, goneHostIds } = report
    if (connections.length > REPORTED_MAX) throw tooMany('connections', REPORTED_MAX)
    if (goneHostIds.length > KEPT_PER_HOST_MAX) throw tooMany('gone_host_ids', KEPT_PER_HOST_MAX)
    const host = this.#host(hostId)
    if (sentAtUnixMs <= host.sentAtUnixMs) {
      throw new StatementRefusedError({ reason: 'outdated', purpose: 'connection-report' })
    }
    host.sentAtUnixMs = sentAtUnixMs
    const gone = new Set(goneHostIds)
    for (const [key, { connection, atMs }] of host.connections) {
      if (gone.has(connection.hostId) || nowMs - atMs > SAID_FOR_MS) this.#drop(host, key)
    }
    for (const connection of connections) this.#keep(host, connection, nowMs)
    return noteObserved(host, report.observed, nowMs)
  }

  /** The connections of a host that it said lately, by id of the other host. */
  of(hostId: number, nowMs: number): Reported[] {
    const said = [...(this.#hosts.get(hostId)?.connections.values() ?? [])]
    return said
      .map(({ connection, atMs }) => ({ connection, ageMs: Math.max(0, nowMs - atMs) }))
      .filter(({ ageMs }) => ageMs <= SAID_FOR_MS)
      .sort((a, b) => a.connection.hostId - b.connection.hostId)
  }

  /** Where others see the host. It stays when the host falls silent: it may be cut off from us, and not from them. */
  observed(hostId: number): readonly Candidate[] {
    return this.#hosts.get(hostId)?.observed ?? []
  }

  /** The host is gone, or is not believed any more. */
  forget(hostId: number): void {
    this.#kept -= this.#hosts.get(hostId)?.connections.size ?? 0
    this.#hosts.delete(hostId)
  }

  /** Gives back the room of what was not said again. */
  sweep(nowMs: number): void {
    for (const host of this.#hosts.values()) {
      for (const [key, { atMs }] of host.connections) {
        if (nowMs - atMs > SAID_FOR_MS) this.#drop(host, key)
      }
    }
  }

  #host(hostId: number): HostSays {
    const present = this.#hosts.get(hostId)
    if (present) return present
    const made: HostSays = {
      sentAtUnixMs: 0n,
      connections: new Map(),
      observed: [],
      observedDueMs: -Infinity,
    }
    this.#hosts.set(hostId, made)
    return made
  }

  #keep(host: HostSays, connection: OpenConnection, nowMs: number): void {
    // A WireGuard client, of which its host alone keeps the state.
    if (connection.hostId === 0) return
    const key = `${connection.hostId} ${connection.carrier}`
    const isNew = !host.connections.has(key)
    if (isNew && (host.connections.size >= KEPT_PER_HOST_MAX || this.#kept >= KEPT_MAX)) return
    if (isNew) this.#kept++
    host.connections.set(key, { connection: trimmed(connection), atMs: nowMs })
  }

  #drop(host: HostSays, key: string): void {
    if (host.connections.delete(key)) this.#kept--
  }
}

/** Returns whether they are others than before. */
function noteObserved(host: HostSays, said: readonly Candidate[], nowMs: number): boolean {
  const observed = said.filter(isCandidate).slice(0, OBSERVED_CANDIDATES_MAX).map(observedAt)
  if (textOf(observed) === textOf(host.observed)) return false
  const earliestMs = nowMs - OBSERVED_AT_ONCE * OBSERVED_PAUSE_MS
  const dueMs = Math.max(host.observedDueMs, earliestMs) + OBSERVED_PAUSE_MS
  if (dueMs > nowMs) return false
  host.observed = observed
  host.observedDueMs = dueMs
  return true
}

function isCandidate({ address: bytes, port }: Candidate): boolean {
  const address = ipFromBytes(bytes)
  return address !== undefined && isUnicastAddress(address) && !isLinkLocal(address) && isPort(port)
}

function observedAt({ address, port }: Candidate): Candidate {
  return { address: Buffer.from(address), port, kind: CandidateKind.CANDIDATE_KIND_OBSERVED }
}

function textOf(candidates: readonly Candidate[]): string {
  return candidates.map(({ address, port }) => `${address.toString('hex')}:${port}`).join(' ')
}

/** Without anything that has no bound: fields that this version does not know, and long texts. */
function trimmed(connection: OpenConnection): OpenConnection {
  const { address, reason, offloads } = connection
  return {
    hostId: connection.hostId,
    carrier: connection.carrier,
    state: connection.state,
    reason: REASON.test(reason) ? reason : '',
    address: ipFromBytes(address) ? Buffer.from(address) : Buffer.alloc(0),
    port: connection.port,
    rttUs: connection.rttUs,
    jitterUs: connection.jitterUs,
    lossPpm: connection.lossPpm,
    pathMtuBytes: connection.pathMtuBytes,
    sentPackets: connection.sentPackets,
    sentBytes: connection.sentBytes,
    receivedPackets: connection.receivedPackets,
    receivedBytes: connection.receivedBytes,
    openSinceUnixMs: connection.openSinceUnixMs,
    lastHandshakeUnixMs: connection.lastHandshakeUnixMs,
    cipher: connection.cipher,
    offloads: offloads.slice(0, OFFLOADS_MAX),
    endpointId: 0,
  }
}

function tooMany(field: string, limit: number): InvalidArgumentError {
  return new InvalidArgumentError({ field, problem: `there are more than ${limit}` })
}
