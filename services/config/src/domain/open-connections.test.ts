import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { InvalidArgumentError, StatementRefusedError } from '@weft/errors'
import {
  type Candidate,
  CandidateKind,
  Carrier,
  ConnectionState,
  OpenConnection,
} from '@weft/proto/weftline/common/v1/common.ts'
import { ConnectionReport } from '@weft/proto/weftline/status/v1/status.ts'
import { OpenConnections } from './open-connections.ts'

const ALPHA = 1

describe('what a host says of its open connections', () => {
  test('is told by id of the other host, with its age, until it is 90 s old', () => {
    const kept = new OpenConnections()
    kept.take(report(1n, { connections: [to(3), to(2)] }), 0)
    kept.take(report(2n, { connections: [to(3, { rttUs: 9n })] }), 40_000)

    assert.deepEqual(
      kept.of(ALPHA, 50_000).map(({ connection, ageMs }) => [connection.hostId, ageMs]),
      [
        [2, 50_000],
        [3, 10_000],
      ],
    )
    assert.deepEqual(
      kept.of(ALPHA, 100_000).map(({ connection }) => connection.rttUs),
      [9n],
    )
    kept.sweep(200_000)
    assert.equal(kept.size, 0)
  })

  test('says which hosts are gone, of which it may keep one carrier', () => {
    const kept = new OpenConnections()
    const plain = to(2, { carrier: Carrier.CARRIER_VXLAN })
    kept.take(report(1n, { connections: [to(2), plain, to(3)] }), 0)

    kept.take(report(2n, { goneHostIds: [2, 3], connections: [plain] }), 5_000)

    assert.deepEqual(
      kept.of(ALPHA, 5_000).map(({ connection }) => connection.carrier),
      [Carrier.CARRIER_VXLAN],
    )
    assert.equal(kept.size, 1)
  })

  test('is of hosts alone: a WireGuard client is nobody else’s business', () => {
    const kept = new OpenConnections()
    const client = to(0, { endpointId: 21 })

    kept.take(report(1n, { connections: [client, to(2)] }), 0)

    assert.deepEqual(
      kept.of(ALPHA, 0).map(({ connection }) => connection.hostId),
      [2],
    )
  })

  test('is refused when it comes again, late, or larger than any', () => {
    const kept = new OpenConnections()
    kept.take(report(5n), 0)
    for (const sentAtUnixMs of [5n, 4n]) {
      assert.throws(() => kept.take(report(sentAtUnixMs), 1), StatementRefusedError)
    }
    const many = Array.from({ length: 257 }, (_, index) => to(index + 1))
    assert.throws(() => kept.take(report(6n, { connections: many }), 1), InvalidArgumentError)
    const goneHostIds = Array.from({ length: 1_025 }, (_, index) => index + 1)
    assert.throws(() => kept.take(report(6n, { goneHostIds }), 1), InvalidArgumentError)
  })

  test('is kept of 1,024 connections, without what has no bound', () => {
    const kept = new OpenConnections()
    for (let batch = 0; batch < 6; batch++) {
      const connections = Array.from({ length: 256 }, (_, index) => to(batch * 256 + index + 1))
      kept.take(report(BigInt(batch + 1), { connections }), batch)
    }
    assert.equal(kept.size, 1_024)

    const other = new OpenConnections()
    const bulky = to(2, {
      reason: 'x'.repeat(10_000),
      offloads: Array.from({ length: 1_000 }, () => 1 as const),
      address: Buffer.alloc(5_000),
    })
    const unknown = { ...bulky, _unknownFields: { 802: [Buffer.alloc(10_000)] } }
    other.take(report(1n, { connections: [unknown] }), 0)
    const [said] = other.of(ALPHA, 0)
    assert(said)
    assert(OpenConnection.encode(said.connection).finish().length < 64)
  })

  test('is forgotten with the host', () => {
    const kept = new OpenConnections()
    kept.take(report(7n, { connections: [to(2)], observed: [at(4_000)] }), 0)

    kept.forget(ALPHA)

    assert.deepEqual([kept.of(ALPHA, 0), kept.observed(ALPHA), kept.size], [[], [], 0])
  })
})

describe('where others see a host', () => {
  test('is news only when it is elsewhere, four times at once and then every 30 s', () => {
    const kept = new OpenConnections()
    assert.equal(kept.take(report(1n, { observed: [at(1_000)] }), 0), true)
    assert.equal(kept.take(report(2n, { observed: [at(1_000)] }), 0), false)
    for (const n of [2, 3, 4]) {
      const elsewhere = report(BigInt(n) + 1n, { observed: [at(n * 1_000)] })
      assert.equal(kept.take(elsewhere, 1_000), true)
    }
    assert.equal(kept.take(report(6n, { observed: [at(5_000)] }), 29_000), false)
    assert.deepEqual(portsOf(kept), [4_000])

    assert.equal(kept.take(report(7n, { observed: [at(5_000)] }), 31_000), true)

    assert.deepEqual(portsOf(kept), [5_000])
    assert.equal(kept.take(report(8n, { observed: [at(6_000)] }), 50_000), false)
  })

  test('is where something can be sent to, as observed, and in four places at most', () => {
    const kept = new OpenConnections()
    const nowhere: Candidate[] = [
      { ...at(1), address: Buffer.of(224, 0, 0, 1) },
      { ...at(1), address: Buffer.alloc(3) },
      { ...at(1), address: Buffer.from('fe80'.padEnd(32, '0'), 'hex') },
      at(0),
      at(70_000),
    ]
    const own = { ...at(1_000), kind: CandidateKind.CANDIDATE_KIND_OWN }
    const observed = [...nowhere, own, at(2), at(3), at(4), at(5)]

    kept.take(report(1n, { observed }), 0)

    assert.deepEqual(portsOf(kept), [1_000, 2, 3, 4])
    assert(kept.observed(ALPHA).every(({ kind }) => kind === CandidateKind.CANDIDATE_KIND_OBSERVED))
  })

  test('stays while the host is silent: it may be cut off from us alone', () => {
    const kept = new OpenConnections()
    kept.take(report(1n, { connections: [to(2)], observed: [at(4_000)] }), 0)

    kept.sweep(10_000_000)

    assert.deepEqual(portsOf(kept), [4_000])
  })
})

function portsOf(kept: OpenConnections): number[] {
  return kept.observed(ALPHA).map(({ port }) => port)
}

function report(sentAtUnixMs: bigint, change: Partial<ConnectionReport> = {}): ConnectionReport {
  return { ...ConnectionReport.create({ hostId: ALPHA, sentAtUnixMs }), ...change }
}

function to(hostId: number, change: Partial<OpenConnection> = {}): OpenConnection {
  return {
    ...OpenConnection.create({
      hostId,
      carrier: Carrier.CARRIER_SEALED,
      state: ConnectionState.CONNECTION_STATE_OPEN,
    }),
    ...change,
  }
}

function at(port: number): Candidate {
  const kind = CandidateKind.CANDIDATE_KIND_OBSERVED
  return { address: Buffer.of(198, 51, 100, 7), port, kind }
}
