import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Location, LocationTable } from './location-table.ts'

test('an older record or deletion that comes late changes nothing', () => {
  const table = new LocationTable()
  assert.equal(table.put(location({ revision: 5n, hostId: 2 })), true)

  assert.equal(table.put(location({ revision: 4n, hostId: 1 })), false)
  assert.equal(table.delete(1, 4n), false)

  assert.equal(table.get(1)?.hostId, 2)
})

test('a deletion removes the record that it saw', () => {
  const table = new LocationTable()
  table.put(location({ revision: 5n }))

  assert.equal(table.delete(1, 6n), true)

  assert.deepEqual([...table.all()], [])
})

test('a store that was made anew does not take epochs back', () => {
  const table = new LocationTable()
  table.put(location({ revision: 90n, hostId: 2, epoch: 3n }))
  table.forgetRevisions()

  assert.equal(table.put(location({ revision: 4n, hostId: 1, epoch: 2n })), false)
  assert.equal(table.get(1)?.epoch, 3n)
  assert.equal(table.get(1)?.revision, 4n)

  assert.equal(table.put(location({ revision: 5n, hostId: 1, epoch: 4n })), true)
  assert.equal(table.get(1)?.hostId, 1)
})

test('what it wrote itself is known before the watch tells it, and no more once the store lost it', () => {
  const table = new LocationTable()
  table.revision = 3n
  assert.equal(table.known, 3n)
  table.put(location({ revision: 5n }))
  assert.equal(table.known, 5n)
  table.revision = 8n
  assert.equal(table.known, 8n)
  table.forgetRevisions()
  assert.equal(table.known, 0n)
})

function location(some: Partial<Location>): Location {
  return {
    endpointId: 1,
    networkId: 1,
    addresses: [],
    hostId: 1,
    epoch: 1n,
    leaseId: '',
    observedAtUnixMs: 0n,
    hostSignature: Buffer.alloc(0),
    report: Buffer.alloc(0),
    revision: 1n,
    reportSequence: 1n,
    reporterHostId: some.hostId ?? 1,
    ...some,
  }
}
