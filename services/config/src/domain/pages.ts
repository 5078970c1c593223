import { InvalidArgumentError } from '@weft/errors'
import type {
  Endpoint,
  Host,
  Network,
  Tenant,
  Zone,
} from '@weft/proto/weftline/config/v1/records.ts'
import type { Database } from './database.ts'
import { limits } from './limits.ts'

/** One object of a list, with the path by which the next page finds its place. */
export interface Item<T> {
  readonly path: string
  readonly record: T
}

export interface Page<T> {
  readonly records: T[]
  /** Path of the last object if more follow, else empty. */
  readonly nextToken: string
}

/**
 * The first objects of a list: at most `size` of them (0 for 100), and few enough that the page stays under 1 MiB. Lists
 * are in the order of their paths, so objects that come and go between two pages neither repeat nor hide others.
 */
export function pageOf<T>(
  items: Iterable<Item<T>>,
  size: number,
  sizeOf: (record: T) => number,
): Page<T> {
  if (size > limits.pageSize) {
    const problem = `${size} is more than ${limits.pageSize}`
    throw new InvalidArgumentError({ field: 'page.size', problem })
  }
  const records: T[] = []
  let bytes = 0
  let last = ''
  for (const { path, record } of items) {
    bytes += sizeOf(record)
    const isFull = records.length >= (size || limits.pageSizeDefault) || bytes > limits.pageBytes
    if (isFull && records.length > 0) return { records, nextToken: last }
    records.push(record)
    last = path
  }
  return { records, nextToken: '' }
}

/** The tenants after the one that the token names; all for an empty token. */
export function tenantsAfter(database: Database, token: string): Iterable<Item<Tenant>> {
  return tenantsFrom(database, after(token))
}

/** The zones after the one that the token names. */
export function* zonesAfter(database: Database, token: string): Generator<Item<Zone>> {
  for (const id of database.zoneNames.idsFrom(after(token))) {
    const record = database.zone(id)
    if (record) yield { path: record.name, record }
  }
}

/** The hosts after the one that the token names. */
export function* hostsAfter(database: Database, token: string): Generator<Item<Host>> {
  for (const id of database.hostNames.idsFrom(after(token))) {
    const record = database.host(id)
    if (record) yield { path: record.name, record }
  }
}

/** The networks, of all tenants or of one, after the one that the token names as `tenant/network`. */
export function networksAfter(
  database: Database,
  only: Tenant | undefined,
  token: string,
): Iterable<Item<Network>> {
  const [tenantName = '', networkName = ''] = parts(token, 2)
  return networksFrom(database, only, tenantName, after(networkName))
}

/** The endpoints, of all networks, of one tenant's or of one, after the one that the token names as `tenant/network/endpoint`. */
export function* endpointsAfter(
  database: Database,
  tenant: Tenant | undefined,
  network: Network | undefined,
  token: string,
): Generator<Item<Endpoint>> {
  const [tenantName = '', networkName = '', endpointName = ''] = parts(token, 3)
  const networks =
    tenant && network
      ? [{ path: `${tenant.name}/${network.name}`, record: network }]
      : networksFrom(database, tenant, tenantName, networkName)
  for (const { path, record: owner } of networks) {
    const from = path === `${tenantName}/${networkName}` ? after(endpointName) : ''
    for (const id of database.endpointNames(owner.id)?.idsFrom(from) ?? []) {
      const record = database.endpoint(id)
      if (record) yield { path: `${path}/${record.name}`, record }
    }
  }
}

function* tenantsFrom(database: Database, from: string): Generator<Item<Tenant>> {
  for (const id of database.tenantNames.idsFrom(from)) {
    const record = database.tenant(id)
    if (record) yield { path: record.name, record }
  }
}

/** From the network `from` of tenant `tenantName` on. */
function* networksFrom(
  database: Database,
  only: Tenant | undefined,
  tenantName: string,
  from: string,
): Generator<Item<Network>> {
  const tenants = only ? [{ record: only }] : tenantsFrom(database, tenantName)
  for (const { record: tenant } of tenants) {
    const names = database.networkNames(tenant.id)
    for (const id of names?.idsFrom(tenant.name === tenantName ? from : '') ?? []) {
      const record = database.network(id)
      if (record) yield { path: `${tenant.name}/${record.name}`, record }
    }
  }
}

/** The least text that sorts after a name; before all names for none. */
function after(name: string): string {
  return name === '' ? '' : `${name}\0`
}

function parts(token: string, count: number): string[] {
  const found = token === '' ? [] : token.split('/')
  if (found.length !== 0 && found.length !== count) {
    const problem = `${JSON.stringify(token.slice(0, 200))} was not given by the page before`
    throw new InvalidArgumentError({ field: 'page.token', problem })
  }
  return found
}
