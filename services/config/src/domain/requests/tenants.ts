import {
  LimitReachedError,
  TenantExistsError,
  TenantInUseError,
  TenantLockedError,
  TenantNotFoundError,
} from '@weft/errors'
import type {
  CreateTenantRequest,
  DeleteTenantRequest,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import type { Tenant } from '@weft/proto/weftline/config/v1/records.ts'
import type { Database } from '../database.ts'
import { limits } from '../limits.ts'
import {
  answer,
  type Caller,
  checkName,
  createdMeta,
  newId,
  type Plan,
  put,
  remove,
  repeated,
} from './plan.ts'

export function createTenant(
  database: Database,
  { name, labels }: CreateTenantRequest,
  caller: Caller,
): Plan<Tenant> {
  checkName('tenant', name)
  const earlier = repeated(database, caller, 'tenant', (tenant) => tenant.name === name)
  if (earlier) return answer(earlier)
  if (database.tenantNames.get(name) !== undefined) throw new TenantExistsError({ tenant: name })
  if (database.counts.tenant >= limits.tenants) {
    throw new LimitReachedError({ what: 'tenants', limit: limits.tenants })
  }
  const id = newId(database)
  return put('tenant', id, { id, name, meta: createdMeta(database, caller, labels) })
}

export function deleteTenant(database: Database, { name }: DeleteTenantRequest): Plan<boolean> {
  const id = database.tenantNames.get(name)
  if (id === undefined) return answer(false)
  const networks = database.networkNames(id)?.size ?? 0
  if (networks > 0) throw new TenantInUseError({ tenant: name, networks })
  checkUnlocked(database, tenantNamed(database, name))
  return remove('tenant', id)
}

export function tenantNamed(database: Database, name: string): Tenant {
  const id = database.tenantNames.get(name)
  const tenant = id === undefined ? undefined : database.tenant(id)
  if (!tenant) throw new TenantNotFoundError({ tenant: name })
  return tenant
}

/** Throws if a tenant is locked: hosts would refuse for good whoever has its name next. */
function checkUnlocked(database: Database, { id, name }: Tenant): void {
  if (!database.locks.chain(id)?.isLocked) return
  throw new TenantLockedError({
    tenant: name,
    what: 'it is not removed',
    problem: 'hosts would believe nobody else of this name',
    remedy: `unlock it first: weft tenant unlock ${name} --key FILE`,
  })
}
