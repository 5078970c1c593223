import assert from 'node:assert/strict'
import { createHash, randomUUID } from 'node:crypto'
import { type Bucket, type Bus, buckets, events, keyTokens, locationKey } from '@weft/bus'
import { openStatement, pemOf, signStatement } from '@weft/identity'
import { signConnections } from '@weft/identity/host-signature'
import { ipToBytes, parseIpAddress, parsePrefix } from '@weft/net'
import { Prefix } from '@weft/proto/weftline/common/v1/common.ts'
import {
  AssignEndpointRequest,
  ConfigServiceService,
  CreateEndpointRequest,
  CreateHostRequest,
  CreateLoginCodeRequest,
  CreateNetworkRequest,
  CreateTenantRequest,
  CreateTokenRequest,
  CreateUserRequest,
  CreateZoneRequest,
  HostAddress,
  type UserGrant,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  EnrolmentServiceService,
  JoinStatement,
  LoginStatement,
} from '@weft/proto/weftline/config/v1/enrolment.ts'
import {
  type Endpoint,
  type Host,
  HostKind,
  type Network,
} from '@weft/proto/weftline/config/v1/records.ts'
import { HostRow, SignedHostRow } from '@weft/proto/weftline/config/v1/rows.ts'
import { type Credentials, PublicKeys } from '@weft/proto/weftline/identity/v1/identity.ts'
import { Location } from '@weft/proto/weftline/location/v1/location.ts'
import { ConnectionReport } from '@weft/proto/weftline/status/v1/status.ts'
import { type Client, connect } from '@weft/rpc'
import { createLogger } from '@weft/telemetry'
import { type TestCredentials, temporaryFolder } from '@weft/testing'
import { startOn } from '../src/service.ts'
import { type NewHostKeys, newHostKeys, newSite, type Site } from './domain.ts'

export type ConfigClient = Client<typeof ConfigServiceService>

export type EnrolmentClient = Client<typeof EnrolmentServiceService>

/** A replica, wherever it runs, and how to reach it. */
export interface Reachable {
  /** As the owner of the domain. */
  readonly client: ConfigClient
  readonly address: string
  readonly enrolmentAddress: string
}

export interface TestReplica extends Reachable, AsyncDisposable {}

/** The domain of all replicas of a test file. */
export const site: Site = newSite()

let replicaCount = 0

/** Starts a replica on the bus, with a client of its own. */
export async function startReplica(
  bus: Bus,
  options: { readonly auditFolder?: string; readonly acceptLossAfter?: number } = {},
): Promise<TestReplica> {
  await using opened = new AsyncDisposableStack()
  const replicaId = `replica-${++replicaCount}`
  const auditFolder = options.auditFolder ?? opened.use(await temporaryFolder()).path
  const service = opened.use(
    await startOn(
      bus,
      replicaId,
      {
        listen: ['127.0.0.1:0'],
        enrolmentListen: ['127.0.0.1:0'],
        authorityFolder: '',
        identityFolder: '',
        auditFolder,
        acceptLossAfter: options.acceptLossAfter,
        natsUrls: [],
        replicaId,
      },
      {
        name: 'config',
        log: createLogger({ service: 'config', level: 'silent' }),
        signal: new AbortController().signal,
      },
      site.membership,
    ),
  )
  const [address = '', enrolmentAddress = ''] = service.addresses
  const client = opened.use(connectAs(site.owner, address))
  const running = opened.move()
  return {
    client,
    address,
    enrolmentAddress,
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  }
}

/** A client of ConfigService with the certificate of somebody. */
export function connectAs(credentials: TestCredentials, address: string): ConfigClient {
  return connect(address, ConfigServiceService, {
    security: { kind: 'mutual-tls', credentials, peer: 'config' },
  })
}

/** A client of EnrolmentService, for somebody without a certificate. */
export function connectToEnrol(
  { enrolmentAddress }: Reachable,
  options: { readonly retries?: boolean } = {},
): EnrolmentClient {
  const rootPem = pemOf(site.domain.root.certificate)
  return connect(enrolmentAddress, EnrolmentServiceService, {
    ...options,
    security: { kind: 'pinned', rootPem, domain: site.domain.name, peer: 'config' },
  })
}

/** Certificates of hosts that have joined. */
const hostCredentials = new Map<number, TestCredentials>()

export function credentialsOf(host: Host): TestCredentials {
  const credentials = hostCredentials.get(host.id)
  assert(credentials, `host ${host.name} has not joined`)
  return credentials
}

/** Joins by a token, once. */
export async function join(
  replica: Reachable,
  token: string,
  keys: NewHostKeys,
  name: string,
  addresses: HostAddress[] = [],
): Promise<Credentials> {
  await using enrolment = connectToEnrol(replica)
  const sentAtUnixMs = BigInt(Date.now())
  const said = { token, name, keys: keys.message, addresses, sentAtUnixMs }
  const payload = JoinStatement.encode(JoinStatement.create(said)).finish()
  const statement = signStatement('join', payload, keys.identity)
  const idempotencyKey = createHash('sha256').update(keys.message.identity).digest('hex')
  const { credentials } = await enrolment.join({ idempotencyKey, statement })
  assert(credentials)
  return credentials
}

/** What a subscriber does, in few words, through any replica. */
export class Subscriber {
  readonly replica: Reachable

  constructor(replica: Reachable) {
    this.replica = replica
  }

  get client(): ConfigClient {
    return this.replica.client
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
    tenants: string[] = [],
  ): Promise<Host> {
    const addresses = address
      ? [HostAddress.create({ address: bytesOf(address), zone: 'lab' })]
      : []
    if (kind === HostKind.HOST_KIND_WEFT) return await this.#join(name, addresses, tenants)
    const { host } = await this.client.createHost(
      CreateHostRequest.create({ idempotencyKey: randomUUID(), name, kind, addresses }),
    )
    assert(host)
    return host
  }

  /** Text of a token that lets one host join. */
  async token(fields: Partial<CreateTokenRequest> = {}): Promise<string> {
    const request = CreateTokenRequest.create({ idempotencyKey: randomUUID(), ...fields })
    return (await this.client.createToken(request)).text
  }

  async #join(name: string, addresses: HostAddress[], tenants: string[]): Promise<Host> {
    const token = await this.token({ tenants, zone: addresses[0]?.zone ?? '' })
    const keys = newHostKeys()
    const credentials = await join(this.replica, token, keys, name, addresses)
    const { host } = await this.client.getHost({
      key: { $case: 'id', value: credentials.hostId },
    })
    assert(host)
    const member = { kind: 'host', id: host.id } as const
    hostCredentials.set(host.id, site.domain.credentials(member, { key: keys.identity }))
    return host
  }

  /** A user who has logged in. */
  async user(name: string, ...grants: readonly UserGrant[]): Promise<TestCredentials> {
    const { user } = await this.client.createUser(
      CreateUserRequest.create({ idempotencyKey: randomUUID(), name, grants: [...grants] }),
    )
    assert(user)
    const { text: code } = await this.client.createLoginCode(
      CreateLoginCodeRequest.create({ idempotencyKey: randomUUID(), user: name }),
    )
    const credentials = site.domain.credentials({ kind: 'user', id: user.id })
    await using enrolment = connectToEnrol(this.replica)
    const keys = PublicKeys.create({ identity: credentials.publicKey })
    const said = { code, keys, sentAtUnixMs: BigInt(Date.now()) }
    const payload = LoginStatement.encode(said).finish()
    const statement = signStatement('login', payload, credentials.identityKey)
    await enrolment.login({ idempotencyKey: randomUUID(), statement })
    return credentials
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
    await using client = connectAs(credentialsOf(host), this.replica.address)
    const { endpoint: assigned } = await client.assignEndpoint(
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
export async function furnish(replica: Reachable): Promise<Subscriber> {
  const subscriber = new Subscriber(replica)
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

/** Says, as the forwarder of a host does, how its open connections are. */
export function sayConnections(
  bus: Bus,
  host: Host,
  said: Partial<ConnectionReport>,
  as: { readonly signer?: Host; readonly subject?: Host } = {},
): void {
  const sentAtUnixMs = BigInt(Date.now())
  const report = { ...ConnectionReport.create({ hostId: host.id, sentAtUnixMs }), ...said }
  const { identityKey } = credentialsOf(as.signer ?? host)
  const { id } = as.subject ?? host
  const signed = signConnections(report, identityKey)
  bus.publish(events.connectionsReported.subject(id, id), ConnectionReport, signed)
}

export function openRows(bus: Bus): Promise<Bucket<SignedHostRow>> {
  return bus.openBucket(buckets.hosts, SignedHostRow)
}

/** A row as the directory of the test's domain signs it. */
export function signRow(row: HostRow): SignedHostRow {
  const payload = HostRow.encode(row).finish()
  return { row: signStatement('host-row', payload, site.domain.directoryKey) }
}

/** The rows of a host as its forwarder would find them, by kind and id, in the order in which they were written. */
export async function rowsOf(
  rows: Bucket<SignedHostRow>,
  hostId: number,
): Promise<Map<string, HostRow>> {
  const found = new Map<string, HostRow>()
  const stop = new AbortController()
  const rowOf = ({ row }: SignedHostRow) =>
    openStatement('host-row', row, HostRow, site.config.directoryKey)
  for await (const batch of rows.watch(`host.${hostId}`, { signal: stop.signal })) {
    for (const event of batch) {
      if (event.kind === 'put') {
        found.set(keyTokens(event.key).slice(2).join('.'), rowOf(event.value))
      }
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
