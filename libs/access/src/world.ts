import type { Grant } from '@weft/proto/weftline/config/v1/records.ts'

/** What rules need to know of the domain. What is not known yet is not there: a rule that cannot be judged refuses. */
export interface World {
  /** Undefined if there is no tenant of that name. */
  tenantIdOf(name: string): number | undefined
  tenantOfNetwork(networkId: number): number | undefined
  tenantOfEndpoint(endpointId: number): number | undefined
  /** Empty for somebody unknown. */
  grantsOf(userId: number): readonly Pick<Grant, 'tenantId' | 'role'>[]
  /**
   * Whether a host may carry a tenant's endpoints (`Host.tenant_ids`); false for a host that is unknown or revoked. What is
   * undefined belongs to no known tenant: only a host that is bound to none may ask for it, and learns that it is not there.
   */
  mayCarry(hostId: number, tenantId: number | undefined): boolean
}
