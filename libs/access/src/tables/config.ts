import type {
  ConfigServiceService,
  EndpointName,
  NetworkName,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import type { AccessTable, UserRule } from '../rule.ts'
import type { World } from '../world.ts'

/** An endpoint by its name or id. */
type EndpointKey =
  | { readonly $case: 'name'; readonly value: EndpointName }
  | { readonly $case: 'id'; readonly value: number }
  | undefined

const runsTheDomain: UserRule<unknown> = { roles: ['operator'], scope: 'domain' }
const managesUsers: UserRule<unknown> = { roles: ['owner'], scope: 'domain' }
const readsWhatIsTheirs: UserRule<unknown> = { roles: ['subscriber', 'auditor'], scope: 'filtered' }

/**
 * ConfigService. Zones and hosts belong to no tenant: users of a tenant see those that have to do with it, by the scope of
 * their call; what they may see of them is the handler's to decide.
 */
export const configAccess: AccessTable<ConfigServiceService> = {
  createTenant: { users: runsTheDomain },
  getTenant: {
    users: { roles: ['subscriber', 'auditor'], scope: ({ name }, world) => world.tenantIdOf(name) },
  },
  listTenants: { users: readsWhatIsTheirs },
  deleteTenant: { users: runsTheDomain },

  createZone: { users: runsTheDomain },
  getZone: { users: readsWhatIsTheirs },
  listZones: { users: readsWhatIsTheirs },
  updateZone: { users: runsTheDomain },
  deleteZone: { users: runsTheDomain },

  createHost: { users: runsTheDomain },
  getHost: {
    hosts: ({ key }, hostId) => key?.$case === 'id' && key.value === hostId,
    users: readsWhatIsTheirs,
  },
  listHosts: { users: readsWhatIsTheirs },
  updateHost: { users: runsTheDomain },
  deleteHost: { users: runsTheDomain },
  // Where hosts are, and how much goes between them, is nothing for tenants.
  listHostConnections: { users: { roles: ['operator', 'auditor'], scope: 'domain' } },

  createNetwork: { users: { roles: ['subscriber'], scope: tenantNamedIn } },
  getNetwork: { users: { roles: ['subscriber', 'auditor'], scope: tenantNamedIn } },
  listNetworks: {
    users: {
      roles: ['subscriber', 'auditor'],
      scope: ({ tenant }, world) => tenantsNamed(tenant, world),
    },
  },
  deleteNetwork: { users: { roles: ['subscriber'], scope: tenantNamedIn } },

  createEndpoint: { users: { roles: ['subscriber'], scope: tenantNamedIn } },
  getEndpoint: {
    hosts: ({ key }, hostId, world) => world.mayCarry(hostId, tenantOf(key, world)),
    users: { roles: ['subscriber', 'auditor'], scope: ({ key }, world) => tenantOf(key, world) },
  },
  listEndpoints: {
    users: {
      roles: ['subscriber', 'auditor'],
      scope: ({ network }, world) => tenantsNamed(network?.tenant ?? '', world),
    },
  },
  deleteEndpoint: { users: { roles: ['subscriber'], scope: tenantNamedIn } },
  assignEndpoint: {
    hosts: (request, hostId, world) =>
      request.hostId === hostId && world.mayCarry(hostId, tenantOf(request.key, world)),
  },
  // Also of a tenant that the host may not carry any more: letting go is always right.
  releaseEndpoint: { hosts: (request, hostId) => request.hostId === hostId },

  createToken: { users: runsTheDomain },
  listTokens: { users: { roles: ['operator', 'auditor'], scope: 'domain' } },
  revokeToken: { users: runsTheDomain },
  revokeHost: { users: runsTheDomain },

  createUser: { users: managesUsers },
  listUsers: { users: { roles: ['owner', 'auditor'], scope: 'domain' } },
  updateUser: { users: managesUsers },
  deleteUser: { users: managesUsers },
  createLoginCode: { users: managesUsers },

  getServerInfo: { hosts: 'any', users: 'any' },
}

function tenantNamedIn(
  { name }: { readonly name: NetworkName | EndpointName | undefined },
  world: World,
): number | undefined {
  return world.tenantIdOf(name?.tenant ?? '')
}

/** No name asks for all. */
function tenantsNamed(name: string, world: World): number | 'filtered' | undefined {
  return name === '' ? 'filtered' : world.tenantIdOf(name)
}

function tenantOf(key: EndpointKey, world: World): number | undefined {
  if (key === undefined) return undefined
  return key.$case === 'id' ? world.tenantOfEndpoint(key.value) : world.tenantIdOf(key.value.tenant)
}
