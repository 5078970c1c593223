import type { KeyObject } from 'node:crypto'
import {
  type BusLogin,
  type Credentials,
  generateIdentityKey,
  type Identity,
  pemOf,
  pemOfKey,
  publicKeyOf,
  type ServiceName,
  type TlsMaterial,
} from '@weft/identity'
import {
  type Authority,
  createIntermediate,
  createRoot,
  issueLeaf,
  leafValidity,
} from '@weft/identity/authority'

/** A domain in memory, with real keys and certificates: what `weft init` makes, for tests. */
export interface TestDomain {
  /** `test.weft` unless it was named. */
  readonly name: string
  readonly root: Authority
  readonly intermediate: Authority
  /** Ed25519, private: signs what hosts act on. */
  readonly directoryKey: KeyObject
  /** Enrols a member: a certificate of 24 hours and a new key, unless told otherwise. */
  credentials(member: TestMember, options?: TestCredentialsOptions): TestCredentials
}

/** Who it is. The domain may be left out, and is that of the test. */
export type TestMember = { readonly domain?: string } & (
  | { readonly kind: 'host' | 'user'; readonly id: number }
  | { readonly kind: 'service'; readonly id: ServiceName }
)

export interface TestCredentialsOptions {
  readonly notBefore?: Date
  readonly notAfter?: Date
  /** Ed25519, private. */
  readonly key?: KeyObject
  readonly bus?: BusLogin
  /** DNS names and IP addresses: for the service `nats` only. */
  readonly dnsNames?: readonly string[]
  readonly addresses?: readonly string[]
}

export interface TestCredentials extends Credentials {
  readonly publicKey: Buffer
  /** The newest certificate, DER. */
  readonly certificate: Buffer
  /** Replaces the certificate, and what else is given, and tells the listeners; the key stays unless one is given. */
  renew(options?: TestCredentialsOptions): void
  /** This member learns that the holder of a public key (32 bytes) is refused; nobody else does. */
  revoke(publicKey: Uint8Array): void
  /** The same, if the time (milliseconds since 1970) has come: what a service learns of the VN database. */
  noteVoidKey(publicKey: Uint8Array, fromUnixMs: number): void
}

/** Makes one: `test.weft` unless named, issued `now`. Two of them trust each other as little as any two domains. */
export function testDomain(
  options: { readonly domain?: string; readonly now?: Date } = {},
): TestDomain {
  const { domain: name = 'test.weft', now = new Date() } = options
  const root = createRoot({ domain: name, now })
  const intermediate = createIntermediate({ root, now })
  const directoryKey = generateIdentityKey()
  return {
    name,
    root,
    intermediate,
    directoryKey,
    credentials(member, given = {}) {
      const identity: Identity = { domain: name, ...member }
      const listeners = new Set<(what: 'renewed' | 'revoked') => void>()
      const revoked = new Set<string>()
      const told = (what: 'renewed' | 'revoked'): void => {
        for (const listener of listeners) listener(what)
      }
      let held = issued(identity, { key: generateIdentityKey(), ...given })
      return {
        identity,
        directoryKey: publicKeyOf(directoryKey),
        get publicKey() {
          return publicKeyOf(held.key)
        },
        get certificate() {
          return held.certificate
        },
        get tls() {
          return held.tls
        },
        get bus() {
          return held.bus
        },
        get identityKey() {
          return held.key
        },
        isRevoked: (publicKey) => revoked.has(Buffer.from(publicKey).toString('hex')),
        onChange(listener) {
          // Not the listener itself: the same one may be given twice.
          const entry = (what: 'renewed' | 'revoked'): void => listener(what)
          listeners.add(entry)
          return () => listeners.delete(entry)
        },
        renew(changed = {}) {
          held = issued(identity, { key: held.key, ...(held.bus && { bus: held.bus }), ...changed })
          told('renewed')
        },
        revoke(publicKey) {
          revoked.add(Buffer.from(publicKey).toString('hex'))
          told('revoked')
        },
        noteVoidKey(publicKey, fromUnixMs) {
          if (fromUnixMs <= Date.now()) this.revoke(publicKey)
        },
      }
    },
  }

  function issued(
    identity: Identity,
    { key, bus, ...rest }: TestCredentialsOptions & { readonly key: KeyObject },
  ): Held {
    const member = { ...leafValidity({ authority: intermediate, now }), ...rest }
    const certificate = issueLeaf({
      authority: intermediate,
      identity,
      publicKey: publicKeyOf(key),
      ...member,
    })
    return {
      key,
      bus,
      certificate,
      tls: {
        chainPem: pemOf(certificate) + pemOf(intermediate.certificate),
        keyPem: pemOfKey(key),
        rootsPem: pemOf(root.certificate),
        // A certificate tells no fractions of seconds.
        notAfter: new Date(Math.floor(member.notAfter.getTime() / 1000) * 1000),
      },
    }
  }
}

/** What a member has at one time. */
interface Held {
  readonly key: KeyObject
  readonly bus: BusLogin | undefined
  readonly certificate: Buffer
  readonly tls: TlsMaterial
}
