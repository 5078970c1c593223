import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { buckets, memoryBus, recordKey } from '@weft/bus'
import {
  AuditUnavailableError,
  asWeftError,
  EndpointExistsError,
  IdempotencyMismatchError,
  InvalidArgumentError,
  MessageTooLargeError,
  NetworkNotFoundError,
  PermissionDeniedError,
  TenantExistsError,
  UnavailableError,
  VniTakenError,
} from '@weft/errors'
import {
  CreateNetworkRequest,
  CreateTenantRequest,
  DeleteTenantRequest,
  GetEndpointRequest,
  GetNetworkRequest,
  GetServerInfoRequest,
  GetTenantRequest,
  ListEndpointsRequest,
  ListTenantsRequest,
  ReleaseEndpointRequest,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  type Endpoint,
  Role,
  Record as StoredRecord,
} from '@weft/proto/weftline/config/v1/records.ts'
import { eventually } from '@weft/testing'
import {
  bytesOf,
  type ConfigClient,
  connectAs,
  credentialsOf,
  furnish,
  Subscriber,
  startReplica,
} from './site.ts'

test('what one replica wrote, it shows at once, and another one soon', async () => {
  const hub = memoryBus()
  await using bus = hub.connect()
  await using one = await startReplica(bus)
  await using other = await startReplica(bus)
  const subscriber = await furnish(one)

  const web = await subscriber.endpoint('blue', 'web')

  assert.deepEqual(web.addresses, [bytesOf('10.20.0.2'), bytesOf('fd20::2')])
  const request = GetEndpointRequest.create({ key: { $case: 'id', value: web.id } })
  assert.deepEqual((await one.client.getEndpoint(request)).endpoint, web)
  await eventually(async () => (await other.client.getEndpoint(request)).endpoint)
  assert.deepEqual((await other.client.getEndpoint(request)).endpoint, web)
})

test('three replicas that write at the same time give no address, name or id twice', async () => {
  const hub = memoryBus()
  await using bus = hub.connect()
  await using opened = new AsyncDisposableStack()
  const replicas = await Promise.all([1, 2, 3].map(() => startReplica(bus)))
  for (const replica of replicas) opened.use(replica)
  const [first] = replicas
  assert(first)
  await furnish(first)

  const outcomes = await Promise.allSettled(
    Array.from({ length: 90 }, async (_, index) => {
      const replica = replicas[index % 3] ?? first
      // Every name is asked for at all three replicas: one of them wins.
      return new Subscriber(replica).endpoint('blue', `e${Math.floor(index / 3)}`)
    }),
  )

  const won = outcomes.filter((outcome) => outcome.status === 'fulfilled').map(({ value }) => value)
  for (const outcome of outcomes) {
    if (outcome.status === 'rejected') assert(outcome.reason instanceof EndpointExistsError)
  }
  assert.equal(won.length, 30)
  const addresses = won.flatMap((endpoint) =>
    endpoint.addresses.map((bytes) => bytes.toString('hex')),
  )
  assert.equal(new Set(addresses).size, 60)
  assert.equal(new Set(won.map(({ id }) => id)).size, 30)
  assert.equal(new Set(won.map(({ name }) => name)).size, 30)
})

test('a repeated request answers the first result, at any replica', async () => {
  await using bus = memoryBus().connect()
  await using one = await startReplica(bus)
  await using other = await startReplica(bus)
  const subscriber = await furnish(one)

  const first = await subscriber.endpoint('blue', 'web', 'key-1')
  const again = await new Subscriber(other).endpoint('blue', 'web', 'key-1')

  assert.equal(again.id, first.id)
  assert.deepEqual(again.addresses, first.addresses)
  await assert.rejects(subscriber.endpoint('blue', 'db', 'key-1'), IdempotencyMismatchError)
})

test('a key that another request used is refused also where only the store remembers it', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const request = { idempotencyKey: 'once', name: 'acme' }
  await replica.client.createTenant(CreateTenantRequest.create(request))

  const removal = replica.client.deleteTenant(DeleteTenantRequest.create(request))

  await assert.rejects(removal, IdempotencyMismatchError)
  const found = await replica.client.getTenant(GetTenantRequest.create({ name: 'acme' }))
  assert.equal(found.tenant?.name, 'acme')
})

test('errors come as their classes, with what was wrong and the way out', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)

  await assert.rejects(subscriber.tenant('acme'), TenantExistsError)
  await assert.rejects(subscriber.endpoint('red', 'web'), (error) => {
    assert(error instanceof NetworkNotFoundError)
    assert.match(error.message, /there is no network red of tenant acme/)
    assert.match(error.remedy, /weft network ls/)
    return true
  })
  await assert.rejects(
    subscriber.endpoint('blue', 'web', 'a key with spaces'),
    InvalidArgumentError,
  )
})

test('an assignment answers with all that a host needs, and its release is harmless twice', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  const alpha = await subscriber.host('alpha', '192.0.2.1')
  const web = await subscriber.endpoint('blue', 'web')

  await using host = connectAs(credentialsOf(alpha), replica.address)

  const assigned = await host.assignEndpoint({
    idempotencyKey: randomUUID(),
    key: { $case: 'name', value: { tenant: 'acme', network: 'blue', endpoint: 'web' } },
    hostId: alpha.id,
  })

  assert.equal(assigned.endpoint?.hostId, alpha.id)
  assert.equal(assigned.network?.name, 'blue')
  assert.equal(assigned.tenantName, 'acme')
  const release = () =>
    host.releaseEndpoint(
      ReleaseEndpointRequest.create({
        idempotencyKey: randomUUID(),
        endpointId: web.id,
        hostId: alpha.id,
      }),
    )
  assert.equal((await release()).released, true)
  assert.equal((await release()).released, false)
})

test('lists come in pages in the order of names', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  for (const name of ['c', 'a', 'd', 'b', 'e']) await subscriber.endpoint('blue', name)

  const pages: string[][] = []
  let token = ''
  do {
    const { endpoints, nextToken } = await replica.client.listEndpoints(
      ListEndpointsRequest.create({
        network: { tenant: 'acme', network: 'blue' },
        page: { size: 2, token },
      }),
    )
    pages.push(endpoints.map(({ name }) => name))
    token = nextToken
  } while (token !== '')

  assert.deepEqual(pages, [['a', 'b'], ['c', 'd'], ['e']])
  const request = GetNetworkRequest.create({ name: { tenant: 'acme', network: 'blue' } })
  assert.equal((await replica.client.getNetwork(request)).endpointCount, 5)
})

test('what a newer replica stored in a record survives a write by this one', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  const alpha = await subscriber.host('alpha')
  const web = await subscriber.endpoint('blue', 'web')
  const records = await bus.openBucket(buckets.config, StoredRecord)
  const key = recordKey('endpoint', web.id)
  // Field 100, length-delimited: tag 100 * 8 + 2.
  const future = { 802: [Buffer.from([3, 1, 2, 3])] }
  const value: Endpoint = { ...web, name: 'web', _unknownFields: future }
  const { revision } = await records.put(key, { kind: { $case: 'endpoint', value } })
  await eventually(async () => (await info(replica)).revision === revision)

  await subscriber.assign(web, alpha)

  const stored = await records.get(key)
  assert(stored?.value.kind?.$case === 'endpoint')
  assert.equal(stored.value.kind.value.hostId, alpha.id)
  assert.deepEqual(
    Buffer.from(stored.value.kind.value._unknownFields?.[802]?.[0] ?? []),
    Buffer.from([3, 1, 2, 3]),
  )
})

test('a record of a kind that this version does not know stops nothing', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const records = await bus.openBucket(buckets.config, StoredRecord)
  await records.put('gizmo.1', StoredRecord.create({}))

  const subscriber = await furnish(replica)

  assert.equal((await subscriber.endpoint('blue', 'web')).name, 'web')
})

test('while the bus is away known objects are shown, and a write says what is missing', async () => {
  const hub = memoryBus()
  await using bus = hub.connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  hub.setReachable(false)

  const request = GetTenantRequest.create({ name: 'acme' })
  assert.equal((await replica.client.getTenant(request)).tenant?.name, 'acme')
  assert.equal((await info(replica)).busConnected, false)
  await assert.rejects(
    subscriber.tenant('other'),
    (error) => error instanceof UnavailableError || error instanceof AuditUnavailableError,
  )

  hub.setReachable(true)
  await eventually(async () => {
    await subscriber.tenant('other')
    return true
  })
  assert.equal((await info(replica)).busConnected, true)
})

test('a store that lost the VN database is not written to, and what is known stays shown', async () => {
  const hub = memoryBus()
  await using bus = hub.connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  hub.dropBucket(buckets.config.name)

  await eventually(async () => {
    await assert.rejects(subscriber.tenant(`t-${randomUUID().slice(0, 8)}`), /lost writes/)
    return true
  })
  const found = await replica.client.getTenant(GetTenantRequest.create({ name: 'acme' }))
  assert.equal(found.tenant?.name, 'acme')
})

test('a message that is too large is refused before it is read', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const labels = { note: 'x'.repeat(5 * 1024 * 1024) }
  const request = CreateTenantRequest.create({ name: 'acme', labels })
  await assert.rejects(replica.client.createTenant(request), MessageTooLargeError)
  const { tenants } = await replica.client.listTenants(ListTenantsRequest.create({}))
  assert.deepEqual(tenants, [])
})

test('a page of endpoints of an unknown network is an error, not an empty list', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  await furnish(replica)
  const network = { tenant: 'acme', network: 'red' }
  const request = ListEndpointsRequest.create({ network })
  await assert.rejects(replica.client.listEndpoints(request), NetworkNotFoundError)
})

function info({ client }: { readonly client: Subscriber['client'] }) {
  return client.getServerInfo(GetServerInfoRequest.create({}))
}

test('a tenant chooses no VNI, and so learns of none that another has', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  const { vni } = await subscriber.network('red', '10.30.0.0/16')
  await subscriber.tenant('other')
  const eve = await subscriber.user('eve', { tenant: 'other', role: Role.ROLE_SUBSCRIBER })
  await using client = connectAs(eve, replica.address)
  const prefixes = [{ address: Buffer.from([10, 40, 0, 0]), lengthBits: 16 }]
  const wanting = (of: ConfigClient, wanted: number) =>
    of.createNetwork(
      CreateNetworkRequest.create({
        idempotencyKey: randomUUID(),
        name: { tenant: 'other', network: 'blue' },
        prefixes,
        vni: wanted,
      }),
    )

  for (const wanted of [vni, vni + 1]) {
    const error = await wanting(client, wanted).then(() => undefined, asWeftError)
    assert(error instanceof PermissionDeniedError)
    assert(!/acme|red/.test(error.message))
  }

  await assert.rejects(wanting(replica.client, vni), VniTakenError)
  assert.notEqual((await wanting(client, 0)).network?.vni, vni)
})
