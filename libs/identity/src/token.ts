import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { type TokenRefusal, TokenRefusedError } from '@weft/errors'

/** What a token is for: a host joins with one, a user logs in with the other, which is called a code. */
export type TokenKind = 'join' | 'login'

export interface ParsedToken {
  /** Of the token's record. */
  readonly id: number
  readonly secret: Buffer
}

const SECRET_BYTES = 32
/** 32 bytes as base64url without padding (RFC 4648, 5). */
const SECRET_LENGTH = 43
/** `weft-login-v1.`, ten digits, a dot and the secret are 68; white space around is allowed for. */
const TEXT_LENGTH_MAX = 128

/** 256 random bits. They are shown once, in `tokenText`, and kept only as `hashOfSecret`. */
export function newSecret(): Buffer {
  return randomBytes(SECRET_BYTES)
}

/** `weft-join-v1.<id>.<secret>` or `weft-login-v1.<id>.<secret>`. A secret. */
export function tokenText(kind: TokenKind, id: number, secret: Uint8Array): string {
  return `weft-${kind}-v1.${id}.${Buffer.from(secret).toString('base64url')}`
}

/**
 * Reads what `tokenText` writes, with white space around it.
 * @throws TokenRefusedError with what is wrong with the text, but no part of it.
 */
export function parseToken(kind: TokenKind, text: string): ParsedToken {
  const refused = (reason: TokenRefusal): TokenRefusedError =>
    new TokenRefusedError({ reason, kind })
  if (text.length > TEXT_LENGTH_MAX) throw refused('too-long')
  const trimmed = text.trim()
  const [, purpose, version] = /^weft-(join|login)-v([1-9][0-9]{0,3})(?:\.|$)/.exec(trimmed) ?? []
  if (purpose === undefined) {
    throw refused(/^(?:w|we|wef|weft(?:-[a-z]*)?(?:-v?)?)$/.test(trimmed) ? 'cut' : 'not-a-token')
  }
  if (purpose !== kind) throw refused('other-purpose')
  if (version !== '1') throw refused('other-version')
  const [, idText = '', secretText = '', ...more] = trimmed.split('.')
  if (more.length > 0 || secretText.length > SECRET_LENGTH) throw refused('too-long')
  if (idText === '' || secretText.length < SECRET_LENGTH) throw refused('cut')
  const id = Number(idText)
  const secret = Buffer.from(secretText, 'base64url')
  // One token has one text: no leading zeros, no other alphabet, and the two bits that 43 characters have over are zero.
  const isCanonical = Number.isInteger(id) && id > 0 && id <= 0xffff_ffff
  if (!isCanonical || tokenText(kind, id, secret) !== trimmed) throw refused('not-a-token')
  return { id, secret }
}

/** What is stored of a secret: SHA-256, 32 bytes. The secret has 256 bits of its own, so that no salt is needed. */
export function hashOfSecret(secret: Uint8Array): Buffer {
  return createHash('sha256').update(secret).digest()
}

/** Whether a secret has this hash; it takes the same time either way. */
export function isSecretOf(secret: Uint8Array, hash: Uint8Array): boolean {
  const actual = hashOfSecret(secret)
  return hash.length === actual.length && timingSafeEqual(actual, hash)
}
