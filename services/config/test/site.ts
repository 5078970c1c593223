import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { type Bucket, type Bus, buckets, keyTokens, locationKey } from '@weft/bus'
import { ipToBytes, parseIpAddress, parsePrefix } from '@weft/net'
import { Prefix } from '@weft/proto/weftline/common/v1/common.ts'
import {
  AssignEndpointRequest,
  ConfigServiceService,
  CreateEndpointRequest,
  CreateHostRequest,
  CreateNetworkRequest,
  CreateTenantRequest,
  CreateZoneRequest,
  HostAddress,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  type Endpoint,
  type Host,
  HostKind,
  type Network,
} from '@weft/proto/weftline/config/v1/records.ts'
import { HostRow } from '@weft/proto/weftline/config/v1/rows.ts'
import { Location } from '@weft/proto/weftline/location/v1/location.ts'
import { type Client, connect } from '@weft/rpc'
import { createLogger } from '@weft/telemetry'
import { startOn } from '../src/service.ts'

export type ConfigClient = Client<typeof ConfigServiceService>

export interface TestReplica extends AsyncDisposable {
  readonly client: ConfigClient
  readonly address: string
}

let replicaCount = 0

/** Starts a replica on the bus, with a client of its own. */
export async function startReplica(bus: Bus): Promise<TestReplica> {
  await using opened = new AsyncDisposableStack()
  const replicaId = `replica-${++replicaCount}`
  const service = opened.use(
    await startOn(
      bus,
      replicaId,
      { listen: ['127.0.0.1:0'], natsUrls: [], replicaId },
      {
        name: 'config',
        log: createLogger({ service: 'config', level: 'silent' }),
        signal: new AbortController().signal,
      },
    ),
  )
  const [address] = service.addresses
  assert(address !== undefined)
  const client = opened.use(connect(address, ConfigServiceService))
  const running = opened.move()
  return { client, address, [Symbol.asyncDispose]: () => running.disposeAsync() }
}

/** What a subscriber does, in few words, through any replica. */
export class Subscriber {
  readonly client: ConfigClient

  constructor(client: ConfigClient) {
    this.client = client
  }

  async tenant(name: string): Promise<void> {
    await this.client.createTenant(
      CreateTenantRequest.create({ idempotencyKey: randomUUID(), name }),
    )
  }

  async zone(name: string): Promise<void> {
    const idempotencyKey = randomUUID()
    await this.client.createZone(CreateZoneRequest.create({ idempotencyKey, name, trusted: true }))
  }

  async host(
    name: string,
    address?: string,
    kind: HostKind = HostKind.HOST_KIND_WEFT,
  ): Promise<Host> {
    const addresses = address
      ? [HostAddress.create({ address: bytesOf(address), zone: 'lab' })]
      : []
    const { host } = await this.client.createHost(
      CreateHostRequest.create({ idempotencyKey: randomUUID(), name, kind, addresses }),
    )
    assert(host)
    return host
  }

  async network(name: string, ...prefixes: readonly string[]): Promise<Network> {
    const { network } = await this.client.createNetwork(
      CreateNetworkRequest.create({
        idempotencyKey: randomUUID(),
        name: { tenant: 'acme', network: name },
        prefixes: prefixes.map(prefixOf),
      }),
    )
    assert(network)
    return network
  }

  async endpoint(
    network: string,
    name: string,
    idempotencyKey: string = randomUUID(),
  ): Promise<Endpoint> {
    const { endpoint } = await this.client.createEndpoint(
      CreateEndpointRequest.create({
        idempotencyKey,
        name: { tenant: 'acme', network, endpoint: name },
      }),
    )
    assert(endpoint)
    return endpoint
  }

  async assign(
    endpoint: Endpoint,
    host: Host,
    idempotencyKey: string = randomUUID(),
  ): Promise<Endpoint> {
    const { endpoint: assigned } = await this.client.assignEndpoint(
      AssignEndpointRequest.create({
        idempotencyKey,
        key: { $case: 'id', value: endpoint.id },
        hostId: host.id,
      }),
    )
    assert(assigned)
    return assigned
  }
}

/** A tenant, a zone, network blue, and a subscriber of the replica. */
export async function furnish({ client }: { readonly client: ConfigClient }): Promise<Subscriber> {
  const subscriber = new Subscriber(client)
  await subscriber.tenant('acme')
  await subscriber.zone('lab')
  await subscriber.network('blue', '10.20.0.0/16', 'fd20::/64')
  return subscriber
}

/** Says, as the resolver does, where an endpoint is. */
export async function locate(bus: Bus, endpoint: Endpoint, host: Host, epoch = 1n): Promise<void> {
  const locations = await bus.openBucket(buckets.locations, Location)
  const location = Location.create({ endpointId: endpoint.id, hostId: host.id, epoch })
  await locations.put(locationKey(endpoint.id), location)
}

export function openRows(bus: Bus): Promise<Bucket<HostRow>> {
  return bus.openBucket(buckets.hosts, HostRow)
}

/** The rows of a host as its forwarder would find them, by kind and id, in the order in which they were written. */
export async function rowsOf(rows: Bucket<HostRow>, hostId: number): Promise<Map<string, HostRow>> {
  const found = new Map<string, HostRow>()
  const stop = new AbortController()
  for await (const batch of rows.watch(`host.${hostId}`, { signal: stop.signal })) {
    for (const event of batch) {
      if (event.kind === 'put') found.set(keyTokens(event.key).slice(2).join('.'), event.value)
      if (event.kind === 'delete') found.delete(keyTokens(event.key).slice(2).join('.'))
      if (event.kind === 'snapshot-end') stop.abort()
    }
  }
  return found
}

export function bytesOf(address: string): Buffer {
  const parsed = parseIpAddress(address)
  assert(parsed)
  return ipToBytes(parsed)
}

function prefixOf(text: string): Prefix {
  const parsed = parsePrefix(text)
  assert(parsed)
  return Prefix.create({ address: ipToBytes(parsed.address), lengthBits: parsed.lengthBits })
}
