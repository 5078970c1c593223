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
  /** The keys up to this one as far as they are known, each signed by the one before. */
  readonly chain: readonly string[]
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
  /**
   * Pins were lost, and these tenants were locked: nothing of them counts until their keys are told, and no key is believed
   * because it is the first. Undefined if all that was pinned is here.
   */
  readonly lost?: readonly string[]
}

/**
 * Tenants that are pinned; nothing counts of those that are met later and have a key. Sum: 4,096 with up to 16 keys of some
 * 100 bytes are 6.6 MB, and 1.6 MB if nobody ever changed a key.
 */
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
  /** They have a key, and it is not known which it is. */
  #unpinned: ReadonlySet<string> = new Set()
  #lost: readonly string[] | undefined
  #said: ReadonlyMap<string, Said> = new Map()

  constructor(rows: HostRows) {
    this.#rows = rows
  }

  get pins(): Pins {
    const tenants = [...this.#tenants.values()]
    const networks = [...this.#networks.values()]
    return { tenants, networks, ...(this.#lost && { lost: this.#lost }) }
  }

  /** Names of tenants of which nothing counts without their word, to be kept apart from the pins. */
  get lockedTenants(): string[] {
    const locked = [...this.#tenants.keys()].filter((tenant) => this.isLocked(tenant))
    return [...new Set([...locked, ...(this.#lost ?? [])])]
  }

  /** Takes what is known from before. */
  restore({ tenants, networks, lost }: Pins): void {
    for (const pin of tenants) this.#tenants.set(pin.tenant, pin)
    for (const pin of networks) this.#pinNetwork(pin)
    this.#lost = lost
  }

  /**
   * Takes keys that somebody has told this host, who knows better than whatever it has met: a pinned key counts on only if it
   * is the told one or follows from it. Returns the tenants of which another key was pinned.
   */
  tell(told: readonly TenantPin[]): string[] {
    const others: string[] = []
    for (const pin of told) {
      const known = this.#tenants.get(pin.tenant)
      if (known && isInChain(known, pin)) continue
      // A later key than this host has heard of may follow from what it knows.
      if (known && (known.tenantId !== pin.tenantId || known.number >= pin.number)) {
        others.push(pin.tenant)
        for (const { networkId, tenant } of this.#networks.values()) {
          if (tenant === pin.tenant) this.#unpinNetwork(networkId)
        }
      }
      this.#tenants.set(pin.tenant, pin)
    }
    return others
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
    return this.#tenants.size + this.#unpinned.size === 0 && this.#lost === undefined
  }

  isLocked(tenant: string): boolean {
    const pin = this.#tenants.get(tenant)
    if (pin) return pin.publicKey !== ''
    return this.#unpinned.has(tenant) || this.#lost?.includes(tenant) === true
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
      if (pin ? pin.tenantId !== tenantId : !this.#mayPin()) continue
      if (number !== BigInt((pin?.number ?? 0) + 1)) continue
      if (signerKey !== (pin?.signer ?? about.publicKey)) continue
      const signer = about.publicKey === '' ? signerKey : about.publicKey
      const { publicKey } = about
      const chain = [...(pin?.chain ?? []), publicKey]
      const next = { tenant, tenantId, number: Number(number), publicKey, signer, chain }
      this.#tenants.set(tenant, next)
    }
    // Who may be met anew is locked by a first key alone: that is what a chain begins with.
    const named = this.#mayPin() ? [] : keys.map(({ tenant }) => tenant)
    this.#unpinned = new Set(named.filter((tenant) => !this.#tenants.has(tenant)))
  }

  /** Whether the first key that comes of a tenant is believed. */
  #mayPin(): boolean {
    return this.#lost === undefined && this.#tenants.size < TENANTS_MAX
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

/** Whether what is known of the tenant's keys has the other one in its place. */
function isInChain({ tenantId, number, chain }: TenantPin, other: TenantPin): boolean {
  return (
    tenantId === other.tenantId &&
    chain.at(other.number - number - 1) === other.publicKey &&
    other.number <= number
  )
}

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
