import assert from 'node:assert/strict'
import { randomUUID, X509Certificate } from 'node:crypto'
import { test } from 'node:test'
import { type Bus, buckets, events as busEvents, memoryBus } from '@weft/bus'
import {
  asWeftError,
  CertificateRefusedError,
  ClockWrongError,
  HostRevokedError,
  InvalidArgumentError,
  OverloadedError,
  PermissionDeniedError,
  StatementRefusedError,
  type TokenRefusal,
  TokenRefusedError,
  UnauthenticatedError,
  UserNotFoundError,
} from '@weft/errors'
import {
  dersOfPem,
  generateIdentityKey,
  openStatement,
  type Purpose,
  publicKeyOf,
  signStatement,
  verifyChain,
} from '@weft/identity'
import {
  AssignEndpointRequest,
  CreateLoginCodeRequest,
  CreateUserRequest,
  type GetHostRequest,
  ListHostsRequest,
  ListNetworksRequest,
  ListTenantsRequest,
  ListTokensRequest,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  CertificateServiceService,
  JoinStatement,
  LoginStatement,
  RenewalStatement,
  RotationStatement,
} from '@weft/proto/weftline/config/v1/enrolment.ts'
import { Role, Record as StoredRecord } from '@weft/proto/weftline/config/v1/records.ts'
import { PublicKeys, Revocations, Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import { type Client, connect } from '@weft/rpc'
import { eventually, type TestCredentials } from '@weft/testing'
import { type NewHostKeys, newHostKeys } from './domain.ts'
import {
  connectAs,
  connectToEnrol,
  credentialsOf,
  furnish,
  type Reachable,
  Subscriber,
  site,
  startReplica,
} from './site.ts'

test('several replicas that start at once make one owner of a new domain', async () => {
  await using bus = memoryBus().connect()
  await using opened = new AsyncDisposableStack()
  const replicas = await Promise.all([1, 2, 3].map(() => startReplica(bus)))
  for (const replica of replicas) opened.use(replica)
  const [replica] = replicas
  assert(replica)

  const { users } = await replica.client.listUsers({ page: undefined })

  assert.deepEqual(
    users.map(({ id, name }) => [id, name]),
    [[1, 'owner']],
  )
})

test('a host that joins gets a certificate, a login to the bus and the places of its domain', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  const keys = newHostKeys()

  const { credentials, nowUnixMs } = await joined(replica, await subscriber.token(), keys)

  assert(credentials)
  const [leaf] = credentials.certificates
  const [intermediate, root] = credentials.authorities
  assert(leaf && intermediate && root)
  const peer = verifyChain({ chain: [leaf, intermediate], roots: [root], now: new Date() })
  assert.deepEqual(peer.identity, { domain: 'test.weft', kind: 'host', id: credentials.hostId })
  assert.deepEqual(Buffer.from(peer.publicKey), keys.message.identity)
  assert.deepEqual(root, dersOfPem(site.config.tls.rootsPem)[0])
  assert.equal(credentials.hostName, 'alpha')
  assert.equal(credentials.busJwt.split('.').length, 3)
  assert.ok(Number(credentials.horizonUnixMs) > Number(nowUnixMs))
  const { hostIds, tokens } = await replica.client.listTokens(ListTokensRequest.create({}))
  assert.deepEqual(hostIds, [credentials.hostId])
  assert.equal(tokens[0]?.secretHash.length, 0)
})

test('of 100 that join with one token at three replicas exactly one wins', async () => {
  await using bus = memoryBus().connect()
  await using opened = new AsyncDisposableStack()
  const replicas = await Promise.all([1, 2, 3].map(() => startReplica(bus)))
  for (const replica of replicas) opened.use(replica)
  const [first] = replicas
  assert(first)
  const token = await new Subscriber(first).token()

  const outcomes = await Promise.allSettled(
    Array.from({ length: 100 }, (_, index) =>
      joined(replicas[index % 3] ?? first, token, newHostKeys(), { name: `host-${index}` }),
    ),
  )

  const won = outcomes.filter(({ status }) => status === 'fulfilled')
  assert.equal(won.length, 1)
  for (const outcome of outcomes) {
    if (outcome.status === 'fulfilled') continue
    assert(outcome.reason instanceof TokenRefusedError, String(outcome.reason))
    assert.equal(outcome.reason.reason, 'used')
  }
  const { hosts } = await first.client.listHosts(ListHostsRequest.create({}))
  assert.equal(hosts.length, 1)
})

test('a join whose answer was lost is repeated with the same keys, and with no others', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  const token = await subscriber.token()
  const keys = newHostKeys()

  const first = await joined(replica, token, keys)
  const again = await joined(replica, token, keys)

  assert.equal(again.credentials?.hostId, first.credentials?.hostId)
  await refusedToken('used', joined(replica, token, newHostKeys(), { name: 'beta' }))
})

test('a join that somebody else sends again makes no second host, and nothing once its host is gone', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  await using enrolment = connectToEnrol(replica)
  const subscriber = await furnish(replica)
  const keys = newHostKeys()
  const payload = joinPayload(await subscriber.token(), keys)
  const statement = signStatement('join', payload, keys.identity)
  const replay = () => enrolment.join({ idempotencyKey: randomUUID(), statement })
  const { credentials } = await replay()

  // Whoever replays it gets the certificate of the same key, which is no secret, and lacks the key.
  const again = (await replay()).credentials
  assert.equal(again?.hostId, credentials?.hostId)
  const [leaf = Buffer.of()] = again?.certificates ?? []
  assert(publicKeyOf(new X509Certificate(leaf).publicKey).equals(keys.message.identity))
  assert.equal((await replica.client.listHosts(ListHostsRequest.create({}))).hosts.length, 1)
  const name = 'alpha'
  await replica.client.revokeHost({ idempotencyKey: randomUUID(), name, reason: 'stolen' })
  await assert.rejects(replay(), HostRevokedError)
  await replica.client.deleteHost({ idempotencyKey: randomUUID(), name })
  await assert.rejects(replay(), (error) => {
    assert(error instanceof TokenRefusedError || error instanceof HostRevokedError, String(error))
    return true
  })
  assert.deepEqual((await replica.client.listHosts(ListHostsRequest.create({}))).hosts, [])
})

test('a token that is cut, changed or for something else is refused without telling what exists', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  const token = await subscriber.token()
  const [head = '', id = '', secret = ''] = token.split('.')
  const other = await subscriber.token()
  const attempt = (text: string) => joined(replica, text, newHostKeys())

  await refusedToken('cut', attempt(token.slice(0, -1)))
  await refusedToken('not-a-token', attempt('hunter2'))
  await refusedToken('unknown', attempt(`${head}.${id}.${other.split('.')[2]}`))
  await refusedToken('unknown', attempt(`${head}.4000000.${secret}`))
  await refusedToken('other-purpose', attempt(token.replace('join', 'login')))
  await replica.client.revokeToken({ idempotencyKey: randomUUID(), id: Number(id) })
  await refusedToken('revoked', attempt(token))
})

test('a statement of join that somebody else signed, or for something else, is refused', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  await using enrolment = connectToEnrol(replica)
  const token = await subscriber.token()
  const keys = newHostKeys()
  const payload = joinPayload(token, keys)
  const attempt = (statement: Signed | undefined) =>
    enrolment.join({ idempotencyKey: randomUUID(), statement })

  const refusals = [
    signStatement('join', payload, generateIdentityKey()),
    signStatement('login', payload, keys.identity),
    { ...signStatement('join', payload, keys.identity), signature: Buffer.alloc(64) },
    undefined,
  ]
  for (const statement of refusals) {
    await assert.rejects(attempt(statement), StatementRefusedError)
  }
  // Others would take any tunnel key for the host's, if it did not say itself which it is.
  const others = newHostKeys().message
  for (const change of [
    { tunnelStatement: undefined },
    { tunnelStatement: others.tunnelStatement },
    { tunnel: others.tunnel },
    { tunnel: others.tunnel, tunnelStatement: others.tunnelStatement },
  ]) {
    const unsaid = { ...keys, message: { ...keys.message, ...change } }
    await assert.rejects(
      attempt(signStatement('join', joinPayload(token, unsaid), keys.identity)),
      StatementRefusedError,
    )
  }
  const weak = { ...keys, message: { ...keys.message, tunnel: Buffer.alloc(32) } }
  await assert.rejects(
    attempt(signStatement('join', joinPayload(token, weak), keys.identity)),
    InvalidArgumentError,
  )
  assert.equal(
    (await attempt(signStatement('join', payload, keys.identity))).credentials?.hostId !== 0,
    true,
  )
})

test('whoever fails again and again from one address has to wait', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  await using enrolment = connectToEnrol(replica, { retries: false })
  const statement = signStatement('join', Buffer.alloc(0), generateIdentityKey())
  const attempt = () => enrolment.join({ idempotencyKey: '', statement }).catch(asWeftError)

  const errors = await Promise.all(Array.from({ length: 40 }, attempt))

  assert(errors[0] instanceof TokenRefusedError)
  assert(errors.at(-1) instanceof OverloadedError)
})

test('whoever fails again and again keeps nobody out who comes from the same address', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  const alpha = await subscriber.host('alpha')
  const token = await subscriber.token()
  await using enrolment = connectToEnrol(replica, { retries: false })
  const wrong = `weft-join-v1.${token.split('.')[1]}.${'A'.repeat(43)}`
  const failing = async () => {
    const keys = newHostKeys()
    const statement = signStatement('join', joinPayload(wrong, keys), keys.identity)
    return await enrolment.join({ idempotencyKey: '', statement }).catch(asWeftError)
  }
  const errors = await Promise.all(Array.from({ length: 40 }, failing))
  assert(errors.at(-1) instanceof OverloadedError)

  const keys = newHostKeys()
  const statement = signStatement('join', joinPayload(token, keys, { name: 'beta' }), keys.identity)
  const joiner = await enrolment.join({ idempotencyKey: randomUUID(), statement })
  const said = { hostId: alpha.id, sentAtUnixMs: BigInt(Date.now()) }
  const renewal = statementOf(
    'renewal',
    credentialsOf(alpha),
    RenewalStatement.encode(said).finish(),
  )
  const renewed = await enrolment.renewExpired({ statement: renewal })

  assert.equal(joiner.credentials?.hostName, 'beta')
  assert.equal(renewed.credentials?.hostId, alpha.id)
  assert((await failing()) instanceof OverloadedError)
})

test('nobody takes the key of a service, which would be refused with whoever took it', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  const keys = newHostKeys()
  const taken = { ...keys.message, bus: site.authority.keysOf('location-resolver').busKey }
  const join = joined(replica, await subscriber.token(), { ...keys, message: taken })
  await assert.rejects(join, InvalidArgumentError)

  const alpha = await subscriber.host('alpha')
  const own = credentialsOf(alpha)
  await using certificates = connectForCertificates(own, replica)
  const newKeys = signStatement('rotation-new', PublicKeys.encode(taken).finish(), keys.identity)
  const payload = RotationStatement.encode({ hostId: alpha.id, newKeys }).finish()
  const statement = statementOf('rotation', own, payload)
  const rotation = certificates.rotateKeys({ idempotencyKey: randomUUID(), statement })
  await assert.rejects(rotation, InvalidArgumentError)
})

test('a host renews its certificate with its own, and with a proof of its key when it ran out', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  const alpha = await subscriber.host('alpha')
  const own = credentialsOf(alpha)
  await using certificates = connectForCertificates(own, replica)
  await using enrolment = connectToEnrol(replica)

  const { credentials } = await certificates.renew({})
  assert.equal(credentials?.hostId, alpha.id)

  const proof = (sentAtUnixMs: number, hostId = alpha.id) => ({
    statement: statementOf(
      'renewal',
      own,
      RenewalStatement.encode({
        hostId,
        sentAtUnixMs: BigInt(sentAtUnixMs),
      }).finish(),
    ),
  })
  const renewed = await enrolment.renewExpired(proof(Date.now()))
  assert.equal(renewed.credentials?.hostId, alpha.id)
  await assert.rejects(enrolment.renewExpired(proof(Date.now() - 600_000)), ClockWrongError)
  await assert.rejects(enrolment.renewExpired(proof(Date.now(), alpha.id + 1_000)), /no host/)
  const beta = await subscriber.host('beta')
  await assert.rejects(enrolment.renewExpired(proof(Date.now(), beta.id)), StatementRefusedError)
})

test('whoever renews with another key than that of the host is refused before its signature is looked at', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const alpha = await (await furnish(replica)).host('alpha')
  await using enrolment = connectToEnrol(replica, { retries: false })
  const said = { hostId: alpha.id, sentAtUnixMs: BigInt(Date.now()) }
  const signed = signStatement(
    'renewal',
    RenewalStatement.encode(said).finish(),
    generateIdentityKey(),
  )

  const renewal = enrolment.renewExpired({ statement: { ...signed, signature: Buffer.alloc(64) } })

  await assert.rejects(renewal, (error) => {
    assert(error instanceof StatementRefusedError)
    assert.equal(error.facts.reason, 'other-signer')
    return true
  })
})

test('users and services prove their keys likewise, and nobody else does', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  await using enrolment = connectToEnrol(replica)
  const payload = () =>
    RenewalStatement.encode({ hostId: 0, sentAtUnixMs: BigInt(Date.now()) }).finish()

  const owner = await enrolment.renewExpired({
    statement: statementOf('renewal', site.owner, payload()),
  })
  const config = await enrolment.renewExpired({
    statement: statementOf('renewal', site.config, payload()),
  })

  assert.equal(owner.credentials?.certificates.length, 1)
  assert.equal(config.credentials?.certificates.length, 16)
  assert.notEqual(config.credentials?.busJwt, '')
  const stranger = site.domain.credentials({ kind: 'user', id: 1 })
  await assert.rejects(
    enrolment.renewExpired({ statement: statementOf('renewal', stranger, payload()) }),
    UserNotFoundError,
  )
})

test('a certificate whose key is not that of its record opens nothing', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  const alpha = await subscriber.host('alpha')
  const forged = site.domain.credentials({ kind: 'host', id: alpha.id })
  await using client = connectForCertificates(forged, replica)
  await assert.rejects(client.renew({}), /does not know the key of host/)
  const service = site.domain.credentials({ kind: 'service', id: 'routing-policy' })
  await using other = connectForCertificates(service, replica)
  await assert.rejects(other.renew({}), UnauthenticatedError)
})

test('a host replaces its keys, and the new ones count', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  const alpha = await subscriber.host('alpha')
  const own = credentialsOf(alpha)
  await using certificates = connectForCertificates(own, replica)
  const keys = newHostKeys()
  const newKeys = signStatement(
    'rotation-new',
    PublicKeys.encode(keys.message).finish(),
    keys.identity,
  )
  const payload = RotationStatement.encode({ hostId: alpha.id, newKeys }).finish()
  const statement = statementOf('rotation', own, payload)
  const request = { idempotencyKey: randomUUID(), statement }

  const { credentials } = await certificates.rotateKeys(request)
  const again = await certificates.rotateKeys(request)

  assert.equal(credentials?.hostId, alpha.id)
  assert.equal(again.credentials?.hostId, alpha.id)
  const { host } = await replica.client.getHost(byId(alpha.id))
  assert.deepEqual(host?.identityKey, keys.message.identity)
  const renewed = site.domain.credentials({ kind: 'host', id: alpha.id }, { key: keys.identity })
  await using after = connectForCertificates(renewed, replica)
  assert.equal((await after.renew({})).credentials?.hostId, alpha.id)
  // With keys that nobody proved to have.
  const stolen = { ...newHostKeys().message }
  const unproven = signStatement('rotation-new', PublicKeys.encode(stolen).finish(), keys.identity)
  const bad = RotationStatement.encode({ hostId: alpha.id, newKeys: unproven }).finish()
  await assert.rejects(
    after.rotateKeys({ ...request, statement: statementOf('rotation', renewed, bad) }),
    StatementRefusedError,
  )
})

test('a host that changes its keys and is then revoked has no key left, whatever it called the request', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  const alpha = await subscriber.host('alpha')
  const own = credentialsOf(alpha)
  await using certificates = connectForCertificates(own, replica)
  const keys = newHostKeys()
  const encoded = PublicKeys.encode(keys.message).finish()
  const newKeys = signStatement('rotation-new', encoded, keys.identity)
  const payload = RotationStatement.encode({ hostId: alpha.id, newKeys }).finish()
  const statement = statementOf('rotation', own, payload)
  await certificates.rotateKeys({ idempotencyKey: 'k'.repeat(128), statement })

  await replica.client.revokeHost({ idempotencyKey: randomUUID(), name: 'alpha', reason: 'lost' })

  const rotated = site.domain.credentials({ kind: 'host', id: alpha.id }, { key: keys.identity })
  for (const credentials of [own, rotated]) {
    await using client = connectForCertificates(credentials, replica)
    await assert.rejects(client.renew({}), CertificateRefusedError)
  }
  const busKeys = [alpha.busKey, keys.message.bus]
  await eventually(() => site.refused.some((users) => busKeys.every((key) => users.includes(key))))
})

test('a revoked host is told to everybody, refused by the bus, and out at once', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  await using other = await startReplica(bus)
  const subscriber = await furnish(replica)
  const alpha = await subscriber.host('alpha')
  const told = listen(bus)
  await using client = connectAs(credentialsOf(alpha), other.address)
  assert.equal((await client.getHost(byId(alpha.id))).host?.id, alpha.id)

  await replica.client.revokeHost({ idempotencyKey: randomUUID(), name: 'alpha', reason: 'lost' })

  await eventually(() => told.some(({ keys }) => keys.some(({ hostId }) => hostId === alpha.id)))
  await eventually(() => site.refused.some((users) => users.includes(alpha.busKey)))
  await eventually(async () => {
    const error = await client.getHost(byId(alpha.id)).then(() => undefined, asWeftError)
    return error instanceof CertificateRefusedError
  })
  await using enrolment = connectToEnrol(replica)
  const payload = RenewalStatement.encode({
    hostId: alpha.id,
    sentAtUnixMs: BigInt(Date.now()),
  }).finish()
  const statement = statementOf('renewal', credentialsOf(alpha), payload)
  await assert.rejects(enrolment.renewExpired({ statement }), HostRevokedError)
})

test('revocations are told again by a replica that starts, with a number that does not fall', async () => {
  await using bus = memoryBus().connect()
  const first = await startReplica(bus)
  const subscriber = await furnish(first)
  const alpha = await subscriber.host('alpha')
  const told = listen(bus)
  await first.client.revokeHost({ idempotencyKey: randomUUID(), name: 'alpha', reason: '' })
  await eventually(() => told.length > 0)
  await first[Symbol.asyncDispose]()
  const count = told.length

  await using second = await startReplica(bus)

  await eventually(() => told.length > count)
  assert.ok((told.at(-1)?.number ?? 0n) >= (told[0]?.number ?? 0n))
  assert.equal(told.at(-1)?.keys[0]?.hostId, alpha.id)
  assert.notEqual(second.address, '')
})

test('a host leaves, and its key comes to nothing', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  const alpha = await subscriber.host('alpha')
  await using certificates = connectForCertificates(credentialsOf(alpha), replica)

  assert.equal((await certificates.leave({ idempotencyKey: randomUUID() })).left, true)
  assert.equal((await certificates.leave({ idempotencyKey: randomUUID() })).left, false)

  await assert.rejects(replica.client.getHost(byId(alpha.id)), /no host/)
  const records = await bus.openBucket(buckets.config, StoredRecord)
  let revoked = 0
  const stop = new AbortController()
  for await (const batch of records.watch('revokedKey', { signal: stop.signal })) {
    for (const event of batch) {
      if (event.kind === 'put') revoked++
      if (event.kind === 'snapshot-end') stop.abort()
    }
  }
  assert.equal(revoked, 1)
})

test('a user logs in by a code, sees its tenants and no other, and is out when removed', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  await subscriber.tenant('other')
  const grants = [{ tenant: 'other', role: Role.ROLE_SUBSCRIBER }]
  const fields = { idempotencyKey: randomUUID(), name: 'eve', grants }
  await replica.client.createUser(CreateUserRequest.create(fields))
  const { text } = await replica.client.createLoginCode(
    CreateLoginCodeRequest.create({ user: 'eve' }),
  )
  await subscriber.host('alpha', '192.0.2.1')

  const eve = await loggedIn(replica, text)

  await using client = connectAs(eve, replica.address)
  const { tenants } = await client.listTenants(ListTenantsRequest.create({}))
  assert.deepEqual(
    tenants.map(({ name }) => name),
    ['other'],
  )
  assert.deepEqual((await client.listNetworks(ListNetworksRequest.create({}))).networks, [])
  assert.deepEqual((await client.listHosts(ListHostsRequest.create({}))).hosts, [])
  await assert.rejects(client.getTenant({ name: 'acme' }), PermissionDeniedError)
  await assert.rejects(client.getTenant({ name: 'nobody' }), PermissionDeniedError)
  const alpha = { key: { $case: 'name' as const, value: 'alpha' } }
  await assert.rejects(client.getHost(alpha), /no host alpha/)
  await refusedToken('used', loggedIn(replica, text))

  await replica.client.deleteUser({ idempotencyKey: randomUUID(), name: 'eve' })
  await eventually(async () => {
    const listing = client.listTenants(ListTenantsRequest.create({}))
    return (await listing.then(() => undefined, asWeftError)) instanceof CertificateRefusedError
  })
})

test('who wrote a record is known by identity', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  const alpha = await subscriber.host('alpha')
  const web = await subscriber.endpoint('blue', 'web')
  assert.equal(web.meta?.writtenBy, 'user/1')
  assert.match(alpha.meta?.writtenBy ?? '', /^token\/\d+$/)
  const assigned = await subscriber.assign(web, alpha)
  assert.equal(assigned.meta?.writtenBy, `host/${alpha.id}`)
})

test('a host assigns endpoints to itself only, and only of tenants that it may carry', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  await subscriber.tenant('other')
  const token = await subscriber.token({ tenants: ['other'] })
  const keys = newHostKeys()
  const { credentials } = await joined(replica, token, keys)
  const hostId = credentials?.hostId ?? 0
  const member = { kind: 'host', id: hostId } as const
  const own = site.domain.credentials(member, { key: keys.identity })
  const web = await subscriber.endpoint('blue', 'web')
  const beta = await subscriber.host('beta')
  await using client = connectAs(own, replica.address)
  const assign = (to: number) =>
    client.assignEndpoint(
      AssignEndpointRequest.create({ key: { $case: 'id', value: web.id }, hostId: to }),
    )
  await assert.rejects(assign(hostId), PermissionDeniedError)
  await assert.rejects(assign(beta.id), PermissionDeniedError)
})

async function joined(
  replica: Reachable,
  token: string,
  keys: NewHostKeys,
  fields: Partial<JoinStatement> = {},
) {
  await using enrolment = connectToEnrol(replica)
  const statement = signStatement('join', joinPayload(token, keys, fields), keys.identity)
  return await enrolment.join({ idempotencyKey: randomUUID(), statement })
}

function joinPayload(
  token: string,
  keys: NewHostKeys,
  fields: Partial<JoinStatement> = {},
): Uint8Array {
  return JoinStatement.encode(
    JoinStatement.create({
      token,
      name: 'alpha',
      keys: keys.message,
      sentAtUnixMs: BigInt(Date.now()),
      ...fields,
    }),
  ).finish()
}

async function loggedIn(replica: Reachable, code: string): Promise<TestCredentials> {
  const key = generateIdentityKey()
  await using enrolment = connectToEnrol(replica)
  const payload = LoginStatement.encode({
    code,
    keys: PublicKeys.create({ identity: publicKeyOf(key) }),
    sentAtUnixMs: BigInt(Date.now()),
  }).finish()
  const statement = signStatement('login', payload, key)
  const { credentials } = await enrolment.login({ idempotencyKey: randomUUID(), statement })
  assert(credentials)
  const [leaf = Buffer.alloc(0), ...others] = [
    ...credentials.certificates,
    ...credentials.authorities,
  ]
  const now = new Date()
  const { identity } = verifyChain({
    chain: [leaf, ...others.slice(0, -1)],
    roots: others.slice(-1),
    now,
  })
  assert.equal(identity.kind, 'user')
  return site.domain.credentials({ kind: 'user', id: identity.id }, { key })
}

function connectForCertificates(
  credentials: TestCredentials,
  { address }: Reachable,
): Client<typeof CertificateServiceService> {
  return connect(address, CertificateServiceService, {
    security: { kind: 'mutual-tls', credentials, peer: 'config' },
  })
}

function statementOf(purpose: Purpose, { identityKey }: TestCredentials, payload: Uint8Array) {
  return signStatement(purpose, payload, identityKey)
}

/** Every statement of revocations from now on. */
function listen(bus: Bus): Revocations[] {
  const told: Revocations[] = []
  bus.subscribe(busEvents.keyRevoked.pattern(), Signed, (statement) => {
    told.push(openStatement('revocations', statement, Revocations, site.config.directoryKey))
  })
  return told
}

function byId(id: number): GetHostRequest {
  return { key: { $case: 'id', value: id } }
}

async function refusedToken(reason: TokenRefusal, attempt: Promise<unknown>): Promise<void> {
  await assert.rejects(attempt, (error) => {
    assert(error instanceof TokenRefusedError, String(error))
    assert.equal(error.reason, reason)
    return true
  })
}
