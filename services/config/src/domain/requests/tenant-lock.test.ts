import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'
import {
  InvalidArgumentError,
  StatementRefusedError,
  TenantLockedError,
  TenantNotLockedError,
} from '@weft/errors'
import { VNI_MAX } from '@weft/net'
import { CreateNetworkRequest } from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  HostKind,
  type Network,
  type StoredStatement,
} from '@weft/proto/weftline/config/v1/records.ts'
import { type TenantKey, TenantStatement } from '@weft/proto/weftline/identity/v1/tenant_lock.ts'
import { statementsAfter } from '../pages.ts'
import { proposalsAfter } from '../tenant-proposals.ts'
import { TestWorld } from '../test-world.ts'
import { createNetwork } from './networks.ts'
import { deleteStatement, putStatement } from './tenant-lock.ts'
import { deleteTenant } from './tenants.ts'

const FIRST = Buffer.alloc(32, 1)
const SECOND = Buffer.alloc(32, 2)
const STRANGER = Buffer.alloc(32, 9)
const UNLOCKED = Buffer.alloc(0)
const DAY_MS = 24 * 3_600_000

let world: TestWorld
let red: Network

beforeEach(() => {
  world = new TestWorld()
  for (const tenant of ['acme', 'other']) world.tenant(tenant)
  world.zone('lab')
  red = world.network('acme/red', '10.20.0.0/24')
  world.nowUnixMs = DAY_MS
})

test('the first key signs itself, and each next one is signed by the key before', () => {
  lock()
  put({ number: 2n, about: keyOf(SECOND) }, FIRST)

  const chain = world.database.locks.chain(tenantId())
  assert.deepEqual(chain, { number: 2n, isLocked: true, signer: SECOND })
})

test('a key is refused from a stranger, out of turn, and twice', () => {
  assertRefused('other-signer', { number: 1n, about: keyOf(FIRST) }, STRANGER)
  assertRefused('outdated', { number: 2n, about: keyOf(FIRST) }, FIRST)
  lock()
  assertRefused('outdated', { number: 1n, about: keyOf(SECOND) }, SECOND)
  assertRefused('outdated', { number: 3n, about: keyOf(SECOND) }, FIRST)
  assertRefused('other-signer', { number: 2n, about: keyOf(SECOND) }, SECOND)
})

test('repeating a statement is harmless, and one with a higher number takes its place', () => {
  lock()
  const first = put(charter())
  const again = put(charter())
  const next = put({ ...charter(), number: 2n })

  assert.equal(again.meta?.revision, first.meta?.revision)
  assert.equal(next.id, first.id)
  assert.equal(world.database.counts.statement, 2)
  assertRefused('outdated', charter())
})

test('a statement is refused without a lock, from another key, or when its time is over', () => {
  assert.throws(() => put(charter()), TenantNotLockedError)
  lock()
  assertRefused('other-signer', charter(), STRANGER)
  assertRefused('outdated', { ...charter(), notAfterUnixMs: BigInt(DAY_MS) })
  put({ number: 2n, about: keyOf(SECOND) }, FIRST)
  assertRefused('other-signer', charter(), FIRST)
  put(charter(), SECOND)
})

test('a statement about what is another tenant’s, or otherwise than it is, is refused', () => {
  lock()
  const blue = world.network('other/blue', '10.30.0.0/24')
  const value = { networkId: red.id, network: 'red', vni: red.vni }
  for (const wrong of [
    { ...value, networkId: blue.id, network: 'blue', vni: blue.vni },
    { ...value, network: 'green' },
    { ...value, vni: red.vni + 1 },
  ]) {
    const content = { ...charter(), about: { $case: 'network', value: wrong } as const }
    assert.throws(() => put(content), InvalidArgumentError)
  }
  assertRefused('malformed', { ...charter(), tenant: 'other' })
  assertRefused('malformed', { ...charter(), tenantId: tenantId('other') })
})

test('a statement about a host or key that is not there is refused', () => {
  lock()
  const { id: hostId } = enrolled('alpha', 1)
  const key = Buffer.alloc(32, 1)
  const member = { networkId: red.id, identityKey: key, tunnelKey: key, plainAddresses: [] }
  const delegate = { networkId: red.id, prefixes: [] }
  const say = (about: TenantStatement['about']) => put({ number: 1n, about })

  say({ $case: 'membership', value: { ...member, hostId } })
  say({ $case: 'delegation', value: { ...delegate, delegateKey: key } })

  assert.throws(
    () => say({ $case: 'membership', value: { ...member, hostId: hostId + 99 } }),
    InvalidArgumentError,
  )
  assert.throws(
    () => say({ $case: 'delegation', value: { ...delegate, delegateKey: STRANGER } }),
    InvalidArgumentError,
  )
})

test('a locked tenant is unlocked by its key, locked again by it, and not removed while it is locked', () => {
  lock()
  const { database } = world
  world.run(removeRed())
  const drop = () => world.run(deleteTenant(database, { idempotencyKey: '', name: 'acme' }))
  assert.throws(drop, TenantLockedError)
  put({ number: 2n, about: keyOf(UNLOCKED) }, FIRST)
  assert.throws(() => put({ ...charter(), number: 3n }), TenantNotLockedError)
  put({ number: 3n, about: keyOf(SECOND) }, FIRST)
  put({ number: 4n, about: keyOf(UNLOCKED) }, SECOND)
  assert.equal(drop(), true)
})

test('name and VNI of a deleted network are not given again while its charter is there', () => {
  lock()
  const { id } = put(charter())
  const { database } = world
  world.run(removeRed())
  const create = (path: string, vni = 0) => {
    const [tenant = '', network = ''] = path.split('/')
    const prefixes = red.prefixes
    const request = CreateNetworkRequest.create({ name: { tenant, network }, prefixes, vni })
    return world.run(createNetwork(database, request, world.caller()))
  }
  const isChartered = (error: unknown) =>
    error instanceof InvalidArgumentError && /weft tenant sign acme --prune/.test(error.remedy)

  assert.throws(() => create('acme/red'), isChartered)
  assert.throws(() => create('other/blue', red.vni), isChartered)
  // Where the next in turn would be that VNI it is another one.
  database.skip(BigInt(red.id + VNI_MAX - 1))
  assert.equal(create('other/green').vni, red.vni + 1)

  world.run(deleteStatement(database, { tenant: 'acme', id }))
  assert.equal(create('other/blue', red.vni).vni, red.vni)
  assert.equal(create('acme/red').name, 'red')
})

test('an unlocked tenant keeps no name and no VNI of a network that is gone', () => {
  lock()
  put(charter())
  const { database } = world
  world.run(removeRed())
  put({ number: 2n, about: keyOf(UNLOCKED) }, FIRST)

  const again = world.network('acme/red', '10.20.0.0/24')

  assert.equal(again.name, 'red')
  assert.equal(database.networkNames(tenantId())?.get('red'), again.id)
})

test('statements are forgotten one by one, by their tenant, and keys never', () => {
  lock()
  const { id } = put(charter())
  const { database } = world
  const [key] = database.locks.keyIds(tenantId())
  const forget = (tenant: string, which: number | undefined) =>
    world.run(deleteStatement(database, { tenant, id: which ?? 0 }))

  assert.equal(forget('other', id), false)
  assert.throws(() => forget('acme', key), InvalidArgumentError)
  assert.equal(forget('acme', id), true)
  assert.equal(forget('acme', id), false)
  assert.deepEqual(database.locks.ofNetwork(red.id), new Set())
})

test('the list begins with the keys in their order and goes on after any of its items', () => {
  lock()
  put(charter())
  put({ number: 2n, about: keyOf(UNLOCKED) }, FIRST)
  const { database } = world
  const all = statementsAfter(database, tenantId(), '')

  assert.deepEqual(
    all.map(({ record }) => database.locks.content(record.id)?.about?.$case),
    ['key', 'key', 'network'],
  )
  for (const [index, { path }] of all.entries()) {
    const rest = statementsAfter(database, tenantId(), path)
    assert.deepEqual(rest, all.slice(index + 1))
  }
  assert.throws(() => statementsAfter(database, tenantId(), 'x'), InvalidArgumentError)
})

test('what is proposed is each network and its hosts with their keys, as the database has them', () => {
  const alpha = enrolled('alpha', 1)
  const beta = enrolled('beta', 2)
  const old = world.host('old', ['192.0.2.9@lab'], HostKind.HOST_KIND_VXLAN_PEER)
  world.assign(world.endpoint('acme/red/web', { allowed: ['10.99.0.0/16'] }), alpha)
  world.endpoint('acme/red/edge', { vxlanPeer: old.name })
  const { database } = world
  const tenant = database.tenant(tenantId())
  assert(tenant)
  const proposed = (...more: readonly number[]) =>
    [...proposalsAfter(database, 'test.weft', tenant, more.flatMap(hostOf), '')].map(
      ({ record }) => [record.statement?.about?.$case, record.host],
    )

  assert.deepEqual(proposed(), [
    ['network', ''],
    ['membership', 'alpha'],
    ['delegation', 'alpha'],
  ])
  assert.deepEqual(proposed(beta.id).slice(3), [
    ['membership', 'beta'],
    ['delegation', 'beta'],
  ])
  const [, member, delegate] = [...proposalsAfter(database, 'test.weft', tenant, [], '')]
  const membership = member?.record.statement?.about
  assert(membership?.$case === 'membership')
  assert.deepEqual(membership.value.identityKey, Buffer.alloc(32, 1))
  assert.deepEqual(membership.value.plainAddresses, [Buffer.from([192, 0, 2, 1])])
  const delegation = delegate?.record.statement?.about
  assert(delegation?.$case === 'delegation')
  assert.deepEqual(
    delegation.value.prefixes.map(({ lengthBits }) => lengthBits),
    [24, 16],
  )
  const rest = [...proposalsAfter(database, 'test.weft', tenant, [], member?.path ?? '')]
  assert.deepEqual(rest, [delegate])
})

function lock(): StoredStatement {
  return put({ number: 1n, about: keyOf(FIRST) }, FIRST)
}

function charter(): Partial<TenantStatement> {
  const value = { networkId: red.id, network: red.name, vni: red.vni }
  return { number: 1n, about: { $case: 'network', value } }
}

function keyOf(publicKey: Buffer): { readonly $case: 'key'; readonly value: TenantKey } {
  return { $case: 'key', value: { publicKey } }
}

/** Puts a statement whose signature counts as verified. */
function put(content: Partial<TenantStatement>, signerKey: Buffer = FIRST): StoredStatement {
  const isKey = content.about?.$case === 'key'
  const statement = TenantStatement.create({
    domain: 'test.weft',
    tenantId: tenantId(),
    tenant: 'acme',
    notAfterUnixMs: isKey ? 0n : BigInt(2 * DAY_MS),
    ...content,
  })
  const payload = Buffer.from(TenantStatement.encode(statement).finish())
  const signed = { payload, signerKey, signature: Buffer.alloc(64) }
  const opened = { signed, content: statement }
  return world.run(putStatement(world.database, { tenant: 'acme' }, opened, world.caller()))
}

function assertRefused(
  reason: string,
  content: Partial<TenantStatement>,
  signerKey?: Buffer,
): void {
  const { revision } = world.database
  assert.throws(
    () => put(content, signerKey),
    (error) => error instanceof StatementRefusedError && error.reason === reason,
  )
  assert.equal(world.database.revision, revision)
}

function tenantId(name = 'acme'): number {
  return world.database.tenantNames.get(name) ?? 0
}

function removeRed() {
  return { write: { kind: 'network', id: red.id, record: undefined }, result: () => true } as const
}

function enrolled(name: string, number: number) {
  const host = world.host(name, [`192.0.2.${number}@lab`])
  const keys = { identityKey: Buffer.alloc(32, number), tunnelKey: Buffer.alloc(32, number) }
  const write = { kind: 'host', id: host.id, record: { ...host, ...keys } } as const
  world.run({ write, result: () => undefined })
  return host
}

function hostOf(id: number) {
  const host = world.database.host(id)
  return host ? [host] : []
}
