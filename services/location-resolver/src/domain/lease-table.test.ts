import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Lease, LeaseTable } from './lease-table.ts'

test('a lease grows old until its host renews it', () => {
  const leases = new LeaseTable()
  leases.renew(lease(1, 'a', 1n), 1_000)

  assert.equal(leases.find(1, 6_000)?.ageMs, 5_000)
  leases.renew(lease(1, 'a', 2n), 7_000)
  assert.equal(leases.find(1, 8_000)?.ageMs, 1_000)
})

test('an overdue lease is counted, and still known', () => {
  const leases = new LeaseTable()
  leases.renew(lease(1, 'a', 1n), 0)
  leases.renew(lease(2, 'b', 1n), 10_000)

  assert.deepEqual(leases.count(15_001), { fresh: 1, overdue: 1 })
  assert.equal(leases.find(1, 15_001)?.lease.leaseId, 'a')
})

test('a host that was removed has no lease', () => {
  const leases = new LeaseTable()
  leases.renew(lease(1, 'a', 1n), 0)

  leases.forget(1)

  assert.equal(leases.find(1, 0), undefined)
  assert.deepEqual(leases.count(0), { fresh: 0, overdue: 0 })
})

test('a renewal that is said once more renews nothing', () => {
  const leases = new LeaseTable()
  assert.equal(leases.renew(lease(1, 'a', 5n), 0), true)

  assert.equal(leases.renew(lease(1, 'a', 5n), 10_000), false)
  assert.equal(leases.renew(lease(1, 'a', 4n), 10_000), false)

  assert.equal(leases.find(1, 10_000)?.ageMs, 10_000)
  assert.equal(leases.renew(lease(1, 'a', 6n), 10_000), true)
})

function lease(hostId: number, leaseId: string, sentAtUnixMs: bigint): Lease {
  return { hostId, leaseId, ttlMs: 15_000, sentAtUnixMs }
}
