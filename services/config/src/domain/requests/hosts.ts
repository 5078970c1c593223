import {
  HostExistsError,
  HostInUseError,
  HostNotFoundError,
  InvalidAddressError,
  InvalidArgumentError,
  LimitReachedError,
  UnderlayAddressTakenError,
} from '@weft/errors'
import {
  CONFIGURED_CANDIDATES_MAX,
  formatIpAddress,
  type IpAddress,
  ipFromBytes,
  isPort,
  isUnicastAddress,
} from '@weft/net'
import { CandidateKind } from '@weft/proto/weftline/common/v1/common.ts'
import type {
  CreateHostRequest,
  DeleteHostRequest,
  GetHostRequest,
  HostAddress,
  RevokeHostRequest,
  UpdateHostRequest,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  type Host,
  HostKind,
  type SealedListener,
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
  type Step,
} from './plan.ts'
import { revokeKey } from './revocation.ts'
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
  checkDataPlane(request)
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
    busKey: '',
    tokenId: 0,
    tenantIds: [],
    horizonUnixMs: 0n,
    revokedAtUnixMs: 0n,
    tunnelStatement: undefined,
    sealedListener: sealedListenerOf(request.sealedListener),
    meta: createdMeta(database, caller, request.labels),
  })
}

export function updateHost(
  database: Database,
  { name, addresses, sealedListener, expectedRevision }: UpdateHostRequest,
  caller: Caller,
): Plan<Host> {
  const earlier = repeated(database, caller, 'host', (host) => host.name === name)
  if (earlier) return answer(earlier)
  const host = hostNamed(database, name)
  checkRevision(`host ${name}`, host.meta, expectedRevision)
  const areAddressesKept = sealedListener !== undefined && addresses.length === 0
  return put('host', host.id, {
    ...host,
    underlayAddresses: areAddressesKept
      ? host.underlayAddresses
      : underlayAddresses(database, host.id, addresses),
    sealedListener: sealedListener ? sealedListenerOf(sealedListener) : host.sealedListener,
    meta: rewrittenMeta(host.meta, caller),
  })
}

/**
 * Removes a host, one step after the other. First the token by which it joined, which would be unused without it; then
 * its key is put among the void ones, where it stays longer than anything lives that was made for the key; then the host
 * itself.
 */
export function deleteHost({
  name,
  id,
  overlapMs = 0,
}: Pick<DeleteHostRequest, 'name'> & {
  readonly id?: number
  readonly overlapMs?: number
}): readonly Step[] {
  // Another host may take the name between two steps.
  let onlyId = id
  const idle = (database: Database): Host | undefined => {
    const host = database.host(database.hostNames.get(name) ?? 0)
    if (!host || (onlyId !== undefined && host.id !== onlyId)) return undefined
    onlyId = host.id
    checkIdle(database, host)
    return host
  }
  return [
    (database) => {
      const host = idle(database)
      const token = host && database.token(host.tokenId)
      return token ? remove('token', token.id) : answer(false)
    },
    (database, caller) => {
      const host = idle(database)
      if (!host || host.identityKey.length === 0) return answer(undefined)
      const { identityKey, busKey, revokedAtUnixMs } = host
      const at = Number(revokedAtUnixMs) || caller.nowUnixMs + overlapMs
      const retired = { identityKey, busKey, hostId: host.id, reason: 'removed', fromUnixMs: at }
      return revokeKey(database, retired, caller)
    },
    (database) => {
      const host = idle(database)
      return host ? remove('host', host.id) : answer(false)
    },
  ]
}

/** Makes a host's keys void; it stays among the hosts, so that its name and what is assigned to it show what happened. */
export function revokeHost(
  database: Database,
  { name }: Pick<RevokeHostRequest, 'name'>,
  caller: Caller,
): Plan<Host> {
  const host = hostNamed(database, name)
  if (host.revokedAtUnixMs !== 0n) return answer(host)
  if (host.identityKey.length === 0) {
    throw new InvalidArgumentError({
      field: 'name',
      problem: `host ${name} has no keys that could be revoked: it was added by hand`,
      remedy: `remove it: weft host rm ${name}`,
    })
  }
  return put('host', host.id, {
    ...host,
    revokedAtUnixMs: BigInt(caller.nowUnixMs),
    meta: rewrittenMeta(host.meta, caller),
  })
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

/** Whether a host may carry endpoints of a tenant. */
export function mayCarry({ tenantIds }: Host, tenantId: number | undefined): boolean {
  return tenantIds.length === 0 || (tenantId !== undefined && tenantIds.includes(tenantId))
}

/** Throws if the host's data plane is told in a way that a record cannot hold. */
export function checkDataPlane({
  capabilities,
  wireVersions,
}: {
  readonly capabilities: readonly string[]
  readonly wireVersions: readonly number[]
}): void {
  checkCount('capabilities', capabilities, limits.capabilitiesPerHost)
  for (const capability of capabilities) {
    if (capability.length > limits.capabilityLength || !/^[a-z0-9][a-z0-9-]*$/.test(capability)) {
      throw new InvalidArgumentError({
        field: 'capabilities',
        problem: `${JSON.stringify(capability.slice(0, 80))} is no capability`,
        remedy: `use up to ${limits.capabilityLength} of a-z, 0-9 and -`,
      })
    }
  }
  checkCount('wire_versions', wireVersions, limits.wireVersionsPerHost)
}

/** Where a host's sealed transport listens, as it is stored. Throws for ports and addresses that are none. */
export function sealedListenerOf(wanted: SealedListener | undefined): SealedListener | undefined {
  if (!wanted) return undefined
  const { port, configured } = wanted
  if (port !== 0) checkPort('sealed_listener.port', port)
  checkCount('sealed_listener.configured', configured, CONFIGURED_CANDIDATES_MAX)
  return {
    port,
    configured: configured.map(({ address: bytes, port: mapped }) => {
      const address = ipFromBytes(bytes)
      if (!address || !isUnderlayAddress(address)) {
        throw new InvalidAddressError({
          address: address ? formatIpAddress(address) : bytes.toString('hex'),
          problem: 'the sealed transport is reached at a unicast address that is not link-local',
        })
      }
      checkPort('sealed_listener.configured.port', mapped)
      return { address: bytes, port: mapped, kind: CandidateKind.CANDIDATE_KIND_CONFIGURED }
    }),
  }
}

function checkPort(field: string, port: number): void {
  if (isPort(port)) return
  throw new InvalidArgumentError({ field, problem: `${port} is no UDP port, 1 to 65535` })
}

/** A revoked host releases nothing any more: what is assigned to it is free for others. */
function checkIdle(database: Database, { id, name, revokedAtUnixMs }: Host): void {
  if (revokedAtUnixMs !== 0n) return
  let endpoints = 0
  for (const count of database.networksOfHost(id).values()) endpoints += count
  if (endpoints > 0) throw new HostInUseError({ host: name, endpoints })
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

/** Addresses of a request as they are stored. Throws if one is none, or is another host's. */
export function underlayAddresses(
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
