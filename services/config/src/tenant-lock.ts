import { HostNotFoundError, InvalidArgumentError } from '@weft/errors'
import { openTenantStatement } from '@weft/identity'
import { type Host, StoredStatement } from '@weft/proto/weftline/config/v1/records.ts'
import {
  Proposal,
  type TenantLockServiceService,
} from '@weft/proto/weftline/config/v1/tenant_lock_service.ts'
import type { TenantStatement } from '@weft/proto/weftline/identity/v1/tenant_lock.ts'
import type { Handlers } from '@weft/rpc'
import type { About } from './audit/about.ts'
import type { Database } from './domain/database.ts'
import { limits } from './domain/limits.ts'
import { pageOf, sizeIn, statementsAfter } from './domain/pages.ts'
import { hostWithKey, mayCarry } from './domain/requests/hosts.ts'
import { checkCount } from './domain/requests/plan.ts'
import { deleteStatement, putStatement } from './domain/requests/tenant-lock.ts'
import { tenantNamed } from './domain/requests/tenants.ts'
import { proposalsAfter } from './domain/tenant-proposals.ts'
import type { Requests } from './requests.ts'

/** Keeps and hands on what tenants sign, and makes none of it. */
export function tenantLockHandlers(
  database: Database,
  domain: string,
  requests: Requests,
): Handlers<typeof TenantLockServiceService> {
  return {
    async putStatement({ idempotencyKey, tenant, statement: signed }, context) {
      const content = openTenantStatement(signed, domain)
      if (!signed) throw new InvalidArgumentError({ field: 'statement', problem: 'it is missing' })
      const asking = { idempotencyKey, about: aboutStatement(tenant, content, database) }
      const statement = await requests.commit(
        (current, caller) => putStatement(current, { tenant }, { signed, content }, caller),
        asking,
        context,
      )
      return { statement }
    },
    async listStatements({ tenant, page }) {
      const { id } = tenantNamed(database, tenant)
      const items = statementsAfter(database, id, page?.token ?? '')
      const { records, nextToken } = pageOf(items, page?.size ?? 0, sizeIn(StoredStatement))
      return { statements: records, nextToken }
    },
    async listProposals({ tenant: name, hosts, page }) {
      const tenant = tenantNamed(database, name)
      checkCount('hosts', hosts, limits.pageSize)
      const members = hosts.map((host) => memberNamed(database, host, tenant.id))
      const items = proposalsAfter(database, domain, tenant, members, page?.token ?? '')
      const { records, nextToken } = pageOf(items, page?.size ?? 0, sizeIn(Proposal))
      return { proposals: records, nextToken }
    },
    async deleteStatement({ idempotencyKey, tenant, id }, context) {
      const content = database.locks.content(id)
      const isOfTenant = content?.tenant === tenant
      const about = isOfTenant
        ? aboutStatement(tenant, content, database)
        : ({ kind: 'statement', name: `${tenant}/${id}`, tenant } as const)
      const deleted = await requests.commit(
        (current) => deleteStatement(current, { tenant, id }),
        { idempotencyKey, about },
        context,
      )
      return { deleted }
    },
  }
}

/** A host that may carry the tenant's endpoints; of others a tenant does not even learn that they are there. */
function memberNamed(database: Database, name: string, tenantId: number): Host {
  const host = hostWithKey(database, { $case: 'name', value: name })
  if (mayCarry(host, tenantId)) return host
  throw new HostNotFoundError({ host: name })
}

function aboutStatement(
  tenant: string,
  { number, about }: TenantStatement,
  database: Database,
): About {
  const name = (): string => {
    switch (about?.$case) {
      case undefined:
        return ''
      case 'key':
        return `key ${number}${about.value.publicKey.length === 0 ? ', unlocked' : ''}`
      case 'network':
        return `network ${about.value.network}`
      case 'membership':
        return `host ${hostText(about.value.hostId, database)} in ${networkText(about.value.networkId, database)}`
      case 'delegation': {
        const holder = database.members.holderOf(about.value.delegateKey)
        return `addresses at host ${hostText(holder?.id ?? 0, database)} in ${networkText(about.value.networkId, database)}`
      }
    }
  }
  return { kind: 'statement', name: `${tenant}: ${name()}`, tenant }
}

function hostText(id: number, database: Database): string {
  return database.host(id)?.name ?? String(id)
}

function networkText(id: number, database: Database): string {
  return database.network(id)?.name ?? String(id)
}
