import type { ConfigServiceService } from '@weft/proto/weftline/config/v1/config_service.ts'
import type { Handlers } from '@weft/rpc'
import type { Database, Kind } from '../domain/database.ts'

/** What a request is about, for the audit log. Never a secret. */
export interface About {
  readonly kind: Kind | 'service'
  /** With `kind` before it, the object of the entry: `acme/blue` becomes `network acme/blue`. */
  readonly name: string
  /** Name of its tenant; empty for what belongs to the domain. */
  readonly tenant?: string
  /** Why, as the caller says. */
  readonly reason?: string
}

/** Whatever does not only read. */
type WriteMethod = Exclude<keyof ConfigServiceService, `get${string}` | `list${string}`>
type RequestOf<M extends WriteMethod> = Parameters<Handlers<ConfigServiceService>[M]>[0]

const requests: {
  readonly [M in WriteMethod]: (request: RequestOf<M>, database: Database) => About
} = {
  createTenant: ({ name }) => ({ kind: 'tenant', name, tenant: name }),
  deleteTenant: ({ name }) => ({ kind: 'tenant', name, tenant: name }),
  createZone: ({ name, trusted }) => ({ kind: 'zone', name: `${name}${trustedText(trusted)}` }),
  updateZone: ({ name, trusted }) => ({ kind: 'zone', name: `${name}${trustedText(trusted)}` }),
  deleteZone: ({ name }) => ({ kind: 'zone', name }),
  createHost: ({ name }) => ({ kind: 'host', name }),
  updateHost: ({ name }) => ({ kind: 'host', name }),
  deleteHost: ({ name }) => ({ kind: 'host', name }),
  revokeHost: ({ name, reason }) => ({ kind: 'host', name, reason }),
  createNetwork: ({ name }) => aboutNetwork(name?.tenant, name?.network),
  deleteNetwork: ({ name }) => aboutNetwork(name?.tenant, name?.network),
  createEndpoint: ({ name }) => aboutEndpoint(name?.tenant, name?.network, name?.endpoint),
  deleteEndpoint: ({ name }) => aboutEndpoint(name?.tenant, name?.network, name?.endpoint),
  assignEndpoint: ({ key, hostId }, database) => {
    const about =
      key?.$case === 'name'
        ? aboutEndpoint(key.value.tenant, key.value.network, key.value.endpoint)
        : aboutEndpointId(key?.value ?? 0, database)
    return { ...about, name: `${about.name} to ${hostText(hostId, database)}` }
  },
  releaseEndpoint: ({ endpointId, hostId }, database) => {
    const about = aboutEndpointId(endpointId, database)
    return { ...about, name: `${about.name} from ${hostText(hostId, database)}` }
  },
  createToken: ({ hostName, tenants, zone }) => ({
    kind: 'token',
    name: `for host ${hostName || '(any)'} in zone ${zone || '(none)'}, tenants ${listText(tenants) || '(all)'}`,
  }),
  revokeToken: ({ id }) => ({ kind: 'token', name: String(id) }),
  createUser: ({ name, grants }) => ({ kind: 'user', name: `${name}: ${grantsText(grants)}` }),
  updateUser: ({ name, grants }) => ({ kind: 'user', name: `${name}: ${grantsText(grants)}` }),
  deleteUser: ({ name }) => ({ kind: 'user', name }),
  createLoginCode: ({ user }) => ({ kind: 'token', name: `for user ${user}` }),
}

/** What a call of ConfigService is about; undefined for a method of another service, or one that only reads. */
export function aboutRequest(
  method: string,
  request: object,
  database: Database,
): About | undefined {
  const [, service, name = ''] = method.split('/')
  if (service !== 'weftline.config.v1.ConfigService') return undefined
  const row = `${name.charAt(0).toLowerCase()}${name.slice(1)}`
  if (!Object.hasOwn(requests, row)) return undefined
  // The row is that of the method whose request this is.
  return requests[row as WriteMethod](request as never, database)
}

function aboutNetwork(tenant = '', network = ''): About {
  return { kind: 'network', name: `${tenant}/${network}`, tenant }
}

function aboutEndpoint(tenant = '', network = '', endpoint = ''): About {
  return { kind: 'endpoint', name: `${tenant}/${network}/${endpoint}`, tenant }
}

function aboutEndpointId(id: number, database: Database): About {
  const endpoint = database.endpoint(id)
  const network = database.network(endpoint?.networkId ?? 0)
  const tenant = database.tenant(network?.tenantId ?? 0)
  if (!endpoint) return { kind: 'endpoint', name: String(id) }
  return aboutEndpoint(tenant?.name, network?.name, endpoint.name)
}

function hostText(id: number, database: Database): string {
  return `host ${database.host(id)?.name ?? id}`
}

function trustedText(isTrusted: boolean): string {
  return isTrusted ? ', trusted' : ', not trusted'
}

/** An entry tells of more only that there are more. */
const LISTED_MAX = 16

function listText(items: readonly string[]): string {
  const more = items.length > LISTED_MAX ? ` and ${items.length - LISTED_MAX} more` : ''
  return items.slice(0, LISTED_MAX).join(' ') + more
}

const ROLES: readonly string[] = ['no role', 'owner', 'operator', 'subscriber', 'auditor']

function grantsText(grants: readonly { readonly tenant: string; readonly role: number }[]): string {
  const texts = grants.map(({ tenant, role }) => `${ROLES[role] ?? role}@${tenant || '(domain)'}`)
  return listText(texts) || 'no role'
}
