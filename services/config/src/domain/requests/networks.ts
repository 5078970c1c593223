import {
  InvalidArgumentError,
  InvalidMtuError,
  InvalidPrefixError,
  InvalidVniError,
  LimitReachedError,
  NetworkExistsError,
  NetworkInUseError,
  NetworkNotFoundError,
  PrefixOverlapError,
  VniTakenError,
} from '@weft/errors'
import {
  assignableRange,
  canonical,
  firstAddress,
  formatPrefix,
  gatewayAddress,
  isCanonical,
  isUnicastAddress,
  isVni,
  LINK_ENCRYPTION_DEFAULT,
  lastAddress,
  MTU_DEFAULT_BYTES,
  MTU_MAX_BYTES,
  MTU_MIN_V4_BYTES,
  MTU_MIN_V6_BYTES,
  overlaps,
  type Prefix,
  prefixFromBytes,
  VNI_MAX,
  VNI_MIN,
} from '@weft/net'
import type { Prefix as WirePrefix } from '@weft/proto/weftline/common/v1/common.ts'
import type {
  CreateNetworkRequest,
  DeleteNetworkRequest,
  NetworkName,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import { Encryption, type Network } from '@weft/proto/weftline/config/v1/records.ts'
import type { Database } from '../database.ts'
import { limits } from '../limits.ts'
import { isLinkLocal } from './link-local.ts'
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
} from './plan.ts'
import { tenantNamed } from './tenants.ts'

export function createNetwork(
  database: Database,
  request: CreateNetworkRequest,
  caller: Caller,
): Plan<Network> {
  const path = requiredName(request.name)
  checkName('network', path.network)
  const tenant = tenantNamed(database, path.tenant)
  const name = path.network
  const earlier = repeated(
    database,
    caller,
    'network',
    (network) => network.name === name && network.tenantId === tenant.id,
  )
  if (earlier) return answer(earlier)
  if (database.networkNames(tenant.id)?.get(name) !== undefined) {
    throw new NetworkExistsError({ network: name, tenant: path.tenant })
  }
  for (const { tenant: owner } of database.locks.chartersOf(0, tenant.id, name)) {
    throw chartered('name.network', `network ${name}`, owner, 'choose another name')
  }
  if ((database.networkNames(tenant.id)?.size ?? 0) >= limits.networksPerTenant) {
    const what = `networks of tenant ${path.tenant}`
    throw new LimitReachedError({ what, limit: limits.networksPerTenant })
  }
  if (database.counts.network >= limits.networks) {
    throw new LimitReachedError({ what: 'networks', limit: limits.networks })
  }
  const prefixes = networkPrefixes(name, request.prefixes)
  const id = newId(database)
  return put('network', id, {
    id,
    tenantId: tenant.id,
    name,
    vni: vni(database, request.vni, id),
    prefixes: request.prefixes,
    mtuBytes: mtu(request.mtuBytes, prefixes),
    encryption: encryption(request.encryption),
    meta: createdMeta(database, caller, request.labels),
  })
}

export function deleteNetwork(database: Database, { name }: DeleteNetworkRequest): Plan<boolean> {
  const path = requiredName(name)
  const tenantId = database.tenantNames.get(path.tenant)
  const id = tenantId === undefined ? undefined : database.networkNames(tenantId)?.get(path.network)
  if (id === undefined) return answer(false)
  const endpoints = database.endpointNames(id)?.size ?? 0
  if (endpoints > 0) throw new NetworkInUseError({ network: path.network, endpoints })
  return remove('network', id)
}

export function networkNamed(database: Database, path: NetworkName): Network {
  const tenant = tenantNamed(database, path.tenant)
  const id = database.networkNames(tenant.id)?.get(path.network)
  const network = id === undefined ? undefined : database.network(id)
  if (!network) throw new NetworkNotFoundError({ network: path.network, tenant: path.tenant })
  return network
}

export function requiredName<T>(name: T | undefined): T {
  if (!name) throw new InvalidArgumentError({ field: 'name', problem: 'it is missing' })
  return name
}

/** Reads a prefix of a request. Throws `InvalidPrefixError` unless it is one, with no bits set beyond its length. */
export function parsedPrefix({ address: bytes, lengthBits }: WirePrefix): Prefix {
  const prefix = prefixFromBytes(bytes, lengthBits)
  if (!prefix) {
    throw new InvalidPrefixError({
      prefix: `${bytes.toString('hex')}/${lengthBits}`,
      problem: 'its address has neither 4 nor 16 bytes, or its length does not fit them',
    })
  }
  if (!isCanonical(prefix)) {
    throw new InvalidPrefixError({
      prefix: formatPrefix(prefix),
      problem: 'it has bits set beyond its length',
      suggestion: formatPrefix(canonical(prefix)),
    })
  }
  return prefix
}

/** Shortest prefixes of a network. What is shorter than these is somebody else's, too. */
const LENGTH_MIN_BITS = { 4: 8, 6: 16 } as const

function networkPrefixes(network: string, wire: readonly WirePrefix[]): Prefix[] {
  if (wire.length === 0) {
    throw new InvalidArgumentError({
      field: 'prefixes',
      problem: 'a network needs at least one',
      remedy: 'give a prefix such as 10.20.0.0/16 or fd20::/64',
    })
  }
  checkCount('prefixes', wire, limits.prefixesPerNetwork)
  const prefixes = wire.map(parsedPrefix)
  for (const [index, prefix] of prefixes.entries()) {
    const problem = prefixProblem(prefix)
    if (problem) throw new InvalidPrefixError({ prefix: formatPrefix(prefix), problem })
    const other = prefixes.slice(0, index).find((earlier) => overlaps(earlier, prefix))
    if (other) {
      throw new PrefixOverlapError({
        prefix: formatPrefix(prefix),
        other: formatPrefix(other),
        network,
      })
    }
  }
  return prefixes
}

function prefixProblem(prefix: Prefix): string | undefined {
  const { family } = prefix.address
  if (prefix.lengthBits < LENGTH_MIN_BITS[family]) {
    return `it is shorter than /${LENGTH_MIN_BITS[family]}`
  }
  const gateway = gatewayAddress(prefix)
  if (!gateway || !assignableRange(prefix)) return 'it is too small for a gateway and an endpoint'
  if (!isUnicastAddress(gateway) || !isUnicastAddress(lastAddress(prefix))) {
    return 'it has addresses that are not unicast'
  }
  if (isLinkLocal(firstAddress(prefix))) return 'it is link-local'
  return undefined
}

function mtu(mtuBytes: number, prefixes: readonly Prefix[]): number {
  if (mtuBytes === 0) return MTU_DEFAULT_BYTES
  const hasV6 = prefixes.some((prefix) => prefix.address.family === 6)
  const minBytes = hasV6 ? MTU_MIN_V6_BYTES : MTU_MIN_V4_BYTES
  if (mtuBytes < minBytes || mtuBytes > MTU_MAX_BYTES) {
    throw new InvalidMtuError({ mtuBytes, minBytes, maxBytes: MTU_MAX_BYTES })
  }
  return mtuBytes
}

function encryption(wanted: Encryption): Encryption {
  switch (wanted) {
    case Encryption.ENCRYPTION_UNSPECIFIED:
      return LINK_ENCRYPTION_DEFAULT === 'required'
        ? Encryption.ENCRYPTION_REQUIRED
        : Encryption.ENCRYPTION_OUTSIDE_TRUSTED_ZONES
    case Encryption.ENCRYPTION_REQUIRED:
    case Encryption.ENCRYPTION_OUTSIDE_TRUSTED_ZONES:
      return wanted
    case Encryption.UNRECOGNIZED:
    default:
      throw new InvalidArgumentError({ field: 'encryption', problem: `${wanted} is no choice` })
  }
}

function vni(database: Database, wanted: number, networkId: number): number {
  if (wanted === 0) return freeVni(database, networkId)
  if (!isVni(wanted)) throw new InvalidVniError({ vni: wanted, max: VNI_MAX })
  const holder = database.networkByVni(wanted)
  if (holder !== undefined) {
    const network = database.network(holder)
    const tenant = database.tenant(network?.tenantId ?? 0)
    throw new VniTakenError({ vni: wanted, holder: `${tenant?.name}/${network?.name}` })
  }
  for (const { tenant } of database.locks.chartersOf(wanted)) {
    throw chartered('vni', `VNI ${wanted}`, tenant, 'choose another VNI, or leave it out')
  }
  return wanted
}

/** Of a network that is gone, whose charter is still there. */
function chartered(
  field: string,
  what: string,
  tenant: string,
  otherwise: string,
): InvalidArgumentError {
  return new InvalidArgumentError({
    field,
    problem: `the key of tenant ${tenant} has signed that ${what} is a network that was deleted, and hosts believe that of no other`,
    remedy: `${otherwise}; or have that forgotten first: weft tenant sign ${tenant} --prune`,
  })
}

/**
 * A free VNI, beginning at one that follows from the network's id: a VNI that was given up is not given again for about 16
 * million writes, so that no host with an old table takes frames of the new network for those of the old one. At most one
 * in 256 VNIs is taken, so the search is short.
 */
function freeVni(database: Database, networkId: number): number {
  let vni = VNI_MIN + (networkId % VNI_MAX)
  while (isInUse(database, vni)) vni = VNI_MIN + (vni % VNI_MAX)
  return vni
}

function isInUse(database: Database, vni: number): boolean {
  if (database.networkByVni(vni) !== undefined) return true
  return !database.locks.chartersOf(vni).next().done
}
