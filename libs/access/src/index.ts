export {
  type Authorise,
  type AuthoriserOptions,
  authoriser,
  type CallToJudge,
} from './authoriser.ts'
export { RecordsWorld } from './records-world.ts'
export type {
  AccessRule,
  AccessTable,
  Role,
  Scope,
  UserRule,
  UserScope,
} from './rule.ts'
export { auditAccess } from './tables/audit.ts'
export { configAccess } from './tables/config.ts'
export { certificateAccess, enrolmentAccess } from './tables/enrolment.ts'
export { healthAccess, reflectionAccess } from './tables/inspection.ts'
export { locationAccess } from './tables/location.ts'
export { routingAccess } from './tables/routing.ts'
export { tenantLockAccess } from './tables/tenant-lock.ts'
export type { World } from './world.ts'
