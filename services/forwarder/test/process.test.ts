import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { rename } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { type Bus, buckets, connectBus, keepMirror } from '@weft/bus'
import { NotEnrolledError } from '@weft/errors'
import { FlowAction } from '@weft/proto/weftline/shuttle/v1/shuttle.ts'
import { createLogger } from '@weft/telemetry'
import { eventually, startDomainNats, type TestDomainNats } from '@weft/testing'
import { type BenchHost, benchHost, FakeController, HOST_ID, PEER_ID } from './bench-host.ts'
import { endpoint } from './fake-control.ts'

const WEB = 11
const API = 13
const log = createLogger({ service: 'test', level: 'silent' })

test('a forwarder that is killed comes back with its ports, and its host kept forwarding', {
  timeout: 60_000,
}, async () => {
  await using nats = await startDomainNats()
  await using bus = await serviceBus(nats, 'control')
  await using _mirror = await mirrorRows(nats, bus)
  await using host = await benchHost(
    () => Promise.reject(new Error('the child has its own bus')),
    onNats(nats),
  )
  await using locationBus = await serviceBus(nats, 'location')
  await using _reports = host.control.takeReports(locationBus)
  const controller = await FakeController.on(bus, nats.domain)
  host.control.endpoints.set(WEB, endpoint(WEB, 'web'))
  host.control.located.set(API, { hostId: PEER_ID, epoch: 1n, sequence: 1n })
  await controller.network()
  await controller.peer(PEER_ID)
  await controller.endpoint(API, 'api', PEER_ID)
  await controller.self()
  await using first = await startProcess(host)
  await host.client.attachPort({
    idempotencyKey: '',
    tenant: 'acme',
    network: 'blue',
    endpoint: 'web',
    attachment: {
      $case: 'netns',
      value: { path: '/run/netns/web', device: '', keepRoutes: false },
    },
  })
  await eventually(() => host.shuttle.hasPeer(PEER_ID))
  const flow = await host.shuttle.miss(WEB, API)
  assert.equal(flow !== 'unresolved' && flow.action, FlowAction.FLOW_ACTION_DIRECT)

  await first.kill()
  const waiting = host.shuttle.miss(API, WEB)
  await using _second = await startProcess(host)

  // A packet that came while nobody was there was held, and is looked at now: `api` is not attached here.
  assert.equal(await waiting, 'unresolved')
  assert.deepEqual(host.shuttle.attachCalls, [WEB])
  assert.equal(host.shuttle.flows.size, 1)
  const { ports } = await host.client.listPorts({})
  assert.equal(ports[0]?.endpoint, 'web')
})

test('a bus that lost its memory bucket by a restart takes no row away, and the new rows come through', {
  timeout: 60_000,
}, async () => {
  await using nats = await startDomainNats()
  await using bus = await serviceBus(nats, 'control')
  await using _mirror = await mirrorRows(nats, bus)
  const enrolled = onNats(nats)
  const { credentials } = enrolled
  await using host = await benchHost(
    async (name, signal) => connectBus({ servers: [nats.url], credentials, name, log, signal }),
    enrolled,
  )
  await using locationBus = await serviceBus(nats, 'location')
  await using _reports = host.control.takeReports(locationBus)
  const controller = await FakeController.on(bus, nats.domain)
  await controller.network()
  await controller.peer(PEER_ID)
  await controller.endpoint(API, 'api', PEER_ID)
  await controller.self()
  await host.start()
  await eventually(() => host.shuttle.tables.endpoints.has(API))

  await nats.kill()
  await nats.start()
  const rebuilt = await eventually(async () => {
    const candidate = await FakeController.on(bus, nats.domain, 100n)
    await candidate.network()
    return candidate
  })
  await rebuilt.peer(PEER_ID)
  await rebuilt.endpoint(14, 'edge', PEER_ID)
  await eventually(() => host.shuttle.tables.endpoints.has(14))
  assert.equal(host.shuttle.tables.endpoints.has(API), true)

  for (let revision = 0; revision < 5; revision++) await rebuilt.self()
  await eventually(() => !host.shuttle.tables.endpoints.has(API))
})

test('a host that has not joined says how to, and goes on once it has', {
  timeout: 60_000,
}, async () => {
  await using host = await benchHost(() => Promise.reject(new Error('the child has its own bus')))
  const { identityFolder } = host.config
  await rename(identityFolder, `${identityFolder}-later`)
  const child = spawnForwarder(host)
  await using _killed = { [Symbol.asyncDispose]: () => killed(child) }

  await eventually(() =>
    host.client.getStatus({}).then(
      () => false,
      (error: unknown) =>
        error instanceof NotEnrolledError && error.remedy === 'join the domain: weft join',
    ),
  )
  await assert.rejects(Array.fromAsync(host.client.ping(aPing())), NotEnrolledError)
  await rename(`${identityFolder}-later`, identityFolder)

  const { host: name } = await eventually(() => host.client.getStatus({}))
  assert.equal(name, 'alpha')
})

function aPing() {
  return {
    tenant: 'acme',
    network: 'blue',
    source: 'web',
    targetAddress: Buffer.from([10, 20, 0, API]),
    count: 1,
    intervalMs: 10,
    timeoutMs: 100,
    payloadBytes: 56,
  }
}

/** Enrolled on the bus of the domain. */
function onNats(nats: TestDomainNats) {
  const { domain, url: busUrl } = nats
  return { domain, busUrl, credentials: nats.credentials({ kind: 'host', id: HOST_ID }) }
}

function serviceBus(nats: TestDomainNats, account: 'control' | 'location'): Promise<Bus> {
  const credentials = nats.wideCredentials(account)
  return connectBus({ servers: [nats.url], credentials, name: 'test', log })
}

/** Keeps the copy of the rows that hosts read. */
async function mirrorRows(nats: TestDomainNats, control: Bus): Promise<AsyncDisposable> {
  await using opened = new AsyncDisposableStack()
  const credentials = nats.wideCredentials('hosts')
  const hostsAdmin = opened.use(
    await connectBus({ servers: [nats.url], credentials, name: 'mirror', log }),
  )
  opened.use(keepMirror({ control, hostsAdmin, shape: buckets.hosts, log }))
  const kept = opened.move()
  return { [Symbol.asyncDispose]: () => kept.disposeAsync() }
}

/** Starts the process as it is deployed; disposing kills it. */
async function startProcess(host: BenchHost): Promise<{ kill(): Promise<void> } & AsyncDisposable> {
  const child = spawnForwarder(host)
  await isReady(child)
  const status = readFileSync(`/proc/${child.pid}/status`, 'utf8')
  console.log(`forwarder process: ${/VmRSS:\s+(.*)/.exec(status)?.[1]}`)
  const kill = () => killed(child)
  return { kill, [Symbol.asyncDispose]: kill }
}

function spawnForwarder(host: BenchHost): ChildProcess {
  return spawn(process.execPath, [join(import.meta.dirname, '../src/main.ts')], {
    env: {
      PATH: process.env['PATH'],
      WEFT_IDENTITY_DIR: host.config.identityFolder,
      WEFT_FORWARDER_STATE_DIR: host.config.stateFolder,
      WEFT_FORWARDER_SHUTTLE: host.shuttleAddress,
      WEFT_FORWARDER_LISTEN: host.config.listen.join(','),
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
}

async function killed(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.kill('SIGKILL')
  await once(child, 'exit')
}

async function isReady(child: ChildProcess): Promise<void> {
  let output = ''
  child.stdout?.on('data', (chunk) => {
    output += chunk
  })
  await eventually(() => {
    assert.equal(child.exitCode, null, `the forwarder ended before it was ready: ${output}`)
    return output.includes('"msg":"ready"')
  })
}
