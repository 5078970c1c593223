import {
  addressKey,
  assignableRange,
  type IpAddress,
  ipFromBytes,
  macFromBytes,
  type Prefix,
  prefixFromBytes,
} from '@weft/net'
import type {
  Endpoint,
  Host,
  Network,
  RecordMeta,
  RevokedKey,
  StoredStatement,
  Tenant,
  Token,
  User,
  Zone,
} from '@weft/proto/weftline/config/v1/records.ts'
import { AddressSlots } from './address-slots.ts'
import { limits } from './limits.ts'
import { Members } from './members.ts'
import { NameIndex } from './name-index.ts'
import { TenantLocks } from './tenant-locks.ts'

export interface RecordsByKind {
  readonly tenant: Tenant
  readonly zone: Zone
  readonly host: Host
  readonly network: Network
  readonly endpoint: Endpoint
  readonly token: Token
  readonly user: User
  readonly revokedKey: RevokedKey
  readonly statement: StoredStatement
}
export type Kind = keyof RecordsByKind

export const kinds: readonly Kind[] = [
  'tenant',
  'zone',
  'host',
  'network',
  'endpoint',
  'token',
  'user',
  'revokedKey',
  'statement',
]

/** One record before and after a message of the VN database; `after` is undefined for a removal. */
export type Change = {
  [K in Kind]: {
    readonly kind: K
    readonly id: number
    readonly before: RecordsByKind[K] | undefined
    readonly after: RecordsByKind[K] | undefined
  }
}[Kind]

/** A record to put, or undefined to remove it, under its key. */
export type Write = {
  [K in Kind]: {
    readonly kind: K
    readonly id: number
    readonly record: RecordsByKind[K] | undefined
  }
}[Kind]

/** What a request wrote, as long as its idempotency key is remembered. */
export type Remembered = {
  [K in Kind]: { readonly kind: K; readonly record: RecordsByKind[K] }
}[Kind]

interface TenantIndex {
  record: Tenant | undefined
  readonly networks: NameIndex
  /** In all of its networks. */
  endpointCount: number
}

interface HostIndex {
  record: Host | undefined
  /** Assigned endpoints, counted by network. */
  readonly networks: Map<number, number>
}

interface AssignablePrefix {
  readonly family: 4 | 6
  readonly first: bigint
  readonly last: bigint
  /** Slot 0 is `first`. */
  readonly slots: AddressSlots
}

interface NetworkIndex {
  record: Network | undefined
  readonly endpoints: NameIndex
  /** Endpoint by `addressKey`. */
  readonly addresses: Map<bigint, number>
  readonly macs: Map<number, number>
  prefixes: readonly AssignablePrefix[]
  /** Assigned endpoints, counted by host. */
  readonly hosts: Map<number, number>
}

const noIds: ReadonlyMap<number, number> = new Map()

/**
 * The VN database in memory, built record by record from the messages of its bucket. A record may come before the one it
 * refers to: a snapshot tells each record once, at the place of its last write. Nothing is judged here; what is stored counts.
 */
export class Database {
  /** Revision of the last message that was applied. */
  revision = 0n

  readonly #tenants = new Map<number, TenantIndex>()
  readonly #zones = new Map<number, Zone>()
  readonly #hosts = new Map<number, HostIndex>()
  readonly #networks = new Map<number, NetworkIndex>()
  readonly #endpoints = new Map<number, Endpoint>()

  readonly tenantNames: NameIndex = new NameIndex()
  readonly zoneNames: NameIndex = new NameIndex()
  readonly hostNames: NameIndex = new NameIndex()
  /** Tokens, users and keys. */
  readonly members: Members = new Members()
  /** What the keys of tenants have signed. */
  readonly locks: TenantLocks = new TenantLocks()
  readonly #networksByVni = new Map<number, number>()
  readonly #hostsByZone = new Map<number, Set<number>>()
  /** Host by zone and underlay address. */
  readonly #underlayAddresses = new Map<string, number>()
  readonly #remembered = new Map<string, Remembered>()
  #networkCount = 0

  get counts(): { readonly [K in Kind]: number } {
    return {
      tenant: this.tenantNames.size,
      zone: this.#zones.size,
      host: this.hostNames.size,
      network: this.#networkCount,
      endpoint: this.#endpoints.size,
      token: this.members.tokenCount,
      user: this.members.userCount,
      revokedKey: this.members.revokedKeyCount,
      statement: this.locks.count,
    }
  }

  tenant(id: number): Tenant | undefined {
    return this.#tenants.get(id)?.record
  }

  zone(id: number): Zone | undefined {
    return this.#zones.get(id)
  }

  host(id: number): Host | undefined {
    return this.#hosts.get(id)?.record
  }

  network(id: number): Network | undefined {
    return this.#networks.get(id)?.record
  }

  endpoint(id: number): Endpoint | undefined {
    return this.#endpoints.get(id)
  }

  token(id: number): Token | undefined {
    return this.members.token(id)
  }

  user(id: number): User | undefined {
    return this.members.user(id)
  }

  revokedKey(id: number): RevokedKey | undefined {
    return this.members.revokedKey(id)
  }

  statement(id: number): StoredStatement | undefined {
    return this.locks.statement(id)
  }

  has(kind: Kind, id: number): boolean {
    return this[kind](id) !== undefined
  }

  /** Networks of a tenant by name. */
  networkNames(tenantId: number): NameIndex | undefined {
    return this.#tenants.get(tenantId)?.networks
  }

  /** How many endpoints a tenant has in all of its networks. */
  endpointCountOf(tenantId: number): number {
    return this.#tenants.get(tenantId)?.endpointCount ?? 0
  }

  /** Endpoints of a network by name. */
  endpointNames(networkId: number): NameIndex | undefined {
    return this.#networks.get(networkId)?.endpoints
  }

  networkByVni(vni: number): number | undefined {
    return this.#networksByVni.get(vni)
  }

  /** The endpoint that has the address in the network. */
  addressHolder(networkId: number, address: IpAddress): number | undefined {
    return this.#networks.get(networkId)?.addresses.get(addressKey(address))
  }

  /** The endpoint that has the MAC in the network. */
  macHolder(networkId: number, mac: number): number | undefined {
    return this.#networks.get(networkId)?.macs.get(mac)
  }

  /** The lowest free address of the network's prefixes of that family, in their order; undefined if all are taken. */
  freeAddress(networkId: number, family: 4 | 6): IpAddress | undefined {
    for (const prefix of this.#networks.get(networkId)?.prefixes ?? []) {
      if (prefix.family !== family) continue
      const slot = prefix.slots.lowestFree()
      if (slot !== undefined) return { family, value: prefix.first + slot }
    }
    return undefined
  }

  /** How many assignable addresses of the network's prefixes of that family are taken. */
  takenAddresses(networkId: number, family: 4 | 6): number {
    let taken = 0
    for (const prefix of this.#networks.get(networkId)?.prefixes ?? []) {
      if (prefix.family === family) taken += prefix.slots.taken
    }
    return taken
  }

  /** The host that has the underlay address in the zone. */
  underlayAddressHolder(zoneId: number, address: IpAddress): number | undefined {
    return this.#underlayAddresses.get(underlayKey(zoneId, address))
  }

  /** Hosts with an address in the zone. */
  hostsOfZone(zoneId: number): ReadonlySet<number> {
    return this.#hostsByZone.get(zoneId) ?? new Set()
  }

  /** Hosts to which endpoints of the network are assigned, each with their number. */
  hostsOfNetwork(networkId: number): ReadonlyMap<number, number> {
    return this.#networks.get(networkId)?.hosts ?? noIds
  }

  /** Networks of the endpoints that are assigned to the host, each with their number. */
  networksOfHost(hostId: number): ReadonlyMap<number, number> {
    return this.#hosts.get(hostId)?.networks ?? noIds
  }

  hostIds(): Iterable<number> {
    return this.#hosts.keys()
  }

  /** What the request with this idempotency key wrote, among the last 65,536 writes that were not written over before this replica started. */
  remembered(idempotencyKey: string): Remembered | undefined {
    return this.#remembered.get(idempotencyKey)
  }

  /**
   * Applies the message of one revision. The record becomes the database's own, with the revision filled in. Undefined if
   * it changes nothing: a put that was applied before, a removal of what is not there.
   */
  apply(write: Write, revision: bigint): Change | undefined {
    if (write.record ? revision <= this.revision : !this.has(write.kind, write.id)) {
      this.skip(revision)
      return undefined
    }
    this.skip(revision)
    const { kind, id, record } = write
    if (record) {
      record.meta = { ...(record.meta ?? emptyMeta), revision }
      this.#remember(record.meta.idempotencyKey, { kind, record } as Remembered)
    }
    switch (kind) {
      case 'tenant':
        return { kind, id, before: this.#applyTenant(id, record), after: record }
      case 'zone':
        return { kind, id, before: this.#applyZone(id, record), after: record }
      case 'host':
        return { kind, id, before: this.#applyHost(id, record), after: record }
      case 'network':
        return { kind, id, before: this.#applyNetwork(id, record), after: record }
      case 'endpoint':
        return { kind, id, before: this.#applyEndpoint(id, record), after: record }
      case 'token':
        return { kind, id, before: this.members.applyToken(id, record), after: record }
      case 'user':
        return { kind, id, before: this.members.applyUser(id, record), after: record }
      case 'revokedKey':
        return { kind, id, before: this.members.applyRevokedKey(id, record), after: record }
      case 'statement':
        return { kind, id, before: this.locks.apply(id, record), after: record }
    }
  }

  /** All up to the revision is known: a message that says nothing to this version, or nothing new. */
  skip(revision: bigint): void {
    if (revision > this.revision) this.revision = revision
  }

  #applyTenant(id: number, record: Tenant | undefined): Tenant | undefined {
    const index = this.#tenantIndex(id)
    const before = index.record
    if (before) this.tenantNames.delete(before.name, id)
    if (record) this.tenantNames.set(record.name, id)
    index.record = record
    if (!record && index.networks.size === 0) this.#tenants.delete(id)
    return before
  }

  #applyZone(id: number, record: Zone | undefined): Zone | undefined {
    const before = this.#zones.get(id)
    if (before) this.zoneNames.delete(before.name, id)
    if (record) {
      this.zoneNames.set(record.name, id)
      this.#zones.set(id, record)
    } else {
      this.#zones.delete(id)
    }
    return before
  }

  #applyHost(id: number, record: Host | undefined): Host | undefined {
    const index = this.#hostIndex(id)
    const before = index.record
    if (before) {
      this.hostNames.delete(before.name, id)
      for (const { zoneId, address } of underlayAddressesOf(before)) {
        this.#hostsByZone.get(zoneId)?.delete(id)
        this.#underlayAddresses.delete(underlayKey(zoneId, address))
      }
    }
    if (record) {
      this.hostNames.set(record.name, id)
      for (const { zoneId, address } of underlayAddressesOf(record)) {
        const hosts = this.#hostsByZone.get(zoneId)
        if (hosts) hosts.add(id)
        else this.#hostsByZone.set(zoneId, new Set([id]))
        this.#underlayAddresses.set(underlayKey(zoneId, address), id)
      }
    }
    this.members.applyHost(id, before, record)
    index.record = record
    if (!record && index.networks.size === 0) this.#hosts.delete(id)
    return before
  }

  #applyNetwork(id: number, record: Network | undefined): Network | undefined {
    const index = this.#networkIndex(id)
    const before = index.record
    if (before) {
      this.#networkCount--
      this.networkNames(before.tenantId)?.delete(before.name, id)
      this.#tenantIndex(before.tenantId).endpointCount -= index.endpoints.size
      this.#networksByVni.delete(before.vni)
    }
    if (record) {
      this.#networkCount++
      const tenant = this.#tenantIndex(record.tenantId)
      tenant.networks.set(record.name, id)
      tenant.endpointCount += index.endpoints.size
      this.#networksByVni.set(record.vni, id)
    }
    index.record = record
    index.prefixes = record ? this.#assignablePrefixes(record, index.endpoints) : []
    if (!record && index.endpoints.size === 0) this.#networks.delete(id)
    return before
  }

  #applyEndpoint(id: number, record: Endpoint | undefined): Endpoint | undefined {
    const before = this.#endpoints.get(id)
    if (before) {
      const index = this.#networkIndex(before.networkId)
      const sizeBefore = index.endpoints.size
      index.endpoints.delete(before.name, id)
      this.#countInTenant(index, index.endpoints.size - sizeBefore)
      index.macs.delete(macFromBytes(before.mac) ?? 0)
      for (const address of addressesOf(before)) {
        index.addresses.delete(addressKey(address))
        const prefix = prefixWith(index.prefixes, address)
        prefix?.slots.free(address.value - prefix.first)
      }
      if (before.hostId !== 0) this.#count(index, before, -1)
      if (!index.record && index.endpoints.size === 0) this.#networks.delete(before.networkId)
    }
    if (record) {
      const index = this.#networkIndex(record.networkId)
      const sizeBefore = index.endpoints.size
      index.endpoints.set(record.name, id)
      this.#countInTenant(index, index.endpoints.size - sizeBefore)
      index.macs.set(macFromBytes(record.mac) ?? 0, id)
      for (const address of addressesOf(record)) {
        index.addresses.set(addressKey(address), id)
        const prefix = prefixWith(index.prefixes, address)
        prefix?.slots.take(address.value - prefix.first)
      }
      if (record.hostId !== 0) this.#count(index, record, 1)
      this.#endpoints.set(id, record)
    } else {
      this.#endpoints.delete(id)
    }
    return before
  }

  /** Those of a network that is not known yet are counted with it. */
  #countInTenant({ record }: NetworkIndex, by: number): void {
    if (record) this.#tenantIndex(record.tenantId).endpointCount += by
  }

  #count(network: NetworkIndex, endpoint: Endpoint, by: 1 | -1): void {
    const host = this.#hostIndex(endpoint.hostId)
    add(network.hosts, endpoint.hostId, by)
    add(host.networks, endpoint.networkId, by)
    if (!host.record && host.networks.size === 0) this.#hosts.delete(endpoint.hostId)
  }

  #assignablePrefixes(network: Network, endpoints: NameIndex): AssignablePrefix[] {
    const prefixes = prefixesOf(network).flatMap((prefix): AssignablePrefix[] => {
      const range = assignableRange(prefix)
      if (!range) return []
      const slots = new AddressSlots(range.last - range.first + 1n)
      return [{ family: prefix.address.family, ...range, slots }]
    })
    for (const id of endpoints.ids()) {
      const endpoint = this.#endpoints.get(id)
      for (const address of endpoint ? addressesOf(endpoint) : []) {
        const prefix = prefixWith(prefixes, address)
        prefix?.slots.take(address.value - prefix.first)
      }
    }
    return prefixes
  }

  #remember(idempotencyKey: string, write: Remembered): void {
    if (idempotencyKey === '') return
    this.#remembered.delete(idempotencyKey)
    this.#remembered.set(idempotencyKey, write)
    if (this.#remembered.size <= limits.rememberedWrites) return
    const oldest = this.#remembered.keys().next()
    if (!oldest.done) this.#remembered.delete(oldest.value)
  }

  #tenantIndex(id: number): TenantIndex {
    let index = this.#tenants.get(id)
    if (!index) {
      index = { record: undefined, networks: new NameIndex(), endpointCount: 0 }
      this.#tenants.set(id, index)
    }
    return index
  }

  #hostIndex(id: number): HostIndex {
    let index = this.#hosts.get(id)
    if (!index) {
      index = { record: undefined, networks: new Map() }
      this.#hosts.set(id, index)
    }
    return index
  }

  #networkIndex(id: number): NetworkIndex {
    let index = this.#networks.get(id)
    if (!index) {
      index = {
        record: undefined,
        endpoints: new NameIndex(),
        addresses: new Map(),
        macs: new Map(),
        prefixes: [],
        hosts: new Map(),
      }
      this.#networks.set(id, index)
    }
    return index
  }
}

/** The prefixes of a network; those that do not parse, which only a defect could have stored, are left out. */
export function prefixesOf(network: Network): Prefix[] {
  return network.prefixes
    .map((prefix) => prefixFromBytes(prefix.address, prefix.lengthBits))
    .filter((prefix) => prefix !== undefined)
}

/** The addresses of an endpoint. */
export function addressesOf(endpoint: Endpoint): IpAddress[] {
  return endpoint.addresses.map(ipFromBytes).filter((address) => address !== undefined)
}

function underlayAddressesOf(host: Host): { zoneId: number; address: IpAddress }[] {
  return host.underlayAddresses.flatMap(({ zoneId, address: bytes }) => {
    const address = ipFromBytes(bytes)
    return address ? [{ zoneId, address }] : []
  })
}

function underlayKey(zoneId: number, address: IpAddress): string {
  return `${zoneId}/${addressKey(address)}`
}

function prefixWith(
  prefixes: readonly AssignablePrefix[],
  { family, value }: IpAddress,
): AssignablePrefix | undefined {
  return prefixes.find(
    (prefix) => prefix.family === family && value >= prefix.first && value <= prefix.last,
  )
}

function add(counts: Map<number, number>, id: number, by: 1 | -1): void {
  const count = (counts.get(id) ?? 0) + by
  if (count > 0) counts.set(id, count)
  else counts.delete(id)
}

const emptyMeta: RecordMeta = {
  revision: 0n,
  createdRevision: 0n,
  createdAtUnixMs: 0n,
  writtenAtUnixMs: 0n,
  idempotencyKey: '',
  writtenBy: '',
  labels: {},
}
