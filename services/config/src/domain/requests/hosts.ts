import {
  HostExistsError,
  HostInUseError,
  HostNotFoundError,
  InvalidAddressError,
  InvalidArgumentError,
  LimitReachedError,
  UnderlayAddressTakenError,
} from '@weft/errors'
import { formatIpAddress, type IpAddress, ipFromBytes, isUnicastAddress } from '@weft/net'
import type {
  CreateHostRequest,
  DeleteHostRequest,
  GetHostRequest,
  HostAddress,
  UpdateHostRequest,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  type Host,
  HostKind,
  type UnderlayAddress,
} from '@weft/proto/weftline/config/v1/records.ts'
import type { Database } from '../database.ts'
import { limits } from '../limits.ts'
import { isLinkLocal } from './link-local.ts'
import {
  answer,
  type Caller,
  checkCount,
  checkName,
  checkRevision,
  createdMeta,
  newId,
  type Plan,
  put,
  remove,
  repeated,
  rewrittenMeta,
} from './plan.ts'
import { zoneNamed } from './zones.ts'

export function createHost(
  database: Database,
  request: CreateHostRequest,
  caller: Caller,
): Plan<Host> {
  const { name } = request
  checkName('host', name)
  const earlier = repeated(database, caller, 'host', (host) => host.name === name)
  if (earlier) return answer(earlier)
  if (database.hostNames.get(name) !== undefined) throw new HostExistsError({ host: name })
  if (database.counts.host >= limits.hosts) {
    throw new LimitReachedError({ what: 'hosts', limit: limits.hosts })
  }
  checkCount('capabilities', request.capabilities, limits.capabilitiesPerHost)
  for (const capability of request.capabilities) {
    if (capability.length > limits.capabilityLength || !/^[a-z0-9][a-z0-9-]*$/.test(capability)) {
      throw new InvalidArgumentError({
        field: 'capabilities',
        problem: `${JSON.stringify(capability.slice(0, 80))} is no capability`,
        remedy: `use up to ${limits.capabilityLength} of a-z, 0-9 and -`,
      })
    }
  }
  checkCount('wire_versions', request.wireVersions, limits.wireVersionsPerHost)
  const id = newId(database)
  return put('host', id, {
    id,
    name,
    kind: hostKind(request.kind),
    underlayAddresses: underlayAddresses(database, id, request.addresses),
    identityKey: Buffer.alloc(0),
    tunnelKey: Buffer.alloc(0),
    capabilities: request.capabilities,
    wireVersions: request.wireVersions,
    meta: createdMeta(database, caller, request.labels),
  })
}

export function updateHost(
  database: Database,
  { name, addresses, expectedRevision }: UpdateHostRequest,
  caller: Caller,
): Plan<Host> {
  const earlier = repeated(database, caller, 'host', (host) => host.name === name)
  if (earlier) return answer(earlier)
  const host = hostNamed(database, name)
  checkRevision(`host ${name}`, host.meta, expectedRevision)
  return put('host', host.id, {
    ...host,
    underlayAddresses: underlayAddresses(database, host.id, addresses),
    meta: rewrittenMeta(host.meta, caller),
  })
}

export function deleteHost(database: Database, { name }: DeleteHostRequest): Plan<boolean> {
  const id = database.hostNames.get(name)
  if (id === undefined) return answer(false)
  let endpoints = 0
  for (const count of database.networksOfHost(id).values()) endpoints += count
  if (endpoints > 0) throw new HostInUseError({ host: name, endpoints })
  return remove('host', id)
}

export function hostNamed(database: Database, name: string): Host {
  const id = database.hostNames.get(name)
  const host = id === undefined ? undefined : database.host(id)
  if (!host) throw new HostNotFoundError({ host: name })
  return host
}

/** Finds a host by name or id. */
export function hostWithKey(database: Database, key: GetHostRequest['key']): Host {
  if (!key)
    throw new InvalidArgumentError({ field: 'key', problem: 'neither name nor id is given' })
  return key.$case === 'id' ? hostWithId(database, key.value) : hostNamed(database, key.value)
}

export function hostWithId(database: Database, id: number): Host {
  const host = database.host(id)
  if (!host) throw new HostNotFoundError({ host: id })
  return host
}

function hostKind(kind: HostKind): HostKind {
  switch (kind) {
    case HostKind.HOST_KIND_UNSPECIFIED:
      return HostKind.HOST_KIND_WEFT
    case HostKind.HOST_KIND_WEFT:
    case HostKind.HOST_KIND_VXLAN_PEER:
      return kind
    case HostKind.UNRECOGNIZED:
    default:
      throw new InvalidArgumentError({ field: 'kind', problem: `${kind} is no kind of host` })
  }
}

function underlayAddresses(
  database: Database,
  hostId: number,
  addresses: readonly HostAddress[],
): UnderlayAddress[] {
  checkCount('addresses', addresses, limits.addressesPerHost)
  const seen = new Set<string>()
  return addresses.map(({ address: bytes, zone: zoneName }) => {
    const address = ipFromBytes(bytes)
    if (!address || !isUnderlayAddress(address)) {
      throw new InvalidAddressError({
        address: address ? formatIpAddress(address) : bytes.toString('hex'),
        problem: address
          ? 'a host needs a unicast address that is not link-local'
          : 'it has neither 4 nor 16 bytes',
      })
    }
    const zone = zoneNamed(database, zoneName)
    const text = formatIpAddress(address)
    if (seen.has(`${zone.id}/${text}`)) {
      throw new InvalidArgumentError({ field: 'addresses', problem: `${text} is given twice` })
    }
    seen.add(`${zone.id}/${text}`)
    const holder = database.underlayAddressHolder(zone.id, address)
    if (holder !== undefined && holder !== hostId) {
      throw new UnderlayAddressTakenError({
        address: text,
        zone: zoneName,
        holder: database.host(holder)?.name ?? String(holder),
      })
    }
    return { address: bytes, zoneId: zone.id }
  })
}

function isUnderlayAddress(address: IpAddress): boolean {
  return isUnicastAddress(address) && !isLinkLocal(address)
}
