import assert from 'node:assert/strict'
import type { KeyObject } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { memoryBus } from '@weft/bus'
import { readIdentity } from '@weft/domain'
import {
  ClientKeyTakenError,
  InvalidArgumentError,
  NoCandidateError,
  OtherClientAttachedError,
  SealingUnavailableError,
} from '@weft/errors'
import { generateTunnelKey, publicKeyOf } from '@weft/identity'
import { CARRIER_SEALED } from '@weft/net'
import {
  CandidateKind,
  Carrier,
  ConnectionState,
  OpenConnection,
} from '@weft/proto/weftline/common/v1/common.ts'
import type { WireguardAttachment } from '@weft/proto/weftline/forwarder/v1/forwarder.ts'
import { eventually, writeIdentityFolder } from '@weft/testing'
import { type BenchHost, benchHost, FakeController, HOST_ID, PEER_ID } from './bench-host.ts'
import { endpoint, network } from './fake-control.ts'

const PHONE = 21
const LAPTOP = 22
const phone = { tenant: 'acme', network: 'blue', endpoint: 'phone' }
const laptop = { ...phone, endpoint: 'laptop' }
const phoneKey = publicKeyOf(generateTunnelKey())
const otherKey = publicKeyOf(generateTunnelKey())
const peerKey = publicKeyOf(generateTunnelKey())
const secret = Buffer.alloc(32, 7)
/** A point of order 1 (RFC 7748, 6.1). */
const LOW_ORDER = Buffer.alloc(32)

describe('a WireGuard client', () => {
  test('is a port of the shuttle, and told how it reaches the host', async () => {
    await using bench = await clientBench()
    const { host } = bench

    const { port, created, wireguard } = await attach(host, { presharedKey: secret })

    assert.equal(created, true)
    assert(port?.attachment?.$case === 'wireguard')
    assert.deepEqual(port.attachment.value.publicKey, phoneKey)
    assert.equal(port.attachment.value.hasPresharedKey, true)
    assert.equal(port.attachment.value.isVoid, false)
    const inShuttle = host.shuttle.ports.get(PHONE)?.attachment
    assert(inShuttle?.$case === 'wireguard')
    assertKeys(inShuttle.value)
    assert(wireguard)
    assert.deepEqual(wireguard.hostPublicKey, await hostKeyOf(host))
    assert.deepEqual(
      wireguard.candidates.map(({ address, port: udp }) => [[...address].join('.'), udp]),
      [
        ['203.0.113.7', 4500],
        ['192.0.2.1', 61_900],
      ],
    )
    assert.deepEqual(wireguard.prefixes, network.prefixes)
    assert.equal(wireguard.mtuBytes, 1320)
    assert.equal(host.control.located.get(PHONE)?.hostId, HOST_ID)
  })

  test('that is attached again is left as it is, and told the same', async () => {
    await using bench = await clientBench()
    const first = await attach(bench.host)

    const again = await attach(bench.host)

    assert.equal(again.created, false)
    assert.deepEqual(again.wireguard, first.wireguard)
    assert.equal(bench.host.control.calls.assign, 1)
  })

  test('does not take the place of another one, nor of itself with another secret', async () => {
    await using bench = await clientBench()
    const { host } = bench
    await attach(host)

    for (const other of [{ publicKey: otherKey }, { presharedKey: secret }]) {
      await assert.rejects(attach(host, other), (error) => {
        assert(error instanceof OtherClientAttachedError)
        assert.match(error.remedy, /weft port detach acme\/blue\/phone/)
        return true
      })
    }
    await assert.rejects(attach(host, {}, laptop), ClientKeyTakenError)
    assert.equal(host.shuttle.ports.has(LAPTOP), false)
  })

  test('with a key that is none, weak, or a host’s is refused with nothing changed', async () => {
    await using bench = await clientBench()
    const { host } = bench

    for (const publicKey of [Buffer.alloc(31, 1), Buffer.alloc(0), LOW_ORDER]) {
      await assert.rejects(attach(host, { publicKey }), InvalidArgumentError)
    }
    await assert.rejects(attach(host, { presharedKey: Buffer.alloc(16) }), InvalidArgumentError)
    for (const publicKey of [await hostKeyOf(host), peerKey]) {
      await assert.rejects(attach(host, { publicKey }), ClientKeyTakenError)
    }
    assert.equal(host.control.calls.assign, 0)
  })

  test('is refused where the host does not seal, with why', async () => {
    await using plain = await clientBench({ capabilities: [] })
    await assert.rejects(attach(plain.host), (error) => {
      assert(error instanceof SealingUnavailableError)
      assert.match(error.message, /lacks the capability carrier-sealed/)
      return true
    })
    await using broken = await clientBench({ canSeal: false })
    await assert.rejects(attach(broken.host), (error) => {
      assert(error instanceof SealingUnavailableError)
      assert.match(error.message, /the shuttle has no sealed transport/)
      return true
    })
  })

  test('is refused behind a NAT, unless it is known where the host is reached', async () => {
    await using bench = await clientBench({ configured: [] })
    const { host } = bench
    host.shuttle.saySealed({
      observed: {
        candidates: [
          {
            address: Buffer.of(198, 51, 100, 9),
            port: 4,
            kind: CandidateKind.CANDIDATE_KIND_OBSERVED,
          },
        ],
      },
    })
    await eventually(async () => (await host.client.getStatus({})).sealing?.observed.length === 1)

    await assert.rejects(attach(host), (error) => {
      assert(error instanceof NoCandidateError)
      assert.match(error.remedy, /weft host set alpha --candidate/)
      return true
    })
    assert.equal(host.control.calls.assign, 0)
    const { wireguard } = await attach(host, { needsCandidate: false })
    assert.deepEqual(wireguard?.candidates, [])
  })

  test('is there again after the forwarder or the shuttle has started anew, with its secret', async () => {
    await using bench = await clientBench()
    const { host } = bench
    await attach(host, { presharedKey: secret })
    await host.stop()
    const state = join(host.config.stateFolder, 'host')
    assert.equal((await stat(state)).mode & 0o177, 0)
    assert.match(await readFile(state, 'utf8'), new RegExp(secret.toString('hex')))

    await host.shuttle.stop()
    host.shuttle.loseKernelObjects()
    await host.shuttle.listen(host.shuttleAddress)
    await host.start()

    await eventually(() => host.shuttle.ports.has(PHONE))
    const { attachment } = host.shuttle.ports.get(PHONE) ?? {}
    assert(attachment?.$case === 'wireguard')
    assertKeys(attachment.value)
  })

  test('of which nothing is written down is cut off: nobody else knows its secret', async () => {
    await using bench = await clientBench()
    const { host } = bench
    await host.stop()
    const value = { publicKey: phoneKey, presharedKey: Buffer.alloc(0) }
    host.shuttle.ports.set(PHONE, {
      endpointId: PHONE,
      hostDevice: '',
      ifindex: 2 ** 31 + PHONE,
      attachment: { $case: 'wireguard', value },
      lost: false,
      counters: undefined,
    })

    await host.start()

    await eventually(() => !host.shuttle.ports.has(PHONE))
  })

  test('is no place to send echo requests from', async () => {
    await using bench = await clientBench()
    const { host } = bench
    await attach(host)
    const target = { targetAddress: Buffer.of(10, 20, 0, 1), count: 1, intervalMs: 0, timeoutMs: 1 }
    const { tenant, network: net, endpoint: source } = phone

    await assert.rejects(
      Array.fromAsync(
        host.client.ping({ tenant, network: net, source, ...target, payloadBytes: 0 }),
      ),
      /is a WireGuard client/,
    )
  })

  test('is detached like any port', async () => {
    await using bench = await clientBench()
    const { host } = bench
    await attach(host)

    assert.equal((await host.client.detachPort({ idempotencyKey: '', ...phone })).detached, true)

    assert.equal(host.shuttle.ports.has(PHONE), false)
    assert.deepEqual((await host.client.listOpenConnections({})).connections, [])
  })

  test('is told of as it is, at this host and nowhere else', async () => {
    await using bench = await clientBench()
    const { host } = bench
    await attach(host)
    const idle = (await host.client.listOpenConnections({})).connections
    assert.equal(idle[0]?.connection?.state, ConnectionState.CONNECTION_STATE_IDLE)

    host.shuttle.saySealed({ connections: [openTo(PHONE), openTo(LAPTOP)] })
    const find = async () =>
      (await host.client.listPorts({})).ports.map(({ attachment }) =>
        attachment?.$case === 'wireguard' ? attachment.value.connection?.port : undefined,
      )
    await eventually(async () => (await find())[0] === 40_000)

    const { connections } = await host.client.listOpenConnections({})
    assert.deepEqual(
      connections.map(({ host: name, client, connection }) => [
        name,
        client?.endpoint,
        connection?.hostId,
      ]),
      [['', 'phone', 0]],
    )
    assert.deepEqual((await host.client.getStatus({})).openConnections, { 'client open': 1 })

    host.shuttle.saySealed({ goneEndpointIds: [PHONE] })
    await eventually(async () => (await find())[0] === undefined)
  })

  test('has a void file once the host has another tunnel key, until it is attached again', async () => {
    await using bench = await clientBench()
    const { host } = bench
    await attach(host)
    const tunnelKey = generateTunnelKey()
    const isVoid = async () => {
      const { attachment } = (await host.client.listPorts({})).ports[0] ?? {}
      return attachment?.$case === 'wireguard' && attachment.value.isVoid
    }
    assert.equal(await isVoid(), false)

    await bench.rotate(tunnelKey)
    await eventually(isVoid)
    const { wireguard, created } = await attach(host)

    assert.equal(created, false)
    assert.deepEqual(wireguard?.hostPublicKey, publicKeyOf(tunnelKey))
    assert.equal(await isVoid(), false)
  })
})

interface Bench extends AsyncDisposable {
  readonly host: BenchHost
  /** Gives this host another tunnel key. */
  rotate(tunnelKey: KeyObject): Promise<void>
}

/** A host that seals, at 203.0.113.7:4500 and 192.0.2.1:61900, with another one that has the key `peerKey`. */
async function clientBench(
  options: {
    readonly canSeal?: boolean
    readonly capabilities?: string[]
    readonly configured?: { address: Buffer; port: number; kind: CandidateKind }[]
  } = {},
): Promise<Bench> {
  const {
    canSeal = true,
    capabilities = [CARRIER_SEALED],
    configured = [
      {
        address: Buffer.of(203, 0, 113, 7),
        port: 4500,
        kind: CandidateKind.CANDIDATE_KIND_CONFIGURED,
      },
    ],
  } = options
  await using opened = new AsyncDisposableStack()
  const hub = memoryBus()
  const bus = opened.use(hub.connect())
  const host = opened.use(await benchHost(async () => hub.connect()))
  const { shuttle, control, client, domain, places } = host
  shuttle.canSeal = canSeal
  control.endpoints.set(PHONE, endpoint(PHONE, 'phone'))
  control.endpoints.set(LAPTOP, endpoint(LAPTOP, 'laptop'))
  opened.use(control.takeReports(bus))
  const controller = await FakeController.on(bus, domain)
  await controller.network()
  await controller.peer(PEER_ID, 9, undefined, { tunnelKey: peerKey })
  await controller.self({ capabilities, sealedPort: 61_900, configured })
  const rotate: Bench['rotate'] = (tunnelKey) =>
    writeIdentityFolder({
      folder: host.config.identityFolder,
      domain,
      credentials: domain.credentials({ kind: 'host', id: HOST_ID }),
      hostName: 'alpha',
      places,
      tunnelKey,
    })
  await host.start()
  await eventually(async () => !(await client.getStatus({})).fromDisk && shuttle.hasForwarder)
  await eventually(async () => {
    const { sealing } = await client.getStatus({})
    if (capabilities.length === 0) return true
    return canSeal ? shuttle.sealedWatcherCount > 0 : sealing?.available === false
  })
  const kept = opened.move()
  return { host, rotate, [Symbol.asyncDispose]: () => kept.disposeAsync() }
}

/** They are those of the phone, with its secret. */
function assertKeys({ publicKey, presharedKey }: { publicKey: Buffer; presharedKey: Buffer }) {
  assert.deepEqual([publicKey, presharedKey], [phoneKey, secret])
}

/** The public tunnel key of the host. */
async function hostKeyOf({ config }: BenchHost): Promise<Buffer> {
  const stored = await readIdentity(config.identityFolder)
  assert(stored?.keys.tunnel)
  return publicKeyOf(stored.keys.tunnel)
}

function attach(host: BenchHost, change: Partial<WireguardAttachment> = {}, name = phone) {
  const value = {
    publicKey: phoneKey,
    presharedKey: Buffer.alloc(0),
    needsCandidate: true,
    ...change,
  }
  const attachment = { $case: 'wireguard', value } as const
  return host.client.attachPort({ idempotencyKey: '', ...name, attachment })
}

function openTo(endpointId: number): OpenConnection {
  return OpenConnection.create({
    endpointId,
    carrier: Carrier.CARRIER_SEALED,
    state: ConnectionState.CONNECTION_STATE_OPEN,
    address: Buffer.of(198, 51, 100, 9),
    port: 40_000,
  })
}
