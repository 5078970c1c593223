import {
  InvalidArgumentError,
  LimitReachedError,
  StatementRefusedError,
  TenantNotLockedError,
} from '@weft/errors'
import type { StoredStatement, Tenant } from '@weft/proto/weftline/config/v1/records.ts'
import type { Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import type { TenantStatement } from '@weft/proto/weftline/identity/v1/tenant_lock.ts'
import type { Database } from '../database.ts'
import { limits } from '../limits.ts'
import {
  answer,
  type Caller,
  createdMeta,
  newId,
  type Plan,
  put,
  remove,
  repeated,
  rewrittenMeta,
} from './plan.ts'
import { tenantNamed } from './tenants.ts'

/** A statement whose signature was verified, with what it says. */
export interface OpenedStatement {
  readonly signed: Signed
  readonly content: TenantStatement
}

/**
 * Takes what a tenant's key has signed in the place of an older statement about the same. Hosts judge it for themselves;
 * what they would not believe is refused here, so that its signer hears of it.
 */
export function putStatement(
  database: Database,
  { tenant: name }: { readonly tenant: string },
  { signed, content }: OpenedStatement,
  caller: Caller,
): Plan<StoredStatement> {
  const isSame = ({ statement }: StoredStatement): boolean =>
    statement?.payload.equals(signed.payload) === true
  const earlier = repeated(database, caller, 'statement', isSame)
  if (earlier) return answer(earlier)
  const tenant = tenantNamed(database, name)
  if (content.tenantId !== tenant.id || content.tenant !== tenant.name) {
    const problem = `it is of tenant ${content.tenant} with id ${content.tenantId}, not of ${tenant.name} with id ${tenant.id}`
    throw refused('malformed', problem)
  }
  const present = database.locks.sameAs(content)
  if (present && isSame(present)) return answer(present)
  if (content.about?.$case === 'key') checkKey(database, tenant, signed, content, present)
  else checkStatement(database, tenant, signed, content, present, caller)
  if (!present) checkRoom(database, tenant)
  const id = present?.id ?? newId(database)
  return put('statement', id, {
    id,
    tenantId: tenant.id,
    statement: signed,
    meta: present ? rewrittenMeta(present.meta, caller) : createdMeta(database, caller, {}),
  })
}

/** Forgets a statement that is no key. */
export function deleteStatement(
  database: Database,
  { tenant: name, id }: { readonly tenant: string; readonly id: number },
): Plan<boolean> {
  const tenant = tenantNamed(database, name)
  const statement = database.statement(id)
  if (statement?.tenantId !== tenant.id) return answer(false)
  if (database.locks.content(id)?.about?.$case === 'key') {
    throw new InvalidArgumentError({
      field: 'id',
      problem: `${id} is a key of tenant ${name}, and hosts that were away need all of them`,
      remedy: `to end the lock: weft tenant unlock ${name}`,
    })
  }
  return remove('statement', id)
}

function checkKey(
  database: Database,
  tenant: Tenant,
  { signerKey }: Signed,
  { number, about }: TenantStatement,
  present: StoredStatement | undefined,
): void {
  const chain = database.locks.chain(tenant.id)
  const next = (chain?.number ?? 0n) + 1n
  if (present || number !== next) {
    const problem = `the next key of tenant ${tenant.name} is number ${next}, not ${number}`
    throw refused('outdated', problem)
  }
  const itself = about?.$case === 'key' ? about.value.publicKey : undefined
  const signer = chain?.signer ?? itself
  if (!signer?.equals(signerKey)) {
    const problem = chain ? 'the key before signs the next one' : 'the first key signs itself'
    throw refused('other-signer', problem)
  }
}

function checkStatement(
  database: Database,
  tenant: Tenant,
  { signerKey }: Signed,
  { number, notAfterUnixMs, about }: TenantStatement,
  present: StoredStatement | undefined,
  { nowUnixMs }: Caller,
): void {
  const chain = database.locks.chain(tenant.id)
  if (!chain?.isLocked) throw new TenantNotLockedError({ tenant: tenant.name })
  if (!chain.signer.equals(signerKey)) {
    throw refused('other-signer', `key number ${chain.number} speaks for tenant ${tenant.name}`)
  }
  const before = present && database.locks.content(present.id)?.number
  if (before !== undefined && number <= before) {
    throw refused('outdated', `number ${before} about the same is here already`)
  }
  if (notAfterUnixMs <= BigInt(nowUnixMs)) throw refused('outdated', 'its time is over')
  if (about === undefined || about.$case === 'key') return
  const network = database.network(about.value.networkId)
  if (network?.tenantId !== tenant.id) {
    const problem = `network ${about.value.networkId} is none of tenant ${tenant.name}`
    throw new InvalidArgumentError({ field: 'statement', problem })
  }
  checkHost(database, about)
  if (about.$case === 'network') {
    const { network: name, vni } = about.value
    if (network.name === name && network.vni === vni) return
    const problem = `network ${network.id} is ${network.name} with VNI ${network.vni}, not ${name} with ${vni}`
    throw new InvalidArgumentError({ field: 'statement', problem })
  }
}

/** Every host of the network is handed each statement: there are no more than two for each host that there is. */
function checkHost(database: Database, about: NonNullable<TenantStatement['about']>): void {
  const isKnown =
    about.$case === 'membership'
      ? database.host(about.value.hostId) !== undefined
      : about.$case !== 'delegation' ||
        database.members.holderOf(about.value.delegateKey)?.kind === 'host'
  if (isKnown) return
  throw new InvalidArgumentError({
    field: 'statement',
    problem: `no host ${about.$case === 'membership' ? about.value.hostId : 'has the key of the delegate'}`,
    remedy: 'sign what is proposed: weft tenant sign',
  })
}

function checkRoom(database: Database, { id, name }: Tenant): void {
  if (database.counts.statement >= limits.statements) {
    throw new LimitReachedError({ what: 'statements of tenants', limit: limits.statements })
  }
  if (database.locks.countOfTenant(id) >= limits.statementsPerTenant) {
    const what = `statements of tenant ${name}`
    throw new LimitReachedError({ what, limit: limits.statementsPerTenant })
  }
}

function refused(
  reason: 'malformed' | 'outdated' | 'other-signer',
  problem: string,
): StatementRefusedError {
  return new StatementRefusedError({ reason, purpose: 'tenant-lock', problem })
}
