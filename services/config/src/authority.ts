import type { KeyObject } from 'node:crypto'
import { type IssueBusUser, serviceCredentials } from '@weft/domain/authority'
import { UnavailableError } from '@weft/errors'
import { type Identity, publicKeyOf, type ServiceName, serviceNames } from '@weft/identity'
import { type Authority as Issuer, issueLeaf, leafValidity } from '@weft/identity/authority'
import type { Host, User } from '@weft/proto/weftline/config/v1/records.ts'
import type { Credentials, Places } from '@weft/proto/weftline/identity/v1/identity.ts'

/** Public keys of a service. */
export interface ServiceKeys {
  /** Ed25519, 32 bytes. */
  readonly identityKey: Buffer
  /** Public nkey; empty for `nats`. */
  readonly busKey: string
}

export interface AuthorityOptions {
  /** Issues certificates; its own is below the root. */
  readonly issuer: Issuer
  /** DER. */
  readonly root: Buffer
  /** Ed25519 private key: signs what hosts act on. */
  readonly directoryKey: KeyObject
  readonly issueBusUser: IssueBusUser
  readonly places: Places
  /** Identity key of the first user, 32 bytes. */
  readonly ownerKey: Buffer
  readonly services: { readonly [name in ServiceName]: ServiceKeys }
  /** Public nkeys of those who keep the bus in order. */
  readonly busAdmins: readonly string[]
}

/** The authority of the domain, as config runs it: vouches for whoever the VN database knows, and for the services. */
export class Authority {
  readonly domain: string
  readonly directoryKey: KeyObject
  readonly ownerKey: Buffer
  readonly #options: AuthorityOptions
  /** DER. */
  readonly root: Buffer
  readonly #directoryPublicKey: Buffer
  #issuer: Issuer

  constructor(options: AuthorityOptions) {
    this.#options = options
    this.#issuer = options.issuer
    this.root = options.root
    this.domain = options.issuer.domain
    this.directoryKey = options.directoryKey
    this.ownerKey = options.ownerKey
    this.#directoryPublicKey = publicKeyOf(options.directoryKey)
  }

  /** Where the domain is served: what every member is told. */
  get places(): Places {
    return this.#options.places
  }

  /** Nothing that is issued is valid any longer than this. */
  get notAfter(): Date {
    return this.#issuer.notAfter
  }

  /** Goes on with another certificate and key, below the same root. What was issued before counts until it ends. */
  renew(issuer: Issuer): void {
    this.#issuer = issuer
  }

  /** Whether this is what it goes by already. */
  isIssuer({ certificate }: Issuer): boolean {
    return certificate.equals(this.#issuer.certificate)
  }

  /** The service that has the identity key. */
  serviceOf(identityKey: Uint8Array): ServiceName | undefined {
    return serviceNames.find((name) => this.#options.services[name].identityKey.equals(identityKey))
  }

  /** Public keys of a service. */
  keysOf(name: ServiceName): ServiceKeys {
    return this.#options.services[name]
  }

  /**
   * Whether one of the keys belongs to the domain itself. Nobody proves to have the bus key that goes with an identity: who named
   * that of a service, and was revoked, would have the bus refuse the service.
   */
  isReserved({ identity, bus }: { readonly identity: Uint8Array; readonly bus: string }): boolean {
    const { services, busAdmins } = this.#options
    if (this.serviceOf(identity) !== undefined) return true
    if (bus === '') return false
    return busAdmins.includes(bus) || serviceNames.some((name) => services[name].busKey === bus)
  }

  hostCredentials(host: Host, now: Date): Credentials {
    this.#checkTime(now)
    const { notBefore, notAfter } = this.#validity(now)
    const identity: Identity = { domain: this.domain, kind: 'host', id: host.id }
    const leaf = this.#leaf(identity, host.identityKey, notBefore, notAfter)
    const principal = { kind: 'host', id: host.id } as const
    return this.#credentials({
      certificates: [leaf],
      busJwt: this.#options.issueBusUser({
        principal,
        publicKey: host.busKey,
        expiresAt: notAfter,
      }),
      hostId: host.id,
      hostName: host.name,
      horizonUnixMs: host.horizonUnixMs,
    })
  }

  userCredentials(user: User, now: Date): Credentials {
    this.#checkTime(now)
    const { notBefore, notAfter } = this.#validity(now)
    const identity: Identity = { domain: this.domain, kind: 'user', id: user.id }
    return this.#credentials({
      certificates: [this.#leaf(identity, user.identityKey, notBefore, notAfter)],
      horizonUnixMs: user.horizonUnixMs,
    })
  }

  /** A ladder of certificates, and a bus login that lasts as long. */
  serviceCredentials(name: ServiceName, now: Date): Credentials {
    this.#checkTime(now)
    const { services, issueBusUser, places } = this.#options
    const { identityKey, busKey } = services[name]
    return serviceCredentials({
      issuer: this.#issuer,
      root: this.root,
      directoryKey: this.#directoryPublicKey,
      places,
      name,
      identityKey,
      issueBusUser: (service, expiresAt) =>
        issueBusUser({
          principal: { kind: 'service', name: service },
          publicKey: busKey,
          expiresAt,
        }),
      now,
    })
  }

  #leaf(identity: Identity, publicKey: Uint8Array, notBefore: Date, notAfter: Date): Buffer {
    return issueLeaf({ authority: this.#issuer, identity, publicKey, notBefore, notAfter })
  }

  #validity(now: Date): { notBefore: Date; notAfter: Date } {
    return leafValidity({ authority: this.#issuer, now })
  }

  #credentials(fields: Pick<Credentials, 'certificates'> & Partial<Credentials>): Credentials {
    const { places } = this.#options
    return {
      domain: this.domain,
      authorities: [this.#issuer.certificate, this.root],
      busJwt: '',
      directoryKey: this.#directoryPublicKey,
      places,
      hostId: 0,
      hostName: '',
      horizonUnixMs: 0n,
      ...fields,
    }
  }

  #checkTime(now: Date): void {
    if (now < this.notAfter) return
    throw new UnavailableError({
      service: 'config',
      address: this.places.config.join(','),
      problem: `its authority has ended at ${this.notAfter.toISOString()}`,
      remedy:
        'run weft authority renew, with the root of the domain, where config has its authority',
    })
  }
}
