import type { TenantLockServiceService } from '@weft/proto/weftline/config/v1/tenant_lock_service.ts'
import type { AccessTable, UserRule } from '../rule.ts'
import type { World } from '../world.ts'

type OfTenant = { readonly tenant: string }

const runsTheTenant: UserRule<OfTenant> = { roles: ['operator'], scope: tenantOf }
const readsTheTenant: UserRule<OfTenant> = { roles: ['subscriber', 'auditor'], scope: tenantOf }

/**
 * TenantLockService. Who may call it decides what config keeps and proposes; what hosts believe is decided by the tenant's
 * key alone.
 */
export const tenantLockAccess: AccessTable<TenantLockServiceService> = {
  putStatement: { users: runsTheTenant },
  listStatements: { users: readsTheTenant },
  // Shows keys and addresses of hosts, which only whoever vouches for them has to see.
  listProposals: { users: runsTheTenant },
  deleteStatement: { users: runsTheTenant },
}

function tenantOf({ tenant }: OfTenant, world: World): number | undefined {
  return world.tenantIdOf(tenant)
}
