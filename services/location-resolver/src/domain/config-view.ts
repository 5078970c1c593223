import type { IpAddress, LinkEncryption, LinkEnd } from '@weft/net'

/** What the resolver needs to know of the VN database, record by record. */
export interface Zone {
  readonly id: number
  readonly name: string
  readonly trusted: boolean
}

export interface Host {
  readonly id: number
  readonly name: string
  /** A machine with a plain VXLAN device: nobody reports for it. */
  readonly isForeign: boolean
  /** Ed25519 public key, 32 bytes; empty for one that is not enrolled. */
  readonly identityKey: Buffer
  /** Its key is void. */
  readonly isRevoked: boolean
  readonly addresses: readonly { readonly address: IpAddress; readonly zoneId: number }[]
  /** It has a tunnel key, and a data plane with the sealed carrier. */
  readonly canSeal: boolean
}

export interface Network {
  readonly id: number
  readonly name: string
  readonly vni: number
  readonly mtuBytes: number
  readonly encryption: LinkEncryption
}

export interface Endpoint {
  readonly id: number
  readonly name: string
  readonly networkId: number
  /** The host to which it is assigned, 0 for none. */
  readonly hostId: number
  /** 6 bytes. */
  readonly mac: Buffer
  /** 4 or 16 bytes each. */
  readonly addresses: Buffer[]
}

export type ConfigItem =
  | { readonly kind: 'zone'; readonly value: Zone }
  | { readonly kind: 'host'; readonly value: Host }
  | { readonly kind: 'network'; readonly value: Network }
  | { readonly kind: 'endpoint'; readonly value: Endpoint }

/** Each before those that it refers to. */
export const itemKinds: readonly ConfigItem['kind'][] = ['endpoint', 'network', 'host', 'zone']

/** This replica's copy of the VN database, caught up to `revision`. */
export class ConfigView {
  readonly zones: Map<number, Zone> = new Map<number, Zone>()
  readonly hosts: Map<number, Host> = new Map<number, Host>()
  readonly networks: Map<number, Network> = new Map<number, Network>()
  readonly endpoints: Map<number, Endpoint> = new Map<number, Endpoint>()
  /** 0 until anything was read. */
  revision = 0n
  readonly #linkEnds = new Map<number, LinkEnd>()
  /** Endpoints. */
  readonly #unreadable = new Set<number>()

  put(item: ConfigItem): void {
    switch (item.kind) {
      case 'zone':
        this.zones.set(item.value.id, item.value)
        this.#linkEnds.clear()
        break
      case 'host':
        this.hosts.set(item.value.id, item.value)
        this.#linkEnds.delete(item.value.id)
        break
      case 'network':
        this.networks.set(item.value.id, item.value)
        break
      case 'endpoint':
        this.endpoints.set(item.value.id, item.value)
        this.#unreadable.delete(item.value.id)
        break
    }
  }

  delete(kind: ConfigItem['kind'], id: number): void {
    switch (kind) {
      case 'zone':
        this.zones.delete(id)
        this.#linkEnds.clear()
        break
      case 'host':
        this.hosts.delete(id)
        this.#linkEnds.delete(id)
        break
      case 'network':
        this.networks.delete(id)
        break
      case 'endpoint':
        this.endpoints.delete(id)
        this.#unreadable.delete(id)
        break
    }
  }

  /**
   * The record is there and cannot be read: a host is as if it was revoked, and of all else what was known before counts. An
   * endpoint that was never known is not deleted.
   */
  distrust(kind: ConfigItem['kind'], id: number): void {
    const host = kind === 'host' ? this.hosts.get(id) : undefined
    if (host) this.put({ kind: 'host', value: { ...host, isRevoked: true } })
    if (kind === 'endpoint') this.#unreadable.add(id)
  }

  /** An id is the revision at which its record was created: one that this copy has passed and does not hold is gone. */
  isDeletedEndpoint(endpointId: number): boolean {
    if (this.endpoints.has(endpointId) || this.#unreadable.has(endpointId)) return false
    return BigInt(endpointId) <= this.revision
  }

  /** A host as an end of a link. An address in a zone that is not known is not trusted. */
  linkEndOf(host: Host): LinkEnd {
    const known = this.#linkEnds.get(host.id)
    if (known !== undefined) return known
    const addresses = host.addresses.map(({ address, zoneId }) => ({
      address,
      zoneId,
      trusted: this.zones.get(zoneId)?.trusted ?? false,
    }))
    const end = { addresses, canSeal: host.canSeal }
    this.#linkEnds.set(host.id, end)
    return end
  }
}
