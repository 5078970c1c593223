import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'
import {
  EndpointInUseError,
  HostExistsError,
  HostInUseError,
  HostRevokedError,
  InvalidArgumentError,
  InvalidNameError,
  LimitReachedError,
  PermissionDeniedError,
  StatementRefusedError,
  type TokenRefusal,
  TokenRefusedError,
  ZoneNotFoundError,
} from '@weft/errors'
import {
  CreateLoginCodeRequest,
  CreateTokenRequest,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import type { Host, Token } from '@weft/proto/weftline/config/v1/records.ts'
import { limits } from '../limits.ts'
import { endpointName, ip, TestWorld } from '../test-world.ts'
import { assignEndpoint, deleteEndpoint } from './endpoints.ts'
import {
  HORIZON_MS,
  type JoinClaim,
  join,
  leave,
  login,
  provenUser,
  renewHost,
  renewUser,
  rotateKeys,
} from './enrolment.ts'
import { deleteHost, revokeHost } from './hosts.ts'
import { revokeKey } from './revocation.ts'
import { createLoginCode, createToken, pruneTokens, revokeToken } from './tokens.ts'
import { createUser, USER_HORIZON_MS } from './users.ts'

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS

let world: TestWorld

beforeEach(() => {
  world = new TestWorld()
  world.tenant('acme')
  world.tenant('other')
  world.zone('lab')
  world.zone('dmz', false)
})

test('a host that knows the secret of a token joins with what the token gives it', () => {
  const given = { tenants: ['acme'], zone: 'lab', labels: { rack: '7' } }

  const host = world.run(
    joining(token(given), { addresses: [{ address: ip('192.0.2.1'), zone: '' }] }),
  )

  assert.equal(host.name, 'alpha')
  assert.deepEqual(host.tenantIds, [world.database.tenantNames.get('acme')])
  assert.equal(host.underlayAddresses[0]?.zoneId, world.database.zoneNames.get('lab'))
  assert.deepEqual(host.meta?.labels, { rack: '7' })
  assert.equal(Number(host.horizonUnixMs), world.nowUnixMs + HORIZON_MS)
  assert.deepEqual(world.database.members.holderOf(host.identityKey), { kind: 'host', id: host.id })
})

test('a token lets one host join, and its repetition is answered the same', () => {
  const { id } = token()
  const first = world.run(joining({ id }))
  const { revision } = world.database

  assert.equal(world.run(joining({ id })).id, first.id)
  world.nowUnixMs += 2 * HOUR_MS
  assert.equal(world.run(joining({ id })).id, first.id)

  assert.equal(world.database.revision, revision)
  refused('used', () => joining({ id }, { name: 'beta', keys: keys(2) }))
  refused('used', () => joining({ id }, { keys: { ...keys(1), bus: keys(2).bus } }))
})

test('each reason for which a token is refused is told apart, to whoever knows its secret', () => {
  const expired = token({ ttlMs: 1n })
  const revoked = token()
  const named = token({ hostName: 'gamma' })
  world.run(createUser(world.database, user('eve'), world.caller()))
  const code = loginCode('eve')
  world.run(revokeToken(world.database, revoked, world.caller()))
  world.nowUnixMs += 1

  refused('expired', () => joining(expired))
  refused('revoked', () => joining(revoked))
  refused('other-host', () => joining(named))
  refused('other-purpose', () => joining(code))
  refused('unknown', () => joining({ id: 999 }))
  const wrong = { isSecretOf: () => false }
  for (const { id } of [expired, revoked, named, code])
    refused('unknown', () => joining({ id }, wrong))
  assert.equal(world.database.counts.host, 0)
})

test('a host takes the name that its token prescribes, and no other form of name', () => {
  assert.equal(world.run(joining(token({ hostName: 'gamma' }), { name: '' })).name, 'gamma')
  assert.throws(() => joining(token(), { name: 'Not A Name', keys: keys(2) }), InvalidNameError)
  assert.throws(() => joining(token(), { name: '', keys: keys(2) }), InvalidNameError)
  assert.throws(() => joining(token(), { name: 'gamma', keys: keys(2) }), HostExistsError)
})

test('the zone of a token is not the choice of who joins by it', () => {
  const { id } = token({ zone: 'dmz' })
  const at = (zone: string) => ({ addresses: [{ address: ip('192.0.2.1'), zone }] })
  assert.throws(() => joining({ id }, at('lab')), InvalidArgumentError)
  assert.throws(() => joining(token(), at('')), ZoneNotFoundError)
  const host = world.run(joining({ id }, at('dmz')))
  assert.equal(host.underlayAddresses[0]?.zoneId, world.database.zoneNames.get('dmz'))
})

test('a trusted zone is chosen by a token that names it, and by no joiner', () => {
  const at = (zone: string) => ({ addresses: [{ address: ip('192.0.2.1'), zone }] })
  assert.throws(() => joining(token(), at('lab')), PermissionDeniedError)
  assert.equal(world.database.counts.host, 0)
  const plain = world.run(joining(token(), at('dmz')))
  assert.equal(plain.underlayAddresses[0]?.zoneId, world.database.zoneNames.get('dmz'))
  const named = { name: 'beta', keys: keys(2), ...at('lab') }
  const trusted = world.run(joining(token({ zone: 'lab' }), named))
  assert.equal(trusted.underlayAddresses[0]?.zoneId, world.database.zoneNames.get('lab'))
})

test('keys that another member has or had are refused, whichever of the three it is', () => {
  const alpha = world.run(joining(token()))
  const mixed = [
    { ...keys(2), identity: keys(1).identity },
    { ...keys(2), tunnel: keys(1).tunnel },
    { ...keys(2), bus: keys(1).bus },
    { ...keys(2), tunnel: Buffer.alloc(31, 2) },
    { ...keys(2), bus: 'UNKEY' },
  ]
  const attempts = () => {
    for (const one of mixed) {
      assert.throws(() => joining(token(), { name: 'beta', keys: one }), InvalidArgumentError)
    }
  }
  attempts()
  world.runAll(deleteHost({ name: alpha.name }))
  // The tunnel key proves nobody: it may be used again.
  mixed.splice(1, 1)
  attempts()
  assert.equal(world.run(joining(token(), { name: 'beta', keys: keys(2) })).name, 'beta')
})

test('the token of a host that was removed does not come back', () => {
  const { id } = token()
  world.run(joining({ id }))
  world.runAll(deleteHost({ name: 'alpha' }))
  assert.equal(world.database.counts.host, 0)
  refused('unknown', () => joining({ id }, { keys: keys(2) }))
})

test('a removal that was cut short after any of its steps is finished by its repetition', () => {
  for (const done of [0, 1, 2]) {
    const name = `host-${done}`
    const host = world.run(joining(token(), { name, keys: keys(10 + done) }))
    world.runAll(deleteHost({ name }).slice(0, done))
    assert.equal(world.runAll(deleteHost({ name })), true)
    assert.equal(world.database.host(host.id), undefined)
    assert.equal(world.database.members.isRevoked(host.identityKey, world.nowUnixMs), true)
  }
  assert.equal(world.runAll(deleteHost({ name: 'host-0' })), false)
  assert.equal(world.database.counts.revokedKey, 3)
})

test('a revoked host carries nothing, renews nothing, and does not join again with its keys', () => {
  const { id } = token()
  const host = world.run(joining({ id }))
  world.network('acme/blue', '10.20.0.0/16')
  const web = world.endpoint('acme/blue/web')

  const revoked = world.run(revokeHost(world.database, { name: 'alpha' }, world.caller()))

  assert.equal(Number(revoked.revokedAtUnixMs), world.nowUnixMs)
  assert.equal(world.database.members.isRevoked(host.identityKey, world.nowUnixMs), true)
  assert.throws(() => world.assign(web, host), HostRevokedError)
  assert.throws(() => renewal(host), HostRevokedError)
  assert.throws(() => joining({ id }), HostRevokedError)
  assert.throws(() => joining(token(), { name: 'beta' }), InvalidArgumentError)
  const again = world.run(revokeHost(world.database, { name: 'alpha' }, world.caller()))
  assert.equal(again.meta?.revision, revoked.meta?.revision)
  assert.deepEqual(
    [...world.database.members.voidKeys()].map(({ hostId }) => hostId),
    [host.id],
  )
})

test('what a revoked host had is free for another host, or for removal, and so is the host', () => {
  const alpha = world.run(joining(token()))
  const beta = world.run(joining(token(), { name: 'beta', keys: keys(2) }))
  world.network('acme/blue', '10.20.0.0/16')
  const [web, db] = ['web', 'db'].map((name) =>
    world.assign(world.endpoint(`acme/blue/${name}`), alpha),
  )
  assert(web && db)
  assert.throws(() => world.runAll(deleteHost({ name: 'alpha' })), HostInUseError)
  world.run(revokeHost(world.database, { name: 'alpha' }, world.caller()))

  assert.equal(world.assign(web, beta).hostId, beta.id)
  assert.equal(world.runAll(deleteHost({ name: 'alpha' })), true)

  const remove = (name: string) =>
    deleteEndpoint(world.database, { idempotencyKey: '', name: endpointName(`acme/blue/${name}`) })
  assert.equal(world.run(remove('db')), true)
  assert.throws(() => remove('web'), EndpointInUseError)
})

test('a host carries endpoints of the tenants of its token only', () => {
  const host = world.run(joining(token({ tenants: ['acme'] })))
  world.network('acme/blue', '10.20.0.0/16')
  world.network('other/blue', '10.20.0.0/16')
  assert.equal(world.assign(world.endpoint('acme/blue/web'), host).hostId, host.id)
  const foreign = world.endpoint('other/blue/web')
  const request = { idempotencyKey: '', key: { $case: 'id' as const, value: foreign.id } }
  const assign = () =>
    assignEndpoint(world.database, { ...request, hostId: host.id }, world.caller())
  assert.throws(assign, PermissionDeniedError)
  world.run({
    write: { kind: 'tenant', id: host.tenantIds[0] ?? 0, record: undefined },
    result: () => 0,
  })
  assert.throws(assign, PermissionDeniedError)
})

test('a renewal moves the horizon once a day, and not after it has passed', () => {
  const host = world.run(joining(token()))
  world.nowUnixMs += DAY_MS - 1
  assert.equal(renewal(host).write, undefined)
  world.nowUnixMs += 1
  assert.equal(Number(world.run(renewal(host)).horizonUnixMs), world.nowUnixMs + HORIZON_MS)
  world.nowUnixMs += HORIZON_MS - 1
  assert.notEqual(renewal(host).write, undefined)
  world.nowUnixMs += 1
  assert.throws(() => renewal(host), PermissionDeniedError)
})

test('a user who was away for more than 30 days does not come back by the key alone', () => {
  world.run(createUser(world.database, user('eve'), world.caller()))
  world.runAll(loggingIn(loginCode('eve'), 1))
  const userId = world.database.members.userNames.get('eve') ?? 0
  const renewing = (isExpired: boolean) =>
    renewUser(world.database, { userId, identityKey: key(1), isExpired }, world.caller())
  world.nowUnixMs += 3 * DAY_MS - 1
  assert.equal(renewing(true).write, undefined)
  world.nowUnixMs += 1
  const { horizonUnixMs } = world.run(renewing(true))
  assert.equal(Number(horizonUnixMs), world.nowUnixMs + USER_HORIZON_MS)

  world.nowUnixMs += USER_HORIZON_MS

  assert.throws(() => renewing(true), PermissionDeniedError)
  // A valid certificate is a day old at most: somebody vouched for the key since.
  world.run(renewing(false))
  assert.equal(renewing(true).write, undefined)
  world.nowUnixMs += 2 * USER_HORIZON_MS
  assert.throws(() => renewing(true), PermissionDeniedError)
  world.runAll(loggingIn(loginCode('eve'), 2))
  const again = { userId, identityKey: key(2), isExpired: true }
  assert.equal(renewUser(world.database, again, world.caller()).write, undefined)
})

test('new keys replace the old ones, which are void a little later and never taken again', () => {
  const host = world.run(joining(token()))
  const before = { identityKey: host.identityKey, busKey: host.busKey }

  const rotated = world.runAll(rotation(host, 2)) as Host

  assert.deepEqual(rotated.identityKey, keys(2).identity)
  const { members } = world.database
  assert.equal(members.isRevoked(before.identityKey, world.nowUnixMs), false)
  assert.equal(members.isRevoked(before.identityKey, world.nowUnixMs + 60_000), true)
  assert.equal(members.isRevoked(rotated.identityKey, world.nowUnixMs + 60_000), false)
  assert.throws(() => renewal(host), StatementRefusedError)
  assert.equal(renewal(rotated).result().id, host.id)
  // Its peers must not drop a host that lives on.
  assert.deepEqual(
    [...members.voidKeys()].map(({ hostId }) => hostId),
    [0],
  )
  assert.throws(() => world.runAll(rotation(rotated, 1)), InvalidArgumentError)
})

test('a change of keys that is repeated, with the old key or the new one, changes nothing more', () => {
  const host = world.run(joining(token()))
  world.runAll(rotation(host, 2))
  const { revision } = world.database
  world.runAll(rotation(host, 2))
  world.runAll(rotation({ ...host, identityKey: keys(2).identity }, 2))
  assert.equal(world.database.revision, revision)
  assert.equal(world.database.members.isRevoked(keys(2).identity, Infinity), false)
})

test('a host that changes its keys for years leaves a bounded number of void ones behind', () => {
  let host = world.run(joining(token()))
  for (let count = 2; count < 50; count++) {
    world.nowUnixMs += 3 * DAY_MS
    host = world.run(renewal(host))
    host = world.runAll(rotation(host, count)) as Host
  }
  assert.ok(world.database.counts.revokedKey <= 4)
})

test('a host that stops a change of its keys after any step keeps no key that outlives its revocation', () => {
  for (const done of [0, 1, 2, 3]) {
    const name = `host-${done}`
    const host = world.run(joining(token(), { name, keys: keys(10 + 2 * done) }))
    const steps = rotation(host, 11 + 2 * done)
    world.runAll(steps.slice(0, done))
    world.nowUnixMs += 1

    world.run(revokeHost(world.database, { name }, world.caller()))

    const { members } = world.database
    const now = world.database.host(host.id)
    assert(now)
    for (const key of [host.identityKey, now.identityKey]) {
      assert.equal(members.isRevoked(key, world.nowUnixMs), true)
    }
    const ofHost = [...members.voidKeys()].filter(({ hostId }) => hostId === host.id)
    assert.ok(ofHost.some(({ identityKey }) => identityKey.equals(now.identityKey)))
    for (const { revokedAtUnixMs } of ofHost) assert.equal(revokedAtUnixMs, world.nowUnixMs)
    assert.throws(() => world.runAll(steps), HostRevokedError)
  }
})

test('a change of keys that was cut short after any of its steps is finished by its repetition', () => {
  for (const done of [1, 2]) {
    const host = world.run(joining(token(), { name: `host-${done}`, keys: keys(10 + 2 * done) }))
    const steps = rotation(host, 11 + 2 * done)
    world.runAll(steps.slice(0, done))
    const { members } = world.database
    // The old keys count meanwhile, but not for good.
    assert.equal(members.isRevoked(host.identityKey, world.nowUnixMs + 5 * 60_000), false)
    assert.equal(members.isRevoked(host.identityKey, world.nowUnixMs + HOUR_MS), true)

    const rotated = world.runAll(steps) as Host

    assert.deepEqual(rotated.identityKey, keys(11 + 2 * done).identity)
    assert.equal(members.isRevoked(host.identityKey, world.nowUnixMs + 60_000), true)
  }
})

test('a host that is removed while it changes its keys takes no valid key along', () => {
  for (const done of [1, 2, 3]) {
    const name = `host-${done}`
    const host = world.run(joining(token(), { name, keys: keys(10 + 2 * done) }))
    world.runAll(rotation(host, 11 + 2 * done).slice(0, done))
    const current = world.database.host(host.id)?.identityKey
    assert(current)

    assert.equal(world.runAll(deleteHost({ name })), true)

    assert.equal(world.database.members.isRevoked(current, world.nowUnixMs), true)
    // Nobody has the former one, and it opens nothing without its host.
    assert.equal(
      world.database.members.isRevoked(host.identityKey, world.nowUnixMs + HOUR_MS),
      true,
    )
  }
})

test('a host changes its keys 8 times in 8 days, and the next change is refused before it begins', () => {
  let host = world.run(joining(token()))
  for (let count = 2; count < 10; count++) {
    world.nowUnixMs += 1_000
    host = world.runAll(rotation(host, count)) as Host
  }
  const { revision } = world.database

  assert.throws(() => world.runAll(rotation(host, 10)), PermissionDeniedError)

  assert.equal(world.database.revision, revision)
  world.nowUnixMs += 7 * DAY_MS
  assert.throws(() => world.runAll(rotation(host, 10)), PermissionDeniedError)
  world.nowUnixMs += DAY_MS + HOUR_MS
  host = world.runAll(rotation(host, 10)) as Host
  assert.deepEqual(host.identityKey, key(10))
  assert.equal(world.database.counts.revokedKey, 8)
})

test('keys that hosts give up take half of the room for void keys, and nobody is kept from removing a host', () => {
  fillWithVoidKeys(limits.revokedKeysForChanges)
  const host = world.run(joining(token()))

  assert.throws(() => world.runAll(rotation(host, 2)), LimitReachedError)

  assert.deepEqual(world.database.host(host.id)?.identityKey, key(1))
  assert.equal(world.runAll(deleteHost({ name: 'alpha' })), true)
})

test('when there is no more room, keys that were void for 8 days make it', () => {
  fillWithVoidKeys(limits.revokedKeys)
  world.run(joining(token()))
  assert.throws(
    () => world.runAll(deleteHost({ name: 'alpha' })),
    (error) => error instanceof LimitReachedError && /8 days/.test(error.remedy),
  )

  world.nowUnixMs += 8 * DAY_MS + 1
  assert.equal(world.runAll(deleteHost({ name: 'alpha' })), true)

  assert.equal(world.database.counts.revokedKey, limits.revokedKeys)
  assert.equal(world.database.members.isRevoked(key(1), world.nowUnixMs), true)
})

test('a host that leaves is gone, and its key void soon', () => {
  const host = world.run(joining(token()))
  const proof = { hostId: host.id, identityKey: host.identityKey }

  assert.equal(world.runAll(leave(world.database, proof)), true)

  assert.equal(world.database.counts.host, 0)
  assert.equal(world.database.members.isRevoked(host.identityKey, world.nowUnixMs + 60_000), true)
})

test('a user logs in by a code once, and then neither it nor an older one is good any more', () => {
  world.run(createUser(world.database, user('eve'), world.caller()))
  const older = loginCode('eve')
  const code = loginCode('eve')

  world.runAll(loggingIn(code, 1))

  const eve = world.database.user(world.database.members.userNames.get('eve') ?? 0)
  assert(eve)
  assert.deepEqual(eve.identityKey, key(1))
  world.runAll(loggingIn(code, 1))
  refused('used', () => world.runAll(loggingIn(code, 2)))
  refused('used', () => world.runAll(loggingIn(older, 2)))
  world.runAll(loggingIn(loginCode('eve'), 2))
  assert.equal(world.database.members.isRevoked(key(1), world.nowUnixMs), true)
  assert.throws(() => provenUser(world.database, eve.id, key(1)), StatementRefusedError)
  assert.equal(provenUser(world.database, eve.id, key(2)).name, 'eve')
  assert.throws(() => world.runAll(loggingIn(loginCode('eve'), 1)), InvalidArgumentError)
})

test('a login that was cut short after the old key became void is finished by its repetition', () => {
  world.run(createUser(world.database, user('eve'), world.caller()))
  world.runAll(loggingIn(loginCode('eve'), 1))
  const code = loginCode('eve')
  world.runAll(loggingIn(code, 2).slice(0, 1))
  world.runAll(loggingIn(code, 2))
  assert.deepEqual(world.database.members.holderOf(key(2))?.kind, 'user')
})

test('a login with a code that is not good makes no key void', () => {
  world.run(createUser(world.database, user('eve'), world.caller()))
  world.runAll(loggingIn(loginCode('eve'), 1))
  const code = loginCode('eve', 1n)
  world.nowUnixMs += 1
  refused('expired', () => world.runAll(loggingIn(code, 2)))
  assert.equal(world.database.members.revokedAt(key(1)), undefined)
})

test('tokens that ran out are forgotten after a day, those in use are not', () => {
  token({ ttlMs: 1n })
  const living = token({ ttlMs: BigInt(DAY_MS) })
  world.nowUnixMs += DAY_MS + 2
  for (let count = 0; count < 3; count++) world.run(pruneTokens(world.database, world.caller()))
  assert.deepEqual(
    [...world.database.members.tokens()].map(({ id }) => id),
    [living.id],
  )
})

test('a token is good for a day at most', () => {
  assert.throws(() => token({ ttlMs: BigInt(DAY_MS) + 1n }), InvalidArgumentError)
  assert.equal(Number(token().expiresAtUnixMs), world.nowUnixMs + HOUR_MS)
})

/** Its secret is its id. */
function token(fields: Partial<CreateTokenRequest> = {}): Token {
  const request = CreateTokenRequest.create(fields)
  return world.run(createToken(world.database, request, HASH, world.caller()))
}

function loginCode(name: string, ttlMs = 0n): Token {
  const request = CreateLoginCodeRequest.create({ user: name, ttlMs })
  return world.run(createLoginCode(world.database, request, HASH, world.caller()))
}

const HASH: Buffer = Buffer.alloc(32, 7)

function joining({ id }: { readonly id: number }, fields: Partial<JoinClaim> = {}) {
  const claim: JoinClaim = {
    tokenId: id,
    isSecretOf: (hash) => HASH.equals(hash),
    name: 'alpha',
    keys: keys(1),
    addresses: [],
    capabilities: ['carrier-vxlan'],
    wireVersions: [1],
    sealedListener: undefined,
    ...fields,
  }
  return join(world.database, claim, world.caller())
}

function loggingIn({ id }: { readonly id: number }, number: number) {
  return login({
    tokenId: id,
    isSecretOf: (hash: Uint8Array) => HASH.equals(hash),
    identityKey: key(number),
  })
}

function renewal({ id, identityKey }: Host) {
  return renewHost(world.database, { hostId: id, identityKey }, world.caller())
}

/** Changes the keys of a host. */
function rotation({ id, identityKey }: Host, number: number) {
  return rotateKeys({ hostId: id, identityKey }, keys(number))
}

/** As many keys of removed users. */
function fillWithVoidKeys(count: number): void {
  for (let number = 0; number < count; number++) {
    const identityKey = Buffer.alloc(32, 'void')
    identityKey.writeUInt32BE(number)
    const retired = { identityKey, busKey: '', hostId: 0, reason: 'removed' }
    world.run(revokeKey(world.database, retired, world.caller()))
  }
}

function keys(number: number) {
  const letters = `${'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[number % 26]}${'ABCDEFGHIJ'[Math.floor(number / 26)]}`
  return {
    identity: key(number),
    tunnel: Buffer.alloc(32, 100 + number),
    bus: `U${letters.padEnd(55, 'A')}`,
    tunnelStatement: undefined,
  }
}

function key(number: number): Buffer {
  return Buffer.alloc(32, number)
}

function user(name: string) {
  return { idempotencyKey: '', name, grants: [] }
}

function refused(reason: TokenRefusal, act: () => unknown): void {
  assert.throws(act, (error) => {
    assert(error instanceof TokenRefusedError, String(error))
    assert.equal(error.reason, reason)
    return true
  })
}
