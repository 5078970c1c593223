import {
  AddressOutsidePrefixError,
  AddressReservedError,
  AddressTakenError,
  EndpointAttachedElsewhereError,
  EndpointExistsError,
  EndpointInUseError,
  EndpointNotFoundError,
  HostRevokedError,
  InternalError,
  InvalidAddressError,
  InvalidArgumentError,
  InvalidMacError,
  InvalidPrefixError,
  LimitReachedError,
  MacTakenError,
  NetworkFullError,
  PermissionDeniedError,
} from '@weft/errors'
import {
  addressKey,
  contains,
  containsPrefix,
  formatIpAddress,
  formatMacAddress,
  formatPrefix,
  gatewayAddress,
  type IpAddress,
  type IpFamily,
  ipFromBytes,
  ipToBytes,
  isAssignable,
  isStationMac,
  localMac,
  type MacAddress,
  macFromBytes,
  macOfAddress,
  macToBytes,
  sameAddress,
} from '@weft/net'
import type { Prefix as WirePrefix } from '@weft/proto/weftline/common/v1/common.ts'
import type {
  AssignEndpointRequest,
  CreateEndpointRequest,
  DeleteEndpointRequest,
  EndpointName,
  ReleaseEndpointRequest,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  type Endpoint,
  type Host,
  HostKind,
  type Network,
} from '@weft/proto/weftline/config/v1/records.ts'
import { type Database, prefixesOf } from '../database.ts'
import { limits } from '../limits.ts'
import { hostNamed, hostWithId, mayCarry } from './hosts.ts'
import { networkNamed, parsedPrefix, requiredName } from './networks.ts'
import {
  answer,
  type Caller,
  checkCount,
  checkName,
  createdMeta,
  newId,
  type Plan,
  put,
  remove,
  repeated,
  rewrittenMeta,
} from './plan.ts'

export function createEndpoint(
  database: Database,
  request: CreateEndpointRequest,
  caller: Caller,
): Plan<Endpoint> {
  const path = requiredName(request.name)
  const name = path.endpoint
  checkName('endpoint', name)
  const network = networkNamed(database, path)
  const earlier = repeated(
    database,
    caller,
    'endpoint',
    (endpoint) => endpoint.name === name && endpoint.networkId === network.id,
  )
  if (earlier) return answer(earlier)
  const names = database.endpointNames(network.id)
  if (names?.get(name) !== undefined) {
    throw new EndpointExistsError({ endpoint: name, network: network.name })
  }
  if (names && names.size >= limits.endpointsPerNetwork) {
    const what = `endpoints of network ${network.name}`
    throw new LimitReachedError({ what, limit: limits.endpointsPerNetwork })
  }
  if (database.endpointCountOf(network.tenantId) >= limits.endpointsPerTenant) {
    const what = `endpoints of tenant ${path.tenant}`
    throw new LimitReachedError({ what, limit: limits.endpointsPerTenant })
  }
  if (database.counts.endpoint >= limits.endpoints) {
    throw new LimitReachedError({ what: 'endpoints', limit: limits.endpoints })
  }
  const addresses = chosenAddresses(database, network, request.addresses)
  const id = newId(database)
  return put('endpoint', id, {
    id,
    networkId: network.id,
    name,
    mac: macToBytes(chosenMac(database, network, request.mac, addresses, caller)),
    addresses: addresses.map(ipToBytes),
    allowedPrefixes: allowedPrefixes(network, request.allowedPrefixes),
    hostId: request.vxlanPeer === '' ? 0 : foreignHostId(database, request.vxlanPeer),
    meta: createdMeta(database, caller, request.labels),
  })
}

export function deleteEndpoint(database: Database, { name }: DeleteEndpointRequest): Plan<boolean> {
  const endpoint = findEndpoint(database, requiredName(name))
  if (!endpoint) return answer(false)
  const holder = holderOf(database, endpoint)
  // What is at a foreign host was attached by nobody, so nobody detaches it either.
  if (holder && holder.kind !== HostKind.HOST_KIND_VXLAN_PEER) {
    throw new EndpointInUseError({ endpoint: endpoint.name, host: holder.name })
  }
  return remove('endpoint', endpoint.id)
}

export function assignEndpoint(
  database: Database,
  { key, hostId }: AssignEndpointRequest,
  caller: Caller,
): Plan<Endpoint> {
  const endpoint = endpointWithKey(database, key)
  const host = hostWithId(database, hostId)
  const earlier = repeated(
    database,
    caller,
    'endpoint',
    (record) => record.id === endpoint.id && record.hostId === hostId,
  )
  if (earlier) return answer(earlier)
  if (endpoint.hostId === hostId) return answer(endpoint)
  if (host.kind !== HostKind.HOST_KIND_WEFT) {
    throw new InvalidArgumentError({
      field: 'host_id',
      problem: `host ${host.name} is a foreign VXLAN peer, which attaches nothing itself`,
      remedy: 'create the endpoint with --vxlan-peer instead',
    })
  }
  if (host.revokedAtUnixMs !== 0n) {
    const revokedAtUnixMs = Number(host.revokedAtUnixMs)
    throw new HostRevokedError({ host: host.name, revokedAtUnixMs })
  }
  if (!mayCarry(host, database.network(endpoint.networkId)?.tenantId)) {
    throw new PermissionDeniedError({
      what: `assigning endpoint ${endpoint.name} to host ${host.name}`,
      problem: 'its token did not allow the host to carry endpoints of this tenant',
      remedy: 'assign it to another host, or join the host again with a token for the tenant',
    })
  }
  const holder = holderOf(database, endpoint)
  if (holder) {
    throw new EndpointAttachedElsewhereError({ endpoint: endpoint.name, host: holder.name })
  }
  const meta = rewrittenMeta(endpoint.meta, caller)
  return put('endpoint', endpoint.id, { ...endpoint, hostId, meta })
}

export function releaseEndpoint(
  database: Database,
  { endpointId, hostId }: ReleaseEndpointRequest,
  caller: Caller,
): Plan<boolean> {
  const earlier = repeated(
    database,
    caller,
    'endpoint',
    (record) => record.id === endpointId && record.hostId === 0,
  )
  if (earlier) return answer(true)
  const endpoint = database.endpoint(endpointId)
  if (!endpoint || endpoint.hostId === 0 || endpoint.hostId !== hostId) return answer(false)
  const meta = rewrittenMeta(endpoint.meta, caller)
  const { write } = put('endpoint', endpointId, { ...endpoint, hostId: 0, meta })
  return write ? { write, result: () => true } : answer(false)
}

/** Finds an endpoint by name or id. Throws a not-found error for whatever is missing on the way. */
export function endpointWithKey(database: Database, key: AssignEndpointRequest['key']): Endpoint {
  if (!key)
    throw new InvalidArgumentError({ field: 'key', problem: 'neither name nor id is given' })
  if (key.$case === 'id') {
    const endpoint = database.endpoint(key.value)
    if (!endpoint) throw new EndpointNotFoundError({ endpoint: key.value })
    return endpoint
  }
  const network = networkNamed(database, key.value)
  const id = database.endpointNames(network.id)?.get(key.value.endpoint)
  const endpoint = id === undefined ? undefined : database.endpoint(id)
  if (!endpoint) {
    throw new EndpointNotFoundError({ endpoint: key.value.endpoint, network: network.name })
  }
  return endpoint
}

/** The host that has the endpoint. One that is revoked, or gone since, will never release it, and has it no more. */
function holderOf(database: Database, { hostId }: Endpoint): Host | undefined {
  const host = database.host(hostId)
  return host?.revokedAtUnixMs === 0n ? host : undefined
}

function findEndpoint(database: Database, path: EndpointName): Endpoint | undefined {
  const tenantId = database.tenantNames.get(path.tenant)
  const networks = tenantId === undefined ? undefined : database.networkNames(tenantId)
  const networkId = networks?.get(path.network)
  const names = networkId === undefined ? undefined : database.endpointNames(networkId)
  const id = names?.get(path.endpoint)
  return id === undefined ? undefined : database.endpoint(id)
}

function foreignHostId(database: Database, name: string): number {
  const host = hostNamed(database, name)
  if (host.kind !== HostKind.HOST_KIND_VXLAN_PEER) {
    throw new InvalidArgumentError({
      field: 'vxlan_peer',
      problem: `host ${name} is not a foreign VXLAN peer`,
      remedy: 'leave it out, and attach the endpoint at the host',
    })
  }
  return host.id
}

const MAC_ATTEMPTS = 16

function chosenMac(
  database: Database,
  network: Network,
  bytes: Buffer,
  addresses: readonly IpAddress[],
  caller: Caller,
): MacAddress {
  if (bytes.length === 0) return freeMac(database, network, addresses, caller)
  const mac = macFromBytes(bytes)
  if (mac === undefined) {
    throw new InvalidMacError({ mac: bytes.toString('hex'), problem: 'it has not 6 bytes' })
  }
  if (!isStationMac(mac)) {
    throw new InvalidMacError({
      mac: formatMacAddress(mac),
      problem: 'it is not the address of one station',
    })
  }
  const holder = database.macHolder(network.id, mac)
  if (holder !== undefined) {
    throw new MacTakenError({
      mac: formatMacAddress(mac),
      network: network.name,
      holder: database.endpoint(holder)?.name ?? String(holder),
    })
  }
  return mac
}

/** The addresses that were asked for, and a free one of each family of the network of which none was. */
function chosenAddresses(
  database: Database,
  network: Network,
  wanted: readonly Buffer[],
): IpAddress[] {
  checkCount('addresses', wanted, limits.addressesPerEndpoint)
  const addresses = wanted.map((bytes) => checkedAddress(database, network, bytes))
  if (new Set(addresses.map(addressKey)).size < addresses.length) {
    throw new InvalidArgumentError({ field: 'addresses', problem: 'one is given twice' })
  }
  const families = new Set(prefixesOf(network).map((prefix) => prefix.address.family))
  for (const address of addresses) families.delete(address.family)
  return [...addresses, ...[...families].map((family) => freeAddress(database, network, family))]
}

function checkedAddress(database: Database, network: Network, bytes: Buffer): IpAddress {
  const address = ipFromBytes(bytes)
  if (!address) {
    throw new InvalidAddressError({
      address: bytes.toString('hex'),
      problem: 'it has neither 4 nor 16 bytes',
    })
  }
  const text = formatIpAddress(address)
  const prefixes = prefixesOf(network)
  const prefix = prefixes.find((candidate) => contains(candidate, address))
  if (!prefix) {
    throw new AddressOutsidePrefixError({
      address: text,
      network: network.name,
      prefixes: prefixes.map(formatPrefix),
    })
  }
  if (!isAssignable(prefix, address)) {
    const gateway = gatewayAddress(prefix)
    const use =
      gateway && sameAddress(gateway, address)
        ? 'gateway, DHCP and DNS'
        : address.value < (gateway?.value ?? 0n)
          ? 'the subnet itself'
          : 'broadcast'
    throw new AddressReservedError({ address: text, network: network.name, use })
  }
  const holder = database.addressHolder(network.id, address)
  if (holder !== undefined) {
    throw new AddressTakenError({
      address: text,
      network: network.name,
      holder: database.endpoint(holder)?.name ?? String(holder),
    })
  }
  return address
}

function freeAddress(database: Database, network: Network, family: IpFamily): IpAddress {
  const address = database.freeAddress(network.id, family)
  if (address) return address
  const prefixes = prefixesOf(network).filter((prefix) => prefix.address.family === family)
  throw new NetworkFullError({
    network: network.name,
    prefix: prefixes.map(formatPrefix).join(', '),
    used: database.takenAddresses(network.id, family),
  })
}

/**
 * Sources that an endpoint may send from besides its own addresses. They may be wider than the network's prefixes, as a
 * default gateway's are, but not lie inside them: those addresses are given to endpoints one by one.
 */
function allowedPrefixes(network: Network, wire: readonly WirePrefix[]): WirePrefix[] {
  checkCount('allowed_prefixes', wire, limits.allowedPrefixesPerEndpoint)
  for (const prefix of wire.map(parsedPrefix)) {
    const outer = prefixesOf(network).find((own) => containsPrefix(own, prefix))
    if (outer) {
      throw new InvalidPrefixError({
        prefix: formatPrefix(prefix),
        problem: `it lies inside ${formatPrefix(outer)} of network ${network.name} itself`,
        suggestion: '172.16.5.0/24, which is routed behind the endpoint, or 0.0.0.0/0',
      })
    }
  }
  return [...wire]
}

/** The one that goes with the first address, unless somebody asked for that; then a random one. */
function freeMac(
  database: Database,
  network: Network,
  addresses: readonly IpAddress[],
  caller: Caller,
): MacAddress {
  const isFree = (mac: MacAddress): boolean => database.macHolder(network.id, mac) === undefined
  const [first] = addresses
  const own = first && macOfAddress(first)
  if (own !== undefined && isFree(own)) return own
  // 46 random bits: two of 65,536 in one network meet once in 33,000 networks, and 16 in a row never.
  for (let attempt = 0; attempt < MAC_ATTEMPTS; attempt++) {
    const mac = localMac(caller.random(6))
    if (isFree(mac)) return mac
  }
  throw new InternalError(`no free MAC found in ${MAC_ATTEMPTS} attempts`)
}
