import type {
  Grant,
  Host,
  Network,
  Record as StoredRecord,
  Tenant,
  User,
} from '@weft/proto/weftline/config/v1/records.ts'
import type { World } from './world.ts'

/** Kinds of records that rules need, as the keys of the VN database name them. */
type WorldKind = 'tenant' | 'host' | 'network' | 'user'

/** What rules need of a host. */
interface KnownHost {
  /** Empty for all tenants. */
  readonly tenantIds: ReadonlySet<number>
  readonly isRevoked: boolean
}

/** A world that is kept in step with the records of the VN database, for services that do not own it. */
export class RecordsWorld implements World {
  readonly #networkOfEndpoint: (endpointId: number) => number | undefined
  readonly #tenants = new Map<number, string>()
  readonly #tenantIds = new Map<string, number>()
  /** Tenant of each network. */
  readonly #networks = new Map<number, number>()
  readonly #hosts = new Map<number, KnownHost>()
  readonly #users = new Map<number, readonly Grant[]>()

  /** Endpoints are many: who needs them has them already. */
  constructor(networkOfEndpoint: (endpointId: number) => number | undefined = () => undefined) {
    this.#networkOfEndpoint = networkOfEndpoint
  }

  /** Takes a record of any kind; one that no rule needs is left alone. */
  put({ kind }: StoredRecord): void {
    switch (kind?.$case) {
      case 'tenant':
        return this.#putTenant(kind.value)
      case 'network':
        return this.#putNetwork(kind.value)
      case 'host':
        return this.#putHost(kind.value)
      case 'user':
        return this.#putUser(kind.value)
      default:
        return undefined
    }
  }

  /** Forgets a record, by the kind that its key names; one that no rule needs was never known. */
  delete(kind: string, id: number): void {
    switch (kind) {
      case 'tenant':
        this.#tenantIds.delete(this.#tenants.get(id) ?? '')
        this.#tenants.delete(id)
        return
      case 'network':
        this.#networks.delete(id)
        return
      case 'host':
        this.#hosts.delete(id)
        return
      case 'user':
        this.#users.delete(id)
        return
      default:
        return
    }
  }

  /**
   * A record is there and cannot be read: nobody has rights by it. Who belongs to which tenant stays as it was known; a
   * name or a network that was never known refuses anyway. Kinds that no rule needs are left alone.
   */
  distrust(kind: string, id: number): void {
    if (kind === 'host') this.#hosts.set(id, { tenantIds: new Set(), isRevoked: true })
    else if (kind === 'user') this.#users.set(id, [])
  }

  /** All records that are known. */
  *entries(): Generator<readonly [WorldKind, number], void, undefined> {
    for (const id of this.#tenants.keys()) yield ['tenant', id]
    for (const id of this.#networks.keys()) yield ['network', id]
    for (const id of this.#hosts.keys()) yield ['host', id]
    for (const id of this.#users.keys()) yield ['user', id]
  }

  tenantIdOf(name: string): number | undefined {
    return this.#tenantIds.get(name)
  }

  tenantOfNetwork(networkId: number): number | undefined {
    return this.#networks.get(networkId)
  }

  tenantOfEndpoint(endpointId: number): number | undefined {
    return this.tenantOfNetwork(this.#networkOfEndpoint(endpointId) ?? 0)
  }

  grantsOf(userId: number): readonly Grant[] {
    return this.#users.get(userId) ?? []
  }

  mayCarry(hostId: number, tenantId: number | undefined): boolean {
    const host = this.#hosts.get(hostId)
    if (host === undefined || host.isRevoked) return false
    return host.tenantIds.size === 0 || (tenantId !== undefined && host.tenantIds.has(tenantId))
  }

  #putTenant({ id, name }: Tenant): void {
    this.delete('tenant', id)
    this.#tenants.set(id, name)
    this.#tenantIds.set(name, id)
  }

  #putNetwork({ id, tenantId }: Network): void {
    this.#networks.set(id, tenantId)
  }

  #putHost({ id, tenantIds, revokedAtUnixMs }: Host): void {
    this.#hosts.set(id, { tenantIds: new Set(tenantIds), isRevoked: revokedAtUnixMs > 0n })
  }

  #putUser({ id, grants }: User): void {
    this.#users.set(id, grants)
  }
}
