import { type KeyObject, sign, verify } from 'node:crypto'
import { type StatementRefusal, StatementRefusedError } from '@weft/errors'
import { Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import { identityKeyProblem, KEY_BYTES, publicKeyObject, publicKeyOf } from './keys.ts'

/** What a statement is for. It is part of what is signed, and never sent: who verifies says what it expects. */
export type Purpose =
  | 'join'
  | 'login'
  | 'renewal'
  | 'rotation'
  | 'rotation-new'
  | 'host-row'
  | 'location-report'
  | 'lease-renewal'
  | 'revocations'
  | 'audit-head'
  | 'tenant-lock'
  | 'tunnel-key'
  | 'connection-report'

/** Largest payload of a signed statement. */
export const STATEMENT_BYTES_MAX: number = 64 * 1024
const SIGNATURE_BYTES = 64
/** A statement has 106 bytes around its payload; the rest is for fields that a later version may add. */
const ENCODED_BYTES_MAX = STATEMENT_BYTES_MAX + 1024

/**
 * Signs a statement with an Ed25519 private key: RFC 8032 over `weftline/v1/`, the purpose, a zero byte and the payload.
 * @throws StatementRefusedError if the payload is too large: nobody would accept it.
 */
export function signStatement(purpose: Purpose, payload: Uint8Array, key: KeyObject): Signed {
  if (payload.length > STATEMENT_BYTES_MAX) throw refused('too-large', purpose)
  return {
    payload: Buffer.from(payload),
    signerKey: publicKeyOf(key),
    signature: sign(null, signedBytes(purpose, payload), key),
  }
}

/**
 * The payload of a statement that its signer made for this purpose. Without `expectedSigner` (32 bytes) anybody may have
 * signed it, and the caller decides who `signerKey` is.
 * @throws StatementRefusedError
 */
export function verifyStatement(
  purpose: Purpose,
  signed: Signed | undefined,
  expectedSigner?: Uint8Array,
): Buffer {
  if (signed === undefined) throw refused('missing', purpose)
  const { payload, signerKey, signature } = signed
  if (payload.length > STATEMENT_BYTES_MAX) throw refused('too-large', purpose)
  if (signerKey.length !== KEY_BYTES || signature.length !== SIGNATURE_BYTES) {
    throw refused('wrong-size', purpose)
  }
  if (expectedSigner !== undefined && !signerKey.equals(expectedSigner)) {
    throw refused('other-signer', purpose)
  }
  const problem = identityKeyProblem(signerKey)
  if (problem !== undefined) throw refused('weak-key', purpose, problem)
  // OpenSSL refuses signatures whose scalar or point is not canonical, so that one statement has one signature.
  if (!verify(null, signedBytes(purpose, payload), publicKeyObject(signerKey), signature)) {
    throw refused('bad-signature', purpose)
  }
  return payload
}

/** A message that can be read from its protobuf encoding. */
export interface Decoder<T> {
  decode(bytes: Uint8Array): T
}

/** `verifyStatement`, and its payload as a message. @throws StatementRefusedError */
export function openStatement<T>(
  purpose: Purpose,
  signed: Signed | undefined,
  decoder: Decoder<T>,
  expectedSigner?: Uint8Array,
): T {
  const payload = verifyStatement(purpose, signed, expectedSigner)
  return decoded(purpose, payload, decoder)
}

/** Reads a `Signed` from its protobuf encoding; nothing is verified yet. @throws StatementRefusedError */
export function decodeSigned(purpose: Purpose, bytes: Uint8Array): Signed {
  if (bytes.length > ENCODED_BYTES_MAX) throw refused('too-large', purpose)
  return decoded(purpose, bytes, Signed)
}

function decoded<T>(purpose: Purpose, bytes: Uint8Array, decoder: Decoder<T>): T {
  try {
    return decoder.decode(bytes)
  } catch {
    throw refused('malformed', purpose)
  }
}

function signedBytes(purpose: Purpose, payload: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from(`weftline/v1/${purpose}\0`), payload])
}

function refused(
  reason: StatementRefusal,
  purpose: Purpose,
  problem?: string,
): StatementRefusedError {
  return new StatementRefusedError({ reason, purpose, ...(problem !== undefined && { problem }) })
}
