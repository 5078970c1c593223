import assert from 'node:assert/strict'
import { readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { type Bus, events, hostRowKey, type MemoryBus, memoryBus } from '@weft/bus'
import { generateIdentityKey, signStatement } from '@weft/identity'
import type { HostRow, SignedHostRow } from '@weft/proto/weftline/config/v1/rows.ts'
import { Revocations, Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import { FlowAction } from '@weft/proto/weftline/shuttle/v1/shuttle.ts'
import { eventually, testDomain } from '@weft/testing'
import {
  type BenchHost,
  benchHost,
  FakeController,
  HOST_ID,
  keyOfPeer,
  PEER_ID,
} from './bench-host.ts'
import { endpoint } from './fake-control.ts'

const WEB = 11
const API = 13
/** The row that somebody tries to bring in, and the host at which it would put endpoint API. */
const EVIL = 66

describe('believing rows', () => {
  test('a row that the directory did not sign for this host and key changes nothing', async () => {
    await using bench = await joinedBench()
    const { controller, host } = bench
    // So that what is forged would take effect.
    await controller.peer(EVIL)
    const row = evilRow()
    const forged: Readonly<Record<string, SignedHostRow>> = {
      'without a signature': { row: undefined },
      'signed by anybody': controller.signed(row, {}, generateIdentityKey()),
      'signed by another directory': controller.signed(row, {}, testDomain().directoryKey),
      'for another purpose': controller.signed(row, {}, host.domain.directoryKey, 'revocations'),
      'for another host': controller.signed(row, { hostId: PEER_ID }),
      expired: controller.signed(row, { notAfterUnixMs: BigInt(Date.now() - 1) }),
      older: controller.signed(row, { configRevision: 1n, locationRevision: 1n }),
      'changed afterwards': withFlippedBit(controller.signed(row)),
      nonsense: { row: Signed.create({ payload: Buffer.from('nonsense') }) },
    }
    let markerId = 100
    // What comes after a row shows that it has come, too.
    const takeIn = async (key: string, message: SignedHostRow): Promise<void> => {
      await controller.bucket.put(key, message)
      const id = ++markerId
      await controller.endpoint(id, `marker${id}`, PEER_ID)
      await eventually(() => host.shuttle.tables.endpoints.has(id))
    }

    for (const [what, message] of Object.entries(forged)) {
      await takeIn(hostRowKey(HOST_ID, 'endpoint', API), message)
      assert.equal(host.shuttle.tables.endpoints.get(API)?.hostId, PEER_ID, what)
    }
    await takeIn(hostRowKey(HOST_ID, 'endpoint', 14), controller.signed(row))
    assert.equal(host.shuttle.tables.endpoints.has(14), false, 'under another key')
    assert.equal(host.shuttle.tables.endpoints.get(API)?.hostId, PEER_ID, 'under another key')
    assert.equal((await missed(host)).targetHostId, PEER_ID)

    // And so it is not for another reason that they had no effect.
    await takeIn(hostRowKey(HOST_ID, 'endpoint', API), controller.signed(row))
    assert.equal(host.shuttle.tables.endpoints.get(API)?.hostId, EVIL)
  })

  test('an older row that is sent once more changes nothing, also when its key was deleted since', async () => {
    await using bench = await joinedBench()
    const { controller, host } = bench
    const keyOfApi = hostRowKey(HOST_ID, 'endpoint', API)
    const keyOfPeerRow = hostRowKey(HOST_ID, 'peer', PEER_ID)
    const oldApi = await controller.bucket.get(keyOfApi)
    const oldPeer = await controller.bucket.get(keyOfPeerRow)
    assert(oldApi && oldPeer)
    await controller.peer(3)
    await controller.endpoint(API, 'api', 3, 2n)
    await controller.remove('peer', PEER_ID)
    await eventually(() => host.shuttle.tables.endpoints.get(API)?.hostId === 3)

    await controller.bucket.put(keyOfPeerRow, oldPeer.value)
    await controller.bucket.put(keyOfApi, oldApi.value)
    await controller.endpoint(15, 'later', 3)
    await eventually(() => host.shuttle.tables.endpoints.has(15))

    assert.equal(host.shuttle.tables.endpoints.get(API)?.hostId, 3)
    assert.equal(host.shuttle.hasPeer(PEER_ID), false)
  })

  test('rows on disk are believed only as far as they are signed', async () => {
    await using bench = await joinedBench()
    const { host, hub } = bench
    await eventually(async () => (await readdir(host.config.stateFolder)).includes('rows'))
    await host.stop()
    hub.setReachable(false)
    host.shuttle.loseKernelObjects()
    // The directory of another domain: nothing that is on disk is of it.
    const other = testDomain()
    await host.enrolIn(other)

    await host.start()

    const status = await host.client.getStatus({})
    assert.deepEqual([status.peers, status.endpoints], [0, 1])
    assert.equal(host.shuttle.tables.peers.size, 0)
  })
})

describe('the horizon', () => {
  test('is shown, and moves with every row that is signed again', async () => {
    await using bench = await joinedBench()
    const { controller, host } = bench
    const before = await host.client.getStatus({})
    assert.equal(before.horizonLeftMs > 6n * 24n * 3_600_000n, true)

    controller.horizonMs = 3_600_000
    await controller.self()

    await eventually(async () => (await host.client.getStatus({})).horizonLeftMs <= 3_600_000n)
    const after = await host.client.getStatus({})
    assert.equal(after.horizonUnixMs > BigInt(Date.now()), true)
  })

  test('a host that hears nothing loses its rights at their end, and its known flows live until then', async () => {
    await using bench = await joinedBench({ horizonMs: 3_000 })
    const { host, hub } = bench
    const { horizonUnixMs: endMs } = await host.client.getStatus({})
    hub.setReachable(false)
    assert.equal((await missed(host)).action, FlowAction.FLOW_ACTION_DIRECT)

    await endOf(host, Number(endMs))

    const { horizonUnixMs } = await host.client.getStatus({})
    assert.equal(horizonUnixMs, 0n)
    assert.equal(host.shuttle.tables.endpoints.has(API), false)
    assert.equal(host.shuttle.flows.size, 0)
    assert.equal(await host.shuttle.miss(WEB, API), 'unresolved')
    // What is attached here is still attached.
    assert.equal(host.shuttle.ports.has(WEB), true)
  })

  test('a forwarder that starts after the end takes away what the kernel still has', async () => {
    await using bench = await joinedBench({ horizonMs: 3_000 })
    const { host, hub } = bench
    const { horizonUnixMs } = await host.client.getStatus({})
    await eventually(async () => (await readdir(host.config.stateFolder)).includes('rows'))
    await host.stop()
    hub.setReachable(false)
    assert.equal(host.shuttle.hasPeer(PEER_ID), true)
    await eventually(() => Date.now() > Number(horizonUnixMs))

    await host.start()

    await eventually(() => host.shuttle.tables.peers.size === 0)
    assert.equal(host.shuttle.tables.endpoints.has(API), false)
    assert.equal(host.shuttle.tables.endpoints.has(WEB), true)
  })

  test('a host that lost its rows forwards by what the kernel has, no longer than it belongs to the domain', async () => {
    await using bench = await joinedBench()
    const { host, hub } = bench
    await missed(host)
    await host.stop()
    hub.setReachable(false)
    await rm(join(host.config.stateFolder, 'rows'), { force: true })
    const horizon = new Date(Date.now() + 3_000)
    await host.enrolIn(host.domain, horizon)

    await host.start()

    await endOf(host, horizon.getTime())
    assert.equal(host.shuttle.flows.size, 0)
    assert.equal(host.shuttle.tables.endpoints.has(API), false)
    assert.equal(host.shuttle.tables.endpoints.has(WEB), true)
    assert.equal(host.shuttle.ports.has(WEB), true)
  })

  test('rows that are signed again in time keep everything as it is', async () => {
    await using bench = await joinedBench({ horizonMs: 3_000 })
    const { controller, host } = bench
    const applied = host.shuttle.applied.length
    const { horizonUnixMs } = await host.client.getStatus({})

    controller.horizonMs = 3_600_000
    await furnish(controller)
    await eventually(() => Date.now() > Number(horizonUnixMs) + 100)

    assert.equal(host.shuttle.applied.length, applied)
    assert.equal(host.shuttle.hasPeer(PEER_ID), true)
  })
})

describe('a revoked peer', () => {
  test('is dropped with its endpoints before any row says so, also after a restart', async (t) => {
    await using bench = await joinedBench()
    const { host, controlBus, controller } = bench
    await missed(host)
    const startedAtMs = performance.now()

    revoke(controlBus, host, 1n, keyOfPeer(PEER_ID))
    await eventually(() => !host.shuttle.hasPeer(PEER_ID))
    t.diagnostic(`dropped after ${Math.round(performance.now() - startedAtMs)} ms`)

    assert.equal(host.shuttle.tables.endpoints.has(API), false)
    assert.equal(host.shuttle.flows.size, 0)
    // The controller of a replica that has not heard of it goes on for a moment.
    await controller.peer(PEER_ID)
    await controller.endpoint(API, 'api', PEER_ID)
    await controller.endpoint(WEB, 'web', HOST_ID)
    await host.stop()
    await host.start()
    await eventually(async () => !(await host.client.getStatus({})).fromDisk)
    assert.equal(host.shuttle.hasPeer(PEER_ID), false)
    assert.equal(host.shuttle.tables.endpoints.has(API), false)
  })

  test('comes back by new keys, with its endpoints', async () => {
    await using bench = await joinedBench()
    const { host, controlBus, controller } = bench
    revoke(controlBus, host, 1n, keyOfPeer(PEER_ID))
    await eventually(() => !host.shuttle.hasPeer(PEER_ID))

    await controller.peer(PEER_ID, 9, keyOfPeer(99))

    await eventually(() => host.shuttle.hasPeer(PEER_ID))
    assert.equal(host.shuttle.tables.endpoints.get(API)?.hostId, PEER_ID)
  })

  test('is one that the directory names: others revoke nobody, and an older list counts no more', async () => {
    await using bench = await joinedBench()
    const { host, controlBus, controller } = bench
    revoke(controlBus, host, 7n, keyOfPeer(3))

    revoke(controlBus, host, 8n, keyOfPeer(PEER_ID), generateIdentityKey())
    revoke(controlBus, host, 6n, keyOfPeer(PEER_ID))
    await controller.peer(3)
    await controller.endpoint(14, 'edge', 3)
    await controller.endpoint(15, 'later', PEER_ID)
    await eventually(() => host.shuttle.tables.endpoints.has(15))

    assert.equal(host.shuttle.hasPeer(PEER_ID), true)
    assert.equal(host.shuttle.hasPeer(3), false)
    assert.equal(host.shuttle.tables.endpoints.has(14), false)
  })
})

test('no secret of the host is in its state folder', async () => {
  await using bench = await joinedBench()
  const { host } = bench
  await eventually(async () => (await readdir(host.config.stateFolder)).includes('rows'))

  const secret = await readFile(join(host.config.identityFolder, 'identity.key'), 'latin1')
  const seed = Buffer.from(secret.split('\n')[1] ?? '', 'base64').subarray(-32)

  assert.equal(seed.length, 32)
  for (const name of await readdir(host.config.stateFolder)) {
    const content = await readFile(join(host.config.stateFolder, name))
    assert.equal(content.includes(seed), false, name)
  }
})

interface Bench extends AsyncDisposable {
  readonly host: BenchHost
  readonly hub: MemoryBus
  readonly controlBus: Bus
  readonly controller: FakeController
}

/** `web` is attached here, `api` is at the other host, and all is in step. */
async function joinedBench(options: { readonly horizonMs?: number } = {}): Promise<Bench> {
  await using opened = new AsyncDisposableStack()
  const hub = memoryBus()
  const controlBus = opened.use(hub.connect())
  const host = opened.use(await benchHost(async () => hub.connect()))
  host.control.endpoints.set(WEB, endpoint(WEB, 'web'))
  host.control.endpoints.set(API, endpoint(API, 'api', PEER_ID))
  host.control.located.set(API, { hostId: PEER_ID, epoch: 1n, sequence: 1n })
  opened.use(host.control.takeReports(controlBus))
  const controller = await FakeController.on(controlBus, host.domain)
  await host.start()
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
  if (options.horizonMs !== undefined) controller.horizonMs = options.horizonMs
  await furnish(controller)
  await eventually(() => host.shuttle.hasPeer(PEER_ID))
  await eventually(async () => !(await host.client.getStatus({})).fromDisk)
  const kept = opened.move()
  return {
    host,
    hub,
    controlBus,
    controller,
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  }
}

async function furnish(controller: FakeController): Promise<void> {
  await controller.network()
  await controller.peer(PEER_ID)
  await controller.endpoint(API, 'api', PEER_ID)
  await controller.self()
}

function evilRow(): NonNullable<HostRow['row']> {
  return {
    $case: 'endpoint',
    value: {
      endpointId: API,
      networkId: 5,
      name: 'api',
      mac: Buffer.from([2, 0, 0, 0, 0, API]),
      addresses: [Buffer.from([10, 20, 0, API])],
      allowedPrefixes: [],
      locationHostId: EVIL,
      epoch: 9n,
      placement: undefined,
    },
  }
}

function withFlippedBit({ row }: SignedHostRow): SignedHostRow {
  const payload = Buffer.from(row?.payload ?? [])
  payload[payload.length - 1] = (payload[payload.length - 1] ?? 0) ^ 1
  return { row: { ...Signed.create(row), payload } }
}

/** Says that a key is void, as config does. */
function revoke(
  bus: Bus,
  { domain }: BenchHost,
  number: bigint,
  identityKey: Buffer,
  signer = domain.directoryKey,
): void {
  const keys = [{ identityKey, hostId: PEER_ID, revokedAtUnixMs: BigInt(Date.now()) }]
  const payload = Revocations.encode({ number, keys }).finish()
  const statement = signStatement('revocations', payload, signer)
  bus.publish(events.keyRevoked.subject('config', number), Signed, statement)
}

/** Rights end by a clock that is compared with the machine's uptime, which counts in steps of 10 ms. */
const CLOCK_STEPS_MS = 20

/** Waits until the host forwards to no peer any more. Throws if anything was taken away before the time. */
async function endOf(host: BenchHost, endMs: number): Promise<void> {
  const earlyMs: number[] = []
  await eventually(() => {
    const { flows, tables } = host.shuttle
    const isWhole = flows.size === 1 && host.shuttle.hasPeer(PEER_ID) && tables.endpoints.has(API)
    const leftMs = endMs - Date.now()
    if (!isWhole && leftMs > CLOCK_STEPS_MS) earlyMs.push(leftMs)
    return tables.peers.size === 0
  })
  assert.deepEqual(earlyMs, [])
}

async function missed(host: BenchHost) {
  const flow = await host.shuttle.miss(WEB, API)
  assert(flow !== 'unresolved')
  return flow
}
