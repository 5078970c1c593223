import { contains, containsPrefix, type IpAddress, type Prefix } from '@weft/net'
import { isEqual } from './equal.ts'
import type { HostRows } from './host-rows.ts'
import type { Endpoint, Network, Peer, Statement, StatementAbout } from './rows.ts'

/** The key of a tenant that this host has met. Once it is known nothing replaces it but what it signs itself. */
export interface TenantPin {
  readonly tenant: string
  readonly tenantId: number
  /** Its place among the tenant's keys, from 1. */
  readonly number: number
  /** Ed25519 in hexadecimal digits, as all keys here; empty when the tenant is locked no longer. */
  readonly publicKey: string
  /** The last key that was not empty: it signs the next one. */
  readonly signer: string
}

/** A network that a locked tenant said is its own. */
export interface NetworkPin {
  readonly networkId: number
  readonly vni: number
  readonly tenant: string
}

/** What is kept on disk. */
export interface Pins {
  readonly tenants: readonly TenantPin[]
  readonly networks: readonly NetworkPin[]
}

/** Tenants that are pinned; those that are met later are as if they were not locked. Sum: 4,096 of some 300 bytes are 1.2 MB. */
const TENANTS_MAX = 4_096
/** Networks that are pinned; later ones of locked tenants do not count. Sum: 65,536 of some 100 bytes are 6.6 MB. */
const NETWORKS_MAX = 65_536

type About<K extends StatementAbout['kind']> = Extract<StatementAbout, { readonly kind: K }>

/** What a locked tenant says at present; of two statements about the same the one with the higher number. */
interface Said {
  readonly networks: Map<number, Numbered<About<'network'>>>
  /** By network and host. */
  readonly members: Map<string, Numbered<About<'membership'>>>
  /** By network and key. */
  readonly delegates: Map<string, Numbered<About<'delegation'>>>
}

interface Numbered<T> {
  readonly number: bigint
  readonly about: T
}

/**
 * What counts of the rows in networks of locked tenants. The directory signs rows, and whoever holds its key can sign any;
 * so a network of a locked tenant, a peer in it and an endpoint there count only if the tenant's own key says so as well,
 * and what lacks that counts as not there.
 *
 * A network is a locked tenant's by its tenant's name, its id or its VNI, whichever is known from what the tenant has
 * signed: rows that use one of them for something else count as not there either.
 */
export class TenantLocks {
  readonly #rows: HostRows
  readonly #tenants = new Map<string, TenantPin>()
  readonly #networks = new Map<number, NetworkPin>()
  readonly #vnis = new Map<number, string>()
  #said: ReadonlyMap<string, Said> = new Map()

  constructor(rows: HostRows) {
    this.#rows = rows
  }

  get pins(): Pins {
    return { tenants: [...this.#tenants.values()], networks: [...this.#networks.values()] }
  }

  /** Takes what is known from before. Of two keys of a tenant the later one counts, of two of the same number the first. */
  restore({ tenants, networks }: Pins): void {
    for (const pin of tenants) {
      const known = this.#tenants.get(pin.tenant)?.number ?? 0
      if (known < pin.number) this.#tenants.set(pin.tenant, pin)
    }
    for (const pin of networks) this.#pinNetwork(pin)
  }

  /** Statements came, went or ended: looks at all of them. Says whether pins are others now. */
  review(): boolean {
    const before = this.pins
    const statements = [...this.#rows.statements.values()].map(({ value }) => value)
    this.#followKeys(statements)
    this.#said = this.#sort(statements)
    for (const { tenant, networkId } of this.#networks.values()) {
      if (!this.isLocked(tenant)) this.#unpinNetwork(networkId)
    }
    for (const [tenant, { networks }] of this.#said) {
      for (const { about } of networks.values()) {
        this.#pinNetwork({ networkId: about.networkId, vni: about.vni, tenant })
      }
    }
    return !isEqual(before, this.pins)
  }

  /** Nothing is locked, so nothing has to be asked. */
  get isIdle(): boolean {
    return this.#tenants.size === 0
  }

  isLocked(tenant: string): boolean {
    return (this.#tenants.get(tenant)?.publicKey ?? '') !== ''
  }

  /** Whether a locked tenant has to say that the network, who is in it and what is there counts. */
  isGuarded(network: NetworkName): boolean {
    return !this.isIdle && this.#ownersOf(network).length > 0
  }

  /** Whether the network counts: it is nobody's who is locked, or its tenant says that it is as the row has it. */
  isVouchedFor(network: NetworkName): boolean {
    if (this.isIdle) return true
    const [owner] = this.#ownersOf(network)
    if (owner === undefined) return true
    if (owner !== network.tenant) return false
    const charter = this.#said.get(owner)?.networks.get(network.id)?.about
    const pin = this.#networks.get(network.id)
    return (
      charter?.network === network.name &&
      charter.vni === network.vni &&
      pin?.tenant === owner &&
      pin.vni === network.vni
    )
  }

  /** Whether links to the peer may carry the network's frames; `plainTo` is where they lead if they are plain. */
  isMember(network: NetworkName, peer: Peer, plainTo: IpAddress | undefined): boolean {
    if (!this.isGuarded(network)) return true
    if (!this.isVouchedFor(network)) return false
    const member = this.#member(network.tenant, network.id, peer.hostId)
    if (member?.identityKey !== peer.identityKey || member.tunnelKey !== peer.tunnelKey) {
      return false
    }
    return plainTo === undefined || member.plainAddresses.some((own) => isEqual(own, plainTo))
  }

  /** Whether the endpoint of another host is there: that host says so itself, and the tenant lets it. */
  isPlaced(endpoint: Endpoint, network: NetworkName): boolean {
    if (!this.isGuarded(network)) return true
    if (!this.isVouchedFor(network)) return false
    const { placement, hostId } = endpoint
    if (placement?.hostId !== hostId || placement.networkId !== network.id) return false
    const { tenant, id } = network
    const isMember = this.#member(tenant, id, hostId)?.identityKey === placement.signerKey
    const delegate = this.#said.get(tenant)?.delegates.get(`${id}/${placement.signerKey}`)?.about
    if (!isMember || !delegate) return false
    return (
      placement.endpointId === endpoint.id &&
      placement.mac === endpoint.mac &&
      hasSame(placement.addresses, endpoint.addresses) &&
      hasSame(placement.allowedPrefixes, endpoint.allowedPrefixes) &&
      isWithin(endpoint, delegate.prefixes)
    )
  }

  /** Whether what the host says of its endpoints in the network counts, within the prefixes that it is given. */
  isDelegate(
    network: NetworkName,
    { hostId, identityKey }: Pick<Peer, 'hostId' | 'identityKey'>,
  ): boolean {
    const { tenant, id } = network
    return (
      this.#member(tenant, id, hostId)?.identityKey === identityKey &&
      this.#said.get(tenant)?.delegates.has(`${id}/${identityKey}`) === true
    )
  }

  #member(tenant: string, networkId: number, hostId: number): About<'membership'> | undefined {
    return this.#said.get(tenant)?.members.get(`${networkId}/${hostId}`)?.about
  }

  /** Locked tenants to which the network belongs by its tenant, id or VNI, in this order. */
  #ownersOf({ tenant, id, vni }: NetworkName): string[] {
    const known = [tenant, this.#networks.get(id)?.tenant, this.#vnis.get(vni)]
    return [...new Set(known)].filter(
      (name) => name !== undefined && this.isLocked(name),
    ) as string[]
  }

  /** Each key is signed by the one before, and the first one by itself. */
  #followKeys(statements: readonly Statement[]): void {
    const keys = statements
      .filter(({ about }) => about.kind === 'key')
      .sort((a, b) => (a.number < b.number ? -1 : 1))
    for (const { tenant, tenantId, number, signerKey, about } of keys) {
      if (about.kind !== 'key') continue
      const pin = this.#tenants.get(tenant)
      if (pin ? pin.tenantId !== tenantId : this.#tenants.size >= TENANTS_MAX) continue
      if (number !== BigInt((pin?.number ?? 0) + 1)) continue
      if (signerKey !== (pin?.signer ?? about.publicKey)) continue
      const signer = about.publicKey === '' ? signerKey : about.publicKey
      const { publicKey } = about
      this.#tenants.set(tenant, { tenant, tenantId, number: Number(number), publicKey, signer })
    }
  }

  #sort(statements: readonly Statement[]): Map<string, Said> {
    const said = new Map<string, Said>()
    for (const { tenant, tenantId, number, signerKey, about } of statements) {
      const pin = this.#tenants.get(tenant)
      if (pin?.tenantId !== tenantId || pin.publicKey !== signerKey) continue
      let own = said.get(tenant)
      if (!own) {
        own = { networks: new Map(), members: new Map(), delegates: new Map() }
        said.set(tenant, own)
      }
      switch (about.kind) {
        case 'key':
          break
        case 'network':
          keepNewest(own.networks, about.networkId, { number, about })
          break
        case 'membership':
          keepNewest(own.members, `${about.networkId}/${about.hostId}`, { number, about })
          break
        case 'delegation':
          keepNewest(own.delegates, `${about.networkId}/${about.delegateKey}`, { number, about })
          break
      }
    }
    return said
  }

  /** The first tenant that says so has the id and the VNI. */
  #pinNetwork(pin: NetworkPin): void {
    const { networkId, vni, tenant } = pin
    if (this.#networks.size >= NETWORKS_MAX) return
    if (this.#networks.has(networkId) || this.#vnis.has(vni)) return
    this.#networks.set(networkId, pin)
    this.#vnis.set(vni, tenant)
  }

  #unpinNetwork(networkId: number): void {
    const pin = this.#networks.get(networkId)
    this.#networks.delete(networkId)
    if (pin) this.#vnis.delete(pin.vni)
  }
}

/** By what a network is known. */
export type NetworkName = Pick<Network, 'id' | 'tenant' | 'name' | 'vni'>

function keepNewest<K, T>(said: Map<K, Numbered<T>>, key: K, statement: Numbered<T>): void {
  const present = said.get(key)
  if (!present || present.number < statement.number) said.set(key, statement)
}

function isWithin({ addresses, allowedPrefixes }: Endpoint, prefixes: readonly Prefix[]): boolean {
  return (
    addresses.every((address) => prefixes.some((prefix) => contains(prefix, address))) &&
    allowedPrefixes.every((inner) => prefixes.some((prefix) => containsPrefix(prefix, inner)))
  )
}

/** In whatever order. */
function hasSame(a: readonly object[], b: readonly object[]): boolean {
  return a.length === b.length && a.every((one) => b.some((other) => isEqual(one, other)))
}
