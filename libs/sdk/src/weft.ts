import { randomUUID } from 'node:crypto'
import type { Credentials } from '@weft/identity'
import { ipToBytes, macToBytes, SEALED_PORT_DEFAULT } from '@weft/net'
import { CandidateKind } from '@weft/proto/weftline/common/v1/common.ts'
import type { HostAddress as HostAddressMessage } from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  Encryption as EncryptionCode,
  type Endpoint as EndpointMessage,
  HostKind as HostKindCode,
  type Host as HostMessage,
  type Network as NetworkMessage,
  type SealedListener as SealedListenerMessage,
  type Tenant as TenantMessage,
  type Zone as ZoneMessage,
} from '@weft/proto/weftline/config/v1/records.ts'
import { type Context, hostOf } from './context.ts'
import { Control } from './control.ts'
import {
  decodeAddress,
  decodeMac,
  decodeMeta,
  decodePrefix,
  encodePrefix,
  pages,
  present,
} from './decode.ts'
import { HostClient } from './host-client.ts'
import { decodeCandidate, decodeOpenConnection } from './open-connections.ts'
import { Audit, Tokens, Users } from './people.ts'
import { TenantLocks } from './tenant-lock.ts'
import type * as t from './types.ts'

export interface ConnectOptions {
  readonly context: Context
  /** Who calls; by default who the context's identity folder says. */
  readonly credentials?: Credentials
}

/**
 * A client of one control server and of the hosts that the context knows. Nothing is opened before it is used. Every
 * write carries an idempotency key that is made once and kept through retries. Errors are the classes of `@weft/errors`.
 */
export function connect(options: ConnectOptions): Weft {
  return new Weft(options.context, options.credentials)
}

export class Weft implements AsyncDisposable {
  readonly context: Context
  readonly tenants: Tenants
  readonly zones: Zones
  readonly hosts: Hosts
  readonly networks: Networks
  readonly endpoints: Endpoints
  readonly tenantLocks: TenantLocks
  readonly tokens: Tokens
  readonly users: Users
  readonly audit: Audit
  readonly #control: Control
  readonly #hostClients = new Map<string, HostClient>()

  constructor(context: Context, credentials?: Credentials) {
    this.context = context
    this.#control = new Control(context, credentials)
    const names = new Names(this.#control)
    this.tenants = new Tenants(this.#control)
    this.zones = new Zones(this.#control)
    this.hosts = new Hosts(this.#control, names)
    this.networks = new Networks(this.#control, names)
    this.endpoints = new Endpoints(this.#control, names)
    this.tenantLocks = new TenantLocks(this.#control)
    this.tokens = new Tokens(this.#control, names)
    this.users = new Users(this.#control, names)
    this.audit = new Audit(this.#control)
  }

  /** The API of a host; without a name that of this machine, or of the only host that the context knows. */
  host(name?: string): HostClient {
    const target = hostOf(this.context, name)
    let client = this.#hostClients.get(target)
    if (client === undefined) {
      client = new HostClient(target)
      this.#hostClients.set(target, client)
    }
    return client
  }

  /** Asks one host, or without a name every host that the context knows, and says with each answer whose it is. */
  async ofHosts<T>(
    name: string | undefined,
    ask: (host: HostClient) => Promise<readonly T[]>,
  ): Promise<(T & { readonly onHost: string })[]> {
    const known = Object.keys(this.context.hosts)
    const names = name === undefined && this.context.localHost === undefined ? known : []
    const asked = names.length === 0 ? [name] : names
    const answers = await Promise.all(
      asked.map(async (one) => {
        const answer = await ask(this.host(one))
        return answer.map((row) => ({ ...row, onHost: one ?? 'this host' }))
      }),
    )
    return answers.flat()
  }

  async serverInfo(): Promise<t.ServerInfo> {
    const info = await this.#control.rpc.getServerInfo({})
    const { version, replicaId, revision, isController, busServer, busConnected } = info
    return { version, replicaId, revision, isController, busServer, busConnected }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const clients = [...this.#hostClients.values()]
    await Promise.all([
      this.#control[Symbol.asyncDispose](),
      ...clients.map((client) => client[Symbol.asyncDispose]()),
    ])
  }
}

class Tenants {
  readonly #control: Control

  constructor(control: Control) {
    this.#control = control
  }

  async create({ name, labels = {} }: t.CreateTenant): Promise<t.Tenant> {
    const request = { idempotencyKey: randomUUID(), name, labels }
    return decodeTenant(present((await this.#control.rpc.createTenant(request)).tenant, 'tenant'))
  }

  async get(name: string): Promise<t.Tenant> {
    return decodeTenant(present((await this.#control.rpc.getTenant({ name })).tenant, 'tenant'))
  }

  /** All of them, by name, page by page. */
  async *list(): AsyncGenerator<t.Tenant, void, undefined> {
    const rpc = this.#control.rpc
    for await (const { tenants } of pages((page) => rpc.listTenants({ page }))) {
      yield* tenants.map(decodeTenant)
    }
  }

  /** False if there was none. */
  async delete(name: string): Promise<boolean> {
    return (await this.#control.rpc.deleteTenant({ idempotencyKey: randomUUID(), name })).deleted
  }
}

class Zones {
  readonly #control: Control

  constructor(control: Control) {
    this.#control = control
  }

  async create({ name, trusted, labels = {} }: t.CreateZone): Promise<t.Zone> {
    const request = { idempotencyKey: randomUUID(), name, trusted, labels }
    return decodeZone(present((await this.#control.rpc.createZone(request)).zone, 'zone'))
  }

  async get(name: string): Promise<t.Zone> {
    return decodeZone(present((await this.#control.rpc.getZone({ name })).zone, 'zone'))
  }

  async *list(): AsyncGenerator<t.Zone, void, undefined> {
    const rpc = this.#control.rpc
    for await (const { zones } of pages((page) => rpc.listZones({ page }))) {
      yield* zones.map(decodeZone)
    }
  }

  /** Changes whether it is trusted; with `expectedRevision` only if nobody else has written it since. */
  async update(change: {
    name: string
    trusted: boolean
    expectedRevision?: bigint
  }): Promise<t.Zone> {
    const { name, trusted, expectedRevision = 0n } = change
    const request = { idempotencyKey: randomUUID(), name, trusted, expectedRevision }
    return decodeZone(present((await this.#control.rpc.updateZone(request)).zone, 'zone'))
  }

  async delete(name: string): Promise<boolean> {
    return (await this.#control.rpc.deleteZone({ idempotencyKey: randomUUID(), name })).deleted
  }
}

class Hosts {
  readonly #control: Control
  readonly #names: Names

  constructor(control: Control, names: Names) {
    this.#control = control
    this.#names = names
  }

  async create(wanted: t.CreateHost): Promise<t.Host> {
    const { name, kind = 'weft', addresses, sealedListener, labels = {} } = wanted
    const request = {
      idempotencyKey: randomUUID(),
      name,
      kind: kind === 'weft' ? HostKindCode.HOST_KIND_WEFT : HostKindCode.HOST_KIND_VXLAN_PEER,
      addresses: addresses.map(encodeHostAddress),
      capabilities: [],
      wireVersions: [],
      labels,
      sealedListener: sealedListener && encodeListener(sealedListener),
    }
    const { host } = await this.#control.rpc.createHost(request)
    return await this.#decode(present(host, 'host'))
  }

  async get(name: string): Promise<t.Host> {
    const { host } = await this.#control.rpc.getHost({ key: { $case: 'name', value: name } })
    return await this.#decode(present(host, 'host'))
  }

  async *list(): AsyncGenerator<t.Host, void, undefined> {
    const rpc = this.#control.rpc
    for await (const { hosts } of pages((page) => rpc.listHosts({ page }))) {
      for (const host of hosts) yield await this.#decode(host)
    }
  }

  /**
   * Replaces its underlay addresses, or where its sealed transport listens, or both; with `expectedRevision` only if nobody
   * else has written it since.
   */
  async update(change: {
    name: string
    addresses?: readonly t.HostAddress[]
    sealedListener?: t.SealedListener
    expectedRevision?: bigint
  }): Promise<t.Host> {
    const { name, addresses = [], sealedListener, expectedRevision = 0n } = change
    const { host } = await this.#control.rpc.updateHost({
      idempotencyKey: randomUUID(),
      name,
      addresses: addresses.map(encodeHostAddress),
      expectedRevision,
      sealedListener: sealedListener && encodeListener(sealedListener),
    })
    return await this.#decode(present(host, 'host'))
  }

  async delete(name: string): Promise<boolean> {
    return (await this.#control.rpc.deleteHost({ idempotencyKey: randomUUID(), name })).deleted
  }

  /** Its open connections, as it reported them lately itself. */
  async connections(host: string): Promise<{
    connections: t.ReportedConnection[]
    observed: t.Candidate[]
  }> {
    const answer = await this.#control.rpc.listHostConnections({ host })
    return {
      connections: answer.connections.map((reported) => ({
        ...decodeOpenConnection(reported.host, reported.connection),
        ageMs: Number(reported.ageMs),
      })),
      observed: answer.observed.map(decodeCandidate),
    }
  }

  /** Makes its keys void: its peers drop it, and it never comes back under them. */
  async revoke({ name, reason = '' }: { name: string; reason?: string }): Promise<t.Host> {
    const request = { idempotencyKey: randomUUID(), name, reason }
    return await this.#decode(present((await this.#control.rpc.revokeHost(request)).host, 'host'))
  }

  async #decode(host: HostMessage): Promise<t.Host> {
    const addresses: t.HostAddress[] = []
    for (const { address, zoneId } of host.underlayAddresses) {
      addresses.push({ address: decodeAddress(address), zone: await this.#names.zone(zoneId) })
    }
    return {
      id: host.id,
      name: host.name,
      kind: host.kind === HostKindCode.HOST_KIND_VXLAN_PEER ? 'vxlan-peer' : 'weft',
      addresses,
      capabilities: host.capabilities,
      wireVersions: host.wireVersions,
      sealedListener: {
        port: host.sealedListener?.port || SEALED_PORT_DEFAULT,
        configured: (host.sealedListener?.configured ?? []).map(({ address, port }) => ({
          address: decodeAddress(address),
          port,
        })),
      },
      revokedAt: dateOf(host.revokedAtUnixMs),
      horizon: dateOf(host.horizonUnixMs),
      ...decodeMeta(host.meta),
    }
  }
}

class Networks {
  readonly #control: Control
  readonly #names: Names

  constructor(control: Control, names: Names) {
    this.#control = control
    this.#names = names
  }

  async create(wanted: t.CreateNetwork): Promise<t.Network> {
    const { network } = await this.#control.rpc.createNetwork({
      idempotencyKey: randomUUID(),
      name: { tenant: wanted.tenant, network: wanted.network },
      prefixes: wanted.prefixes.map(encodePrefix),
      mtuBytes: wanted.mtuBytes ?? 0,
      encryption: encodeEncryption(wanted.encryption),
      vni: wanted.vni ?? 0,
      labels: wanted.labels ?? {},
    })
    return await this.#decode(present(network, 'network'))
  }

  async get(ref: t.NetworkRef): Promise<t.Network & { endpointCount: number }> {
    const { network, endpointCount } = await this.#control.rpc.getNetwork({
      name: networkName(ref),
    })
    return { ...(await this.#decode(present(network, 'network'))), endpointCount }
  }

  /** Those of one tenant, or of all. */
  async *list({
    tenant = '',
  }: {
    tenant?: string
  } = {}): AsyncGenerator<t.Network, void, undefined> {
    const rpc = this.#control.rpc
    for await (const { networks } of pages((page) => rpc.listNetworks({ tenant, page }))) {
      for (const network of networks) yield await this.#decode(network)
    }
  }

  async delete(ref: t.NetworkRef): Promise<boolean> {
    const request = { idempotencyKey: randomUUID(), name: networkName(ref) }
    return (await this.#control.rpc.deleteNetwork(request)).deleted
  }

  async #decode(network: NetworkMessage): Promise<t.Network> {
    return {
      id: network.id,
      tenant: await this.#names.tenant(network.tenantId),
      name: network.name,
      vni: network.vni,
      prefixes: network.prefixes.map(decodePrefix),
      mtuBytes: network.mtuBytes,
      encryption:
        network.encryption === EncryptionCode.ENCRYPTION_REQUIRED
          ? 'required'
          : 'outside-trusted-zones',
      ...decodeMeta(network.meta),
    }
  }
}

class Endpoints {
  readonly #control: Control
  readonly #names: Names

  constructor(control: Control, names: Names) {
    this.#control = control
    this.#names = names
  }

  async create(wanted: t.CreateEndpoint): Promise<t.Endpoint> {
    const { endpoint } = await this.#control.rpc.createEndpoint({
      idempotencyKey: randomUUID(),
      name: endpointName(wanted),
      mac: wanted.mac === undefined ? Buffer.alloc(0) : macToBytes(wanted.mac),
      addresses: (wanted.addresses ?? []).map(ipToBytes),
      allowedPrefixes: (wanted.allow ?? []).map(encodePrefix),
      labels: wanted.labels ?? {},
      vxlanPeer: wanted.vxlanPeer ?? '',
    })
    return await this.#decode(present(endpoint, 'endpoint'))
  }

  async get(ref: t.EndpointRef): Promise<t.Endpoint> {
    const key = { $case: 'name' as const, value: endpointName(ref) }
    const { endpoint } = await this.#control.rpc.getEndpoint({ key })
    return await this.#decode(present(endpoint, 'endpoint'))
  }

  /** Those of one network, of one tenant, or of all. */
  async *list(of: Partial<t.NetworkRef> = {}): AsyncGenerator<t.Endpoint, void, undefined> {
    const rpc = this.#control.rpc
    const network = { tenant: of.tenant ?? '', network: of.network ?? '' }
    for await (const { endpoints } of pages((page) => rpc.listEndpoints({ network, page }))) {
      for (const endpoint of endpoints) yield await this.#decode(endpoint)
    }
  }

  async delete(ref: t.EndpointRef): Promise<boolean> {
    const request = { idempotencyKey: randomUUID(), name: endpointName(ref) }
    return (await this.#control.rpc.deleteEndpoint(request)).deleted
  }

  async #decode(endpoint: EndpointMessage): Promise<t.Endpoint> {
    const { tenant, name: network } = await this.#names.network(endpoint.networkId)
    return {
      id: endpoint.id,
      tenant,
      network,
      name: endpoint.name,
      mac: decodeMac(endpoint.mac),
      addresses: endpoint.addresses.map(decodeAddress),
      allow: endpoint.allowedPrefixes.map(decodePrefix),
      host: endpoint.hostId === 0 ? undefined : await this.#names.host(endpoint.hostId),
      ...decodeMeta(endpoint.meta),
    }
  }
}

/** Names by id. Records refer by id; ids are never reused and names never change, so what was learnt stays true. */
class Names {
  readonly #control: Control
  readonly #tenants = new Map<number, string>()
  readonly #zones = new Map<number, string>()
  readonly #hosts = new Map<number, string>()
  readonly #networks = new Map<number, { tenant: string; name: string }>()

  constructor(control: Control) {
    this.#control = control
  }

  tenant(id: number): Promise<string> {
    const { rpc } = this.#control
    return find(this.#tenants, id, String(id), async () => {
      for await (const { tenants } of pages((page) => rpc.listTenants({ page }))) {
        for (const { id: tenantId, name } of tenants) this.#tenants.set(tenantId, name)
      }
    })
  }

  zone(id: number): Promise<string> {
    const { rpc } = this.#control
    return find(this.#zones, id, String(id), async () => {
      for await (const { zones } of pages((page) => rpc.listZones({ page }))) {
        for (const { id: zoneId, name } of zones) this.#zones.set(zoneId, name)
      }
    })
  }

  host(id: number): Promise<string> {
    return find(this.#hosts, id, String(id), async () => {
      const { host } = await this.#control.rpc.getHost({ key: { $case: 'id', value: id } })
      if (host !== undefined) this.#hosts.set(host.id, host.name)
    })
  }

  network(id: number): Promise<{ tenant: string; name: string }> {
    const { rpc } = this.#control
    return find(this.#networks, id, { tenant: '', name: String(id) }, async () => {
      for await (const { networks } of pages((page) => rpc.listNetworks({ tenant: '', page }))) {
        for (const { id: networkId, tenantId, name } of networks) {
          this.#networks.set(networkId, { tenant: await this.tenant(tenantId), name })
        }
      }
    })
  }
}

/** Looks a name up, learning first if it is new; what was deleted meanwhile is shown by its id. */
async function find<T>(
  known: ReadonlyMap<number, T>,
  id: number,
  otherwise: T,
  learn: () => Promise<void>,
): Promise<T> {
  if (!known.has(id)) await learn()
  return known.get(id) ?? otherwise
}

/** 0 is no time. */
function dateOf(unixMs: bigint): Date | undefined {
  return unixMs === 0n ? undefined : new Date(Number(unixMs))
}

function networkName({ tenant, network }: t.NetworkRef): { tenant: string; network: string } {
  return { tenant, network }
}

function endpointName(ref: t.EndpointRef): { tenant: string; network: string; endpoint: string } {
  return { tenant: ref.tenant, network: ref.network, endpoint: ref.endpoint }
}

function encodeHostAddress({ address, zone }: t.HostAddress): HostAddressMessage {
  return { address: ipToBytes(address), zone }
}

function encodeListener({ port, configured }: t.SealedListener): SealedListenerMessage {
  return {
    port,
    configured: configured.map((candidate) => ({
      address: ipToBytes(candidate.address),
      port: candidate.port,
      kind: CandidateKind.CANDIDATE_KIND_CONFIGURED,
    })),
  }
}

function encodeEncryption(encryption: t.Encryption | undefined): EncryptionCode {
  if (encryption === undefined) return EncryptionCode.ENCRYPTION_UNSPECIFIED
  return encryption === 'required'
    ? EncryptionCode.ENCRYPTION_REQUIRED
    : EncryptionCode.ENCRYPTION_OUTSIDE_TRUSTED_ZONES
}

function decodeTenant(tenant: TenantMessage): t.Tenant {
  return { id: tenant.id, name: tenant.name, ...decodeMeta(tenant.meta) }
}

function decodeZone(zone: ZoneMessage): t.Zone {
  return { id: zone.id, name: zone.name, trusted: zone.trusted, ...decodeMeta(zone.meta) }
}
