import assert from 'node:assert/strict'
import { test } from 'node:test'
import { buckets, hostRowKey, memoryBus } from '@weft/bus'
import { GetServerInfoRequest } from '@weft/proto/weftline/config/v1/config_service.ts'
import { type Host, HostKind } from '@weft/proto/weftline/config/v1/records.ts'
import { HostRow } from '@weft/proto/weftline/config/v1/rows.ts'
import { eventually } from '@weft/testing'
import {
  furnish,
  locate,
  openRows,
  rowsOf,
  Subscriber,
  signRow,
  startReplica,
  type TestReplica,
} from './site.ts'

test('a host gets the rows of its networks, and those of other networks never', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  const rows = await openRows(bus)
  const alpha = await subscriber.host('alpha', '192.0.2.1')
  const beta = await subscriber.host('beta', '192.0.2.2')
  const gamma = await subscriber.host('gamma', '192.0.2.3')
  const red = await subscriber.network('red', '10.20.0.0/16')
  const web = await subscriber.assign(await subscriber.endpoint('blue', 'web'), alpha)
  const api = await subscriber.assign(await subscriber.endpoint('blue', 'api'), beta)
  const edge = await subscriber.assign(await subscriber.endpoint('red', 'edge'), gamma)
  await locate(bus, web, alpha)
  await locate(bus, api, beta)
  await locate(bus, edge, gamma)

  await eventually(async () => locatedAt(await rowsOf(rows, alpha.id), api.id) === beta.id)
  await eventually(async () => locatedAt(await rowsOf(rows, gamma.id), edge.id) === gamma.id)

  assert.deepEqual(
    [...(await rowsOf(rows, alpha.id)).keys()].sort(),
    [
      `endpoint.${web.id}`,
      `endpoint.${api.id}`,
      `network.${web.networkId}`,
      `peer.${beta.id}`,
      `self.${alpha.id}`,
    ].sort(),
  )
  assert.deepEqual(
    [...(await rowsOf(rows, gamma.id)).keys()].sort(),
    [`endpoint.${edge.id}`, `network.${red.id}`, `self.${gamma.id}`].sort(),
  )
  const peer = (await rowsOf(rows, alpha.id)).get(`peer.${beta.id}`)?.row
  assert(peer?.$case === 'peer')
  assert.equal(peer.value.addresses[0]?.zoneName, 'lab')
  assert.equal(peer.value.addresses[0]?.trusted, true)
})

test('a foreign VXLAN peer is a peer with its endpoints, and gets no rows', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  const rows = await openRows(bus)
  const alpha = await subscriber.host('alpha', '192.0.2.1')
  const foreign = await subscriber.host('edge', '192.0.2.9', HostKind.HOST_KIND_VXLAN_PEER)
  await subscriber.assign(await subscriber.endpoint('blue', 'web'), alpha)

  const { endpoint } = await replica.client.createEndpoint({
    idempotencyKey: 'edge-1',
    name: { tenant: 'acme', network: 'blue', endpoint: 'far' },
    mac: Buffer.alloc(0),
    addresses: [],
    allowedPrefixes: [],
    labels: {},
    vxlanPeer: 'edge',
  })

  assert(endpoint)
  await eventually(async () => locatedAt(await rowsOf(rows, alpha.id), endpoint.id) === foreign.id)
  assert.equal((await rowsOf(rows, foreign.id)).size, 0)
})

test('when the bucket is lost, all rows are written again, each host closed by its own row', async () => {
  const hub = memoryBus()
  await using bus = hub.connect()
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  const alpha = await subscriber.host('alpha', '192.0.2.1')
  const beta = await subscriber.host('beta', '192.0.2.2')
  const web = await subscriber.assign(await subscriber.endpoint('blue', 'web'), alpha)
  await subscriber.assign(await subscriber.endpoint('blue', 'api'), beta)
  await locate(bus, web, alpha)
  const rows = await openRows(bus)
  await eventually(async () => locatedAt(await rowsOf(rows, beta.id), web.id) === alpha.id)
  const before = await rowsOf(rows, beta.id)

  hub.dropBucket(buckets.hosts.name)

  await eventually(async () => (await rowsOf(await openRows(bus), beta.id)).has(`self.${beta.id}`))
  const after = await rowsOf(await openRows(bus), beta.id)
  assert.deepEqual([...after.keys()].sort(), [...before.keys()].sort())
  assert.equal([...after.keys()].at(-1), `self.${beta.id}`)
})

test('a replica that stops gives the rows to another at once, which writes only what differs', async () => {
  const hub = memoryBus()
  await using bus = hub.connect()
  const one = await startReplica(bus)
  const subscriber = await furnish(one)
  const alpha = await subscriber.host('alpha', '192.0.2.1')
  const rows = await openRows(bus)
  await eventually(async () => (await rowsOf(rows, alpha.id)).has(`self.${alpha.id}`))
  await using other = await startReplica(bus)
  assert.equal(await isController(one), true)
  assert.equal(await isController(other), false)
  const key = hostRowKey(alpha.id, 'self', alpha.id)
  const revision = (await rows.get(key))?.revision

  await one[Symbol.asyncDispose]()

  await eventually(() => isController(other))
  await eventually(async () => (await (await openRows(bus)).get(key))?.revision === revision)
  const beta = await new Subscriber(other).host('beta', '192.0.2.2')
  await eventually(async () => (await rowsOf(rows, beta.id)).has(`self.${beta.id}`))
  assert.equal((await rows.get(key))?.revision, revision)
})

test('rows that are there and should not be are removed by a replica that takes over', async () => {
  await using bus = memoryBus().connect()
  const rows = await openRows(bus)
  const stale = hostRowKey(999, 'network', 7)
  await rows.put(stale, signRow(HostRow.create({ hostId: 999 })))
  await using replica = await startReplica(bus)
  await furnish(replica)

  await eventually(async () => (await rows.get(stale)) === undefined)
})

test('rows that come from a newer VN database than the store holds are left alone', async () => {
  await using bus = memoryBus().connect()
  const rows = await openRows(bus)
  const key = hostRowKey(3, 'network', 7)
  await rows.put(key, signRow(HostRow.create({ hostId: 3, configRevision: 1_000n })))
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  const alpha: Host = await subscriber.host('alpha', '192.0.2.1')

  // The replica has tried to lead more than once by the time that its lease has been renewed by nobody but itself.
  const start = await rows.lastRevision()
  await eventually(async () => (await rows.lastRevision()) > start + 2n)

  assert.notEqual(await rows.get(key), undefined)
  assert.equal((await rowsOf(rows, alpha.id)).size, 0)
})

function locatedAt(rows: Map<string, HostRow>, endpointId: number): number | undefined {
  const row = rows.get(`endpoint.${endpointId}`)?.row
  return row?.$case === 'endpoint' ? row.value.locationHostId : undefined
}

async function isController({ client }: TestReplica): Promise<boolean> {
  return (await client.getServerInfo(GetServerInfoRequest.create({}))).isController
}
