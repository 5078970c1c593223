import { createPrivateKey, createPublicKey, type KeyObject, randomBytes, sign } from 'node:crypto'
import { InvalidArgumentError } from '@weft/errors'

/*
 * Keys of the bus ("nkeys", NATS ADR-14): Ed25519, written as base32 (RFC 4648, no padding) of one or two bytes that say
 * what the key is for, 32 bytes of key, and CRC-16/XMODEM of all that, little-endian. node:crypto signs with them.
 */

export type KeyRole = 'operator' | 'account' | 'user'

/** A key pair in text: `publicKey` begins with the letter of its role (`O`, `A`, `U`), the secret `seed` (ASCII) with `S`. */
export interface BusKeys {
  readonly publicKey: string
  readonly seed: Uint8Array
}

/** A private key that was read from its seed. */
export interface SigningKey {
  readonly role: KeyRole
  readonly publicKey: string
  sign(data: Uint8Array): Buffer
}

const SEED_PREFIX = 18 << 3
const rolePrefixes: { readonly [role in KeyRole]: number } = {
  operator: 14 << 3,
  account: 0,
  user: 20 << 3,
}
const KEY_BYTES = 32
const CHECKSUM_BYTES = 2
const ED25519_PKCS8 = Buffer.from('302e020100300506032b657004220420', 'hex')

/** Makes the keys of a user, or of an account or operator. */
export function newKeys(role: KeyRole = 'user'): BusKeys {
  const secret = randomBytes(KEY_BYTES)
  const prefix = rolePrefixes[role]
  const head = Buffer.from([SEED_PREFIX | (prefix >> 5), (prefix & 31) << 3])
  const seed = Buffer.from(encode(Buffer.concat([head, secret])))
  return { publicKey: publicText(role, privateKey(secret)), seed }
}

/** Reads the seed of a private key of this role. @throws InvalidArgumentError, which never holds a part of the seed. */
export function openSeed(role: KeyRole, seed: Uint8Array): SigningKey {
  const bytes = decode(Buffer.from(seed).toString('latin1').trim(), 2)
  // Five bits say that it is a seed, the next eight of what.
  const head = bytes?.readUInt16BE(0) ?? 0
  if (!bytes || head !== ((SEED_PREFIX << 8) | (rolePrefixes[role] << 3))) {
    throw new InvalidArgumentError({
      field: `seed of the bus key of the ${role}`,
      problem: 'is damaged, or the seed of something else',
    })
  }
  const key = privateKey(bytes.subarray(2))
  return { role, publicKey: publicText(role, key), sign: (data) => sign(null, data, key) }
}

/** Says whether a text is the public key of this role. */
export function isBusPublicKey(role: KeyRole, text: string): boolean {
  return decode(text, 1)?.[0] === rolePrefixes[role]
}

function privateKey(secret: Uint8Array): KeyObject {
  return createPrivateKey({
    key: Buffer.concat([ED25519_PKCS8, secret]),
    format: 'der',
    type: 'pkcs8',
  })
}

function publicText(role: KeyRole, key: KeyObject): string {
  const raw = createPublicKey(key).export({ format: 'der', type: 'spki' }).subarray(-KEY_BYTES)
  return encode(Buffer.concat([Buffer.from([rolePrefixes[role]]), raw]))
}

const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'

function encode(bytes: Buffer): string {
  const checksum = Buffer.alloc(CHECKSUM_BYTES)
  checksum.writeUInt16LE(crc16(bytes))
  return base32(Buffer.concat([bytes, checksum]))
}

/** Prefix and key; undefined unless the text is exactly what `encode` makes of them. */
function decode(text: string, prefixBytes: number): Buffer | undefined {
  const length = prefixBytes + KEY_BYTES + CHECKSUM_BYTES
  if (text.length !== Math.ceil((length * 8) / 5)) return undefined
  const bytes = Buffer.alloc(length)
  let bits = 0
  let bitCount = 0
  let at = 0
  for (const letter of text) {
    const value = ALPHABET.indexOf(letter)
    if (value < 0) return undefined
    bits = ((bits << 5) | value) & 0xfff
    bitCount += 5
    if (bitCount >= 8 && at < length) {
      bitCount -= 8
      bytes[at++] = (bits >> bitCount) & 0xff
    }
  }
  const body = bytes.subarray(0, -CHECKSUM_BYTES)
  return encode(body) === text ? body : undefined
}

function base32(bytes: Uint8Array): string {
  let text = ''
  let bits = 0
  let bitCount = 0
  for (const byte of bytes) {
    bits = ((bits << 8) | byte) & 0xfff
    bitCount += 8
    while (bitCount >= 5) {
      bitCount -= 5
      text += ALPHABET[(bits >> bitCount) & 31]
    }
  }
  return bitCount > 0 ? text + ALPHABET[(bits << (5 - bitCount)) & 31] : text
}

function crc16(bytes: Uint8Array): number {
  let crc = 0
  for (const byte of bytes) {
    crc ^= byte << 8
    for (let bit = 0; bit < 8; bit++) {
      crc = crc & 0x8000 ? ((crc << 1) ^ 0x1021) & 0xffff : (crc << 1) & 0xffff
    }
  }
  return crc
}
