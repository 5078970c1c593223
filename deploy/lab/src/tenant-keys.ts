import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { readPrivateFile, writePrivateFile } from '@weft/domain'
import { InternalError } from '@weft/errors'
import {
  formatTenantKey,
  generateIdentityKey,
  identityKeyFromPem,
  pemOfKey,
  publicKeyOf,
} from '@weft/identity'
import type { Weft } from '@weft/sdk'
import type { LabPlan } from './plan.ts'
import type { Topology } from './topology.ts'

const LIFETIME_MS: number = 30 * 24 * 3_600_000

/** Keys of the lab's locked tenants; only root may enter. */
export function tenantKeyFolder(plan: LabPlan): string {
  return join(plan.folder, 'tenants')
}

/** The keys that hosts trust from their joining on, as `weft join --tenant-keys` takes them. */
export function tenantKeysFile(plan: LabPlan): string {
  return join(tenantKeyFolder(plan), 'keys')
}

/** Makes a key for each tenant that is to be locked, and has it speak for the tenant from here on. */
export async function lockTenants(weft: Weft, { locked }: Topology, plan: LabPlan): Promise<void> {
  if (locked.length === 0) return
  mkdirSync(tenantKeyFolder(plan), { recursive: true, mode: 0o700 })
  const lines: string[] = []
  for (const tenant of locked) {
    const key = generateIdentityKey()
    await writePrivateFile(keyFile(plan, tenant), pemOfKey(key))
    const { id: tenantId } = await weft.tenants.get(tenant)
    await weft.tenantLocks.lock({ tenant, tenantId, key })
    lines.push(formatTenantKey({ tenantId, tenant, number: 1, publicKey: publicKeyOf(key) }))
  }
  writeFileSync(tenantKeysFile(plan), `${lines.join('\n')}\n`, { mode: 0o600 })
}

/** Signs the networks of locked tenants with all hosts of the lab as members, whether they have endpoints there or not. */
export async function signTenants(weft: Weft, { locked }: Topology, plan: LabPlan): Promise<void> {
  const hosts = plan.hosts.filter(({ kind }) => kind === 'weft').map(({ name }) => name)
  for (const tenant of locked) {
    const pem = await readPrivateFile(keyFile(plan, tenant))
    if (pem === undefined) throw new InternalError(`the lab has no key of tenant ${tenant}`)
    const { id: tenantId } = await weft.tenants.get(tenant)
    const now = new Date()
    const review = await weft.tenantLocks.review({
      tenant,
      tenantId,
      hosts,
      lifetimeMs: LIFETIME_MS,
      now,
    })
    await weft.tenantLocks.sign(review, identityKeyFromPem(pem.toString()))
  }
}

function keyFile(plan: LabPlan, tenant: string): string {
  return join(tenantKeyFolder(plan), `${tenant}.key`)
}
