import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { HostRows } from './host-rows.ts'
import type { Row } from './rows.ts'
import { endpointOf, keyOfHost, networkOf, peerOf, put, selfOf } from './samples.ts'

const network = (id: number): Row => ({ kind: 'network', value: networkOf(id) })
const self: Row = { kind: 'self', value: selfOf() }

describe('rows of a host', () => {
  test('a row never goes back to an older state', () => {
    const rows = new HostRows()
    rows.apply(put({ kind: 'endpoint', value: endpointOf(1, { hostId: 2 }) }, 5n, 7n))

    const touched = rows.apply(
      put({ kind: 'endpoint', value: endpointOf(1, { hostId: 3 }) }, 5n, 6n),
    )

    assert.deepEqual(touched, [])
    assert.equal(rows.endpoints.get(1)?.value.hostId, 2)
  })

  test('a row that says nothing new touches nothing', () => {
    const rows = new HostRows()
    rows.apply(put(network(1), 5n))

    assert.deepEqual(rows.apply(put(network(1), 6n)), [])
  })

  test('a deletion that is said takes the row away', () => {
    const rows = new HostRows()
    rows.apply(put(network(1), 5n))

    const touched = rows.apply({ kind: 'delete', rowKind: 'network', id: 1 })

    assert.deepEqual(touched, [{ kind: 'network', id: 1 }])
    assert.equal(rows.networks.size, 0)
  })

  test('a snapshot without the row of the host itself deletes nothing', () => {
    const rows = new HostRows()
    rows.apply(put(network(1), 5n))
    rows.beginResync()

    assert.deepEqual(rows.endSnapshot(), [])
    assert.equal(rows.networks.size, 1)
    assert.equal(rows.isResyncing, true)
  })

  test('the row of the host itself completes the set, also after the snapshot', () => {
    const rows = new HostRows()
    rows.apply(put(network(1), 5n))
    rows.apply(put(network(2), 5n))
    rows.beginResync()
    rows.endSnapshot()
    rows.apply(put(network(2), 6n))

    const touched = rows.apply(put(self, 6n))

    assert.deepEqual(touched, [
      { kind: 'self', id: 0 },
      { kind: 'network', id: 1 },
    ])
    assert.deepEqual([...rows.networks.keys()], [2])
    assert.equal(rows.isResyncing, false)
  })

  test('a row that is newer than the whole set stays', () => {
    const rows = new HostRows()
    rows.apply(put(network(1), 9n))
    rows.beginResync()
    rows.endSnapshot()

    rows.apply(put(self, 6n))

    assert.equal(rows.networks.size, 1)
  })

  test('after a complete resync the rows are those of the snapshot, whatever was there', () => {
    const ids = fc.uniqueArray(fc.integer({ min: 1, max: 30 }))
    fc.assert(
      fc.property(ids, ids, (before, snapshot) => {
        const rows = new HostRows()
        for (const id of before) rows.apply(put(network(id), 1n))
        rows.beginResync()
        for (const id of snapshot) rows.apply(put(network(id), 2n))
        rows.apply(put(self, 2n))
        rows.endSnapshot()
        assert.deepEqual(
          [...rows.networks.keys()].sort((a, b) => a - b),
          [...snapshot].sort((a, b) => a - b),
        )
      }),
    )
  })

  test('a row that was deleted does not come back by what is older than the newest row', () => {
    const rows = new HostRows()
    const old = put({ kind: 'peer', value: peerOf(2) }, 5n)
    rows.apply(old)
    rows.apply({ kind: 'delete', rowKind: 'peer', id: 2 })
    rows.apply(put(network(1), 6n))

    assert.equal(rows.isOutdated(old), true)
    assert.deepEqual(rows.apply(old), [])
    assert.equal(rows.peers.size, 0)
    assert.deepEqual(rows.apply(put({ kind: 'peer', value: peerOf(2) }, 6n)), [
      { kind: 'peer', id: 2 },
    ])
  })

  test('rows survive a restart whatever they were derived from, and with them what makes others old', () => {
    const before = new HostRows()
    before.apply(put({ kind: 'peer', value: peerOf(3) }, 4n))
    before.apply(put(network(1), 6n))

    const after = new HostRows()
    after.restore(before.all(), before.state)

    assert.deepEqual([...after.all()], [...before.all()])
    assert.equal(after.isOutdated(put({ kind: 'peer', value: peerOf(2) }, 5n)), true)
  })

  test('a row ends exactly when its time is over, unless a newer one holds for longer', () => {
    const rows = new HostRows()
    rows.apply(put(network(1), 5n, 0n, 1_000))
    rows.apply(put(network(2), 5n, 0n, 1_000))
    rows.apply(put(network(3), 5n, 0n, 3_000))
    rows.apply(put(network(2), 6n, 0n, 2_000))

    assert.deepEqual(rows.expire(999), [])
    assert.deepEqual(rows.expire(1_000), [{ kind: 'network', id: 1 }])
    assert.equal(rows.nextEndMs, 2_000)
    assert.equal(rows.horizonMs, 2_000)
    assert.deepEqual(rows.expire(5_000), [
      { kind: 'network', id: 2 },
      { kind: 'network', id: 3 },
    ])
    assert.equal(rows.horizonMs, undefined)
  })

  test('a row that ended by a clock that was wrong comes back as it was, and no older one does', () => {
    const rows = new HostRows()
    rows.apply(put(network(1), 5n, 0n, 1_000))
    rows.apply(put(network(2), 6n, 0n, 1_000))
    rows.apply(put(network(3), 9n, 0n, 1_000))
    rows.expire(5_000)

    assert.deepEqual(rows.apply(put(network(1), 5n, 0n, 1_000)), [{ kind: 'network', id: 1 }])
    assert.deepEqual(rows.apply(put(network(2), 5n, 0n, 1_000)), [])
    rows.apply({ kind: 'delete', rowKind: 'network', id: 3 })
    assert.deepEqual(rows.apply(put(network(3), 8n, 0n, 1_000)), [])
  })

  test('rows have run out once that of the host itself is over, until another one comes', () => {
    const rows = new HostRows()
    rows.apply(put(self, 5n, 0n, 1_000))
    assert.equal(rows.hasRunOut, false)

    rows.expire(1_000)

    assert.equal(rows.hasRunOut, true)
    const restarted = new HostRows()
    restarted.restore([], rows.state)
    assert.equal(restarted.hasRunOut, true)
    rows.apply(put(self, 6n, 0n, 2_000))
    assert.equal(rows.hasRunOut, false)
  })

  test('a peer whose key is void counts as not there, with its endpoints, until it has another key', () => {
    const revoked = new Set<string>()
    const rows = new HostRows((key) => revoked.has(key))
    rows.apply(put({ kind: 'peer', value: peerOf(2) }, 5n))
    rows.apply(put({ kind: 'peer', value: peerOf(3) }, 5n))
    rows.apply(put({ kind: 'endpoint', value: endpointOf(20, { hostId: 2 }) }, 5n))
    rows.apply(put({ kind: 'endpoint', value: endpointOf(30, { hostId: 3 }) }, 5n))
    revoked.add(keyOfHost(2))

    const both = [
      { kind: 'peer', id: 2 },
      { kind: 'endpoint', id: 20 },
    ]
    assert.deepEqual(rows.reviewRevocations(), both)
    assert.deepEqual(rows.reviewRevocations(), [])
    assert.deepEqual([rows.isRevokedHost(2), rows.isRevokedHost(3)], [true, false])

    const rekeyed = { ...peerOf(2), identityKey: keyOfHost(9) }
    assert.deepEqual(rows.apply(put({ kind: 'peer', value: rekeyed }, 6n)), both)
    assert.equal(rows.isRevokedHost(2), false)
    // Under a void key it never comes in.
    rows.apply(put({ kind: 'peer', value: peerOf(2) }, 7n))
    assert.equal(rows.isRevokedHost(2), true)
  })

  test('all rows come back from all()', () => {
    const rows = new HostRows()
    const all: Row[] = [self, network(1), { kind: 'peer', value: peerOf(2) }]
    for (const row of all) rows.apply(put(row, 3n, 4n))

    assert.deepEqual(
      [...rows.all()].map(({ row }) => row),
      all,
    )
    assert.deepEqual(rows.revisions, { config: 3n, location: 4n })
  })
})
