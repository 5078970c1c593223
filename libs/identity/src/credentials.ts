import type { KeyObject } from 'node:crypto'
import type { Identity } from './identity.ts'

/** What a process shows in a TLS handshake. Replaced as a whole: a key never meets another key's certificate. */
export interface TlsMaterial {
  /** Leaf and intermediates, PEM. */
  readonly chainPem: string
  /** PKCS#8, PEM. Never logged. */
  readonly keyPem: string
  /** The roots of the domain, PEM: only they vouch for a peer. */
  readonly rootsPem: string
  readonly notAfter: Date
}

/** What a process shows to the bus. */
export interface BusLogin {
  /** User JWT. */
  readonly jwt: string
  /** nkey seed of the JWT's subject. Never logged. */
  readonly seed: Uint8Array
  /** Begins every inbox of this user: the only subjects to which it may subscribe for answers. */
  readonly inboxPrefix: string
}

/** Who a process is and whom it refuses. What it answers changes when certificates are renewed or keys revoked. */
export interface Credentials {
  readonly identity: Identity
  readonly tls: TlsMaterial
  /** Undefined for users, who have no business on the bus. */
  readonly bus: BusLogin | undefined
  /** The identity key, for signing statements. */
  readonly identityKey: KeyObject
  /** Ed25519 public key of the domain's directory, 32 bytes. */
  readonly directoryKey: Uint8Array
  /** Whether the holder of an Ed25519 public key (32 bytes) is refused. */
  isRevoked(publicKey: Uint8Array): boolean
  /** Calls the listener whenever `tls` or `bus` is another or somebody was revoked, until the returned function is called. */
  onChange(listener: (what: 'renewed' | 'revoked') => void): () => void
}

/** A peer whose certificate was verified against the roots, its validity and the revocations. */
export interface Peer {
  readonly identity: Identity
  /** Ed25519, 32 bytes. */
  readonly publicKey: Uint8Array
  readonly notAfter: Date
  /** For audit. */
  readonly serialNumber: string
}
