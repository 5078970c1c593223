import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { connectBus } from '@weft/bus'
import { FlowAction } from '@weft/proto/weftline/shuttle/v1/shuttle.ts'
import { createLogger } from '@weft/telemetry'
import { eventually, startNats } from '@weft/testing'
import { type BenchHost, benchHost, FakeController, HOST_ID, PEER_ID } from './bench-host.ts'
import { endpoint } from './fake-control.ts'

const WEB = 11
const API = 13
const log = createLogger({ service: 'test', level: 'silent' })

test('a forwarder that is killed comes back with its ports, and its host kept forwarding', {
  timeout: 60_000,
}, async () => {
  await using nats = await startNats()
  await using bus = await connectBus({ servers: [nats.url], name: 'test', log })
  await using host = await benchHost(() => Promise.reject(new Error('the child has its own bus')))
  await using _reports = host.control.takeReports(bus)
  const controller = await FakeController.on(bus)
  host.control.endpoints.set(WEB, endpoint(WEB, 'web'))
  host.control.located.set(API, { hostId: PEER_ID, epoch: 1n, sequence: 1n })
  await controller.network()
  await controller.peer(PEER_ID)
  await controller.endpoint(API, 'api', PEER_ID)
  await controller.self()
  await using first = await startProcess(host, nats.url)
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
  await eventually(() => host.shuttle.tables.peers.has(PEER_ID))
  const flow = await host.shuttle.miss(WEB, API)
  assert.equal(flow !== 'unresolved' && flow.action, FlowAction.FLOW_ACTION_DIRECT)

  await first.kill()
  const waiting = host.shuttle.miss(API, WEB)
  await using _second = await startProcess(host, nats.url)

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
  await using nats = await startNats()
  await using bus = await connectBus({ servers: [nats.url], name: 'test', log })
  await using host = await benchHost(async (name, signal) =>
    connectBus({ servers: [nats.url], name, log, signal }),
  )
  await using _reports = host.control.takeReports(bus)
  const controller = await FakeController.on(bus)
  await controller.network()
  await controller.peer(PEER_ID)
  await controller.endpoint(API, 'api', PEER_ID)
  await controller.self()
  await host.start()
  await eventually(() => host.shuttle.tables.endpoints.has(API))

  await nats.kill()
  await nats.start()
  const rebuilt = await eventually(async () => {
    const candidate = await FakeController.on(bus)
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

/** Starts the process as it is deployed; disposing kills it. */
async function startProcess(
  host: BenchHost,
  natsUrl: string,
): Promise<{ kill(): Promise<void> } & AsyncDisposable> {
  const child = spawn(process.execPath, [join(import.meta.dirname, '../src/main.ts')], {
    env: {
      PATH: process.env['PATH'],
      NATS_URL: natsUrl,
      WEFT_FORWARDER_HOST_ID: `${HOST_ID}`,
      WEFT_FORWARDER_HOST: host.config.hostName,
      WEFT_FORWARDER_STATE_DIR: host.config.stateFolder,
      WEFT_FORWARDER_SHUTTLE: host.shuttleAddress,
      WEFT_FORWARDER_LISTEN: host.config.listen.join(','),
      WEFT_FORWARDER_CONFIG: host.controlAddress,
      WEFT_FORWARDER_RESOLVER: host.controlAddress,
      WEFT_FORWARDER_POLICY: host.controlAddress,
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await isReady(child)
  const status = readFileSync(`/proc/${child.pid}/status`, 'utf8')
  console.log(`forwarder process: ${/VmRSS:\s+(.*)/.exec(status)?.[1]}`)
  const kill = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  return { kill, [Symbol.asyncDispose]: kill }
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
