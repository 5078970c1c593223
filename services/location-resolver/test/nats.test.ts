import assert from 'node:assert/strict'
import { cp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { type Bus, connectBus } from '@weft/bus'
import { UnavailableError, WeftError } from '@weft/errors'
import type { Endpoint } from '@weft/proto/weftline/config/v1/records.ts'
import {
  LocateRequest,
  type LocationReportReply,
  ResolveRequest,
  type ResolveResponse,
} from '@weft/proto/weftline/location/v1/location.ts'
import { createLogger } from '@weft/telemetry'
import { eventually, startDomainNats, type TestDomainNats, temporaryFolder } from '@weft/testing'
import {
  ConfigRecords,
  domain,
  type LocationClient,
  locationOf,
  report,
  startReplica,
} from './site.ts'

const log = createLogger({ service: 'test', level: 'silent' })

test('three replicas share the reports, and each answers from all of them', async () => {
  await using nats = await startDomainNats({ domain })
  await using bus = await connectTo(nats)
  await using hosts = await connectTo(nats, 'hosts')
  const config = await ConfigRecords.open(bus)
  const { alpha, beta, blue } = await config.site()
  await using one = await startReplicaOn(nats)
  await using two = await startReplicaOn(nats)
  await using three = await startReplicaOn(nats)
  const endpoints: Endpoint[] = []
  for (let count = 0; count < 60; count++) {
    endpoints.push(await config.endpoint(blue, count % 2 ? alpha : beta, `web-${count}`))
  }

  const replies: LocationReportReply[] = []
  // Eight of each host at once, as forwarders do.
  for (let start = 0; start < endpoints.length; start += 16) {
    const some = endpoints.slice(start, start + 16)
    replies.push(...(await Promise.all(some.map((endpoint) => report(hosts, endpoint)))))
  }

  const newest = replies
    .map((reply) => locationOf(reply).revision)
    .reduce((a, b) => (a > b ? a : b))
  for (const { client } of [one, two, three]) {
    const { resolutions } = await resolveAll(client, endpoints, newest)
    assert.deepEqual(
      resolutions.map(({ outcome }) => outcome?.$case),
      endpoints.map(() => 'connection'),
    )
  }
})

test('while NATS is down answers go on, reports fail, and after its crash both work as before', async () => {
  await using nats = await startDomainNats({ domain })
  await using bus = await connectTo(nats)
  await using hosts = await connectTo(nats, 'hosts')
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  await using replica = await startReplicaOn(nats)
  const web = await config.endpoint(blue, alpha, 'web')
  const db = await config.endpoint(blue, alpha, 'db')
  await report(hosts, web)
  const { revision } = locationOf(await report(hosts, db))
  const before = await resolveAll(replica.client, [web, db], revision)

  await nats.kill()
  await eventually(() => hosts.state === 'disconnected')
  const meanwhile = await resolveAll(replica.client, [web, db], 0n)
  assert.deepEqual(meanwhile, before)
  assert(before.resolutions.every(({ outcome }) => outcome?.$case === 'connection'))
  await assert.rejects(report(hosts, web, { sequence: 2n }), UnavailableError)

  await nats.start()
  const reply = await eventually(() => tryReport(hosts, web, 2n))
  const after = locationOf(reply)
  assert.equal(after.epoch, 1n)
  assert.equal(after.reportSequence, 2n)
  await eventually(() => bus.state === 'connected')
  const api = await config.endpoint(blue, alpha, 'api')
  await report(hosts, api)
  const { locations } = await replica.client.locate(LocateRequest.create())
  assert.deepEqual(
    locations.map(({ endpointId }) => endpointId),
    [web.id, db.id, api.id],
  )
})

test('a replica that starts later knows what was reported before, after a crash of NATS too', async () => {
  await using nats = await startDomainNats({ domain })
  let web: Endpoint
  {
    await using bus = await connectTo(nats)
    await using hosts = await connectTo(nats, 'hosts')
    const config = await ConfigRecords.open(bus)
    const { alpha, blue } = await config.site()
    await using _replica = await startReplicaOn(nats)
    web = await config.endpoint(blue, alpha)
    await report(hosts, web, { sequence: 5n })
  }
  await nats.kill()
  await nats.start()

  await using replica = await startReplicaOn(nats)

  const { locations } = await replica.client.locate(LocateRequest.create())
  assert.equal(locations[0]?.endpointId, web.id)
  assert.equal(locations[0].reportSequence, 5n)
  assert.equal(locations[0].epoch, 1n)
})

test('no epoch is given again by a store from a backup, whether or not the watch had told of it', async () => {
  await using nats = await startDomainNats({ domain })
  await using bus = await connectTo(nats)
  await using hosts = await connectTo(nats, 'hosts')
  await using folder = await temporaryFolder()
  const config = await ConfigRecords.open(bus)
  const { alpha, beta, blue } = await config.site()
  await using _replica = await startReplicaOn(nats)
  const web = await config.endpoint(blue, alpha, 'web')
  assert.equal(locationOf(await report(hosts, web)).epoch, 1n)
  const backup = join(folder.path, 'backup')
  await nats.kill()
  await cp(nats.storeFolder, backup, { recursive: true })
  await nats.start()
  // At once: a watch pauses for up to 100 ms before it is set up again.
  const assign = (hostId: number): Promise<bigint> =>
    eventually(() => config.put({ $case: 'endpoint', value: { ...web, hostId } }))
  await assign(beta)
  const moved = await eventually(() => tryReport(hosts, { ...web, hostId: beta }, 2n))
  assert.equal(locationOf(moved).epoch, 2n)
  await nats.kill()
  await rm(nats.storeFolder, { recursive: true })
  await cp(backup, nats.storeFolder, { recursive: true })
  await nats.start()

  // Twice: the first has the revision of the write that was lost, and may be taken for it. config sees to that by itself.
  await assign(alpha)
  await assign(alpha)
  const back = await eventually(() => tryReport(hosts, web, 3n))
  assert.equal(locationOf(back).epoch, 3n)
})

/** As somebody who may do everything in an account: that of the VN database, unless another is given. */
function connectTo(nats: TestDomainNats, account: 'control' | 'hosts' = 'control'): Promise<Bus> {
  const credentials = nats.wideCredentials(account)
  return connectBus({ servers: [nats.url], credentials, name: 'test', log })
}

let replicaCount = 0

/** A replica with a connection of its own, on which it may do what a resolver may. */
async function startReplicaOn(
  nats: TestDomainNats,
): Promise<AsyncDisposable & { readonly client: LocationClient }> {
  await using opened = new AsyncDisposableStack()
  const replica = `${++replicaCount}`
  const credentials = nats.credentials({ kind: 'service', name: 'location-resolver', replica })
  const bus = opened.use(
    await connectBus({ servers: [nats.url], credentials, name: 'location-resolver', log }),
  )
  const recordsBus = opened.use(await connectTo(nats))
  const { client } = opened.use(await startReplica(bus, {}, recordsBus))
  const running = opened.move()
  return { client, [Symbol.asyncDispose]: () => running.disposeAsync() }
}

/** Resolves each endpoint from the first; the answer is at least as new as the revision. */
function resolveAll(
  client: LocationClient,
  endpoints: readonly Endpoint[],
  locationRevisionMin: bigint,
): Promise<ResolveResponse> {
  const queries = endpoints.map(({ id }) => ({
    sourceEndpointId: endpoints[0]?.id ?? 0,
    targetEndpointId: id,
  }))
  return client.resolve(ResolveRequest.create({ queries, locationRevisionMin }))
}

/** Undefined while nobody can take the report. */
async function tryReport(hosts: Bus, endpoint: Endpoint, sequence: bigint) {
  try {
    const reply = await report(hosts, endpoint, { sequence })
    return reply.outcome?.$case === 'error' ? undefined : reply
  } catch (error) {
    if (error instanceof WeftError) return undefined
    throw error
  }
}
