import type { AuditServiceService } from '@weft/proto/weftline/audit/v1/audit.ts'
import type { AccessTable, UserRule } from '../rule.ts'

/** Chains are verified whole, so there is no part of one for a tenant. */
const audits: UserRule<unknown> = { roles: ['auditor'], scope: 'domain' }

/** AuditService. */
export const auditAccess: AccessTable<AuditServiceService> = {
  listEntries: { users: audits },
  listWriters: { users: audits },
}
