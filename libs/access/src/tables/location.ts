import type { LocationServiceService } from '@weft/proto/weftline/location/v1/location.ts'
import type { AccessTable } from '../rule.ts'
import { commonTenant, isCarried } from '../tenants.ts'

/** LocationService. What it locates of all networks is filtered by the scope of the call. */
export const locationAccess: AccessTable<LocationServiceService> = {
  resolve: {
    hosts: ({ queries }, hostId, world) =>
      queries.every(({ sourceEndpointId, targetEndpointId }) =>
        [sourceEndpointId, targetEndpointId].every((id) =>
          isCarried(hostId, world.tenantOfEndpoint(id), world),
        ),
      ),
    users: {
      roles: ['subscriber', 'auditor'],
      scope: ({ queries }, world) =>
        commonTenant(
          queries
            .flatMap((query) => [query.sourceEndpointId, query.targetEndpointId])
            .map((id) => world.tenantOfEndpoint(id)),
        ),
    },
  },
  locate: { users: { roles: ['subscriber', 'auditor'], scope: 'filtered' } },
  watch: {
    users: {
      roles: ['subscriber', 'auditor'],
      scope: ({ networkId }, world) =>
        networkId === 0 ? 'filtered' : world.tenantOfNetwork(networkId),
    },
  },
}
