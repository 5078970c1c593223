import { InvalidArgumentError } from '@weft/errors'
import type {
  Endpoint,
  Host,
  Network,
  StoredStatement,
  Tenant,
  Token,
  User,
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

/** Tenants whose objects are shown. */
export type Scope = 'all' | ReadonlySet<number>

/** Whether the scope has anything to do with a host: it carries endpoints of a tenant. */
export function isHostIn(database: Database, hostId: number, scope: Scope): boolean {
  if (scope === 'all') return true
  for (const id of database.networksOfHost(hostId).keys()) {
    if (scope.has(database.network(id)?.tenantId ?? 0)) return true
  }
  return false
}

/** Whether the scope has anything to do with a zone: such a host is there. */
export function isZoneIn(database: Database, zoneId: number, scope: Scope): boolean {
  if (scope === 'all') return true
  for (const hostId of database.hostsOfZone(zoneId)) {
    if (isHostIn(database, hostId, scope)) return true
  }
  return false
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

/** For `pageOf`: bytes of a message on the wire. */
export function sizeIn<T>(codec: {
  encode(message: T): { finish(): Uint8Array }
}): (message: T) => number {
  return (message) => codec.encode(message).finish().byteLength
}

/** The tenants after the one that the token names; all for an empty token. */
export function tenantsAfter(
  database: Database,
  scope: Scope,
  token: string,
): Iterable<Item<Tenant>> {
  return tenantsFrom(database, scope, after(token))
}

/** The zones after the one that the token names. */
export function* zonesAfter(
  database: Database,
  scope: Scope,
  token: string,
): Generator<Item<Zone>> {
  for (const id of database.zoneNames.idsFrom(after(token))) {
    const record = database.zone(id)
    if (record && isZoneIn(database, id, scope)) yield { path: record.name, record }
  }
}

/** The hosts after the one that the token names. */
export function* hostsAfter(
  database: Database,
  scope: Scope,
  token: string,
): Generator<Item<Host>> {
  for (const id of database.hostNames.idsFrom(after(token))) {
    const record = database.host(id)
    if (record && isHostIn(database, id, scope)) yield { path: record.name, record }
  }
}

/** The users after the one that the token names. */
export function* usersAfter(database: Database, token: string): Generator<Item<User>> {
  for (const id of database.members.userNames.idsFrom(after(token))) {
    const record = database.user(id)
    if (record) yield { path: record.name, record }
  }
}

/** The tokens in the order in which they were made, after the one that the page's token names by its id. */
export function tokensAfter(database: Database, pageToken: string): Item<Token>[] {
  if (!/^[0-9]{0,10}$/.test(pageToken)) throw notGiven(pageToken)
  return [...database.members.tokens()]
    .filter(({ id }) => id > Number(pageToken))
    .sort((a, b) => a.id - b.id)
    .map((record) => ({ path: String(record.id), record }))
}

/** What a tenant has signed, its keys first, after the statement that the page's token names. */
export function statementsAfter(
  database: Database,
  tenantId: number,
  token: string,
): Item<StoredStatement>[] {
  if (!/^([01][/][0-9]{10})?$/.test(token)) throw notGiven(token)
  const items = database.locks.ofTenant(tenantId).map((record) => {
    const isKey = database.locks.content(record.id)?.about?.$case === 'key'
    // A later key has a higher id.
    return { path: `${isKey ? 0 : 1}/${String(record.id).padStart(10, '0')}`, record }
  })
  return items.filter(({ path }) => path > token)
}

/** The networks, of all tenants or of one, after the one that the token names as `tenant/network`. */
export function networksAfter(
  database: Database,
  scope: Scope,
  only: Tenant | undefined,
  token: string,
): Iterable<Item<Network>> {
  const [tenantName = '', networkName = ''] = parts(token, 2)
  return networksFrom(database, scope, only, tenantName, after(networkName))
}

/** The endpoints, of all networks, of one tenant's or of one, after the one that the token names as `tenant/network/endpoint`. */
export function* endpointsAfter(
  database: Database,
  scope: Scope,
  tenant: Tenant | undefined,
  network: Network | undefined,
  token: string,
): Generator<Item<Endpoint>> {
  const [tenantName = '', networkName = '', endpointName = ''] = parts(token, 3)
  const networks =
    tenant && network
      ? [{ path: `${tenant.name}/${network.name}`, record: network }]
      : networksFrom(database, scope, tenant, tenantName, networkName)
  for (const { path, record: owner } of networks) {
    const from = path === `${tenantName}/${networkName}` ? after(endpointName) : ''
    for (const id of database.endpointNames(owner.id)?.idsFrom(from) ?? []) {
      const record = database.endpoint(id)
      if (record) yield { path: `${path}/${record.name}`, record }
    }
  }
}

function* tenantsFrom(database: Database, scope: Scope, from: string): Generator<Item<Tenant>> {
  for (const id of database.tenantNames.idsFrom(from)) {
    const record = database.tenant(id)
    if (record && (scope === 'all' || scope.has(id))) yield { path: record.name, record }
  }
}

/** From the network `from` of tenant `tenantName` on. */
function* networksFrom(
  database: Database,
  scope: Scope,
  only: Tenant | undefined,
  tenantName: string,
  from: string,
): Generator<Item<Network>> {
  const tenants = only ? [{ record: only }] : tenantsFrom(database, scope, tenantName)
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
  if (found.length !== 0 && found.length !== count) throw notGiven(token)
  return found
}

function notGiven(token: string): InvalidArgumentError {
  const problem = `${JSON.stringify(token.slice(0, 200))} was not given by the page before`
  return new InvalidArgumentError({ field: 'page.token', problem })
}
