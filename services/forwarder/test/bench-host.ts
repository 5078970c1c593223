import { join } from 'node:path'
import { type Bucket, type Bus, buckets, hostRowKey } from '@weft/bus'
import { HostKind } from '@weft/proto/weftline/config/v1/records.ts'
import { HostRow } from '@weft/proto/weftline/config/v1/rows.ts'
import { ForwarderServiceService } from '@weft/proto/weftline/forwarder/v1/forwarder.ts'
import { type Client, connect } from '@weft/rpc'
import type { RunningService } from '@weft/service'
import { createLogger } from '@weft/telemetry'
import { temporaryFolder } from '@weft/testing'
import type { Config } from '../src/config.ts'
import { type OpenBus, startOn } from '../src/service.ts'
import { FakeControl, network } from './fake-control.ts'
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
  readonly controlAddress: string
  readonly shuttleAddress: string
  start(): Promise<RunningService>
  /** Stops the forwarder in order. */
  stop(): Promise<void>
}

export async function benchHost(openBus: OpenBus): Promise<BenchHost> {
  await using opened = new AsyncDisposableStack()
  const { path: folder } = opened.use(await temporaryFolder())
  const shuttle = new FakeShuttle()
  const control = new FakeControl()
  const shuttleAddress = `unix:${join(folder, 'shuttle.sock')}`
  const controlAddress = `unix:${join(folder, 'control.sock')}`
  const hostAddress = `unix:${join(folder, 'host.sock')}`
  await shuttle.listen(shuttleAddress)
  opened.defer(() => shuttle.stop())
  await control.listen(controlAddress)
  opened.defer(() => control.stop())
  const client = opened.use(connect(hostAddress, ForwarderServiceService))
  const config: Config = {
    hostId: HOST_ID,
    hostName: 'alpha',
    stateFolder: join(folder, 'state'),
    shuttle: shuttleAddress,
    listen: [hostAddress],
    socketMode: 0o660,
    socketGroup: undefined,
    natsServers: ['nats://127.0.0.1:4222'],
    configAddress: controlAddress,
    resolverAddress: controlAddress,
    policyAddress: controlAddress,
  }
  let running: RunningService | undefined
  const stop = async (): Promise<void> => {
    await running?.[Symbol.asyncDispose]()
    running = undefined
  }
  opened.defer(stop)
  const kept = opened.move()
  return {
    folder,
    config,
    shuttle,
    control,
    client,
    controlAddress,
    shuttleAddress,
    async start() {
      const log = createLogger({
        service: 'forwarder',
        level: process.env['TEST_LOG'] === 'debug' ? 'debug' : 'silent',
      })
      running = await startOn(openBus, config, {
        name: 'forwarder',
        log,
        signal: new AbortController().signal,
      })
      return running
    },
    stop,
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  }
}

/** Writes rows as the controller of config does. */
export class FakeController {
  readonly #bucket: Bucket<HostRow>
  #revision = 1n

  constructor(bucket: Bucket<HostRow>) {
    this.#bucket = bucket
  }

  static async on(bus: Bus): Promise<FakeController> {
    return new FakeController(await bus.openBucket(buckets.hosts, HostRow))
  }

  async network(): Promise<void> {
    await this.#put('network', network.id, {
      $case: 'network',
      value: { network, tenantName: 'acme' },
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
      },
    })
  }

  async peer(hostId: number, zoneId = 9): Promise<void> {
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
        identityKey: Buffer.alloc(0),
        tunnelKey: Buffer.alloc(0),
        capabilities: [],
        wireVersions: [],
      },
    })
  }

  /** Written last: what was written before is all that there is. */
  async self(): Promise<void> {
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
      },
    })
  }

  async remove(kind: 'network' | 'endpoint' | 'peer', id: number): Promise<void> {
    this.#revision++
    await this.#bucket.delete(hostRowKey(HOST_ID, kind, id))
  }

  async #put(
    kind: 'network' | 'endpoint' | 'peer' | 'self',
    id: number,
    row: NonNullable<HostRow['row']>,
  ): Promise<void> {
    this.#revision++
    await this.#bucket.put(hostRowKey(HOST_ID, kind, id), {
      hostId: HOST_ID,
      configRevision: this.#revision,
      locationRevision: this.#revision,
      row,
    })
  }
}
