import { createHash } from 'node:crypto'
import type { SigningKey } from './nkey.ts'

/** What a token of NATS says (github.com/nats-io/jwt, version 2). Times are whole seconds since 1970. */
export interface Claims {
  readonly name: string
  /** Public key of the operator, account or user that the token is about. */
  readonly sub: string
  readonly iat: number
  readonly nbf?: number
  readonly exp?: number
  readonly nats: {
    readonly type: 'operator' | 'account' | 'user'
    readonly [claim: string]: unknown
  }
}

const HEADER = encodePart({ typ: 'JWT', alg: 'ed25519-nkey' })

/** Signs claims; `iss` is the signer's key, `jti` a hash of all else. */
export function encodeJwt(claims: Claims, signer: SigningKey): string {
  const whole = { ...claims, iss: signer.publicKey, nats: { ...claims.nats, version: 2 } }
  const jti = createHash('sha256').update(JSON.stringify(whole)).digest('base64url')
  const signed = `${HEADER}.${encodePart({ jti, ...whole })}`
  return `${signed}.${signer.sign(Buffer.from(signed)).toString('base64url')}`
}

/** When a time stamp of a token is; tokens know whole seconds only. */
export function secondsOf(time: Date): number {
  return Math.floor(time.getTime() / 1000)
}

function encodePart(part: object): string {
  return Buffer.from(JSON.stringify(part)).toString('base64url')
}
