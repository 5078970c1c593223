import { InvalidArgumentError, LimitReachedError, TokenRefusedError } from '@weft/errors'
import type {
  CreateLoginCodeRequest,
  CreateTokenRequest,
  RevokeTokenRequest,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import { type Token, TokenPurpose } from '@weft/proto/weftline/config/v1/records.ts'
import type { Database } from '../database.ts'
import { limits } from '../limits.ts'
import {
  answer,
  answering,
  type Caller,
  checkCount,
  checkedLabels,
  checkName,
  createdMeta,
  newId,
  type Plan,
  put,
  remove,
  repeated,
  rewrittenMeta,
  type Step,
} from './plan.ts'
import { tenantNamed } from './tenants.ts'
import { userNamed } from './users.ts'
import { zoneNamed } from './zones.ts'

const MINUTE_MS = 60_000
const DAY_MS = 24 * 60 * MINUTE_MS
const TTL_MAX_MS = DAY_MS
const JOIN_TTL_DEFAULT_MS = 60 * MINUTE_MS
const LOGIN_TTL_DEFAULT_MS = 10 * MINUTE_MS
/** A token that ran out is kept this long, so that whoever uses it learns why it is refused. */
const FORGOTTEN_AFTER_MS = DAY_MS
/** Each token that is made removes up to this many forgettable ones: more go than come. */
export const PRUNED_AT_ONCE = 2

/** Makes a token by which one host may join. `secretHash` is all that is known here of its secret. */
export function createToken(
  database: Database,
  request: CreateTokenRequest,
  secretHash: Buffer,
  caller: Caller,
): Plan<Token> {
  const earlier = repeated(database, caller, 'token', ({ purpose }) => isJoin(purpose))
  if (earlier) return answer(earlier)
  checkCount('tenants', request.tenants, limits.tenantsPerHost)
  if (request.hostName !== '') checkName('host', request.hostName)
  return newToken(database, caller, {
    purpose: TokenPurpose.TOKEN_PURPOSE_JOIN,
    secretHash,
    expiresAtUnixMs: expiry(request.ttlMs, JOIN_TTL_DEFAULT_MS, caller),
    tenantIds: [...new Set(request.tenants.map((name) => tenantNamed(database, name).id))],
    zoneId: request.zone === '' ? 0 : zoneNamed(database, request.zone).id,
    hostLabels: checkedLabels(request.labels),
    hostName: request.hostName,
    userId: 0,
  })
}

/** Makes a one-time code by which a user logs in. */
export function createLoginCode(
  database: Database,
  request: CreateLoginCodeRequest,
  secretHash: Buffer,
  caller: Caller,
): Plan<Token> {
  const userId = userNamed(database, request.user).id
  const earlier = repeated(database, caller, 'token', (token) => token.userId === userId)
  if (earlier) return answer(earlier)
  return newToken(database, caller, {
    purpose: TokenPurpose.TOKEN_PURPOSE_LOGIN,
    secretHash,
    expiresAtUnixMs: expiry(request.ttlMs, LOGIN_TTL_DEFAULT_MS, caller),
    tenantIds: [],
    zoneId: 0,
    hostLabels: {},
    hostName: '',
    userId,
  })
}

/** Makes a token void: it stays with no time left, so that whoever uses it learns why it is refused. */
export function revokeToken(
  database: Database,
  { id }: Pick<RevokeTokenRequest, 'id'>,
  caller: Caller,
): Plan<boolean> {
  const token = database.token(id)
  if (!token || token.expiresAtUnixMs === 0n || isUsed(database, token)) return answer(false)
  const meta = rewrittenMeta(token.meta, caller)
  return answering(put('token', id, { ...token, expiresAtUnixMs: 0n, meta }), () => true)
}

/** Removes one token that nobody will miss, if there is one among the oldest. */
export const pruneTokens: Step = (database, { nowUnixMs }) => {
  const [oldest] = database.members.tokens()
  return oldest && isForgettable(oldest, nowUnixMs) ? remove('token', oldest.id) : answer(false)
}

/**
 * The token with this id, if it may be used now by somebody who knows its secret. Throws `TokenRefusedError`; whether a
 * token exists is told to nobody who does not know its secret.
 */
export function checkedToken(
  token: Token | undefined,
  kind: 'join' | 'login',
  isSecretOf: (hash: Uint8Array) => boolean,
): Token {
  // Compared also where there is none, so that the time of the answer tells nothing either.
  const isKnown = isSecretOf(token?.secretHash ?? NO_HASH)
  if (!token || !isKnown) throw new TokenRefusedError({ reason: 'unknown', kind })
  if (isJoin(token.purpose) !== (kind === 'join')) {
    throw new TokenRefusedError({ reason: 'other-purpose', kind })
  }
  return token
}

/** Throws `TokenRefusedError` if a token was revoked or has run out. */
export function checkValidity(token: Token, kind: 'join' | 'login', nowUnixMs: number): void {
  if (token.expiresAtUnixMs === 0n) throw new TokenRefusedError({ reason: 'revoked', kind })
  if (Number(token.expiresAtUnixMs) <= nowUnixMs) {
    const problem = `at ${new Date(Number(token.expiresAtUnixMs)).toISOString()}`
    throw new TokenRefusedError({ reason: 'expired', kind, problem })
  }
}

/** A login code is used up by any login of its user with it or with a newer one. */
export function isUsed(database: Database, { id, userId }: Token): boolean {
  if (userId === 0) return database.members.hostOfToken(id) !== undefined
  const user = database.user(userId)
  return !user || user.tokenId >= id
}

/** SHA-256 of nothing that anybody knows. */
const NO_HASH = new Uint8Array(32)

function newToken(
  database: Database,
  caller: Caller,
  fields: Omit<Token, 'id' | 'meta'>,
): Plan<Token> {
  if (database.counts.token >= limits.tokens) {
    throw new LimitReachedError({ what: 'tokens', limit: limits.tokens })
  }
  const id = newId(database)
  return put('token', id, { id, ...fields, meta: createdMeta(database, caller, {}) })
}

function isJoin(purpose: TokenPurpose): boolean {
  return purpose === TokenPurpose.TOKEN_PURPOSE_JOIN
}

function isForgettable({ expiresAtUnixMs, meta }: Token, nowUnixMs: number): boolean {
  const end = expiresAtUnixMs === 0n ? (meta?.writtenAtUnixMs ?? 0n) : expiresAtUnixMs
  return Number(end) + FORGOTTEN_AFTER_MS < nowUnixMs
}

function expiry(ttlMs: bigint, byDefaultMs: number, { nowUnixMs }: Caller): bigint {
  if (ttlMs > BigInt(TTL_MAX_MS)) {
    throw new InvalidArgumentError({
      field: 'ttl_ms',
      problem: `${ttlMs} ms are more than a day`,
      remedy: 'choose up to 24h: weft token create --ttl 24h',
    })
  }
  return BigInt(nowUnixMs) + (ttlMs === 0n ? BigInt(byDefaultMs) : ttlMs)
}
