import {
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  type KeyObject,
} from 'node:crypto'
import { InvalidArgumentError } from '@weft/errors'

/** Of an Ed25519 or X25519 key, public or private. */
export const KEY_BYTES = 32
/** No PEM that is read is longer: a key takes 120 characters, a certificate 1,000. */
export const PEM_LENGTH_MAX: number = 64 * 1024

/** SubjectPublicKeyInfo (RFC 8410) up to the 32 bytes of the key. */
const ED25519_SPKI = Buffer.from('302a300506032b6570032100', 'hex')
const X25519_SPKI = Buffer.from('302a300506032b656e032100', 'hex')

/** A new Ed25519 private key: identities, authorities and directories. */
export function generateIdentityKey(): KeyObject {
  return generateKeyPairSync('ed25519').privateKey
}

/** A new X25519 private key, for tunnels. */
export function generateTunnelKey(): KeyObject {
  return generateKeyPairSync('x25519').privateKey
}

/** The 32 bytes of the public key that belongs to an Ed25519 or X25519 key. */
export function publicKeyOf(key: KeyObject): Buffer {
  const publicKey = key.type === 'private' ? createPublicKey(key) : key
  return publicKey.export({ format: 'der', type: 'spki' }).subarray(-KEY_BYTES)
}

/** The 32 bytes of an Ed25519 or X25519 private key (RFC 8410, 7). A secret. */
export function privateBytesOf(key: KeyObject): Buffer {
  return key.export({ format: 'der', type: 'pkcs8' }).subarray(-KEY_BYTES)
}

/**
 * An Ed25519 public key of 32 bytes, for verification.
 * @throws InvalidArgumentError if nobody can hold the private key of it.
 */
export function publicKeyObject(raw: Uint8Array): KeyObject {
  const problem = identityKeyProblem(raw)
  if (problem !== undefined) throw new InvalidArgumentError({ field: 'public key', problem })
  return createPublicKey({ key: Buffer.concat([ED25519_SPKI, raw]), format: 'der', type: 'spki' })
}

/** Why 32 bytes are no Ed25519 public key that somebody may have; undefined if they may be one. */
export function identityKeyProblem(raw: Uint8Array): string | undefined {
  if (raw.length !== KEY_BYTES) return `has ${raw.length} bytes, not ${KEY_BYTES}`
  const y = Buffer.from(raw)
  y.writeUInt8(y.readUInt8(KEY_BYTES - 1) & 0x7f, KEY_BYTES - 1)
  if (bigEndian(y) >= FIELD) return 'is not encoded canonically (RFC 8032, 5.1.3)'
  return LOW_ORDER.has(y.toString('hex')) ? 'has low order: anybody can sign for it' : undefined
}

/** Why bytes are no X25519 public key that somebody may have; undefined if they may be one. */
export function tunnelKeyProblem(raw: Uint8Array): string | undefined {
  if (raw.length !== KEY_BYTES) return `has ${raw.length} bytes, not ${KEY_BYTES}`
  const der = Buffer.concat([X25519_SPKI, raw])
  const publicKey = createPublicKey({ key: der, format: 'der', type: 'spki' })
  try {
    // OpenSSL refuses a shared secret of zeros (RFC 7748, 6.1), which every private key has with a point of low order.
    diffieHellman({ privateKey: generateTunnelKey(), publicKey })
    return undefined
  } catch {
    return 'has low order: the secret that it shares is known to everybody'
  }
}

/**
 * Reads an Ed25519 private key, PKCS#8.
 * @throws InvalidArgumentError, which never holds a part of the text.
 */
export function identityKeyFromPem(pem: string): KeyObject {
  return privateKeyFromPem(pem, 'ed25519')
}

/** Reads an X25519 private key, PKCS#8. @throws InvalidArgumentError, which never holds a part of the text. */
export function tunnelKeyFromPem(pem: string): KeyObject {
  return privateKeyFromPem(pem, 'x25519')
}

/** A private key as PKCS#8, PEM. A secret. */
export function pemOfKey(key: KeyObject): string {
  return key.export({ format: 'pem', type: 'pkcs8' }).toString()
}

function privateKeyFromPem(pem: string, kind: 'ed25519' | 'x25519'): KeyObject {
  const wrong = (problem: string): InvalidArgumentError =>
    new InvalidArgumentError({ field: `${kind} private key`, problem })
  if (pem.length > PEM_LENGTH_MAX) throw wrong('is far too long')
  let key: KeyObject
  try {
    key = createPrivateKey({ key: pem, format: 'pem' })
  } catch {
    // The cause is left out: it may quote the text.
    throw wrong('is not a private key in PEM (PKCS#8)')
  }
  if (key.asymmetricKeyType !== kind) throw wrong(`is a key of type ${key.asymmetricKeyType}`)
  return key
}

/** 2^255 - 19 */
const FIELD = (1n << 255n) - 19n

/**
 * Coordinates y of the points whose order divides 8, little-endian: 0 (order 4), 1 (1), -1 (2), and two of order 8.
 * By the equation of RFC 8032, 5.1.7 signatures for them can be made without any private key; some versions of OpenSSL accept them.
 */
const LOW_ORDER: ReadonlySet<string> = new Set([
  '00'.repeat(32),
  `01${'00'.repeat(31)}`,
  `ec${'ff'.repeat(30)}7f`,
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
])

function bigEndian(littleEndian: Buffer): bigint {
  return BigInt(`0x${Buffer.from(littleEndian.toReversed()).toString('hex')}`)
}
