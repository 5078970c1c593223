import assert from 'node:assert/strict'
import type { KeyObject } from 'node:crypto'
import { describe, test } from 'node:test'
import { type Bus, events, memoryBus } from '@weft/bus'
import {
  generateIdentityKey,
  generateTunnelKey,
  openStatement,
  privateBytesOf,
  publicKeyOf,
  signStatement,
  signTunnelKey,
} from '@weft/identity'
import { verifyConnections } from '@weft/identity/host-signature'
import { CARRIER_SEALED } from '@weft/net'
import {
  CandidateKind,
  Carrier,
  ConnectionState,
  Offload,
  OpenConnection,
} from '@weft/proto/weftline/common/v1/common.ts'
import { Encryption } from '@weft/proto/weftline/config/v1/records.ts'
import type { PeerRow } from '@weft/proto/weftline/config/v1/rows.ts'
import { Revocations, Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import { FlowAction } from '@weft/proto/weftline/shuttle/v1/shuttle.ts'
import { ConnectionReport } from '@weft/proto/weftline/status/v1/status.ts'
import { startTelemetry } from '@weft/telemetry/start'
import { eventually, writeIdentityFolder } from '@weft/testing'
import type { SealingSwitches } from '../src/sealing.ts'
import { type BenchHost, benchHost, FakeController, HOST_ID, PEER_ID } from './bench-host.ts'
import { endpoint } from './fake-control.ts'

const WEB = 11
const API = 13
const peerIdentity = generateIdentityKey()
const peerTunnel = generateTunnelKey()
const seen = {
  address: Buffer.of(198, 51, 100, 7),
  port: 4_000,
  kind: CandidateKind.CANDIDATE_KIND_OBSERVED,
}

describe('a host that seals', () => {
  test('gives the shuttle its tunnel key and port, and what the operator set', async () => {
    await using bench = await sealedBench({
      sealing: {
        keyLogPath: '/run/weft/keys.log',
        offloadsOff: [Offload.OFFLOAD_UDP_GSO],
        chacha20Only: true,
      },
    })
    const { host } = bench

    const [request] = host.shuttle.configured

    assert(request)
    assert.equal(request.privateKey.length, 32)
    assert.equal(request.previousPrivateKey.length, 0)
    assert.equal(request.listenPort, 61_900)
    assert.equal(request.keyLogPath, '/run/weft/keys.log')
    assert.deepEqual(request.offloadsOff, [Offload.OFFLOAD_UDP_GSO])
    assert.equal(request.chacha20Only, true)
    const { sealing } = await host.client.getStatus({})
    assert.equal(sealing?.available, true)
    assert.equal(sealing.keyLogged, true)
    assert.equal(sealing.listenPort, 61_900)
    assert.equal(sealing.offloads[0]?.reason, 'a probe failed')
  })

  test('shows what the sealed transport counts, and offloads as they are now', async () => {
    await using bench = await sealedBench()
    const { host } = bench
    const reason = 'refused by the kernel'

    host.shuttle.sealedCounters = {
      drops: { replayed: 3n },
      fallbacks: { sent_singly: 9n },
      refusals: { unknown_peer: 1n },
      offloads: [{ offload: Offload.OFFLOAD_UDP_GSO, inUse: false, reason }],
    }

    const { sealing } = await host.client.getStatus({})
    assert.equal(sealing?.offloads[0]?.reason, reason)
    assert.deepEqual(sealing.drops, { replayed: 3n })
    assert.deepEqual(sealing.fallbacks, { sent_singly: 9n })
    assert.deepEqual(sealing.refusals, { unknown_peer: 1n })
    await using telemetry = await startTelemetry({
      service: 'forwarder',
      logLevel: 'silent',
      metricsListen: '127.0.0.1:0',
    })
    const metrics = await (await fetch(`http://${telemetry.metricsAddress}/metrics`)).text()
    assert.match(metrics, /^weft_sealed_drops_total\{.*reason="replayed".*\} 3$/m)
    assert.match(metrics, /^weft_sealed_fallbacks_total\{.*way="sent_singly".*\} 9$/m)
    assert.match(metrics, /^weft_sealed_refusals_total\{.*reason="unknown_peer".*\} 1$/m)
  })

  test('hands over whom it is to seal to: key, places and networks, and no plain way', async () => {
    await using bench = await sealedBench()
    const { host } = bench

    const [peer] = [...host.shuttle.tables.peers.values()]

    assert.equal(host.shuttle.tables.peers.size, 1)
    assert.equal(peer?.carrier, Carrier.CARRIER_SEALED)
    assert.deepEqual([peer.localAddress.length, peer.remoteAddress.length], [0, 0])
    assert.deepEqual(peer.networkIds, [5])
    assert(peer.sealed)
    assert.deepEqual(peer.sealed.publicKey, publicKeyOf(peerTunnel))
    assert.equal(peer.sealed.previousPublicKey.length, 0)
    assert.deepEqual(
      peer.sealed.candidates.map(({ port, kind }) => [port, kind]),
      [
        [61_820, CandidateKind.CANDIDATE_KIND_OWN],
        [4_000, CandidateKind.CANDIDATE_KIND_OBSERVED],
      ],
    )
  })

  test('answers first packets with the sealed carrier', async () => {
    await using bench = await sealedBench()
    const { host } = bench

    const flow = await host.shuttle.miss(WEB, API)
    assert(flow !== 'unresolved')

    assert.equal(flow.action, FlowAction.FLOW_ACTION_DIRECT)
    assert.equal(flow.carrier, Carrier.CARRIER_SEALED)
    assert.equal(flow.targetHostId, PEER_ID)
  })

  test('does not take a plain way that somebody else answers', async () => {
    await using bench = await sealedBench()
    const { host } = bench

    host.control.carrier = Carrier.CARRIER_VXLAN

    assert.equal(await host.shuttle.miss(WEB, API), 'unresolved')
    assert.equal(host.shuttle.flows.size, 0)
  })

  test('shows how its connections are, and what changes of them', async () => {
    await using bench = await sealedBench()
    const { host } = bench
    const stop = new AbortController()
    const told: string[] = []
    const watching = (async () => {
      const changes = host.client.watchOpenConnections({}, { signal: stop.signal })
      for await (const { connections, gone, snapshotComplete } of changes) {
        assert.equal(snapshotComplete, true)
        for (const { host: name, connection } of connections) {
          told.push(`${name} ${connection?.state}`)
        }
        for (const { host: name } of gone) told.push(`${name} gone`)
      }
    })().catch(() => undefined)
    await eventually(() => told.length === 1)

    host.shuttle.saySealed({ connections: [open()] })

    await eventually(() => told.length === 2)
    const { connections } = await host.client.listOpenConnections({})
    assert.equal(connections.length, 1)
    assert.equal(connections[0]?.host, 'host2')
    assert.equal(connections[0].connection?.rttUs, 250n)
    const { openConnections } = await host.client.getStatus({})
    assert.deepEqual(openConnections, { 'sealed open': 1 })

    await bench.controller.remove('peer', PEER_ID)
    await eventually(() => told.length === 3)
    stop.abort()
    await watching
    assert.deepEqual(told, [
      `host2 ${ConnectionState.CONNECTION_STATE_IDLE}`,
      `host2 ${ConnectionState.CONNECTION_STATE_OPEN}`,
      'host2 gone',
    ])
  })

  test('says what it hears on the bus, signed, and where others see it', {
    timeout: 30_000,
  }, async () => {
    await using bench = await sealedBench()
    const { host, bus } = bench
    const reports: ConnectionReport[] = []
    const subject = events.connectionsReported.pattern({ sender: HOST_ID, id: HOST_ID })
    await using _hearing = bus.subscribe(subject, ConnectionReport, (report) => {
      reports.push(report)
    })

    host.shuttle.saySealed({ connections: [open()], observed: { candidates: [seen] } })

    await eventually(() => reports.some(({ observed }) => observed.length === 1), 12_000)
    const report = reports.at(-1)
    assert(report)
    verifyConnections(report, bench.identityKey)
    assert.deepEqual(
      report.observed.map(({ port }) => port),
      [4_000],
    )
    const [connection] = reports.flatMap(({ connections }) => connections).slice(-1)
    assert.equal(connection?.hostId, PEER_ID)
    assert.equal(connection.state, ConnectionState.CONNECTION_STATE_OPEN)
  })

  test('drops a peer whose key is revoked at once', async () => {
    await using bench = await sealedBench()
    const { host } = bench
    assert.equal(host.shuttle.sealedPeers().length, 1)

    await bench.revokePeer()

    await eventually(() => host.shuttle.sealedPeers().length === 0)
    assert.equal(host.shuttle.hasPeer(PEER_ID), false)
  })

  test('answers to its former tunnel key as well once it has another one', async () => {
    await using bench = await sealedBench()
    const { host } = bench
    const [before] = host.shuttle.configured
    assert(before)
    const tunnel = generateTunnelKey()

    await bench.rotate(tunnel)

    const after = await eventually(() => {
      const last = host.shuttle.configured.at(-1)
      return last?.privateKey.equals(privateBytesOf(tunnel)) && last
    })
    assert.deepEqual(after.previousPrivateKey, before.privateKey)
  })
})

describe('word about void keys', () => {
  test('goes to the shuttle for its peers as the directory signed it, once', async () => {
    await using bench = await sealedBench()
    const { toldRevocations } = bench.host.shuttle

    await bench.revokePeer()
    await bench.revokePeer()

    await eventually(() => toldRevocations.length === 1)
    const [bytes, ...others] = toldRevocations[0] ?? []
    assert(bytes)
    assert.deepEqual(others, [])
    const { keys } = openStatement(
      'revocations',
      Signed.decode(bytes),
      Revocations,
      bench.directoryKey,
    )
    assert.deepEqual(keys[0]?.identityKey, publicKeyOf(peerIdentity))
  })

  test('counts when a peer passes it on as when the bus brings it, and goes further', async () => {
    await using bench = await sealedBench()
    const { host } = bench
    const { shuttle } = host
    assert.equal(shuttle.sealedPeers().length, 1)
    const statement = Buffer.from(Signed.encode(bench.revocation()).finish())

    shuttle.saySealed({ revocations: [{ hostId: 77, statement }] })

    await eventually(() => shuttle.sealedPeers().length === 0)
    await eventually(() => shuttle.toldRevocations.length === 1)
    assert.deepEqual(shuttle.toldRevocations[0], [statement])
  })

  test('that the directory did not sign changes nothing and goes no further', async () => {
    await using bench = await sealedBench()
    const { shuttle } = bench.host
    const refused = Buffer.from(
      Signed.encode(bench.revocation({ signer: generateIdentityKey() })).finish(),
    )

    const nonsense = Buffer.from('what is this')
    shuttle.saySealed({
      revocations: [refused, nonsense].map((statement) => ({ hostId: 77, statement })),
    })
    // What is heard is taken in order.
    const key = publicKeyOf(generateIdentityKey())
    const good = Buffer.from(Signed.encode(bench.revocation({ key })).finish())
    shuttle.saySealed({ revocations: [{ hostId: 77, statement: good }] })

    await eventually(() => shuttle.toldRevocations.length === 1)
    assert.deepEqual(shuttle.toldRevocations[0], [good])
    assert.equal(shuttle.sealedPeers().length, 1)
  })

  test('is told again to a shuttle that starts anew', async () => {
    await using bench = await sealedBench()
    const { shuttle } = bench.host
    await bench.revokePeer()
    await eventually(() => shuttle.toldRevocations.length === 1)

    await shuttle.stop()
    await shuttle.listen(bench.host.config.shuttle)

    await eventually(() => shuttle.toldRevocations.length === 2)
    assert.deepEqual(shuttle.toldRevocations[1], shuttle.toldRevocations[0])
  })
})

describe('the time that the control plane signed', () => {
  test('is told to the shuttle once a certificate has come, and not before', async () => {
    await using bench = await sealedBench()
    const { shuttle } = bench.host
    assert.equal(shuttle.configured[0]?.trustedUnixMs, 0n)
    const notBefore = new Date(Date.now() - 60_000)

    await bench.rotate(generateTunnelKey(), notBefore)

    await eventually(() => shuttle.configured.at(-1)?.trustedUnixMs !== 0n)
    const aheadMs = Date.now() - Number(shuttle.configured.at(-1)?.trustedUnixMs)
    // Certificates tell whole seconds.
    assert(aheadMs >= 60_000 && aheadMs < 120_000, `${aheadMs}`)
  })
})

describe('a host that is to seal and cannot', () => {
  test('reaches nobody plain instead, says why, and goes on with what needs no sealing', async () => {
    await using bench = await sealedBench({ canSeal: false })
    const { host } = bench

    const { sealing } = await host.client.getStatus({})

    assert.equal(sealing?.available, false)
    assert.match(sealing.problem, /no sealed transport/)
    assert.equal(host.shuttle.tables.peers.size, 0)
    await bench.controller.network({
      encryption: Encryption.ENCRYPTION_OUTSIDE_TRUSTED_ZONES,
    })
    await eventually(() => host.shuttle.hasPeer(PEER_ID))
    const [peer] = [...host.shuttle.tables.peers.values()]
    assert.equal(peer?.carrier, Carrier.CARRIER_VXLAN)
  })

  test('seals as soon as a shuttle that can is there', async () => {
    await using bench = await sealedBench({ canSeal: false })
    const { host } = bench

    await host.shuttle.stop()
    host.shuttle.canSeal = true
    await host.shuttle.listen(host.shuttleAddress)

    await eventually(() => host.shuttle.sealedPeers().length === 1)
  })

  test('gives a shuttle that was started anew its keys again, before its tables', async () => {
    await using bench = await sealedBench()
    const { host } = bench
    await host.shuttle.stop()
    host.shuttle.loseKernelObjects()
    host.shuttle.configured.length = 0

    await host.shuttle.listen(host.shuttleAddress)

    await eventually(() => host.shuttle.sealedPeers().length === 1)
    assert.equal(host.shuttle.configured.length, 1)
  })

  test('gives away no key where its record does not say that it seals', async () => {
    await using bench = await sealedBench({ capabilities: [] })

    assert.equal(bench.host.shuttle.configured.length, 0)
    const { sealing } = await bench.host.client.getStatus({})
    assert.equal(sealing, undefined)
  })
})

interface Bench extends AsyncDisposable {
  readonly host: BenchHost
  readonly bus: Bus
  readonly controller: FakeController
  /** Of this host, 32 bytes. */
  readonly identityKey: Buffer
  revokePeer(): Promise<void>
  /** Says that the key of the other host, or `key`, is void; signed by the directory unless given. */
  revocation(options?: { readonly signer?: KeyObject; readonly key?: Buffer }): Signed
  readonly directoryKey: Uint8Array
  /** Gives this host a new identity with this tunnel key. */
  rotate(tunnelKey: KeyObject, notBefore?: Date): Promise<void>
}

/**
 * `web` is attached here, `api` is at the other host, in a network that demands encryption.
 * `canSeal`: what the shuttle has; `capabilities`: what the records of both hosts say.
 */
async function sealedBench(
  options: {
    readonly canSeal?: boolean
    readonly capabilities?: string[]
    readonly sealing?: SealingSwitches
  } = {},
): Promise<Bench> {
  await using opened = new AsyncDisposableStack()
  const { canSeal = true, capabilities = [CARRIER_SEALED] } = options
  const hub = memoryBus()
  const bus = opened.use(hub.connect())
  const { sealing } = options
  const host = opened.use(await benchHost(async () => hub.connect(), undefined, sealing))
  const { shuttle, control, client, domain, places } = host
  shuttle.canSeal = canSeal
  control.carrier = Carrier.CARRIER_SEALED
  control.endpoints.set(WEB, endpoint(WEB, 'web'))
  control.endpoints.set(API, endpoint(API, 'api', PEER_ID))
  control.located.set(API, { hostId: PEER_ID, epoch: 1n, sequence: 1n })
  opened.use(control.takeReports(bus))
  const controller = await FakeController.on(bus, domain)
  await controller.network({ encryption: Encryption.ENCRYPTION_REQUIRED })
  await controller.peer(PEER_ID, 9, publicKeyOf(peerIdentity), { ...peer(), capabilities })
  await controller.endpoint(API, 'api', PEER_ID)
  await controller.self({ capabilities, sealedPort: 61_900 })
  await host.start()
  const attachment = {
    $case: 'netns',
    value: { path: '/run/netns/web', device: '', keepRoutes: false },
  } as const
  const name = { tenant: 'acme', network: 'blue', endpoint: 'web' }
  await client.attachPort({ idempotencyKey: '', ...name, attachment })
  await eventually(() => shuttle.tables.endpoints.has(API) && shuttle.hasForwarder)
  await eventually(async () => !(await client.getStatus({})).fromDisk)
  if (canSeal && capabilities.length > 0) {
    await eventually(() => shuttle.hasPeer(PEER_ID) && shuttle.sealedWatcherCount > 0)
  }
  const identityKey = control.hostKey
  const revocation: Bench['revocation'] = ({
    signer = domain.directoryKey,
    key = publicKeyOf(peerIdentity),
  } = {}) => {
    const keys = [{ identityKey: key, hostId: PEER_ID, revokedAtUnixMs: BigInt(Date.now()) }]
    const payload = Revocations.encode({ number: 7n, keys }).finish()
    return signStatement('revocations', payload, signer)
  }
  const kept = opened.move()
  return {
    host,
    bus,
    controller,
    identityKey,
    directoryKey: publicKeyOf(domain.directoryKey),
    revocation,
    async revokePeer() {
      bus.publish(events.keyRevoked.subject('config', 7n), Signed, revocation())
    },
    async rotate(tunnelKey, notBefore) {
      await writeIdentityFolder({
        folder: host.config.identityFolder,
        domain,
        credentials: domain.credentials({ kind: 'host', id: HOST_ID }, notBefore && { notBefore }),
        hostName: 'alpha',
        places,
        tunnelKey,
      })
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  }
}

/** What the other host's row says of its sealed transport. */
function peer(): Partial<PeerRow> {
  return {
    tunnelKey: publicKeyOf(peerTunnel),
    tunnelStatement: signTunnelKey(peerTunnel, peerIdentity),
    candidates: [
      {
        address: Buffer.of(192, 0, 2, PEER_ID),
        port: 61_820,
        kind: CandidateKind.CANDIDATE_KIND_OWN,
      },
      seen,
    ],
  }
}

function open(): OpenConnection {
  return OpenConnection.create({
    hostId: PEER_ID,
    carrier: Carrier.CARRIER_SEALED,
    state: ConnectionState.CONNECTION_STATE_OPEN,
    rttUs: 250n,
  })
}
