import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { HostRows } from './host-rows.ts'
import type { Row, RowChange } from './rows.ts'
import { endpointOf, networkOf, peerOf, selfOf } from './samples.ts'

function put(row: Row, config: bigint, location = 0n): RowChange {
  return { kind: 'put', row, revisions: { config, location } }
}

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
