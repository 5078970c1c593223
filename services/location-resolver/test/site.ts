import assert from 'node:assert/strict'
import type { KeyObject } from 'node:crypto'
import { inspect } from 'node:util'
import {
  type Bucket,
  type Bus,
  buckets,
  locationKey,
  recordKey,
  events as subjects,
} from '@weft/bus'
import { generateIdentityKey, publicKeyOf } from '@weft/identity'
import { signRenewal, signReport } from '@weft/identity/host-signature'
import {
  Encryption,
  Endpoint,
  type Grant,
  Host,
  HostKind,
  Network,
  Role,
  Record as StoredRecord,
  Tenant,
  User,
  Zone,
} from '@weft/proto/weftline/config/v1/records.ts'
import {
  LeaseRenewal,
  Location,
  LocationChange,
  LocationReport,
  LocationReportReply,
  LocationServiceService,
} from '@weft/proto/weftline/location/v1/location.ts'
import { type Client, connect } from '@weft/rpc'
import { createLogger } from '@weft/telemetry'
import { type TestCredentials, type TestDomain, testDomain } from '@weft/testing'
import type { Config } from '../src/config.ts'
import { startOn } from '../src/service.ts'

export type LocationClient = Client<typeof LocationServiceService>

export const domain: TestDomain = testDomain()
/** The user who may see everything. */
const OWNER_ID = 1
/** Of all networks, unless another is given. */
export const TENANT_ID = 900

const hostKeys = new Map<number, KeyObject>()

/** Identity key of a host: the same one whenever it is asked for. */
export function keyOf(hostId: number): KeyObject {
  const key = hostKeys.get(hostId) ?? generateIdentityKey()
  hostKeys.set(hostId, key)
  return key
}

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
    const id = await this.nextId()
    const value = Host.create({
      id,
      name,
      kind: isForeign ? HostKind.HOST_KIND_VXLAN_PEER : HostKind.HOST_KIND_WEFT,
      underlayAddresses: [{ address: Buffer.from(address), zoneId }],
      identityKey: isForeign ? Buffer.alloc(0) : publicKeyOf(keyOf(id)),
    })
    await this.put({ $case: 'host', value })
    return id
  }

  /** Makes the key of a host void. */
  async revoke(hostId: number): Promise<void> {
    const entry = await this.#bucket.get(recordKey('host', hostId))
    assert(entry?.value.kind?.$case === 'host')
    await this.put({ $case: 'host', value: { ...entry.value.kind.value, revokedAtUnixMs: 1n } })
  }

  async tenant(id: number, name: string): Promise<void> {
    await this.put({ $case: 'tenant', value: Tenant.create({ id, name }) })
  }

  async user(id: number, ...grants: readonly Grant[]): Promise<void> {
    await this.put({
      $case: 'user',
      value: User.create({ id, name: `user${id}`, grants: [...grants] }),
    })
  }

  async hasUser(id: number): Promise<boolean> {
    return (await this.#bucket.get(recordKey('user', id))) !== undefined
  }

  async network(name: string, vni: number, tenantId: number = TENANT_ID): Promise<number> {
    const value = Network.create({
      id: await this.nextId(),
      tenantId,
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

export interface TestReplica extends AsyncDisposable {
  /** Of a user who may see everything. */
  readonly client: LocationClient
  readonly address: string
}

/** Starts a replica on the bus, with a client of its own. `recordsBus`: for whoever may write the VN database. */
export async function startReplica(
  bus: Bus,
  config: Partial<Config> = {},
  recordsBus: Bus = bus,
): Promise<TestReplica> {
  await using opened = new AsyncDisposableStack()
  const records = await ConfigRecords.open(recordsBus)
  if (!(await records.hasUser(OWNER_ID))) {
    await records.user(OWNER_ID, { tenantId: 0, role: Role.ROLE_OWNER })
  }
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
        identityFolder: '',
        natsUrls: undefined,
        replicaId: undefined,
        horizonMs: 60_000,
        catchUpMs: 1000,
        ...config,
      },
      context,
      domain.credentials({ kind: 'service', id: 'location-resolver' }),
    ),
  )
  const [address] = service.addresses
  assert(address !== undefined)
  const client = opened.use(connectAs({ kind: 'user', id: OWNER_ID }, address))
  const running = opened.move()
  return { client, address, [Symbol.asyncDispose]: () => running.disposeAsync() }
}

/** A client of a replica for a member of the domain. */
export function connectAs(
  member: { readonly kind: 'user' | 'host'; readonly id: number },
  address: string,
  credentials: TestCredentials = domain.credentials(member),
): LocationClient {
  return connect(address, LocationServiceService, {
    security: { kind: 'mutual-tls', credentials, peer: 'location-resolver' },
  })
}

/** Reports like a host, on its own subject and signed by its own key unless others are given. */
export function report(
  bus: Bus,
  endpoint: Endpoint,
  some: Partial<LocationReport> & {
    readonly subjectHostId?: number
    readonly key?: KeyObject
  } = {},
): Promise<LocationReportReply> {
  const { subjectHostId, key, ...fields } = some
  const message = reportOf(endpoint, fields)
  const sender = subjectHostId ?? message.hostId
  const signed = fields.hostSignature ? message : signReport(message, key ?? keyOf(message.hostId))
  return bus.request(
    subjects.endpointReported.subject(sender, message.endpointId),
    { request: LocationReport, reply: LocationReportReply },
    signed,
    { timeoutMs: 10_000 },
  )
}

/** That an endpoint is attached where it is assigned, and what is to be different about it. */
export function reportOf(endpoint: Endpoint, some: Partial<LocationReport> = {}): LocationReport {
  const said = LocationReport.create({
    change: LocationChange.LOCATION_CHANGE_ATTACHED,
    endpointId: endpoint.id,
    networkId: endpoint.networkId,
    addresses: endpoint.addresses,
    hostId: endpoint.hostId,
    leaseId: 'lease-1',
    observedAtUnixMs: 1_000n,
    sequence: 1n,
  })
  return { ...said, ...some }
}

/** Renews a lease like a host. */
export function renew(
  bus: Bus,
  some: Partial<LeaseRenewal> & { readonly hostId: number; readonly sender?: number },
  key: KeyObject = keyOf(some.hostId),
): void {
  const { sender = some.hostId, ...fields } = some
  const renewal = LeaseRenewal.create({ leaseTtlMs: 15_000, sentAtUnixMs: 1n, ...fields })
  const subject = subjects.hostRenewed.subject(sender, renewal.hostId)
  bus.publish(subject, LeaseRenewal, signRenewal(renewal, key))
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
