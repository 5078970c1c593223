import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'
import {
  InvalidArgumentError,
  PermissionDeniedError,
  RevisionConflictError,
  TenantNotFoundError,
  UserExistsError,
  UserNotFoundError,
} from '@weft/errors'
import { Role, type User } from '@weft/proto/weftline/config/v1/records.ts'
import { TestWorld } from '../test-world.ts'
import { createUser, deleteUser, seedOwner, updateUser } from './users.ts'

let world: TestWorld

beforeEach(() => {
  world = new TestWorld()
  world.run(seedOwner(world.database, OWNER_KEY, world.caller()))
  world.tenant('acme')
})

test('the first record of a domain is its owner, made once', () => {
  const owner = world.database.user(1)
  assert.equal(owner?.name, 'owner')
  assert.deepEqual(owner?.grants, [{ tenantId: 0, role: Role.ROLE_OWNER }])
  assert.equal(seedOwner(world.database, OWNER_KEY, world.caller()).write, undefined)
})

test('a user has roles in tenants or in the whole domain, each once', () => {
  const grants = [
    { tenant: 'acme', role: Role.ROLE_SUBSCRIBER },
    { tenant: 'acme', role: Role.ROLE_SUBSCRIBER },
    { tenant: '', role: Role.ROLE_AUDITOR },
  ]
  const eve = create('eve', grants)
  const acme = world.database.tenantNames.get('acme')
  assert.deepEqual(eve.grants, [
    { tenantId: acme, role: Role.ROLE_SUBSCRIBER },
    { tenantId: 0, role: Role.ROLE_AUDITOR },
  ])
  assert.throws(() => create('eve'), UserExistsError)
  assert.throws(() => create('x', [{ tenant: 'moon', role: Role.ROLE_OWNER }]), TenantNotFoundError)
  assert.throws(() => create('x', [{ tenant: '', role: 9 as Role }]), InvalidArgumentError)
})

test('grants are replaced, at the revision that the caller saw', () => {
  const eve = create('eve')
  const grants = [{ tenant: 'acme', role: Role.ROLE_OPERATOR }]
  assert.throws(() => update('eve', grants, 1n), RevisionConflictError)
  assert.equal(update('eve', grants, eve.meta?.revision).grants.length, 1)
  assert.throws(() => update('nobody', grants), UserNotFoundError)
})

test('a domain keeps an owner', () => {
  assert.throws(() => update('owner', []), PermissionDeniedError)
  assert.throws(() => world.runAll(deleteUser({ name: 'owner' })), PermissionDeniedError)
  assert.equal(world.database.counts.revokedKey, 0)
  create('eve', [{ tenant: '', role: Role.ROLE_OWNER }])
  assert.equal(world.runAll(deleteUser({ name: 'owner' })), true)
  assert.throws(() => update('eve', []), PermissionDeniedError)
})

test('the key of a user is void before the user is gone, also if the removal is cut short', () => {
  create('eve', [{ tenant: '', role: Role.ROLE_OWNER }])
  world.runAll(deleteUser({ name: 'owner' }).slice(0, 1))
  assert.equal(world.database.members.isRevoked(OWNER_KEY, world.nowUnixMs), true)
  assert.equal(world.runAll(deleteUser({ name: 'owner' })), true)
  assert.equal(world.runAll(deleteUser({ name: 'owner' })), false)
  assert.equal(world.database.members.isRevoked(OWNER_KEY, world.nowUnixMs), true)
  assert.equal(world.database.counts.revokedKey, 1)
})

const OWNER_KEY: Buffer = Buffer.alloc(32, 9)

interface GivenGrant {
  readonly tenant: string
  readonly role: Role
}

function create(name: string, grants: readonly GivenGrant[] = []): User {
  const request = { idempotencyKey: '', name, grants: [...grants] }
  return world.run(createUser(world.database, request, world.caller()))
}

function update(name: string, grants: readonly GivenGrant[], expectedRevision = 0n): User {
  const request = { idempotencyKey: '', name, grants: [...grants], expectedRevision }
  return world.run(updateUser(world.database, request, world.caller()))
}
