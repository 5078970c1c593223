import type { KeyObject } from 'node:crypto'
import { join } from 'node:path'
import { type Bucket, type Bus, buckets, hostRowKey } from '@weft/bus'
import { type OwnCredentials, openCredentials } from '@weft/domain'
import { generateIdentityKey, publicKeyOf, signStatement } from '@weft/identity'
import { HostKind, type Network } from '@weft/proto/weftline/config/v1/records.ts'
import {
  HostRow,
  type PeerRow,
  type SelfRow,
  SignedHostRow,
} from '@weft/proto/weftline/config/v1/rows.ts'
import { ForwarderServiceService } from '@weft/proto/weftline/forwarder/v1/forwarder.ts'
import type { Places } from '@weft/proto/weftline/identity/v1/identity.ts'
import { type Client, connect } from '@weft/rpc'
import type { RunningService } from '@weft/service'
import { createLogger } from '@weft/telemetry'
import {
  type TestCredentials,
  type TestDomain,
  temporaryFolder,
  testDomain,
  writeIdentityFolder,
} from '@weft/testing'
import type { Config } from '../src/config.ts'
import type { SealingSwitches } from '../src/sealing.ts'
import { type OpenBus, startOn } from '../src/service.ts'
import { type ControlAddresses, FakeControl, network } from './fake-control.ts'
import { FakeShuttle } from './fake-shuttle.ts'

export const HOST_ID = 1
export const PEER_ID = 2

/** A host with a shuttle and control services of its own, in a folder of its own. */
export interface BenchHost extends AsyncDisposable {
  readonly folder: string
  readonly config: Config
  readonly shuttle: FakeShuttle
  readonly control: FakeControl
  readonly client: Client<ForwarderServiceService>
  readonly domain: TestDomain
  readonly places: Places
  readonly controlAddresses: ControlAddresses
  readonly shuttleAddress: string
  start(): Promise<RunningService>
  /** Gives the stopped host new keys, in this domain or in another one, until the horizon. */
  enrolIn(domain: TestDomain, horizon?: Date): Promise<void>
  /** Stops the forwarder in order. */
  stop(): Promise<void>
}

/** `enrolled`: the host in a domain of somebody else's making, with what it needs there. */
export async function benchHost(
  openBus: OpenBus,
  enrolled?: {
    readonly domain: TestDomain
    readonly credentials: TestCredentials
    readonly busUrl: string
  },
  sealing: SealingSwitches = { keyLogPath: '', offloadsOff: [], chacha20Only: false },
): Promise<BenchHost> {
  await using opened = new AsyncDisposableStack()
  const { path: folder } = opened.use(await temporaryFolder())
  const domain = enrolled?.domain ?? testDomain()
  const credentials = enrolled?.credentials ?? domain.credentials({ kind: 'host', id: HOST_ID })
  const shuttle = new FakeShuttle()
  const control = new FakeControl(domain, credentials.publicKey)
  const socket = (name: string): string => `unix:${join(folder, `${name}.sock`)}`
  const shuttleAddress = socket('shuttle')
  const hostAddress = socket('host')
  const controlAddresses = {
    config: socket('config'),
    resolver: socket('resolver'),
    policy: socket('policy'),
  }
  await shuttle.listen(shuttleAddress)
  opened.defer(() => shuttle.stop())
  await control.listen(controlAddresses)
  opened.defer(() => control.stop())
  const client = opened.use(
    connect(hostAddress, ForwarderServiceService, { security: { kind: 'socket-mode' } }),
  )
  const config: Config = {
    identityFolder: join(folder, 'identity'),
    stateFolder: join(folder, 'state'),
    shuttle: shuttleAddress,
    listen: [hostAddress],
    socketMode: 0o660,
    socketGroup: undefined,
    natsServers: undefined,
    configAddress: undefined,
    resolverAddress: undefined,
    policyAddress: undefined,
    sealing,
  }
  const places: Places = {
    config: [controlAddresses.config],
    enrolment: [],
    locationResolver: [controlAddresses.resolver],
    routingPolicy: [controlAddresses.policy],
    bus: [enrolled?.busUrl ?? 'nats://127.0.0.1:4222'],
  }
  await writeIdentityFolder({
    folder: config.identityFolder,
    domain,
    credentials,
    hostName: 'alpha',
    places,
  })
  let running: RunningService | undefined
  let member: OwnCredentials | undefined
  const stop = async (): Promise<void> => {
    await running?.[Symbol.asyncDispose]()
    await member?.[Symbol.asyncDispose]()
    running = undefined
    member = undefined
  }
  opened.defer(stop)
  const kept = opened.move()
  return {
    folder,
    config,
    shuttle,
    control,
    client,
    domain,
    places,
    controlAddresses,
    shuttleAddress,
    async start() {
      const log = createLogger({
        service: 'forwarder',
        level: process.env['TEST_LOG'] === 'debug' ? 'debug' : 'silent',
      })
      member = await openCredentials({ folder: config.identityFolder, renew: 'watch', log })
      running = await startOn((name, signal) => openBus(name, signal), member, config, {
        name: 'forwarder',
        log,
        signal: new AbortController().signal,
      })
      return running
    },
    stop,
    async enrolIn(other, horizon) {
      await writeIdentityFolder({
        folder: config.identityFolder,
        domain: other,
        credentials: other.credentials({ kind: 'host', id: HOST_ID }),
        hostName: 'alpha',
        places,
        ...(horizon && { horizon }),
      })
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  }
}

/** Keys of hosts by their ids, so that a test can name them. */
const hostKeys = new Map<number, Buffer>()

/** Identity key of a peer, 32 bytes. */
export function keyOfPeer(hostId: number): Buffer {
  const key = hostKeys.get(hostId) ?? publicKeyOf(generateIdentityKey())
  hostKeys.set(hostId, key)
  return key
}

/** Writes rows as the controller of config does. */
export class FakeController {
  readonly #domain: TestDomain
  /** To write what no controller would. */
  readonly bucket: Bucket<SignedHostRow>
  #revision: bigint
  /** How long the rows hold that are written from now on. */
  horizonMs: number = 7 * 24 * 3_600_000

  constructor(bucket: Bucket<SignedHostRow>, domain: TestDomain, revision: bigint) {
    this.bucket = bucket
    this.#domain = domain
    this.#revision = revision
  }

  /** `revision`: that of the VN database, from which it counts. */
  static async on(bus: Bus, domain: TestDomain, revision = 1n): Promise<FakeController> {
    const bucket = await bus.openBucket(buckets.hosts, SignedHostRow)
    return new FakeController(bucket, domain, revision)
  }

  async network(change: Partial<Network> = {}): Promise<void> {
    await this.#put('network', network.id, {
      $case: 'network',
      value: { network: { ...network, ...change }, tenantName: 'acme' },
    })
  }

  async endpoint(id: number, name: string, locationHostId: number, epoch = 1n): Promise<void> {
    await this.#put('endpoint', id, {
      $case: 'endpoint',
      value: {
        endpointId: id,
        networkId: network.id,
        name,
        mac: Buffer.from([2, 0, 0, 0, 0, id]),
        addresses: [Buffer.from([10, 20, 0, id])],
        allowedPrefixes: [],
        locationHostId,
        epoch,
        placement: undefined,
      },
    })
  }

  async peer(
    hostId: number,
    zoneId = 9,
    identityKey: Buffer = keyOfPeer(hostId),
    change: Partial<PeerRow> = {},
  ): Promise<void> {
    await this.#put('peer', hostId, {
      $case: 'peer',
      value: {
        hostId,
        name: `host${hostId}`,
        kind: HostKind.HOST_KIND_WEFT,
        addresses: [
          {
            address: Buffer.from([192, 0, 2, hostId]),
            zoneId,
            zoneName: `zone${zoneId}`,
            trusted: true,
          },
        ],
        identityKey,
        tunnelKey: Buffer.alloc(0),
        capabilities: [],
        wireVersions: [],
        tunnelStatement: undefined,
        candidates: [],
        ...change,
      },
    })
  }

  /** Written last: what was written before is all that there is. */
  async self(change: Partial<SelfRow> = {}): Promise<void> {
    await this.#put('self', HOST_ID, {
      $case: 'self',
      value: {
        name: 'alpha',
        addresses: [
          {
            address: Buffer.from([192, 0, 2, HOST_ID]),
            zoneId: 9,
            zoneName: 'zone9',
            trusted: true,
          },
        ],
        capabilities: [],
        sealedPort: 61_820,
        configured: [],
        ...change,
      },
    })
  }

  async remove(kind: 'network' | 'endpoint' | 'peer', id: number): Promise<void> {
    this.#revision++
    await this.bucket.delete(hostRowKey(HOST_ID, kind, id))
  }

  async #put(
    kind: 'network' | 'endpoint' | 'peer' | 'self',
    id: number,
    row: NonNullable<HostRow['row']>,
  ): Promise<void> {
    this.#revision++
    await this.bucket.put(hostRowKey(HOST_ID, kind, id), this.signed(row))
  }

  /** A row of this host at the present revision, and what is to be different about it. */
  signed(
    row: NonNullable<HostRow['row']>,
    change: Partial<HostRow> = {},
    key: KeyObject = this.#domain.directoryKey,
    purpose: 'host-row' | 'revocations' = 'host-row',
  ): SignedHostRow {
    const message = HostRow.create({
      hostId: HOST_ID,
      configRevision: this.#revision,
      locationRevision: this.#revision,
      notAfterUnixMs: BigInt(Date.now() + this.horizonMs),
      row,
      ...change,
    })
    return { row: signStatement(purpose, HostRow.encode(message).finish(), key) }
  }
}
