import type { World } from './world.ts'

/**
 * Whether one of many things that a host asks about in one call is of a tenant that it carries. What is not there is: it may
 * be gone since a moment, and the other questions of the call still want their answers.
 */
export function isCarried(hostId: number, tenantId: number | undefined, world: World): boolean {
  return tenantId === undefined || world.mayCarry(hostId, tenantId)
}

/** The tenant of all of them; undefined for several, for one that is not known, and for none at all. */
export function commonTenant(tenantIds: readonly (number | undefined)[]): number | undefined {
  const [first] = tenantIds
  return tenantIds.every((tenantId) => tenantId === first) ? first : undefined
}
