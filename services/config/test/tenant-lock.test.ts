import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { type Bus, buckets, locationKey, memoryBus } from '@weft/bus'
import { PermissionDeniedError, StatementRefusedError, TenantLockedError } from '@weft/errors'
import {
  generateIdentityKey,
  generateTunnelKey,
  publicKeyOf,
  signReport,
  signTenantStatement,
} from '@weft/identity'
import { DeleteTenantRequest } from '@weft/proto/weftline/config/v1/config_service.ts'
import { type Endpoint, type Host, Role } from '@weft/proto/weftline/config/v1/records.ts'
import {
  ListProposalsRequest,
  ListStatementsRequest,
  TenantLockServiceService,
} from '@weft/proto/weftline/config/v1/tenant_lock_service.ts'
import type { Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import { TenantStatement } from '@weft/proto/weftline/identity/v1/tenant_lock.ts'
import {
  Location,
  LocationChange,
  LocationReport,
} from '@weft/proto/weftline/location/v1/location.ts'
import { type Client, connect } from '@weft/rpc'
import { eventually, type TestCredentials } from '@weft/testing'
import { PLAIN_ADDRESSES_MAX, PREFIXES_MAX } from '../src/domain/tenant-proposals.ts'
import {
  credentialsOf,
  furnish,
  openRows,
  type Reachable,
  rowsOf,
  type Subscriber,
  site,
  startReplica,
} from './site.ts'

type LockClient = Client<typeof TenantLockServiceService>

const tenantKey = generateIdentityKey()

test('what a tenant signs of its network reaches the hosts that have it, as it was signed', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const { subscriber, alpha, beta, web, api } = await twoHosts(replica)
  await using lock = lockAs(site.owner, replica)
  const rows = await openRows(bus)
  const report = await locate(bus, api, beta)

  const key = await lockTenant(lock, subscriber)
  const signed = await signAll(lock)

  const ofAlpha = await eventually(async () => {
    const found = await rowsOf(rows, alpha.id)
    const row = found.get(`endpoint.${api.id}`)?.row
    return row?.$case === 'endpoint' && row.value.placement ? found : undefined
  })
  const statements = [...ofAlpha.values()].flatMap(({ row }) =>
    row?.$case === 'statement' ? [row.value.statement?.payload.toString('hex')] : [],
  )
  const expected = [key, ...signed].map(({ payload }) => payload.toString('hex'))
  assert.deepEqual(new Set(statements), new Set(expected))
  // Network, two members, two delegations.
  assert.equal(signed.length, 5)
  const row = ofAlpha.get(`endpoint.${api.id}`)?.row
  assert(row?.$case === 'endpoint')
  assert.deepEqual(row.value.placement?.report, report)
  assert.deepEqual(row.value.placement?.signerKey, credentialsOf(beta).publicKey)
  assert.equal(web.networkId, api.networkId)
})

test('what is proposed is what config has, and a member ahead of its first endpoint', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const { subscriber, alpha } = await twoHosts(replica)
  await subscriber.tenant('other')
  const gamma = await subscriber.host('gamma', '192.0.2.3')
  const elsewhere = await subscriber.host('elsewhere', '192.0.2.4', undefined, ['other'])
  await using lock = lockAs(site.owner, replica)

  const { proposals } = await propose(lock, [gamma.name])
  const members = proposals.filter(({ statement }) => statement?.about?.$case === 'membership')

  assert.deepEqual(
    members.map(({ host }) => host),
    ['alpha', 'beta', 'gamma'],
  )
  const about = members[0]?.statement?.about
  assert(about?.$case === 'membership')
  assert.deepEqual(about.value.identityKey, credentialsOf(alpha).publicKey)
  assert.equal(about.value.hostId, alpha.id)
  await assert.rejects(propose(lock, [elsewhere.name]), { code: 'host-not-found' })
})

test('the most that is proposed is the most that a tenant may sign', () => {
  const most = [membershipAt(PLAIN_ADDRESSES_MAX), delegationOf(PREFIXES_MAX)]
  const more = [membershipAt(PLAIN_ADDRESSES_MAX + 1), delegationOf(PREFIXES_MAX + 1)]
  const tenant = { domain: site.domain.name, tenantId: 1, tenant: 'acme' }

  for (const about of most) signTenantStatement({ ...tenant, ...later(), about }, tenantKey)

  for (const about of more) {
    const statement = { ...tenant, ...later(), about }
    assert.throws(() => signTenantStatement(statement, tenantKey), /too many/)
  }
})

test('config refuses what the tenant’s key did not sign, and says so', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const { subscriber } = await twoHosts(replica)
  await using lock = lockAs(site.owner, replica)
  await lockTenant(lock, subscriber)
  const [proposal] = (await propose(lock)).proposals
  const content = { ...TenantStatement.create(proposal?.statement), ...later() }
  const right = signTenantStatement(content, tenantKey)
  const refused: readonly Signed[] = [
    signTenantStatement(content, site.domain.directoryKey),
    signTenantStatement({ ...content, domain: 'other.weft' }, tenantKey),
    signTenantStatement({ ...content, notAfterUnixMs: 1n }, tenantKey),
    { ...right, signature: Buffer.alloc(64) },
  ]

  for (const statement of refused) await assert.rejects(put(lock, statement), StatementRefusedError)
  await assert.rejects(put(lock, undefined), StatementRefusedError)
  const { statements } = await list(lock)
  assert.equal(statements.length, 1)
})

test('the lock is of those who run the tenant, and what it says is read by its users', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const { subscriber, alpha } = await twoHosts(replica)
  await subscriber.tenant('other')
  const role = Role.ROLE_OPERATOR
  const own = await subscriber.user('olga', { tenant: 'acme', role })
  const reader = await subscriber.user('rita', { tenant: 'acme', role: Role.ROLE_AUDITOR })
  const stranger = await subscriber.user('sam', { tenant: 'other', role })
  await using asOwn = lockAs(own, replica)
  await using asReader = lockAs(reader, replica)
  await using asStranger = lockAs(stranger, replica)
  await using asHost = lockAs(credentialsOf(alpha), replica)

  const first = await lockTenant(asOwn, subscriber)

  assert.equal((await list(asReader)).statements.length, 1)
  await assert.rejects(put(asReader, first), PermissionDeniedError)
  await assert.rejects(propose(asReader), PermissionDeniedError)
  for (const client of [asStranger, asHost]) {
    await assert.rejects(list(client), PermissionDeniedError)
    await assert.rejects(put(client, first), PermissionDeniedError)
  }
})

test('a statement that is taken away leaves the hosts, and an unlocked tenant can go', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const { subscriber, alpha } = await twoHosts(replica)
  await using lock = lockAs(site.owner, replica)
  const rows = await openRows(bus)
  await lockTenant(lock, subscriber)
  await signAll(lock)
  const { statements } = await list(lock)
  const [key, charter] = statements
  assert(key && charter)
  await eventually(async () => (await rowsOf(rows, alpha.id)).has(`statement.${charter.id}`))

  const remove = (id: number) =>
    lock.deleteStatement({ idempotencyKey: randomUUID(), tenant: 'acme', id })
  assert.equal((await remove(charter.id)).deleted, true)
  assert.equal((await remove(charter.id)).deleted, false)
  await assert.rejects(remove(key.id), { code: 'invalid-argument' })

  await eventually(async () => !(await rowsOf(rows, alpha.id)).has(`statement.${charter.id}`))
  const empty = 'empty'
  await subscriber.tenant(empty)
  await lockTenant(lock, subscriber, empty)
  const drop = () => subscriber.client.deleteTenant(DeleteTenantRequest.create({ name: empty }))
  await assert.rejects(drop(), TenantLockedError)
  const unlocked = { $case: 'key', value: { publicKey: Buffer.alloc(0) } } as const
  await put(lock, await keyStatement(subscriber, empty, 2n, unlocked), empty)
  assert.equal((await drop()).deleted, true)
})

/** Hosts alpha and beta with an endpoint each in acme/blue. */
async function twoHosts(replica: Reachable) {
  const subscriber = await furnish(replica)
  const alpha = await subscriber.host('alpha', '192.0.2.1')
  const beta = await subscriber.host('beta', '192.0.2.2')
  const web = await subscriber.assign(await subscriber.endpoint('blue', 'web'), alpha)
  const api = await subscriber.assign(await subscriber.endpoint('blue', 'api'), beta)
  return { subscriber, alpha, beta, web, api }
}

function lockAs(credentials: TestCredentials, { address }: Reachable): LockClient {
  return connect(address, TenantLockServiceService, {
    security: { kind: 'mutual-tls', credentials, peer: 'config' },
  })
}

function put(lock: LockClient, statement: Signed | undefined, tenant = 'acme') {
  return lock.putStatement({ idempotencyKey: randomUUID(), tenant, statement })
}

function list(lock: LockClient) {
  return lock.listStatements(ListStatementsRequest.create({ tenant: 'acme' }))
}

function propose(lock: LockClient, hosts: string[] = []) {
  return lock.listProposals(ListProposalsRequest.create({ tenant: 'acme', hosts }))
}

async function keyStatement(
  { client }: Subscriber,
  name: string,
  number: bigint,
  about: TenantStatement['about'],
): Promise<Signed> {
  const { tenant } = await client.getTenant({ name })
  const content = { tenantId: tenant?.id ?? 0, tenant: name, number, notAfterUnixMs: 0n, about }
  return signTenantStatement({ domain: site.domain.name, ...content }, tenantKey)
}

async function lockTenant(lock: LockClient, subscriber: Subscriber, name = 'acme') {
  const about = { $case: 'key', value: { publicKey: publicKeyOf(tenantKey) } } as const
  const signed = await keyStatement(subscriber, name, 1n, about)
  const { statement } = await put(lock, signed, name)
  assert.deepEqual(statement?.statement?.signature, signed.signature)
  return signed
}

/** Signs what config proposes, unseen. */
async function signAll(lock: LockClient): Promise<Signed[]> {
  const signed: Signed[] = []
  for (const { statement } of (await propose(lock)).proposals) {
    assert(statement)
    const one = signTenantStatement({ ...statement, ...later() }, tenantKey)
    await put(lock, one)
    signed.push(one)
  }
  return signed
}

function membershipAt(addresses: number): TenantStatement['about'] {
  const plainAddresses = Array.from({ length: addresses }, () => Buffer.from([192, 0, 2, 1]))
  const identityKey = publicKeyOf(tenantKey)
  const tunnelKey = publicKeyOf(generateTunnelKey())
  const value = { networkId: 1, hostId: 2, identityKey, tunnelKey, plainAddresses }
  return { $case: 'membership', value }
}

function delegationOf(count: number): TenantStatement['about'] {
  const prefix = { address: Buffer.from([10, 0, 0, 0]), lengthBits: 24 }
  const prefixes = Array.from({ length: count }, () => prefix)
  const value = { networkId: 1, delegateKey: publicKeyOf(tenantKey), prefixes }
  return { $case: 'delegation', value }
}

function later(): Pick<TenantStatement, 'number' | 'notAfterUnixMs'> {
  return { number: 1n, notAfterUnixMs: BigInt(Date.now() + 3_600_000) }
}

/** Says, as the resolver does, where an endpoint is by its host's own report, which it returns. */
async function locate(bus: Bus, endpoint: Endpoint, host: Host): Promise<Buffer> {
  const locations = await bus.openBucket(buckets.locations, Location)
  const said = LocationReport.create({
    change: LocationChange.LOCATION_CHANGE_ATTACHED,
    endpointId: endpoint.id,
    networkId: endpoint.networkId,
    hostId: host.id,
    sequence: 1n,
    addresses: endpoint.addresses,
    mac: endpoint.mac,
  })
  const signed = signReport(said, credentialsOf(host).identityKey)
  const report = Buffer.from(LocationReport.encode(signed).finish())
  const location = { endpointId: endpoint.id, hostId: host.id, epoch: 1n, report }
  await locations.put(locationKey(endpoint.id), Location.create(location))
  return report
}
