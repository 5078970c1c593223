import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { inspect } from 'node:util'
import { buckets, locationKey, memoryBus, events as subjects } from '@weft/bus'
import { InvalidArgumentError, UnavailableError } from '@weft/errors'
import { Carrier, Mechanism } from '@weft/proto/weftline/common/v1/common.ts'
import {
  LeaseRenewal,
  LocateRequest,
  Location,
  LocationChange,
  type Resolution,
  ResolveRequest,
  WatchRequest,
  type WatchResponse,
} from '@weft/proto/weftline/location/v1/location.ts'
import { eventually } from '@weft/testing'
import {
  ConfigRecords,
  detach,
  errorCodeOf,
  type LocationClient,
  locationOf,
  report,
  startReplica,
  storedLocation,
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
    moves.map(({ hostId, epoch }) => ({ hostId, epoch })),
    [
      { hostId: alpha, epoch: 1n },
      { hostId: beta, epoch: 2n },
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

test('the lease of a host is shown with its age, and foreign renewals are not heard', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, beta, blue } = await config.site()
  await using replica = await startReplica(bus)
  await report(bus, await config.endpoint(blue, alpha))
  const renew = (sender: number, hostId: number, leaseId: string): void =>
    bus.publish(
      subjects.hostRenewed.subject(sender, hostId),
      LeaseRenewal,
      LeaseRenewal.create({ hostId, leaseId, leaseTtlMs: 15_000 }),
    )

  renew(beta, alpha, 'forged')
  renew(alpha, alpha, 'own')

  const leases = await eventually(async () => {
    const { hostLeases } = await replica.client.locate(LocateRequest.create())
    return hostLeases.length > 0 && hostLeases
  })
  assert.deepEqual(
    leases.map(({ hostId, leaseId, leaseTtlMs }) => ({ hostId, leaseId, leaseTtlMs })),
    [{ hostId: alpha, leaseId: 'own', leaseTtlMs: 15_000 }],
  )
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
