import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { type IpAddress, parseIpAddress } from '@weft/net'
import {
  CandidateKind,
  Carrier,
  ConnectionState,
  OpenConnection,
} from '@weft/proto/weftline/common/v1/common.ts'
import { WatchSealedResponse } from '@weft/proto/weftline/shuttle/v1/sealing.ts'
import { ConnectionReports } from './connection-reports.ts'
import { countByState, openConnections, SealedStates } from './open-connections.ts'
import type { PeerEntry, SealedPeer } from './switch-table.ts'

const seen = {
  address: Buffer.of(198, 51, 100, 7),
  port: 4_000,
  kind: CandidateKind.CANDIDATE_KIND_OBSERVED,
}

describe('what the shuttle says of sealed peers', () => {
  test('is a snapshot in chunks, and then changes', () => {
    const states = new SealedStates()
    states.begin()
    states.apply(said({ connections: [sealed(2)] }))
    states.apply(said({ connections: [sealed(3)], snapshotComplete: true }))
    states.apply(said({ connections: [sealed(3, { lossPpm: 7 })], snapshotComplete: true }))
    states.apply(said({ goneHostIds: [2], snapshotComplete: true }))

    assert.equal(states.get(2), undefined)
    assert.equal(states.get(3)?.lossPpm, 7)
  })

  test('stays until a new snapshot is complete, and what that lacks goes', () => {
    const states = new SealedStates()
    states.begin()
    states.apply(said({ connections: [sealed(2), sealed(3)], snapshotComplete: true }))

    states.begin()
    states.apply(said({ connections: [sealed(3)] }))
    assert(states.get(2))
    states.apply(said({ snapshotComplete: true }))

    assert.equal(states.get(2), undefined)
    assert(states.get(3))
  })

  test('is of WireGuard clients apart from hosts', () => {
    const states = new SealedStates()
    states.begin()
    states.apply(said({ connections: [sealed(7), client(7), client(8)], snapshotComplete: true }))
    assert.equal(states.get(0), undefined)
    assert.deepEqual([states.client(7)?.port, states.get(7)?.port], [40_000, 0])

    states.apply(said({ goneEndpointIds: [7], snapshotComplete: true }))
    assert.equal(states.client(7), undefined)
    assert(states.get(7))

    states.begin()
    states.apply(said({ snapshotComplete: true }))
    assert.equal(states.client(8), undefined)
  })

  test('keeps where others see this host until it is said anew', () => {
    const states = new SealedStates()
    states.apply(said({ observed: { candidates: [seen] }, snapshotComplete: true }))
    states.apply(said({ connections: [sealed(2)], snapshotComplete: true }))
    assert.deepEqual(
      states.observed.map(({ port }) => port),
      [seen.port],
    )

    states.apply(said({ observed: { candidates: [] }, snapshotComplete: true }))

    assert.deepEqual(states.observed, [])
  })
})

describe('the open connections of a host', () => {
  test('are those of its tables: plain ones are open, sealed ones as the shuttle says, else idle', () => {
    const states = new SealedStates()
    states.apply(said({ connections: [sealed(3), sealed(9)], snapshotComplete: true }))

    const connections = openConnections([plainPeer(3), sealedPeer(3), sealedPeer(2)], states, [])

    assert.deepEqual(
      connections.map(({ hostId, carrier, state }) => [hostId, carrier, state]),
      [
        [2, Carrier.CARRIER_SEALED, ConnectionState.CONNECTION_STATE_IDLE],
        [3, Carrier.CARRIER_VXLAN, ConnectionState.CONNECTION_STATE_OPEN],
        [3, Carrier.CARRIER_SEALED, ConnectionState.CONNECTION_STATE_OPEN],
      ],
    )
    assert.deepEqual(Object.fromEntries(countByState(connections)), {
      'sealed idle': 1,
      'sealed open': 1,
      'vxlan open': 1,
    })
  })
})

describe('a host that does not answer', () => {
  const own = address('192.168.1.2')
  const unanswered = sealed(2, {
    state: ConnectionState.CONNECTION_STATE_UNREACHABLE,
    reason: 'no-answer',
  })

  test('cannot be met where both are behind NATs and one of them gives every peer another port', () => {
    assert.deepEqual(reasons([4_000, 5_000], [4_000]), ['symmetric-nat'])
    assert.deepEqual(reasons([4_000], [4_000, 5_000]), ['symmetric-nat'])
  })

  test('is just silent otherwise', () => {
    assert.deepEqual(reasons([4_000], [4_000]), ['no-answer'])
    assert.deepEqual(reasons([4_000, 5_000], []), ['no-answer'])
  })

  /** Others see this host at the first ports, and the peer at the others. */
  function reasons(here: readonly number[], there: readonly number[]): string[] {
    const states = new SealedStates()
    const observed = { candidates: here.map((port) => ({ ...seen, port })) }
    states.apply(said({ connections: [unanswered], observed, snapshotComplete: true }))
    const candidates = there.map(
      (port) => ({ address: address('203.0.113.9'), port, kind: 'observed' }) as const,
    )
    const peer: PeerEntry = { ...sealedPeer(2), candidates }
    return openConnections([peer], states, [own]).map(({ reason }) => reason)
  }
})

describe('a report of them', () => {
  test('says what changed at once, the rest now and then, and nothing in between', () => {
    const reports = new ConnectionReports()
    assert.deepEqual(hostsOf(reports.next([sealed(2), sealed(3)], [], 0)), [2, 3])
    assert.equal(reports.next([sealed(2), sealed(3)], [], 5_000), undefined)
    assert.deepEqual(hostsOf(reports.next([sealed(2), sealed(3, { rttUs: 9n })], [], 10_000)), [3])
    assert.deepEqual(hostsOf(reports.next([sealed(2), sealed(3, { rttUs: 9n })], [], 20_000)), [2])
  })

  test('says which host is gone, and what is left of one that lost a carrier', () => {
    const reports = new ConnectionReports()
    const plain = sealed(2, { carrier: Carrier.CARRIER_VXLAN })
    reports.next([sealed(2), plain, sealed(3)], [], 0)

    const saying = reports.next([plain], [], 5_000)

    assert.deepEqual(saying?.goneHostIds.sort(), [2, 3])
    assert.deepEqual(saying?.connections, [plain])
  })

  test('has 256 connections at most, and says each of 1,024 in time though all change', () => {
    const reports = new ConnectionReports()
    const heardAtMs = new Map<number, number>()
    for (let nowMs = 0; nowMs <= 120_000; nowMs += 5_000) {
      const all = Array.from({ length: 2_000 }, (_, index) =>
        sealed(index + 1, { sentBytes: BigInt(nowMs) }),
      )
      const saying = reports.next(all, [], nowMs)
      assert((saying?.connections.length ?? 0) <= 256)
      for (const { hostId } of saying?.connections ?? []) heardAtMs.set(hostId, nowMs)
    }
    assert.equal(heardAtMs.size, 1_024)
    assert([...heardAtMs.values()].every((atMs) => atMs >= 120_000 - 20_000))
  })

  test('says where others see this host, whenever that is elsewhere, and with every report', () => {
    const reports = new ConnectionReports()
    assert.equal(reports.next([], [], 0), undefined)
    assert.deepEqual(reports.next([], [seen], 5_000)?.observed, [seen])
    assert.equal(reports.next([], [seen], 10_000), undefined)
    assert.deepEqual(reports.next([], [seen], 30_000)?.observed, [seen])
    assert.deepEqual(reports.next([], [], 35_000)?.observed, [])
  })

  test('says all anew when nobody may have heard the others', () => {
    const reports = new ConnectionReports()
    reports.next([sealed(2)], [], 0)

    reports.forget()

    assert.deepEqual(hostsOf(reports.next([sealed(2)], [], 1)), [2])
  })
})

function hostsOf(saying: { readonly connections: readonly OpenConnection[] } | undefined) {
  return saying?.connections.map(({ hostId }) => hostId)
}

function sealed(hostId: number, change: Partial<OpenConnection> = {}): OpenConnection {
  return OpenConnection.create({
    hostId,
    carrier: Carrier.CARRIER_SEALED,
    state: ConnectionState.CONNECTION_STATE_OPEN,
    ...change,
  })
}

function said(change: Partial<WatchSealedResponse>): WatchSealedResponse {
  return WatchSealedResponse.create(change)
}

function address(text: string): IpAddress {
  const parsed = parseIpAddress(text)
  assert(parsed)
  return parsed
}

function sealedPeer(hostId: number): SealedPeer {
  return {
    hostId,
    carrier: 'sealed',
    tunnelKey: '',
    previousTunnelKey: '',
    candidates: [],
    networkIds: [1],
  }
}

function plainPeer(hostId: number): PeerEntry {
  const place = address('192.0.2.2')
  const ends = { local: place, remote: place }
  return { hostId, carrier: 'vxlan', ...ends, isForeign: false, networkIds: [1] }
}

function client(endpointId: number): OpenConnection {
  return OpenConnection.create({
    endpointId,
    carrier: Carrier.CARRIER_SEALED,
    state: ConnectionState.CONNECTION_STATE_OPEN,
    port: 40_000,
  })
}
