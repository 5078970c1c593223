import type { StoredStatement } from '@weft/proto/weftline/config/v1/records.ts'
import {
  type NetworkCharter,
  TenantStatement,
} from '@weft/proto/weftline/identity/v1/tenant_lock.ts'

const noIds: ReadonlySet<number> = new Set()

/**
 * What the keys of tenants have signed. A part of the `Database`, which feeds it. Signatures were verified before a
 * statement was stored, and hosts verify them again: nothing that is decided here by a statement gives anybody a right.
 */
export class TenantLocks {
  readonly #statements = new Map<number, StoredStatement>()
  readonly #contents = new Map<number, TenantStatement>()
  /** By tenant and by what they are about. */
  readonly #bySubject = new Map<string, number>()
  readonly #byTenant = new Map<number, Set<number>>()
  readonly #byNetwork = new Map<number, Set<number>>()
  readonly #keys = new Map<number, Set<number>>()
  /** Charters by the VNI, and by the tenant with the name, of which they say whose they are. */
  readonly #byVni = new Map<number, Set<number>>()
  readonly #byName = new Map<string, Set<number>>()

  get count(): number {
    return this.#statements.size
  }

  statement(id: number): StoredStatement | undefined {
    return this.#statements.get(id)
  }

  /** What a statement says; undefined for one that this version cannot read. */
  content(id: number): TenantStatement | undefined {
    return this.#contents.get(id)
  }

  /** The stored statement about the same as this one. */
  sameAs(statement: TenantStatement): StoredStatement | undefined {
    return this.#statements.get(this.#bySubject.get(subjectOf(statement)) ?? 0)
  }

  /** All statements of a tenant: its keys in their order, then the others by id. */
  ofTenant(tenantId: number): StoredStatement[] {
    return [...(this.#byTenant.get(tenantId) ?? [])]
      .sort((a, b) => this.#place(a) - this.#place(b) || a - b)
      .flatMap((id) => this.#statements.get(id) ?? [])
  }

  countOfTenant(tenantId: number): number {
    return this.#byTenant.get(tenantId)?.size ?? 0
  }

  /** Ids of the statements by which the tenant's keys follow each other, in their order. */
  keyIds(tenantId: number): number[] {
    const ids = [...(this.#keys.get(tenantId) ?? noIds)]
    return ids.sort((a, b) => this.#place(a) - this.#place(b))
  }

  /** The key that speaks for the tenant, and the one that may replace it; undefined for a tenant that never had one. */
  chain(tenantId: number): TenantChain | undefined {
    let chain: TenantChain | undefined
    for (const id of this.keyIds(tenantId)) {
      const { number, about } = this.#contents.get(id) ?? {}
      if (number === undefined || about?.$case !== 'key') continue
      const { publicKey } = about.value
      const isLocked = publicKey.length > 0
      const signer: Buffer = isLocked ? publicKey : (chain?.signer ?? publicKey)
      chain = { number, isLocked, signer }
    }
    return chain
  }

  /** Ids of the statements about a network and who is in it. */
  ofNetwork(networkId: number): ReadonlySet<number> {
    return this.#byNetwork.get(networkId) ?? noIds
  }

  /** Whether a locked tenant says that the network is its own. */
  isChartered(tenantId: number, networkId: number): boolean {
    return (
      this.#bySubject.has(`${tenantId}/network/${networkId}`) &&
      this.chain(tenantId)?.isLocked === true
    )
  }

  /**
   * Networks that a locked tenant says have this VNI, or, of the tenant, this name, whether they are there still or not: hosts
   * believe of no other network that it is this one.
   */
  *chartersOf(vni: number, tenantId = 0, name = ''): Generator<Charter, void, undefined> {
    const ids = [
      ...(this.#byVni.get(vni) ?? noIds),
      ...(this.#byName.get(nameKey(tenantId, name)) ?? noIds),
    ]
    for (const id of ids) {
      const content = this.#contents.get(id)
      if (content?.about?.$case !== 'network') continue
      const { tenant, tenantId: owner } = content
      if (this.chain(owner)?.isLocked) yield { ...content.about.value, tenant }
    }
  }

  apply(id: number, record: StoredStatement | undefined): StoredStatement | undefined {
    const before = this.#statements.get(id)
    const old = this.#contents.get(id)
    if (before && old) {
      const subject = subjectOf(old)
      if (this.#bySubject.get(subject) === id) this.#bySubject.delete(subject)
      remove(isKey(old) ? this.#keys : this.#byNetwork, placeOf(old), id)
      if (old.about?.$case === 'network') {
        remove(this.#byVni, old.about.value.vni, id)
        remove(this.#byName, nameKey(old.tenantId, old.about.value.network), id)
      }
    }
    if (before) remove(this.#byTenant, before.tenantId, id)
    this.#statements.delete(id)
    this.#contents.delete(id)
    if (!record) return before
    this.#statements.set(id, record)
    add(this.#byTenant, record.tenantId, id)
    const content = contentOf(record)
    if (content) {
      this.#contents.set(id, content)
      this.#bySubject.set(subjectOf(content), id)
      add(isKey(content) ? this.#keys : this.#byNetwork, placeOf(content), id)
      if (content.about?.$case === 'network') {
        add(this.#byVni, content.about.value.vni, id)
        add(this.#byName, nameKey(content.tenantId, content.about.value.network), id)
      }
    }
    return before
  }

  /** Keys stand before all others. */
  #place(id: number): number {
    const content = this.#contents.get(id)
    return content && isKey(content) ? Number(content.number) : Number.MAX_SAFE_INTEGER
  }
}

/** A network as the key of its tenant has it. */
interface Charter extends NetworkCharter {
  readonly tenant: string
}

/** Where a tenant's chain of keys has come to. */
export interface TenantChain {
  /** Of the last key. */
  readonly number: bigint
  readonly isLocked: boolean
  /** The last key that there was: statements and the next key are signed by it. Ed25519, 32 bytes. */
  readonly signer: Buffer
}

/** The network that a statement is about; 0 for a key. */
export function networkOf({ about }: TenantStatement): number {
  return about === undefined || about.$case === 'key' ? 0 : about.value.networkId
}

function isKey({ about }: TenantStatement): boolean {
  return about?.$case === 'key'
}

/** The tenant of a key, the network of anything else. */
function placeOf(statement: TenantStatement): number {
  return isKey(statement) ? statement.tenantId : networkOf(statement)
}

/** Of two statements with the same subject the one with the higher number counts. */
function subjectOf({ tenantId, number, about }: TenantStatement): string {
  switch (about?.$case) {
    case 'key':
      return `${tenantId}/key/${number}`
    case 'network':
      return `${tenantId}/network/${about.value.networkId}`
    case 'membership':
      return `${tenantId}/membership/${about.value.networkId}/${about.value.hostId}`
    case 'delegation':
      return `${tenantId}/delegation/${about.value.networkId}/${about.value.delegateKey.toString('hex')}`
    default:
      return ''
  }
}

/** What a stored statement says; undefined for one that this version cannot read. */
export function contentOf({ tenantId, statement }: StoredStatement): TenantStatement | undefined {
  try {
    const content = TenantStatement.decode(statement?.payload ?? Buffer.alloc(0))
    return content.about && content.tenantId === tenantId ? content : undefined
  } catch {
    return undefined
  }
}

function nameKey(tenantId: number, network: string): string {
  return `${tenantId}/${network}`
}

function add<K>(ids: Map<K, Set<number>>, key: K, id: number): void {
  const present = ids.get(key)
  if (present) present.add(id)
  else ids.set(key, new Set([id]))
}

function remove<K>(ids: Map<K, Set<number>>, key: K, id: number): void {
  const present = ids.get(key)
  present?.delete(id)
  if (present?.size === 0) ids.delete(key)
}
