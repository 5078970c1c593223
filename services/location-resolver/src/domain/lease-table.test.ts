import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LeaseTable } from './lease-table.ts'

test('a lease grows old until its host renews it', () => {
  const leases = new LeaseTable()
  leases.renew({ hostId: 1, leaseId: 'a', ttlMs: 15_000 }, 1_000)

  assert.equal(leases.find(1, 6_000)?.ageMs, 5_000)
  leases.renew({ hostId: 1, leaseId: 'a', ttlMs: 15_000 }, 7_000)
  assert.equal(leases.find(1, 8_000)?.ageMs, 1_000)
})

test('an overdue lease is counted, and still known', () => {
  const leases = new LeaseTable()
  leases.renew({ hostId: 1, leaseId: 'a', ttlMs: 15_000 }, 0)
  leases.renew({ hostId: 2, leaseId: 'b', ttlMs: 15_000 }, 10_000)

  assert.deepEqual(leases.count(15_001), { fresh: 1, overdue: 1 })
  assert.equal(leases.find(1, 15_001)?.lease.leaseId, 'a')
})

test('a host that was removed has no lease', () => {
  const leases = new LeaseTable()
  leases.renew({ hostId: 1, leaseId: 'a', ttlMs: 15_000 }, 0)

  leases.forget(1)

  assert.equal(leases.find(1, 0), undefined)
  assert.deepEqual(leases.count(0), { fresh: 0, overdue: 0 })
})
