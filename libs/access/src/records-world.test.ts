import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  Host,
  Network,
  Role,
  type Record as StoredRecord,
  Tenant,
  User,
} from '@weft/proto/weftline/config/v1/records.ts'
import { RecordsWorld } from './records-world.ts'

const ACME = 1
const BLUE = 2
const WEB = 11

test('a world knows what the records say, and forgets what is removed', () => {
  const world = furnished()

  assert.equal(world.tenantIdOf('acme'), ACME)
  assert.equal(world.tenantOfNetwork(BLUE), ACME)
  assert.equal(world.tenantOfEndpoint(WEB), ACME)
  assert.deepEqual(
    world.grantsOf(7).map(({ role }) => role),
    [Role.ROLE_SUBSCRIBER],
  )

  for (const [kind, id] of [...world.entries()]) world.delete(kind, id)
  world.delete('zone', 1)

  assert.deepEqual([...world.entries()], [])
  assert.equal(world.tenantIdOf('acme'), undefined)
  assert.equal(world.tenantOfEndpoint(WEB), undefined)
  assert.deepEqual(world.grantsOf(7), [])
  assert.equal(world.mayCarry(3, ACME), false)
})

test('a tenant that has another name is not found by the one before', () => {
  const world = furnished()

  put(world, { $case: 'tenant', value: Tenant.create({ id: ACME, name: 'renamed' }) })

  assert.equal(world.tenantIdOf('acme'), undefined)
  assert.equal(world.tenantIdOf('renamed'), ACME)
})

test('a host carries its tenants, one that is bound to none carries all, and a revoked one none', () => {
  const world = furnished()
  put(world, { $case: 'host', value: Host.create({ id: 4, tenantIds: [ACME] }) })
  put(world, { $case: 'host', value: Host.create({ id: 5, revokedAtUnixMs: 1n }) })

  const carried = [3, 4, 5, 6].map((host) =>
    [ACME, 99, undefined].map((tenant) => world.mayCarry(host, tenant)),
  )

  assert.deepEqual(carried, [
    [true, true, true],
    [true, false, false],
    [false, false, false],
    [false, false, false],
  ])
})

test('by a record that cannot be read nobody has rights, whether it was known or not', () => {
  const world = furnished()

  for (const id of [3, 4]) world.distrust('host', id)
  for (const id of [7, 8]) world.distrust('user', id)
  world.distrust('network', BLUE)
  world.distrust('tenant', ACME)
  world.distrust('endpoint', WEB)

  assert.deepEqual(
    [3, 4].map((host) => world.mayCarry(host, ACME)),
    [false, false],
  )
  assert.deepEqual([...world.grantsOf(7), ...world.grantsOf(8)], [])
  assert.equal(world.tenantOfNetwork(BLUE), ACME)
  assert.equal(world.tenantIdOf('acme'), ACME)
})

function furnished(): RecordsWorld {
  const world = new RecordsWorld((endpointId) => (endpointId === WEB ? BLUE : undefined))
  put(world, { $case: 'tenant', value: Tenant.create({ id: ACME, name: 'acme' }) })
  put(world, { $case: 'network', value: Network.create({ id: BLUE, tenantId: ACME }) })
  put(world, { $case: 'host', value: Host.create({ id: 3 }) })
  const grants = [{ tenantId: ACME, role: Role.ROLE_SUBSCRIBER }]
  put(world, { $case: 'user', value: User.create({ id: 7, grants }) })
  return world
}

function put(world: RecordsWorld, kind: StoredRecord['kind']): void {
  world.put({ kind })
}
