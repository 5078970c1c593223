import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { inspect } from 'node:util'
import { buckets, locationKey, memoryBus, events as subjects } from '@weft/bus'
import {
  asWeftError,
  CertificateRefusedError,
  InvalidArgumentError,
  PermissionDeniedError,
  UnavailableError,
} from '@weft/errors'
import { publicKeyOf } from '@weft/identity'
import { signReport, verifyReport } from '@weft/identity/host-signature'
import { Carrier, Mechanism } from '@weft/proto/weftline/common/v1/common.ts'
import { RevokedKey, Role } from '@weft/proto/weftline/config/v1/records.ts'
import {
  LocateRequest,
  Location,
  LocationChange,
  LocationReport,
  type Resolution,
  ResolveRequest,
  WatchRequest,
  type WatchResponse,
} from '@weft/proto/weftline/location/v1/location.ts'
import { eventually } from '@weft/testing'
import {
  ConfigRecords,
  connectAs,
  detach,
  domain,
  errorCodeOf,
  keyOf,
  type LocationClient,
  locationOf,
  renew,
  report,
  reportOf,
  startReplica,
  storedLocation,
  TENANT_ID,
} from './site.ts'

test('endpoints that their hosts report are joined: on one host by it, on two by VXLAN', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, beta, blue } = await config.site()
  await using replica = await startReplica(bus)
  const web = await config.endpoint(blue, alpha, 'web')
  const db = await config.endpoint(blue, alpha, 'db')
  const api = await config.endpoint(blue, beta, 'api')
  for (const endpoint of [web, db, api]) await report(bus, endpoint)

  const response = await replica.client.resolve(
    ResolveRequest.create({
      queries: [
        { sourceEndpointId: web.id, targetEndpointId: db.id },
        { sourceEndpointId: web.id, targetEndpointId: api.id },
      ],
    }),
  )

  const [onOneHost, onTwo] = response.resolutions.map(connectionOf)
  assert.equal(onOneHost?.mechanism, Mechanism.MECHANISM_SAME_HOST)
  assert.equal(onOneHost.carrier, Carrier.CARRIER_NONE)
  assert.equal(onTwo?.mechanism, Mechanism.MECHANISM_DIRECT)
  assert.equal(onTwo.carrier, Carrier.CARRIER_VXLAN)
  assert.deepEqual([...onTwo.sourceAddress], [192, 0, 2, 1])
  assert.deepEqual([...onTwo.targetAddress], [192, 0, 2, 2])
  assert.deepEqual(onTwo.targetMac, api.mac)
  assert.equal(onTwo.vni, 4711)
  assert.equal(onTwo.targetEpoch, 1n)
  assert.equal(response.configRevision, BigInt(api.id))
  assert.equal(response.horizonMs, 60_000n)
})

test('each pair that cannot be joined gets its own error, in order', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  const red = await config.network('red', 4712)
  await using replica = await startReplica(bus)
  const web = await config.endpoint(blue, alpha, 'web')
  const idle = await config.endpoint(blue, 0, 'idle')
  const other = await config.endpoint(red, alpha, 'other')
  await report(bus, web)
  await report(bus, other)

  const { resolutions } = await replica.client.resolve(
    ResolveRequest.create({
      queries: [999, idle.id, other.id, web.id].map((targetEndpointId) => ({
        sourceEndpointId: web.id,
        targetEndpointId,
      })),
    }),
  )

  assert.deepEqual(resolutions.map(outcomeOf), [
    'endpoint-not-found',
    'endpoint-not-located',
    'different-networks',
    'connection',
  ])
})

test('hosts without a common trusted zone are refused with both names and the remedy', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const zone = await config.zone(false)
  const alpha = await config.host('alpha', zone, [192, 0, 2, 1])
  const beta = await config.host('beta', zone, [192, 0, 2, 2])
  const blue = await config.network('blue', 4711)
  await using replica = await startReplica(bus)
  const web = await config.endpoint(blue, alpha, 'web')
  const api = await config.endpoint(blue, beta, 'api')
  await report(bus, web)
  await report(bus, api)

  const resolution = await resolveOne(replica.client, web.id, api.id)

  assert(resolution.outcome?.$case === 'error')
  const { code, facts, remedy } = resolution.outcome.value
  assert.equal(code, 'no-common-trusted-zone')
  assert.deepEqual(facts, { source: 'alpha', target: 'beta' })
  assert.match(remedy, /trusted zone/)

  await config.zone(true, zone)
  await eventually(
    async () => outcomeOf(await resolveOne(replica.client, web.id, api.id)) === 'connection',
  )
})

test('an endpoint on a foreign VXLAN peer is joined although nobody reports it', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { zone, alpha, blue } = await config.site()
  const foreign = await config.host('foreign', zone, [192, 0, 2, 9], true)
  await using replica = await startReplica(bus)
  const web = await config.endpoint(blue, alpha, 'web')
  const far = await config.endpoint(blue, foreign, 'far')
  await report(bus, web)

  const connection = connectionOf(await resolveOne(replica.client, web.id, far.id))

  assert.deepEqual([...connection.targetAddress], [192, 0, 2, 9])
  assert.equal(connection.targetEpoch, 0n)
})

test('a report is taken although the assignment that it acts on comes after it', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  await using _replica = await startReplica(bus)
  const web = await config.endpoint(blue, 0)

  const reply = report(bus, { ...web, hostId: alpha })
  await delay(20)
  await config.assign(web, alpha)

  assert.equal(locationOf(await reply).hostId, alpha)
})

test('a report that refers to a revision which does not come is refused as unavailable', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  await using _replica = await startReplica(bus, { catchUpMs: 20 })
  const web = await config.endpoint(blue, alpha)

  const reply = await report(bus, web, { configRevision: 1_000n })

  assert.equal(errorCodeOf(reply), 'unavailable')
  assert.equal(await storedLocation(bus, web.id), undefined)
})

test('a report by a host to which the endpoint is not assigned changes nothing', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, beta, blue } = await config.site()
  await using _replica = await startReplica(bus, { catchUpMs: 20 })
  const web = await config.endpoint(blue, alpha)
  await report(bus, web)

  assert.equal(errorCodeOf(await report(bus, { ...web, hostId: beta })), 'endpoint-not-assigned')
  const asAlpha = await report(bus, web, { sequence: 9n, subjectHostId: beta })
  assert.equal(errorCodeOf(asAlpha), 'permission-denied')

  const stored = await storedLocation(bus, web.id)
  assert.equal(stored?.hostId, alpha)
  assert.equal(stored.reportSequence, 1n)
})

test('a report that is not numbered or does not say what happened is refused', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  await using _replica = await startReplica(bus)
  const web = await config.endpoint(blue, alpha)

  const change = LocationChange.LOCATION_CHANGE_UNSPECIFIED

  assert.equal(errorCodeOf(await report(bus, web, { sequence: 0n })), 'invalid-argument')
  assert.equal(errorCodeOf(await report(bus, web, { change })), 'invalid-argument')
  assert.equal(await storedLocation(bus, web.id), undefined)
})

test('what a newer replica stored beside the known fields is kept', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  const web = await config.endpoint(blue, alpha)
  const unknown = { 802: [Uint8Array.of(1, 7)] }
  const bucket = await bus.openBucket(buckets.locations, Location)
  await bucket.put(locationKey(web.id), {
    ...Location.create({ endpointId: web.id, networkId: blue, hostId: alpha, epoch: 4n }),
    _unknownFields: unknown,
  })
  await using _replica = await startReplica(bus)

  await report(bus, web, { sequence: 2n })

  const stored = await storedLocation(bus, web.id)
  assert.equal(stored?.reportSequence, 2n)
  assert.equal(stored.epoch, 4n)
  assert.deepEqual(Object.keys(stored._unknownFields ?? {}), Object.keys(unknown))
})

test('a detached endpoint is nowhere, and a late report of its attachment changes nothing', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  await using replica = await startReplica(bus)
  const web = await config.endpoint(blue, alpha)
  await report(bus, web, { sequence: 1n })

  const detached = await detach(bus, web, 3n)
  const late = await report(bus, web, { sequence: 2n })

  assert.equal(detached.outcome?.$case, 'gone')
  assert.equal(late.outcome?.$case, 'gone')
  const { locations } = await replica.client.locate(LocateRequest.create())
  assert.deepEqual(locations, [])
})

test('a move raises the epoch and is announced', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, beta, blue } = await config.site()
  await using _replica = await startReplica(bus)
  const moves: Location[] = []
  await using _subscription = bus.subscribe(subjects.endpointMoved.pattern(), Location, (moved) => {
    moves.push(moved)
  })
  const web = await config.endpoint(blue, alpha)
  await report(bus, web, { sequence: 1n })
  await report(bus, web, { sequence: 2n })

  const configRevision = await config.assign(web, beta)
  const atBeta = locationOf(await report(bus, { ...web, hostId: beta }, { configRevision }))

  assert.equal(atBeta.epoch, 2n)
  await eventually(() => moves.length > 1)
  assert.deepEqual(
    moves.map(({ hostId, epoch, report }) => ({ hostId, epoch, reportBytes: report.length })),
    [
      { hostId: alpha, epoch: 1n, reportBytes: 0 },
      { hostId: beta, epoch: 2n, reportBytes: 0 },
    ],
  )
  assert.equal(moves[1]?.revision, atBeta.revision)
})

test('two replicas that take reports of one endpoint at once give each epoch once', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  await using _one = await startReplica(bus)
  await using _other = await startReplica(bus)
  const web = await config.endpoint(blue, alpha)

  const sequences = [1n, 2n, 3n, 4n]
  const replies = await Promise.all(sequences.map((sequence) => report(bus, web, { sequence })))

  for (const reply of replies) assert.equal(locationOf(reply).epoch, 1n)
  assert.equal((await storedLocation(bus, web.id))?.reportSequence, 4n)
})

test('the record of a deleted endpoint is removed, also if that was missed while nothing ran', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  const first = await config.endpoint(blue, alpha, 'first')
  const second = await config.endpoint(blue, alpha, 'second')
  {
    await using _replica = await startReplica(bus)
    await report(bus, first)
    await report(bus, second)
    await config.deleteEndpoint(first.id)
    await eventually(async () => (await storedLocation(bus, first.id)) === undefined)
  }
  assert.notEqual(await storedLocation(bus, second.id), undefined)
  await config.deleteEndpoint(second.id)

  await using _replica = await startReplica(bus)

  await eventually(async () => (await storedLocation(bus, second.id)) === undefined)
})

test('an answer waits for the revisions that the caller has seen', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  await using replica = await startReplica(bus)
  const web = await config.endpoint(blue, alpha)
  await report(bus, web)

  const request = ResolveRequest.create({ configRevisionMin: BigInt(web.id + 1) })
  const response = replica.client.resolve(request)
  await delay(20)
  await config.assign(web, alpha)

  assert.equal((await response).configRevision, BigInt(web.id + 1))
})

test('an answer that cannot be as new as the caller demands is refused', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus, { catchUpMs: 5 })

  const request = ResolveRequest.create({ locationRevisionMin: 7n })

  await assert.rejects(replica.client.resolve(request), UnavailableError)
})

test('too many questions at once are refused', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const query = { sourceEndpointId: 1, targetEndpointId: 2 }

  const resolve = replica.client.resolve(
    ResolveRequest.create({ queries: Array.from({ length: 257 }, () => query) }),
  )
  const locate = replica.client.locate(
    LocateRequest.create({ endpointIds: Array.from({ length: 1001 }, (_, id) => id + 1) }),
  )

  await assert.rejects(resolve, InvalidArgumentError)
  await assert.rejects(locate, InvalidArgumentError)
})

test('the lease of a host is shown with its age, and what another says for it is not heard', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, beta, blue } = await config.site()
  await using replica = await startReplica(bus)
  await report(bus, await config.endpoint(blue, alpha))
  const shown = async (leaseId: string) => {
    const { hostLeases } = await replica.client.locate(LocateRequest.create())
    return hostLeases.find((lease) => lease.leaseId === leaseId)
  }
  renew(bus, { hostId: alpha, leaseId: 'own', sentAtUnixMs: 5n })
  const lease = await eventually(() => shown('own'))
  assert.equal(lease.leaseTtlMs, 15_000)
  assert.equal(lease.hostId, alpha)

  renew(bus, { hostId: alpha, leaseId: 'other subject', sentAtUnixMs: 6n, sender: beta })
  renew(bus, { hostId: alpha, leaseId: 'other key', sentAtUnixMs: 6n }, keyOf(beta))
  renew(bus, { hostId: alpha, leaseId: 'said once more', sentAtUnixMs: 5n })
  renew(bus, { hostId: alpha, leaseId: 'last', sentAtUnixMs: 7n })

  await eventually(() => shown('last'))
  const { hostLeases } = await replica.client.locate(LocateRequest.create())
  assert.deepEqual(
    hostLeases.map(({ hostId, leaseId }) => ({ hostId, leaseId })),
    [{ hostId: alpha, leaseId: 'last' }],
  )
})

test('a report that its host did not sign is refused, and changes nothing', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { zone, alpha, beta, blue } = await config.site()
  const foreign = await config.host('foreign', zone, [192, 0, 2, 9], true)
  await using _replica = await startReplica(bus, { catchUpMs: 20 })
  const web = await config.endpoint(blue, alpha, 'web')
  const far = await config.endpoint(blue, foreign, 'far')
  const other = signReport(reportOf(web, { leaseId: 'other' }), keyOf(alpha)).hostSignature

  const refused = [
    await report(bus, web, { hostSignature: Buffer.alloc(0) }),
    await report(bus, web, { hostSignature: other }),
    await report(bus, web, { key: keyOf(beta) }),
  ]

  assert.deepEqual(refused.map(errorCodeOf), Array(3).fill('statement-refused'))
  assert.equal(errorCodeOf(await report(bus, far)), 'permission-denied')
  assert.equal(errorCodeOf(await report(bus, { ...web, hostId: 999 })), 'host-not-found')
  assert.equal(await storedLocation(bus, web.id), undefined)
  assert.equal(locationOf(await report(bus, web)).hostId, alpha)
})

test('a report that is too large to be kept is refused', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  await using _replica = await startReplica(bus)
  const web = await config.endpoint(blue, alpha, 'web')
  const many = Array.from({ length: 64 }, (_, index) => ({
    address: Buffer.alloc(16, index),
    lengthBits: 128,
  }))

  const longLease = await report(bus, web, { leaseId: 'x'.repeat(65) })
  const unknownFields = { 802: [Buffer.concat([Buffer.from([0x81, 0x30]), Buffer.alloc(6145)])] }
  const padded = await report(bus, web, { _unknownFields: unknownFields })
  const full = await report(bus, web, { leaseId: 'x'.repeat(64), allowedPrefixes: many })

  assert.deepEqual([longLease, padded].map(errorCodeOf), Array(2).fill('invalid-argument'))
  assert.equal(locationOf(full).hostId, alpha)
})

test('a host that floods with reports does not hold up those of others', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, beta, blue } = await config.site()
  await using _replica = await startReplica(bus, { catchUpMs: 3_000 })
  const web = await config.endpoint(blue, alpha, 'web')
  const api = await config.endpoint(blue, beta, 'api')
  const outcomes: string[] = []
  // Of revisions that never come, so that each waits as long as it may.
  const flood = Array.from({ length: 300 }, async () => {
    const reply = await report(bus, web, { configRevision: 1_000n })
    assert(reply.outcome?.$case === 'error')
    outcomes.push(reply.outcome.value.code)
  })

  const reply = await report(bus, api)

  assert.equal(locationOf(reply).hostId, beta)
  // None of those that wait has an answer yet: only what was too much.
  assert.deepEqual(new Set(outcomes), new Set(['overloaded']))
  await Promise.all(flood)
  assert.equal(outcomes.filter((code) => code === 'overloaded').length, 300 - 8)
})

test('a report that refers to a revision or an endpoint far ahead does not wait for it', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  await using _replica = await startReplica(bus, { catchUpMs: 60_000 })
  const web = await config.endpoint(blue, alpha)

  // Those that waited would have no answer before the test gives up.
  const replies = [
    await report(bus, web, { configRevision: 1_000_000n }),
    await report(bus, { ...web, id: 1_000_000 }),
  ]

  assert.deepEqual(replies.map(errorCodeOf), ['unavailable', 'unavailable'])
  assert.equal(locationOf(await report(bus, web)).hostId, alpha)
})

test('a revoked host says nothing any more, and nothing is located at it', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, beta, blue } = await config.site()
  await using replica = await startReplica(bus)
  const web = await config.endpoint(blue, alpha, 'web')
  const api = await config.endpoint(blue, beta, 'api')
  await report(bus, web)
  await report(bus, api)

  await config.revoke(beta)

  await eventually(
    async () =>
      outcomeOf(await resolveOne(replica.client, web.id, api.id)) === 'endpoint-not-located',
  )
  assert.equal(errorCodeOf(await report(bus, api, { sequence: 2n })), 'host-revoked')
  assert.equal((await storedLocation(bus, api.id))?.reportSequence, 1n)
})

test('whose key is void by the VN database is refused, also by a replica that nobody told', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  await config.site()
  await config.user(7, { tenantId: TENANT_ID, role: Role.ROLE_SUBSCRIBER })
  const eve = { kind: 'user', id: 7 } as const
  const credentials = domain.credentials(eve)
  await using first = await startReplica(bus)
  await using client = connectAs(eve, first.address, credentials)
  await client.locate(LocateRequest.create())
  const id = await config.nextId()
  const revokedAtUnixMs = BigInt(Date.now())
  const value = RevokedKey.create({ id, identityKey: credentials.publicKey, revokedAtUnixMs })

  await config.put({ $case: 'revokedKey', value })

  const isOut = async (asked: LocationClient): Promise<boolean> => {
    const error = await asked.locate(LocateRequest.create()).then(() => undefined, asWeftError)
    return error instanceof CertificateRefusedError
  }
  await eventually(() => isOut(client))
  await using second = await startReplica(bus)
  await using again = connectAs(eve, second.address, credentials)
  assert.equal(await isOut(again), true)
})

test('a user sees the locations of the tenants that the user has a role in', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  await config.tenant(TENANT_ID, 'acme')
  const red = await config.network('red', 4712, TENANT_ID + 1)
  await config.user(7, { tenantId: TENANT_ID, role: Role.ROLE_SUBSCRIBER })
  await config.user(8)
  await using replica = await startReplica(bus)
  const web = await config.endpoint(blue, alpha, 'web')
  const other = await config.endpoint(red, alpha, 'other')
  await report(bus, web)
  await report(bus, other)
  await using subscriber = connectAs({ kind: 'user', id: 7 }, replica.address)
  await using nobody = connectAs({ kind: 'user', id: 8 }, replica.address)
  await using host = connectAs({ kind: 'host', id: alpha }, replica.address)

  const { locations, hostLeases } = await subscriber.locate(LocateRequest.create())

  assert.deepEqual(
    locations.map(({ endpointId }) => endpointId),
    [web.id],
  )
  assert.deepEqual(hostLeases, [])
  const watch = subscriber.watch(WatchRequest.create())[Symbol.asyncIterator]()
  assert.deepEqual((await takeSnapshot(watch)).flatMap(locatedIds), [web.id])
  await watch.return?.()
  const otherIds = LocateRequest.create({ endpointIds: [other.id] })
  assert.deepEqual((await subscriber.locate(otherIds)).locations, [])
  await assert.rejects(resolveOne(subscriber, web.id, other.id), PermissionDeniedError)
  await assert.rejects(nobody.locate(LocateRequest.create()), PermissionDeniedError)
  await assert.rejects(host.locate(LocateRequest.create()), PermissionDeniedError)
  assert.equal(outcomeOf(await resolveOne(host, web.id, other.id)), 'different-networks')
})

test('a watch ends when other tenants are visible to the caller than before, and a new one shows those', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  const red = await config.network('red', 4712, TENANT_ID + 1)
  const acme = { tenantId: TENANT_ID, role: Role.ROLE_SUBSCRIBER }
  const other = { tenantId: TENANT_ID + 1, role: Role.ROLE_SUBSCRIBER }
  await config.user(7, acme, other)
  await config.user(8, acme)
  await using replica = await startReplica(bus)
  const web = await config.endpoint(blue, alpha, 'web')
  const db = await config.endpoint(red, alpha, 'db')
  await report(bus, web)
  await report(bus, db)
  await using subscriber = connectAs({ kind: 'user', id: 7 }, replica.address)
  await using bystander = connectAs({ kind: 'user', id: 8 }, replica.address)
  const watchOf = (client: LocationClient): AsyncIterator<WatchResponse> =>
    client.watch(WatchRequest.create())[Symbol.asyncIterator]()
  const before = watchOf(subscriber)
  assert.deepEqual((await takeSnapshot(before)).flatMap(locatedIds), [web.id, db.id])
  const untouched = watchOf(bystander)
  await takeSnapshot(untouched)

  await config.user(7, acme)

  await assert.rejects(before.next(), UnavailableError)
  await detach(bus, db, 2n)
  const after = watchOf(subscriber)
  assert.deepEqual((await takeSnapshot(after)).flatMap(locatedIds), [web.id])
  await config.user(7)
  await assert.rejects(after.next(), PermissionDeniedError)
  await detach(bus, web, 2n)
  await takeUntil(untouched, ({ goneEndpointIds }) => goneEndpointIds.includes(web.id))
  await untouched.return?.()
})

test('that an endpoint is gone is told to those who may see its tenant, and to nobody else', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  const red = await config.network('red', 4712, TENANT_ID + 1)
  await config.user(7, { tenantId: TENANT_ID, role: Role.ROLE_SUBSCRIBER })
  await config.user(8, { tenantId: TENANT_ID + 1, role: Role.ROLE_SUBSCRIBER })
  await using replica = await startReplica(bus)
  const web = await config.endpoint(blue, alpha, 'web')
  const secret = await config.endpoint(red, alpha, 'secret')
  for (const endpoint of [web, secret]) await report(bus, endpoint)
  await using acme = connectAs({ kind: 'user', id: 7 }, replica.address)
  await using other = connectAs({ kind: 'user', id: 8 }, replica.address)
  const [ofAcme, ofOther] = [acme, other].map((client) =>
    client.watch(WatchRequest.create())[Symbol.asyncIterator](),
  )
  assert(ofAcme && ofOther)
  for (const watch of [ofAcme, ofOther]) await takeSnapshot(watch)

  await config.deleteEndpoint(secret.id)
  await eventually(async () => (await storedLocation(bus, secret.id)) === undefined)
  await config.deleteEndpoint(web.id)

  const toldAcme: number[] = []
  await takeUntil(ofAcme, ({ goneEndpointIds }) => {
    toldAcme.push(...goneEndpointIds)
    return goneEndpointIds.includes(web.id)
  })
  assert.deepEqual(toldAcme, [web.id])
  await takeUntil(ofOther, ({ goneEndpointIds }) => goneEndpointIds.includes(secret.id))
  for (const watch of [ofAcme, ofOther]) await watch.return?.()
})

test('what is stored of an endpoint has the report as its host signed it', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  await using replica = await startReplica(bus)
  const web = await config.endpoint(blue, alpha)
  const mac = Buffer.from([2, 0, 0, 0, 0, 11])

  await report(bus, web, { mac, _unknownFields: { 802: [Uint8Array.of(1, 7)] } })

  const stored = LocationReport.decode((await storedLocation(bus, web.id))?.report ?? Buffer.of())
  assert.deepEqual(stored.mac, mac)
  assert.equal(stored._unknownFields?.[802]?.length, 1)
  assert.doesNotThrow(() => verifyReport(stored, publicKeyOf(keyOf(alpha))))
  assert.throws(() => verifyReport({ ...stored, mac: Buffer.alloc(6) }, publicKeyOf(keyOf(alpha))))
  const { locations } = await replica.client.locate(LocateRequest.create())
  assert.equal(locations[0]?.report.length, 0)
  await detach(bus, web, 2n)
  assert.equal((await storedLocation(bus, web.id))?.report.length, 0)
})

test('a watch starts with all locations in chunks, then tells what changes', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  const red = await config.network('red', 4712)
  await using replica = await startReplica(bus)
  const known = new Set<number>()
  for (let count = 0; count < 501; count++) {
    const endpoint = await config.endpoint(blue, alpha, `web-${count}`)
    await report(bus, endpoint)
    known.add(endpoint.id)
  }
  await report(bus, await config.endpoint(red, alpha))

  const watch = replica.client.watch(WatchRequest.create({ networkId: blue }))
  const responses = watch[Symbol.asyncIterator]()
  const snapshot = await takeSnapshot(responses)
  assert.equal(snapshot.length, 2)
  assert.deepEqual(new Set(snapshot.flatMap(locatedIds)), known)

  const late = await config.endpoint(blue, alpha, 'late')
  await report(bus, late)
  await takeUntil(responses, (delta) => locatedIds(delta).includes(late.id))
  await config.assign(late, 0)
  await takeUntil(responses, (delta) => delta.goneEndpointIds.includes(late.id))
  await responses.return?.()
})

function resolveOne(client: LocationClient, source: number, target: number): Promise<Resolution> {
  const query = { sourceEndpointId: source, targetEndpointId: target }
  return client
    .resolve(ResolveRequest.create({ queries: [query] }))
    .then(({ resolutions: [resolution] }) => {
      assert(resolution !== undefined)
      return resolution
    })
}

function connectionOf({ outcome }: Resolution) {
  assert(outcome?.$case === 'connection', inspect(outcome))
  return outcome.value
}

function outcomeOf({ outcome }: Resolution): string | undefined {
  return outcome?.$case === 'error' ? outcome.value.code : outcome?.$case
}

function locatedIds({ located }: WatchResponse): number[] {
  return located.map(({ endpointId }) => endpointId)
}

async function takeSnapshot(responses: AsyncIterator<WatchResponse>): Promise<WatchResponse[]> {
  const chunks: WatchResponse[] = []
  await takeUntil(responses, (chunk) => {
    chunks.push(chunk)
    return chunk.snapshotComplete
  })
  return chunks
}

async function takeUntil(
  responses: AsyncIterator<WatchResponse>,
  isLast: (response: WatchResponse) => boolean,
): Promise<void> {
  for (;;) {
    const { value, done } = await responses.next()
    assert(!done, 'the stream ended')
    if (isLast(value)) return
  }
}
