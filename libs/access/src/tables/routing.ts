import type { RoutingServiceService } from '@weft/proto/weftline/routing/v1/routing.ts'
import type { AccessTable } from '../rule.ts'
import { commonTenant, isCarried } from '../tenants.ts'

/** RoutingService. Rules that it lists are filtered by the scope of the call. */
export const routingAccess: AccessTable<RoutingServiceService> = {
  decide: {
    hosts: ({ connections }, hostId, world) =>
      connections.every(({ networkId }) =>
        isCarried(hostId, world.tenantOfNetwork(networkId), world),
      ),
    users: {
      roles: ['subscriber', 'auditor'],
      scope: ({ connections }, world) =>
        commonTenant(connections.map(({ networkId }) => world.tenantOfNetwork(networkId))),
    },
  },
  listRules: { users: { roles: ['subscriber', 'auditor'], scope: 'filtered' } },
}
