import assert from 'node:assert/strict'
import { inspect } from 'node:util'
import {
  type Bucket,
  type Bus,
  buckets,
  locationKey,
  recordKey,
  events as subjects,
} from '@weft/bus'
import {
  Encryption,
  Endpoint,
  Host,
  HostKind,
  Network,
  Record as StoredRecord,
  Zone,
} from '@weft/proto/weftline/config/v1/records.ts'
import {
  Location,
  LocationChange,
  LocationReport,
  LocationReportReply,
  LocationServiceService,
} from '@weft/proto/weftline/location/v1/location.ts'
import { type Client, connect } from '@weft/rpc'
import { createLogger } from '@weft/telemetry'
import type { Config } from '../src/config.ts'
import { startOn } from '../src/service.ts'

export type LocationClient = Client<typeof LocationServiceService>

/** One zone with hosts alpha and beta, and network blue. */
export interface Site {
  readonly zone: number
  readonly alpha: number
  readonly beta: number
  readonly blue: number
}

/** Writes the VN database the way `config` does: the id of a record is the revision at which it is created. */
export class ConfigRecords {
  readonly #bucket: Bucket<StoredRecord>

  private constructor(bucket: Bucket<StoredRecord>) {
    this.#bucket = bucket
  }

  static async open(bus: Bus): Promise<ConfigRecords> {
    return new ConfigRecords(await bus.openBucket(buckets.config, StoredRecord))
  }

  async nextId(): Promise<number> {
    return Number(await this.#bucket.lastRevision()) + 1
  }

  async put(kind: NonNullable<StoredRecord['kind']>): Promise<bigint> {
    const key = recordKey(kind.$case, kind.value.id)
    const { revision } = await this.#bucket.put(key, StoredRecord.create({ kind }))
    return revision
  }

  async zone(trusted: boolean, id?: number): Promise<number> {
    const value = Zone.create({ id: id ?? (await this.nextId()), name: 'dc', trusted })
    await this.put({ $case: 'zone', value })
    return value.id
  }

  async host(
    name: string,
    zoneId: number,
    address: readonly number[],
    isForeign = false,
  ): Promise<number> {
    const value = Host.create({
      id: await this.nextId(),
      name,
      kind: isForeign ? HostKind.HOST_KIND_VXLAN_PEER : HostKind.HOST_KIND_WEFT,
      underlayAddresses: [{ address: Buffer.from(address), zoneId }],
    })
    await this.put({ $case: 'host', value })
    return value.id
  }

  async network(name: string, vni: number): Promise<number> {
    const value = Network.create({
      id: await this.nextId(),
      name,
      vni,
      mtuBytes: 1320,
      encryption: Encryption.ENCRYPTION_OUTSIDE_TRUSTED_ZONES,
    })
    await this.put({ $case: 'network', value })
    return value.id
  }

  async endpoint(networkId: number, hostId: number, name = 'web'): Promise<Endpoint> {
    const value = Endpoint.create({
      id: await this.nextId(),
      networkId,
      hostId,
      name,
      mac: Buffer.from([2, 0, 0, 0, 0, 11]),
      addresses: [Buffer.from([10, 20, 0, 11])],
    })
    await this.put({ $case: 'endpoint', value })
    return value
  }

  /** Assigns the endpoint to another host, 0 for none. */
  assign(endpoint: Endpoint, hostId: number): Promise<bigint> {
    return this.put({ $case: 'endpoint', value: { ...endpoint, hostId } })
  }

  async deleteEndpoint(endpointId: number): Promise<void> {
    await this.#bucket.delete(recordKey('endpoint', endpointId))
  }

  async site(): Promise<Site> {
    const zone = await this.zone(true)
    return {
      zone,
      alpha: await this.host('alpha', zone, [192, 0, 2, 1]),
      beta: await this.host('beta', zone, [192, 0, 2, 2]),
      blue: await this.network('blue', 4711),
    }
  }
}

let replicaCount = 0

/** Starts a replica on the bus, with a client of its own. */
export async function startReplica(
  bus: Bus,
  config: Partial<Config> = {},
): Promise<AsyncDisposable & { readonly client: LocationClient }> {
  await using opened = new AsyncDisposableStack()
  const context = {
    name: 'location-resolver',
    log: createLogger({ service: 'location-resolver', level: 'silent' }),
    signal: new AbortController().signal,
  }
  const service = opened.use(
    await startOn(
      bus,
      `replica-${++replicaCount}`,
      {
        listen: ['127.0.0.1:0'],
        natsUrls: [],
        replicaId: undefined,
        horizonMs: 60_000,
        catchUpMs: 1000,
        ...config,
      },
      context,
    ),
  )
  const [address] = service.addresses
  assert(address !== undefined)
  const client = opened.use(connect(address, LocationServiceService))
  const running = opened.move()
  return { client, [Symbol.asyncDispose]: () => running.disposeAsync() }
}

/** Reports like a host, on its own subject unless another is given. */
export function report(
  bus: Bus,
  endpoint: Endpoint,
  some: Partial<LocationReport> & { readonly subjectHostId?: number } = {},
): Promise<LocationReportReply> {
  const message = LocationReport.create({
    change: LocationChange.LOCATION_CHANGE_ATTACHED,
    endpointId: endpoint.id,
    networkId: endpoint.networkId,
    addresses: endpoint.addresses,
    hostId: endpoint.hostId,
    leaseId: 'lease-1',
    observedAtUnixMs: 1_000n,
    sequence: 1n,
    ...some,
  })
  const sender = some.subjectHostId ?? message.hostId
  return bus.request(
    subjects.endpointReported.subject(sender, message.endpointId),
    { request: LocationReport, reply: LocationReportReply },
    message,
    { timeoutMs: 10_000 },
  )
}

export function detach(
  bus: Bus,
  endpoint: Endpoint,
  sequence: bigint,
): Promise<LocationReportReply> {
  const change = LocationChange.LOCATION_CHANGE_DETACHED
  return report(bus, endpoint, { change, sequence })
}

/** The location that a reply carries. */
export function locationOf({ outcome }: LocationReportReply): Location {
  assert(outcome?.$case === 'location', inspect(outcome))
  return outcome.value
}

/** The code of the error that a reply carries. */
export function errorCodeOf({ outcome }: LocationReportReply): string {
  assert(outcome?.$case === 'error', outcome?.$case)
  return outcome.value.code
}

export async function storedLocation(bus: Bus, endpointId: number): Promise<Location | undefined> {
  const bucket = await bus.openBucket(buckets.locations, Location)
  return (await bucket.get(locationKey(endpointId)))?.value
}
