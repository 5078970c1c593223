import { containsPrefix, prefixFromBytes } from '@weft/net'
import type { Prefix } from '@weft/proto/weftline/common/v1/common.ts'
import {
  Encryption,
  type Host,
  HostKind,
  type Network,
  type Tenant,
} from '@weft/proto/weftline/config/v1/records.ts'
import type { Proposal } from '@weft/proto/weftline/config/v1/tenant_lock_service.ts'
import type { TenantStatement } from '@weft/proto/weftline/identity/v1/tenant_lock.ts'
import type { Database } from './database.ts'
import type { Item } from './pages.ts'

/** Prefixes of a delegation, no more than one may have; more of an endpoint's own are left to the holder of the key. */
export const PREFIXES_MAX = 64
/** As many as a membership may have. */
export const PLAIN_ADDRESSES_MAX = 16
/** Digits of an id, so that paths sort as numbers do. */
const ID_DIGITS = 10

/**
 * What the tenant's key would have to say for everything to count that the VN database has of the tenant, and for `hosts`
 * to be members of all its networks; after the one that the token names. A machine without keys of its own can prove
 * nothing and is not among them.
 */
export function* proposalsAfter(
  database: Database,
  domain: string,
  tenant: Tenant,
  hosts: readonly Host[],
  token: string,
): Generator<Item<Proposal>> {
  const networks = [...(database.networkNames(tenant.id)?.ids() ?? [])].sort((a, b) => a - b)
  const propose = (about: NonNullable<TenantStatement['about']>, host = ''): Proposal => ({
    statement: {
      domain,
      tenantId: tenant.id,
      tenant: tenant.name,
      number: 0n,
      notAfterUnixMs: 0n,
      about,
    },
    host,
  })
  for (const networkId of networks) {
    const network = database.network(networkId)
    if (!network) continue
    const { name, vni } = network
    const proposals = [
      {
        path: pathOf(networkId, 0, 0),
        record: propose({ $case: 'network', value: { networkId, network: name, vni } }),
      },
    ]
    for (const host of membersOf(database, networkId, hosts)) {
      const { id: hostId, identityKey, tunnelKey } = host
      const plainAddresses = plainAddressesOf(database, host, network)
      const member = { networkId, hostId, identityKey, tunnelKey, plainAddresses }
      const prefixes = prefixesAt(database, host, network)
      const delegate = { networkId, delegateKey: identityKey, prefixes }
      proposals.push(
        {
          path: pathOf(networkId, hostId, 1),
          record: propose({ $case: 'membership', value: member }, host.name),
        },
        {
          path: pathOf(networkId, hostId, 2),
          record: propose({ $case: 'delegation', value: delegate }, host.name),
        },
      )
    }
    for (const proposal of proposals) if (proposal.path > token) yield proposal
  }
}

function membersOf(database: Database, networkId: number, more: readonly Host[]): Host[] {
  const hosts = new Map(more.map((host) => [host.id, host]))
  for (const id of database.hostsOfNetwork(networkId).keys()) {
    const host = database.host(id)
    if (host) hosts.set(id, host)
  }
  return [...hosts.values()].filter(canProve).sort((a, b) => a.id - b.id)
}

function canProve({ kind, identityKey, tunnelKey, revokedAtUnixMs }: Host): boolean {
  return (
    kind === HostKind.HOST_KIND_WEFT &&
    revokedAtUnixMs === 0n &&
    identityKey.length > 0 &&
    tunnelKey.length > 0
  )
}

/** Addresses at which links to the host may be plain: those in zones for which an operator vouches. */
function plainAddressesOf(database: Database, host: Host, { encryption }: Network): Buffer[] {
  if (encryption !== Encryption.ENCRYPTION_OUTSIDE_TRUSTED_ZONES) return []
  return host.underlayAddresses
    .filter(({ zoneId }) => database.zone(zoneId)?.trusted === true)
    .map(({ address }) => address)
    .slice(0, PLAIN_ADDRESSES_MAX)
}

/** The network's prefixes, and what endpoints at the host may send from besides. */
function prefixesAt(database: Database, host: Host, network: Network): Prefix[] {
  const prefixes = [...network.prefixes]
  for (const id of database.endpointNames(network.id)?.ids() ?? []) {
    const endpoint = database.endpoint(id)
    if (endpoint?.hostId !== host.id) continue
    for (const prefix of endpoint.allowedPrefixes) {
      if (!prefixes.some((known) => isWithin(prefix, known))) prefixes.push(prefix)
    }
  }
  return prefixes.slice(0, PREFIXES_MAX)
}

function isWithin(inner: Prefix, outer: Prefix): boolean {
  const small = prefixFromBytes(inner.address, inner.lengthBits)
  const large = prefixFromBytes(outer.address, outer.lengthBits)
  return small !== undefined && large !== undefined && containsPrefix(large, small)
}

function pathOf(networkId: number, hostId: number, place: number): string {
  const [network = '', host = ''] = [networkId, hostId].map((id) =>
    String(id).padStart(ID_DIGITS, '0'),
  )
  return `${network}/${host}/${place}`
}
