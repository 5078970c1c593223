import assert from 'node:assert/strict'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { buckets, hostRowKey, type MemoryBus, memoryBus } from '@weft/bus'
import {
  BrokenInputError,
  DeviceAlreadyAttachedError,
  EndpointAttachedElsewhereError,
  InvalidArgumentError,
  NetnsMissingError,
  UnavailableError,
} from '@weft/errors'
import type { HostRow } from '@weft/proto/weftline/config/v1/rows.ts'
import { Health, PortState } from '@weft/proto/weftline/forwarder/v1/forwarder.ts'
import { type Flow, FlowAction } from '@weft/proto/weftline/shuttle/v1/shuttle.ts'
import { eventually, testDomain, writeIdentityFolder } from '@weft/testing'
import { type BenchHost, benchHost, FakeController, HOST_ID, PEER_ID } from './bench-host.ts'
import { endpoint, network } from './fake-control.ts'

const web = { tenant: 'acme', network: 'blue', endpoint: 'web' }
const inWeb = {
  $case: 'netns' as const,
  value: { path: '/run/netns/web', device: '', keepRoutes: false },
}
const inDb = { $case: 'netns' as const, value: { ...inWeb.value, path: '/run/netns/db' } }
const WEB = 11
const API = 13

describe('attaching', () => {
  test('an attached port is assigned, in the tables, located and on disk', async () => {
    await using bench = await emptyBench()
    const { host } = bench
    await host.start()

    const { port, created } = await attach(host)

    assert.equal(created, true)
    assert.equal(port?.hostDevice, `wl${WEB}`)
    assert.equal(port?.state, PortState.PORT_STATE_UP)
    assert.equal(host.control.endpoints.get(WEB)?.hostId, HOST_ID)
    assert.equal(host.shuttle.tables.endpoints.get(WEB)?.hostId, HOST_ID)
    assert.deepEqual(
      [...(host.shuttle.tables.networks.get(network.id)?.gatewayIpv4 ?? [])],
      [10, 20, 0, 1],
    )
    assert.equal(host.control.located.get(WEB)?.hostId, HOST_ID)
    assert.match(await readFile(join(host.config.stateFolder, 'host'), 'utf8'), /\/run\/netns\/web/)
  })

  test('attaching the same again changes nothing', async () => {
    await using bench = await emptyBench()
    const { host } = bench
    await host.start()
    await attach(host)

    const { created } = await attach(host)

    assert.equal(created, false)
    assert.equal(host.control.calls.assign, 1)
  })

  test('an endpoint that has another attachment is refused', async () => {
    await using bench = await emptyBench()
    const { host } = bench
    await host.start()
    await attach(host)
    const other = { ...inWeb.value, path: '/run/netns/db' }

    await assert.rejects(
      attach(host, { attachment: { $case: 'netns', value: other } }),
      DeviceAlreadyAttachedError,
    )
  })

  test('a device that another endpoint has is refused, and the endpoint given back', async () => {
    await using bench = await emptyBench()
    const { host } = bench
    await host.start()
    await attach(host)

    await assert.rejects(attach(host, { endpoint: 'db' }), DeviceAlreadyAttachedError)

    assert.equal(host.control.endpoints.get(12)?.hostId, 0)
  })

  test('a missing namespace is refused, and everything undone', async () => {
    await using bench = await emptyBench()
    const { host } = bench
    await host.start()
    host.shuttle.namespaces.clear()

    await assert.rejects(attach(host), NetnsMissingError)

    assert.equal(host.control.endpoints.get(WEB)?.hostId, 0)
    assert.equal(host.control.located.has(WEB), false)
    assert.equal(host.shuttle.ports.size, 0)
    assert.equal(host.shuttle.tables.endpoints.has(WEB), false)
    const { ports } = await host.client.listPorts({})
    assert.deepEqual(ports, [])
  })

  test('an answer about another endpoint than was asked for is refused, whatever of it is other', async () => {
    await using bench = await emptyBench()
    const { host } = bench
    await host.start()
    await attach(host, { endpoint: 'db', attachment: inDb })
    const web = endpoint(WEB, 'web')
    const before = host.shuttle.attachCalls.length

    for (const lie of [
      { tenantName: 'other' },
      { network: { ...network, name: 'red' } },
      { network: { ...network, id: 6, vni: 6 } },
      { network: { ...network, vni: 101 } },
      { network: { ...network, id: 6 }, endpoint: { ...web, networkId: 6 } },
      { endpoint: endpoint(API, 'api') },
      { endpoint: { ...web, networkId: 6 } },
      { endpoint: { ...web, id: 12 } },
      { endpoint: { ...web, mac: Buffer.from([1, 0, 0, 0, 0, 1]) } },
    ]) {
      host.control.lie = lie
      await assert.rejects(attach(host), BrokenInputError, Object.keys(lie).join())
    }

    assert.equal(host.shuttle.attachCalls.length, before)
    assert.deepEqual([...host.shuttle.ports.keys()], [12])
    const { ports } = await host.client.listPorts({})
    assert.deepEqual(
      ports.map((port) => port.endpoint),
      ['db'],
    )
    host.control.lie = {}
    assert.equal((await attach(host)).created, true)
  })

  test('an endpoint of another host is refused', async () => {
    await using bench = await emptyBench()
    const { host } = bench
    await host.start()
    host.control.endpoints.set(WEB, endpoint(WEB, 'web', PEER_ID))

    await assert.rejects(attach(host), EndpointAttachedElsewhereError)

    assert.equal(host.control.endpoints.get(WEB)?.hostId, PEER_ID)
  })

  test('while config is silent nothing is attached and nothing changed', async () => {
    await using bench = await emptyBench()
    const { host } = bench
    await host.start()
    await host.control.stop()

    await assert.rejects(attach(host), UnavailableError)

    assert.deepEqual(host.shuttle.attachCalls, [])
    assert.deepEqual((await host.client.listPorts({})).ports, [])
  })

  test('detaching frees the endpoint, and doing it twice is harmless', async () => {
    await using bench = await emptyBench()
    const { host } = bench
    await host.start()
    await attach(host)

    const first = await host.client.detachPort({ idempotencyKey: '', ...web })
    const second = await host.client.detachPort({ idempotencyKey: '', ...web })

    assert.deepEqual([first.detached, second.detached], [true, false])
    assert.equal(first.unheard, false)
    assert.equal(host.control.endpoints.get(WEB)?.hostId, 0)
    assert.equal(host.control.located.has(WEB), false)
    assert.equal(host.shuttle.ports.size, 0)
  })

  test('an endpoint whose release was not answered is released first when it is attached again', async () => {
    await using bench = await emptyBench()
    const { host } = bench
    await host.start()
    await attach(host)
    const { promise: answered, resolve: answer } = Promise.withResolvers<void>()
    host.control.beforeRelease = () => answered
    const { detached, unheard } = await host.client.detachPort({ idempotencyKey: '', ...web })
    assert.deepEqual([detached, unheard], [true, true])
    assert.equal(host.control.endpoints.get(WEB)?.hostId, HOST_ID, 'config has not done it yet')

    const { calls } = host.control
    // What goes on in the background has asked again, and holds up the attach until it gives up.
    await eventually(() => calls.release === 2)
    const attaching = attach(host)
    await eventually(() => calls.release > 2 || calls.assign > 1)
    answer()
    const { created } = await attaching

    assert.equal(created, true)
    assert.equal(host.control.endpoints.get(WEB)?.hostId, HOST_ID)
  })

  test('a request with a broken path or device is refused by name of the field', async () => {
    await using bench = await emptyBench()
    const { host } = bench
    await host.start()
    const value = { path: 'web', device: '', keepRoutes: false }

    await assert.rejects(
      attach(host, { attachment: { $case: 'netns', value } }),
      InvalidArgumentError,
    )
    await assert.rejects(
      attach(host, { attachment: { $case: 'tap', value: { device: 'a/b' } } }),
      InvalidArgumentError,
    )
  })
})

describe('answering first packets', () => {
  test('a pair on two hosts is asked once and then answered from the caches', async () => {
    await using bench = await joinedBench()
    const { host } = bench

    const flow = await missed(host, WEB, API)
    host.shuttle.flows.clear()
    const again = await missed(host, WEB, API)

    assert.equal(flow.action, FlowAction.FLOW_ACTION_DIRECT)
    assert.equal(flow.targetHostId, PEER_ID)
    assert.deepEqual(again, flow)
    assert.deepEqual([host.control.calls.resolve, host.control.calls.decide], [1, 1])
    const { connections } = await host.client.listConnections({})
    assert.equal(connections[0]?.target, 'api')
    assert.equal(connections[0]?.targetHost, `host${PEER_ID}`)
    assert.equal(connections[0]?.rule, 'default')
    assert.equal(connections[0]?.stale, false)
  })

  test('while the services are silent the own rows answer, and say that they are stale', async () => {
    await using bench = await joinedBench()
    const { host } = bench
    await host.control.stop()

    const flow = await missed(host, WEB, API)

    assert.equal(flow.action, FlowAction.FLOW_ACTION_DIRECT)
    const { connections } = await host.client.listConnections({})
    assert.equal(connections[0]?.stale, true)
    const status = await host.client.getStatus({})
    assert.equal(status.resolutions?.staleAnswers, 1n)
    const resolver = status.dependencies.find(({ name }) => name === 'location-resolver')
    assert.equal(resolver?.health, Health.HEALTH_STALE)
  })

  test('once the services are back, answers of our own are replaced by theirs', async () => {
    await using bench = await joinedBench()
    const { host } = bench
    await host.control.stop()
    await missed(host, WEB, API)

    await host.control.listen(host.controlAddresses)

    await eventually(async () => {
      const { connections } = await host.client.listConnections({})
      return connections[0]?.stale === false && connections[0].rule === 'default'
    })
  })

  test('hosts without a common trusted zone are refused with the reason', async () => {
    await using bench = await joinedBench()
    const { host } = bench
    host.control.apart.add(PEER_ID)

    const flow = await missed(host, WEB, API)

    assert.equal(flow.action, FlowAction.FLOW_ACTION_DROP)
    assert.equal(flow.dropReason, 'refused')
    const { connections } = await host.client.listConnections({})
    assert.equal(connections[0]?.refused?.code, 'no-common-trusted-zone')
  })

  test('an endpoint that nobody knows stays unresolved', async () => {
    await using bench = await joinedBench()

    assert.equal(await bench.host.shuttle.miss(WEB, 99), 'unresolved')
  })

  test('a moved endpoint is asked about anew', async () => {
    await using bench = await joinedBench()
    const { host, controller } = bench
    await missed(host, WEB, API)
    host.control.located.set(API, { hostId: 3, epoch: 2n, sequence: 2n })
    await controller.peer(3)
    await controller.endpoint(API, 'api', 3, 2n)
    await eventually(() => host.shuttle.tables.endpoints.get(API)?.hostId === 3)

    const flow = await missed(host, WEB, API)

    assert.equal(flow.targetHostId, 3)
    assert.equal(host.control.calls.resolve, 2)
  })
})

describe('what outlives whom', () => {
  test('a forwarder whose world is dead forwards from disk', async () => {
    await using bench = await joinedBench()
    const { host, hub } = bench
    await eventually(async () => (await readdir(host.config.stateFolder)).includes('rows'))
    await host.stop()
    await host.control.stop()
    hub.setReachable(false)
    host.shuttle.loseKernelObjects()

    await host.start()

    const flow = await missed(host, WEB, API)
    assert.equal(flow.action, FlowAction.FLOW_ACTION_DIRECT)
    assert.equal(host.shuttle.ports.has(WEB), true)
    const status = await host.client.getStatus({})
    assert.equal(status.fromDisk, true)
    assert.equal(status.peers, 1)
  })

  test('a restarted forwarder disturbs neither ports nor flows', async () => {
    await using bench = await joinedBench()
    const { host } = bench
    await missed(host, WEB, API)
    const attachCalls = host.shuttle.attachCalls.length
    await host.stop()

    await host.start()

    assert.equal(host.shuttle.attachCalls.length, attachCalls)
    assert.equal(host.shuttle.flows.size, 1)
    await eventually(async () => {
      const { connections } = await host.client.listConnections({})
      return connections[0]?.rule === 'default' && !connections[0].stale
    })
  })

  test('a restarted shuttle with the same objects gets only differences', async () => {
    await using bench = await joinedBench()
    const { host, controller } = bench
    await host.shuttle.stop()
    const applied = host.shuttle.applied.length
    await controller.endpoint(14, 'edge', PEER_ID)

    await host.shuttle.listen(host.shuttleAddress)

    await eventually(() => host.shuttle.tables.endpoints.has(14))
    assert.deepEqual(
      host.shuttle.applied.slice(applied).map(({ isReplace }) => isReplace),
      [false],
    )
  })

  test('a shuttle whose objects are new gets all tables and ports', async () => {
    await using bench = await joinedBench()
    const { host } = bench
    await host.shuttle.stop()
    host.shuttle.loseKernelObjects()

    await host.shuttle.listen(host.shuttleAddress)

    await eventually(() => host.shuttle.ports.has(WEB) && host.shuttle.tables.endpoints.has(API))
  })

  test('a lost bucket deletes nothing until the new rows are complete', async () => {
    await using bench = await joinedBench()
    const { host, hub } = bench
    hub.dropBucket(buckets.hosts.name)
    const rebuilt = await FakeController.on(hub.connect(), host.domain, 100n)
    await rebuilt.network()
    await rebuilt.endpoint(14, 'edge', PEER_ID)
    await rebuilt.peer(PEER_ID)
    await eventually(() => host.shuttle.tables.endpoints.has(14))
    assert.equal(host.shuttle.tables.endpoints.has(API), true)

    for (let revision = 0; revision < 20; revision++) await rebuilt.self()

    await eventually(() => !host.shuttle.tables.endpoints.has(API))
    assert.equal(host.shuttle.tables.endpoints.has(WEB), true)
  })

  test('an endpoint that was taken over by another host is detached here', async () => {
    await using bench = await joinedBench()
    const { host, controller } = bench

    await controller.endpoint(WEB, 'web', PEER_ID, 9n)

    await eventually(() => !host.shuttle.ports.has(WEB))
    assert.deepEqual((await host.client.listPorts({})).ports, [])
  })

  test('rows that cannot be together cost the host none of its other rows', async () => {
    await using bench = await joinedBench()
    const { host, controller } = bench
    const put = (row: NonNullable<HostRow['row']>, kind: 'network' | 'endpoint', id: number) =>
      controller.bucket.put(hostRowKey(HOST_ID, kind, id), controller.signed(row))
    for (const [id, vni] of [
      [6, network.vni],
      [7, 0],
    ] as const) {
      const value = { network: { ...network, id, vni }, tenantName: 'other' }
      await put({ $case: 'network', value }, 'network', id)
    }
    const row = {
      networkId: network.id,
      name: 'evil',
      addresses: [],
      allowedPrefixes: [],
      locationHostId: PEER_ID,
      epoch: 1n,
      placement: undefined,
    }
    for (const [endpointId, mac, networkId] of [
      [30, [2, 0, 0, 0, 0, API], network.id],
      [31, [2, 0, 0, 0, 0, WEB], network.id],
      [32, [1, 0, 0, 0, 0, 32], network.id],
      [33, [2, 0, 0, 0, 0, 33], 99],
    ] as const) {
      const value = { ...row, endpointId, networkId, mac: Buffer.from(mac) }
      await put({ $case: 'endpoint', value }, 'endpoint', endpointId)
    }
    await controller.endpoint(14, 'edge', PEER_ID)
    await eventually(() => host.shuttle.tables.endpoints.has(14))

    await controller.remove('endpoint', API)

    await eventually(() => !host.shuttle.tables.endpoints.has(API))
    // Now the MAC is free, and who waited for it has it.
    await eventually(() => host.shuttle.tables.endpoints.has(30))
    assert.deepEqual(new Set(host.shuttle.tables.endpoints.keys()), new Set([WEB, 14, 30]))
    assert.deepEqual([...host.shuttle.tables.networks.keys()], [network.id])
  })

  test('tables that the shuttle refuses for whatever reason still lose what is to go', async () => {
    await using bench = await joinedBench()
    const { host, controller } = bench
    host.shuttle.refused.add(14)
    await controller.endpoint(14, 'edge', PEER_ID)

    await controller.remove('endpoint', API)

    await eventually(() => !host.shuttle.tables.endpoints.has(API))
    assert.equal(host.shuttle.tables.endpoints.has(WEB), true)
    host.shuttle.refused.clear()
    await eventually(() => host.shuttle.tables.endpoints.has(14))
  })

  test('a row that goes is checked with config before a port is detached', async () => {
    await using bench = await joinedBench()
    const { host, controller } = bench
    await controller.endpoint(WEB, 'web', HOST_ID)
    await controller.remove('endpoint', WEB)
    await controller.endpoint(15, 'later', PEER_ID)
    await eventually(() => host.shuttle.tables.endpoints.has(15))
    assert.equal(host.shuttle.ports.has(WEB), true)
    const released = host.control.endpoints.get(WEB)
    if (released) released.hostId = 0

    await controller.endpoint(WEB, 'web', HOST_ID)
    await controller.remove('endpoint', WEB)

    await eventually(() => !host.shuttle.ports.has(WEB))
  })

  test('a broken state file is moved aside and the rest goes on', async () => {
    await using bench = await joinedBench()
    const { host } = bench
    await host.stop()
    const path = join(host.config.stateFolder, 'host')
    const bytes = await readFile(path)
    bytes[bytes.length - 2] = (bytes[bytes.length - 2] ?? 0) ^ 1
    await writeFile(path, bytes)

    await host.start()

    const files = await readdir(host.config.stateFolder)
    assert.equal(
      files.some((name) => name.startsWith('host.broken-')),
      true,
    )
    assert.equal(host.shuttle.ports.has(WEB), true)
    const { ports } = await host.client.listPorts({})
    assert.equal(ports[0]?.endpoint, 'web')
  })

  test('a host that joined again under another number starts with nothing of the one before', async () => {
    await using bench = await joinedBench()
    const { host, hub } = bench
    await missed(host, WEB, API)
    await eventually(async () => (await readdir(host.config.stateFolder)).includes('rows'))
    await host.stop()
    // No new rows come: what the kernel has of the former ones goes all the same.
    hub.setReachable(false)
    const released = host.control.endpoints.get(WEB)
    if (released) released.hostId = 0
    const before = host.shuttle.applied.length
    await writeIdentityFolder({
      folder: host.config.identityFolder,
      domain: host.domain,
      credentials: host.domain.credentials({ kind: 'host', id: 7 }),
      hostName: 'omega',
      places: host.places,
    })

    await host.start()

    await eventually(() => host.shuttle.ports.size === 0 && host.shuttle.flows.size === 0)
    const { networks, endpoints, peers } = host.shuttle.tables
    assert.deepEqual([networks.size, endpoints.size, peers.size], [0, 0, 0])
    assert.equal(host.shuttle.applied[before]?.isReplace, true)
    assert.deepEqual((await host.client.listPorts({})).ports, [])
    const names = await readdir(host.config.stateFolder)
    assert.deepEqual(names.filter((name) => name.endsWith('.former')).toSorted(), [
      'clock.former',
      'host.former',
      'rows.former',
    ])
    assert.match(await readFile(join(host.config.stateFolder, 'host'), 'utf8'), /"hostId":7/)
  })

  test('a host of another domain with the same number starts with nothing of the one before', async () => {
    await using bench = await joinedBench()
    const { host } = bench
    await host.stop()
    await host.enrolIn(testDomain({ domain: 'other.example' }))

    await host.start()

    assert.deepEqual((await host.client.listPorts({})).ports, [])
    await eventually(() => host.shuttle.tables.peers.size === 0)
  })
})

describe('telling', () => {
  test('a lost port is visible', async () => {
    await using bench = await joinedBench()
    const { host } = bench
    const port = host.shuttle.ports.get(WEB)
    if (port) port.lost = true

    const { ports } = await eventually(async () => {
      const answer = await host.client.listPorts({})
      return answer.ports[0]?.state === PortState.PORT_STATE_LOST && answer
    })

    assert.equal(ports[0]?.counters?.drops['spoofed-mac'], 1n)
  })

  test('the status names revision, age, dependencies and the data plane', async () => {
    await using bench = await joinedBench()
    const { host } = bench

    const status = await eventually(async () => {
      const answer = await host.client.getStatus({})
      return answer.dependencies.every(({ health }) => health === Health.HEALTH_OK) && answer
    })

    assert.equal(status.host, 'alpha')
    assert.equal(status.fromDisk, false)
    assert.equal(status.endpoints, 2)
    assert.equal(status.ports, 1)
    assert.equal(status.hostDrops['no-port'], 3n)
    assert.equal(status.tableRevision > 0n, true)
  })

  test('ping goes through to the shuttle', async () => {
    await using bench = await joinedBench()
    const request = {
      tenant: 'acme',
      network: 'blue',
      source: 'web',
      targetAddress: Buffer.from([10, 20, 0, API]),
      count: 2,
      intervalMs: 10,
      timeoutMs: 100,
      payloadBytes: 56,
    }

    const answers = await Array.fromAsync(bench.host.client.ping(request))

    assert.deepEqual(
      answers.map(({ sequence }) => sequence),
      [1, 2],
    )
  })
})

interface Bench extends AsyncDisposable {
  readonly host: BenchHost
  readonly hub: MemoryBus
  readonly controller: FakeController
}

async function emptyBench(): Promise<Bench> {
  await using opened = new AsyncDisposableStack()
  const hub = memoryBus()
  const controlBus = opened.use(hub.connect())
  const host = opened.use(await benchHost(async () => hub.connect()))
  for (const [id, name] of [
    [WEB, 'web'],
    [12, 'db'],
    [API, 'api'],
  ] as const) {
    host.control.endpoints.set(id, endpoint(id, name))
  }
  opened.use(host.control.takeReports(controlBus))
  const controller = await FakeController.on(controlBus, host.domain)
  const kept = opened.move()
  return { host, hub, controller, [Symbol.asyncDispose]: () => kept.disposeAsync() }
}

/** `web` is attached here, `api` is at the other host, and all is in step. */
async function joinedBench(): Promise<Bench> {
  const bench = await emptyBench()
  const { host, controller } = bench
  host.control.located.set(API, { hostId: PEER_ID, epoch: 1n, sequence: 1n })
  await controller.network()
  await controller.peer(PEER_ID)
  await controller.endpoint(API, 'api', PEER_ID)
  await controller.self()
  await host.start()
  await attach(host)
  await eventually(() => host.shuttle.hasPeer(PEER_ID) && host.shuttle.hasForwarder)
  await eventually(async () => !(await host.client.getStatus({})).fromDisk)
  return bench
}

function attach(host: BenchHost, change: object = {}) {
  return host.client.attachPort({ idempotencyKey: '', ...web, attachment: inWeb, ...change })
}

async function missed(host: BenchHost, source: number, target: number): Promise<Flow> {
  const flow = await host.shuttle.miss(source, target)
  assert.notEqual(flow, 'unresolved')
  return flow as Flow
}
