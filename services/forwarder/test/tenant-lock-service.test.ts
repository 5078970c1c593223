import assert from 'node:assert/strict'
import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { events, hostRowKey, type MemoryBus, memoryBus } from '@weft/bus'
import { writeTenantKeys } from '@weft/domain'
import { TenantLockedError } from '@weft/errors'
import { generateIdentityKey, publicKeyOf, signTenantStatement, verifyReport } from '@weft/identity'
import { SelfRow } from '@weft/proto/weftline/config/v1/rows.ts'
import { TenantStatement } from '@weft/proto/weftline/identity/v1/tenant_lock.ts'
import {
  Location,
  LocationReport,
  LocationReportReply,
} from '@weft/proto/weftline/location/v1/location.ts'
import { eventually, writeIdentityFolder } from '@weft/testing'
import { type BenchHost, benchHost, FakeController, HOST_ID, PEER_ID } from './bench-host.ts'
import { endpoint, network } from './fake-control.ts'

const WEB = 11
const API = 13
const tenantKey = generateIdentityKey()
const evilKey = generateIdentityKey()

test('an attach to a network of a locked tenant is undone unless the tenant says that the network is its own', async () => {
  await using bench = await lockedBench()
  const { host } = bench
  await say(bench, 1, keyed(tenantKey), tenantKey)
  await bench.untilTaken()

  await assert.rejects(attach(host), TenantLockedError)

  assert.deepEqual([...host.shuttle.ports.keys()], [])
  await eventually(() => host.control.endpoints.get(WEB)?.hostId === 0)
  await say(bench, 2, charter(), tenantKey)
  assert.equal((await attach(host)).port?.endpointId, WEB)
})

test('an attach waits for what the tenant says of the network, which comes with the first endpoint there', async () => {
  await using bench = await lockedBench()
  await say(bench, 1, keyed(tenantKey), tenantKey)
  await bench.untilTaken()

  const attached = attach(bench.host)
  await eventually(() => bench.host.control.calls.assign === 1)
  await say(bench, 2, charter(), tenantKey)

  assert.equal((await attached).port?.endpointId, WEB)
})

test('a host that starts again still knows the key of a tenant, and takes no other one for it', async () => {
  await using bench = await lockedBench()
  const { host, controller } = bench
  await say(bench, 1, keyed(tenantKey), tenantKey)
  await say(bench, 2, charter(), tenantKey)
  await bench.untilTaken()
  assert.equal(host.shuttle.tables.networks.has(network.id), true)
  for (const id of [1, 2]) await controller.bucket.delete(hostRowKey(HOST_ID, 'statement', id))
  await bench.untilTaken()
  await host.stop()
  await say(bench, 3, keyed(evilKey), evilKey)
  await say(bench, 4, charter(), evilKey)
  await controller.endpoint(API, 'api', PEER_ID)
  await controller.self()

  await host.start()
  await bench.untilTaken()

  await eventually(() => !host.shuttle.tables.networks.has(network.id))
  assert.equal(host.shuttle.tables.endpoints.has(API), false)
})

test('a host with another key says anew by it what is attached, for nobody believes the key before', async () => {
  await using opened = new AsyncDisposableStack()
  const hub: MemoryBus = memoryBus()
  const bus = opened.use(hub.connect())
  const host = opened.use(await benchHost(async () => hub.connect()))
  host.control.endpoints.set(WEB, endpoint(WEB, 'web'))
  const reports: LocationReport[] = []
  opened.use(
    bus.respond(
      events.endpointReported.pattern(),
      { request: LocationReport, reply: LocationReportReply },
      (report) => {
        reports.push(report)
        const { endpointId, hostId } = report
        const location = Location.create({ endpointId, hostId, epoch: 1n })
        return LocationReportReply.create({ outcome: { $case: 'location', value: location } })
      },
      { queue: 'resolver' },
    ),
  )
  await host.start()
  await attach(host)
  const before = reports.at(-1)
  assert(before)
  const credentials = host.domain.credentials({ kind: 'host', id: HOST_ID })

  const { config, domain, places } = host
  const folder = config.identityFolder
  await writeIdentityFolder({ folder, domain, credentials, hostName: 'alpha', places })

  const anew = await eventually(() => reports.find(({ sequence }) => sequence > before.sequence))
  verifyReport(anew, credentials.publicKey)
  assert.throws(() => verifyReport(before, credentials.publicKey))
  assert.deepEqual([anew.endpointId, anew.mac], [WEB, before.mac])
})

test('a port that is not written down here is detached where a tenant is locked: nobody can say where it was', async () => {
  await using bench = await lockedBench()
  const { host } = bench
  await say(bench, 1, keyed(tenantKey), tenantKey)
  await say(bench, 2, charter(), tenantKey)
  await bench.untilTaken()
  await attach(host)
  await host.stop()
  await rm(join(host.config.stateFolder, 'host'))

  await host.start()

  await eventually(() => !host.shuttle.ports.has(WEB))
  assert.deepEqual((await host.client.listPorts({})).ports, [])
  assert.equal((await attach(host)).created, true)
})

for (const [what, spoil] of [
  ['broken', (path: string) => writeFile(path, 'x')],
  ['gone', (path: string) => rm(path)],
] as const) {
  test(`a host whose pins are ${what} believes nothing of locked tenants, until it is told their keys`, async () => {
    await using bench = await lockedBench()
    const { host, controller } = bench
    const { stateFolder, identityFolder } = host.config
    await say(bench, 1, keyed(tenantKey), tenantKey)
    await say(bench, 2, charter(), tenantKey)
    await bench.untilTaken()
    await eventually(async () =>
      (await readFile(join(stateFolder, 'host'), 'utf8')).includes('"lockedTenants":["acme"]'),
    )
    await host.stop()
    await spoil(join(stateFolder, 'pins'))
    await rm(join(stateFolder, 'rows'), { force: true })
    for (const id of [1, 2]) await controller.bucket.delete(hostRowKey(HOST_ID, 'statement', id))
    await controller.self()

    // Twice: what was written meanwhile says so too.
    for (const id of [21, 22]) {
      await host.start()
      const other = { ...network, id, vni: id, name: `network${id}` }
      await controller.bucket.put(
        hostRowKey(HOST_ID, 'network', id),
        controller.signed({ $case: 'network', value: { network: other, tenantName: 'other' } }),
      )
      await eventually(() => host.shuttle.tables.networks.has(id))
      await eventually(() => !host.shuttle.tables.networks.has(network.id))
      await host.stop()
      await rm(join(stateFolder, 'rows'), { force: true })
    }

    await say(bench, 1, keyed(tenantKey), tenantKey)
    await say(bench, 2, charter(), tenantKey)
    await controller.self()
    const publicKey = publicKeyOf(tenantKey)
    await writeTenantKeys(identityFolder, [{ tenantId: 3, tenant: 'acme', number: 1, publicKey }])
    await host.start()
    await eventually(() => host.shuttle.tables.networks.has(network.id))
  })
}

test('a host whose pins are lost believes the first keys that come once somebody says so', async () => {
  await using bench = await lockedBench()
  const { host } = bench
  const { stateFolder } = host.config
  await say(bench, 1, keyed(tenantKey), tenantKey)
  await say(bench, 2, charter(), tenantKey)
  await bench.untilTaken()
  await host.stop()
  await rm(join(stateFolder, 'pins'))
  await host.start()
  await bench.untilTaken()
  await eventually(() => !host.shuttle.tables.networks.has(network.id))
  await host.stop()
  await writeFile(join(stateFolder, 'forget-lost-pins'), '')

  await host.start()

  await eventually(() => host.shuttle.tables.networks.has(network.id))
  assert.equal((await readdir(stateFolder)).includes('forget-lost-pins'), false)
})

test('a host that joins the same domain again still knows the keys of its tenants', async () => {
  await using bench = await lockedBench()
  const { host } = bench
  await say(bench, 1, keyed(tenantKey), tenantKey)
  await say(bench, 2, charter(), tenantKey)
  await bench.untilTaken()
  await host.stop()
  const { config, domain, places } = host
  const credentials = domain.credentials({ kind: 'host', id: 7 })
  const folder = config.identityFolder
  await writeIdentityFolder({ folder, domain, credentials, hostName: 'omega', places })

  await host.start()

  const pins = await readFile(join(config.stateFolder, 'pins'), 'utf8')
  assert(pins.includes(publicKeyOf(tenantKey).toString('hex')))
})

/** A host that knows its rows: network acme/blue, and a peer there. */
async function lockedBench() {
  await using opened = new AsyncDisposableStack()
  const hub: MemoryBus = memoryBus()
  const bus = opened.use(hub.connect())
  const host = opened.use(await benchHost(async () => hub.connect()))
  opened.use(host.control.takeReports(bus))
  host.control.endpoints.set(WEB, endpoint(WEB, 'web'))
  const controller = await FakeController.on(bus, host.domain)
  await controller.network()
  await controller.peer(PEER_ID)
  await controller.self()
  await host.start()
  let marker = 0
  const kept = opened.move()
  return {
    host,
    controller,
    /** Resolves once everything that was written so far is taken in: a name that is written behind it is known. */
    async untilTaken(): Promise<void> {
      const name = `alpha-${++marker}`
      const key = hostRowKey(HOST_ID, 'self', HOST_ID)
      await controller.bucket.put(
        key,
        controller.signed({ $case: 'self', value: SelfRow.create({ name }) }),
      )
      await eventually(async () => (await host.client.getStatus({})).host === name)
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  }
}

async function say(
  { controller }: { readonly controller: FakeController },
  id: number,
  about: NonNullable<TenantStatement['about']>,
  key: typeof tenantKey,
): Promise<void> {
  const content = TenantStatement.create({
    domain: 'test.weft',
    tenantId: 3,
    tenant: 'acme',
    number: 1n,
    notAfterUnixMs: about.$case === 'key' ? 0n : BigInt(Date.now() + 3_600_000),
    about,
  })
  const statement = signTenantStatement(content, key)
  const row = { $case: 'statement', value: { id, statement } } as const
  await controller.bucket.put(hostRowKey(HOST_ID, 'statement', id), controller.signed(row))
}

function keyed(key: typeof tenantKey): NonNullable<TenantStatement['about']> {
  return { $case: 'key', value: { publicKey: publicKeyOf(key) } }
}

function charter(): NonNullable<TenantStatement['about']> {
  return {
    $case: 'network',
    value: { networkId: network.id, network: network.name, vni: network.vni },
  }
}

function attach({ client }: BenchHost) {
  return client.attachPort(
    {
      idempotencyKey: '',
      tenant: 'acme',
      network: 'blue',
      endpoint: 'web',
      attachment: { $case: 'tap', value: { device: 'tap0' } },
    },
    { timeoutMs: 10_000 },
  )
}
