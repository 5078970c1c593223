import {
  HostExistsError,
  HostNotFoundError,
  HostRevokedError,
  InvalidArgumentError,
  LimitReachedError,
  PermissionDeniedError,
  StatementRefusedError,
  TokenRefusedError,
  UserNotFoundError,
  ZoneNotFoundError,
} from '@weft/errors'
import type { HostAddress } from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  type Host,
  HostKind,
  type SealedListener,
  type Token,
  type User,
} from '@weft/proto/weftline/config/v1/records.ts'
import type { PublicKeys } from '@weft/proto/weftline/identity/v1/identity.ts'
import type { Database } from '../database.ts'
import { limits } from '../limits.ts'
import { checkDataPlane, deleteHost, sealedListenerOf, underlayAddresses } from './hosts.ts'
import {
  answer,
  answering,
  type Caller,
  checkName,
  createdMeta,
  newId,
  type Plan,
  put,
  repeated,
  rewrittenMeta,
  type Step,
} from './plan.ts'
import { checkMayChangeKeys, revokeKey } from './revocation.ts'
import { checkedToken, checkValidity } from './tokens.ts'
import { USER_HORIZON_MS } from './users.ts'

const DAY_MS = 24 * 3600 * 1000
/** A host may be cut off this long and still renew its certificate by its key alone. */
export const HORIZON_MS: number = 7 * DAY_MS
/** The horizon is written again when it moves by this much, so that most renewals write nothing. */
const HORIZON_STEP_MS = DAY_MS
/** That of a user moves by this much. */
const USER_HORIZON_STEP_MS = 3 * DAY_MS
/** Keys that were replaced stay valid this long: the answer with the new certificate comes over the old connection. */
const ROTATION_OVERLAP_MS = 30_000
/** And this long where the change was cut short: whoever repeats it sooner gets on. */
const ROTATION_PATIENCE_MS = 10 * 60_000
/** The key of a host that leaves stays valid this long: the answer comes over its connection. */
const LEAVE_OVERLAP_MS = 5_000
const KEY_BYTES = 32
const NO_KEY: Buffer = Buffer.alloc(0)

/** A token or code, as far as a claimant knows it. */
export interface Claim {
  readonly tokenId: number
  /** Whether the claimant's secret has this hash; takes the same time either way. */
  readonly isSecretOf: (hash: Uint8Array) => boolean
}

/** What a new host says; its signature was verified, and its keys are usable. */
export interface JoinClaim extends Claim {
  readonly name: string
  readonly keys: PublicKeys
  readonly addresses: readonly HostAddress[]
  readonly capabilities: string[]
  readonly wireVersions: number[]
  readonly sealedListener: SealedListener | undefined
}

/** What a user says who logs in. */
interface LoginClaim extends Claim {
  readonly identityKey: Buffer
}

/** Who asks for a certificate, by the key that was proved. */
export interface HostProof {
  readonly hostId: number
  readonly identityKey: Uint8Array
}

/** A user who asks for one, by the key that was proved. */
interface UserProof {
  readonly userId: number
  readonly identityKey: Uint8Array
  readonly isExpired: boolean
}

/**
 * Makes a host of whoever knows the secret of a token. The write of the host uses the token up: every write follows what
 * its plan was made from, so of many that join by one token one wins. Its repetition answers the same host.
 */
export function join(database: Database, claim: JoinClaim, caller: Caller): Plan<Host> {
  const { keys } = claim
  const token = checkedToken(database.token(claim.tokenId), 'join', claim.isSecretOf)
  const joined = database.host(database.members.hostOfToken(token.id) ?? 0)
  if (joined) {
    if (!hasKeys(joined, keys)) throw new TokenRefusedError({ reason: 'used', kind: 'join' })
    checkNotRevoked(joined)
    return answer(joined)
  }
  checkValidity(token, 'join', caller.nowUnixMs)
  const earlier = repeated(database, caller, 'host', (host) => hasKeys(host, keys))
  if (earlier) return answer(earlier)
  const name = claim.name === '' ? token.hostName : claim.name
  if (token.hostName !== '' && name !== token.hostName) {
    const problem = `of ${token.hostName}`
    throw new TokenRefusedError({ reason: 'other-host', kind: 'join', problem })
  }
  checkName('host', name)
  checkKeys(database, keys)
  if (database.hostNames.get(name) !== undefined) throw new HostExistsError({ host: name })
  if (database.counts.host >= limits.hosts) {
    throw new LimitReachedError({ what: 'hosts', limit: limits.hosts })
  }
  checkDataPlane(claim)
  const id = newId(database)
  return put('host', id, {
    id,
    name,
    kind: HostKind.HOST_KIND_WEFT,
    underlayAddresses: underlayAddresses(database, id, inZoneOf(database, token, claim.addresses)),
    identityKey: keys.identity,
    tunnelKey: keys.tunnel,
    tunnelStatement: keys.tunnelStatement,
    busKey: keys.bus,
    capabilities: claim.capabilities,
    wireVersions: claim.wireVersions,
    tokenId: token.id,
    tenantIds: token.tenantIds,
    horizonUnixMs: BigInt(caller.nowUnixMs + HORIZON_MS),
    revokedAtUnixMs: 0n,
    sealedListener: sealedListenerOf(claim.sealedListener),
    meta: createdMeta(database, caller, token.hostLabels),
  })
}

/**
 * Gives the key of whoever knows a login code to the user of the code, one step after the other: first the user's key before
 * becomes void, then the user has the new one. That write uses up the code and every older one. Whoever is cut short between
 * them has to repeat it, and can.
 */
export function login(claim: LoginClaim): readonly Step[] {
  return [
    (database, caller) => {
      // Whatever speaks against the login speaks against it before anything is written.
      if (!loggedIn(database, claim, caller).write) return answer(undefined)
      const user = database.user(database.token(claim.tokenId)?.userId ?? 0)
      const before = user?.identityKey ?? NO_KEY
      if (before.length === 0 || before.equals(claim.identityKey)) return answer(undefined)
      const retired = { identityKey: before, busKey: '', hostId: 0, reason: 'logged in anew' }
      return revokeKey(database, retired, caller)
    },
    (database, caller) => loggedIn(database, claim, caller),
  ]
}

function loggedIn(database: Database, claim: LoginClaim, caller: Caller): Plan<User> {
  const { identityKey } = claim
  const code = checkedToken(database.token(claim.tokenId), 'login', claim.isSecretOf)
  const user = database.user(code.userId)
  if (!user) throw new UserNotFoundError({ user: code.userId })
  if (user.tokenId >= code.id) {
    if (user.tokenId === code.id && user.identityKey.equals(identityKey)) return answer(user)
    throw new TokenRefusedError({ reason: 'used', kind: 'login' })
  }
  checkValidity(code, 'login', caller.nowUnixMs)
  const holder = database.members.holderOf(identityKey)
  const isOwn = holder?.kind === 'user' && holder.id === user.id
  if (!isOwn) checkIdentityKey(database, identityKey)
  return put('user', user.id, {
    ...user,
    identityKey,
    tokenId: code.id,
    horizonUnixMs: BigInt(caller.nowUnixMs + USER_HORIZON_MS),
    meta: rewrittenMeta(user.meta, caller),
  })
}

/** The host whose key was proved, with its horizon moved on by a renewal. Most often nothing has to be written for it. */
export function renewHost(database: Database, proof: HostProof, caller: Caller): Plan<Host> {
  const host = provenHost(database, proof)
  const { horizonUnixMs } = host
  if (horizonUnixMs !== 0n && Number(horizonUnixMs) <= caller.nowUnixMs) {
    throw new PermissionDeniedError({
      what: `renewing the certificate of host ${host.name}`,
      problem: `it was not renewed until its horizon, ${new Date(Number(horizonUnixMs)).toISOString()}`,
      remedy: `remove the host (weft host rm ${host.name}) and join it again with a new token`,
    })
  }
  const horizon = BigInt(caller.nowUnixMs + HORIZON_MS)
  if (horizon - horizonUnixMs < BigInt(HORIZON_STEP_MS)) return answer(host)
  const meta = rewrittenMeta(host.meta, caller)
  return put('host', host.id, { ...host, horizonUnixMs: horizon, meta })
}

/**
 * The user whose key was proved, with the horizon moved on, which takes a write once in some days. `isExpired`: the key is all
 * that was proved, for the certificate has ended. Who has a valid one got it within the horizon.
 */
export function renewUser(
  database: Database,
  { userId, identityKey, isExpired }: UserProof,
  caller: Caller,
): Plan<User> {
  const user = provenUser(database, userId, identityKey)
  const { horizonUnixMs } = user
  if (isExpired && horizonUnixMs !== 0n && Number(horizonUnixMs) <= caller.nowUnixMs) {
    throw new PermissionDeniedError({
      what: `renewing the certificate of user ${user.name}`,
      problem: `it was not renewed until its horizon, ${new Date(Number(horizonUnixMs)).toISOString()}`,
      remedy:
        'log in anew: have an owner make a code (weft user code); who is the only owner has weft authority issue user',
    })
  }
  const horizon = BigInt(caller.nowUnixMs + USER_HORIZON_MS)
  if (horizon - horizonUnixMs < BigInt(USER_HORIZON_STEP_MS)) return answer(user)
  const meta = rewrittenMeta(user.meta, caller)
  return put('user', user.id, { ...user, horizonUnixMs: horizon, meta })
}

/** The user whose key was proved. */
export function provenUser(database: Database, id: number, identityKey: Uint8Array): User {
  const user = database.user(id)
  if (!user) throw new UserNotFoundError({ user: id })
  if (!user.identityKey.equals(identityKey)) throw otherSigner('user', user.name)
  return user
}

/**
 * Gives a host new keys, one step after the other. First its old ones get an end: whoever could give up keys that stay valid
 * would be revoked without losing them. Then the host has the new ones, and then the end of the old ones comes near. A
 * repetition, with the old key or the new, answers the same. Cut short and not repeated before that end, the host has no valid
 * key any more, and has to join again.
 */
export function rotateKeys(proof: HostProof, keys: PublicKeys): readonly Step[] {
  const identityKey = Buffer.from(proof.identityKey)
  const retire = (host: Host, fromUnixMs: number, database: Database, caller: Caller) => {
    const busKey = host.busKey === keys.bus ? '' : host.busKey
    const retired = { identityKey, busKey, hostId: host.id, reason: 'replaced', fromUnixMs }
    return revokeKey(database, retired, caller)
  }
  return [
    (database, caller) => {
      // Whatever speaks against the change speaks against it before anything is written.
      const { write, result } = rotated(database, proof, keys, caller)
      if (!write) return answer(result())
      const host = provenHost(database, proof)
      if (!database.members.revokedKeyOf(identityKey)) checkMayChangeKeys(database, host, caller)
      return retire(host, caller.nowUnixMs + ROTATION_PATIENCE_MS, database, caller)
    },
    (database, caller) => rotated(database, proof, keys, caller),
    (database, caller) => {
      const host = rotated(database, proof, keys, caller).result()
      if (host.identityKey.equals(identityKey)) return answer(host)
      const plan = retire(host, caller.nowUnixMs + ROTATION_OVERLAP_MS, database, caller)
      return answering(plan, () => host)
    },
  ]
}

function rotated(
  database: Database,
  proof: HostProof,
  keys: PublicKeys,
  caller: Caller,
): Plan<Host> {
  const host = database.host(proof.hostId)
  if (!host) throw new HostNotFoundError({ host: proof.hostId })
  checkNotRevoked(host)
  if (hasKeys(host, keys)) return answer(host)
  provenHost(database, proof)
  if (host.identityKey.equals(keys.identity)) {
    throw new InvalidArgumentError({ field: 'keys', problem: 'the identity key is the old one' })
  }
  checkKeys(database, keys, host)
  return put('host', host.id, {
    ...host,
    identityKey: keys.identity,
    tunnelKey: keys.tunnel,
    tunnelStatement: keys.tunnelStatement,
    busKey: keys.bus,
    meta: rewrittenMeta(host.meta, caller),
  })
}

/** Removes the host whose key was proved, as `deleteHost` does, and lets the answer reach it. */
export function leave(database: Database, proof: HostProof): readonly Step[] {
  return deleteHost({ ...provenHost(database, proof), overlapMs: LEAVE_OVERLAP_MS })
}

/** The host whose key this is. */
export function provenHost(database: Database, { hostId, identityKey }: HostProof): Host {
  const host = database.host(hostId)
  if (!host) throw new HostNotFoundError({ host: hostId })
  if (!host.identityKey.equals(identityKey)) throw otherSigner('host', host.name)
  checkNotRevoked(host)
  return host
}

function checkNotRevoked({ name, revokedAtUnixMs }: Host): void {
  if (revokedAtUnixMs === 0n) return
  throw new HostRevokedError({ host: name, revokedAtUnixMs: Number(revokedAtUnixMs) })
}

function otherSigner(kind: 'host' | 'user', name: string): StatementRefusedError {
  const problem = `${kind} ${name} has another key now`
  return new StatementRefusedError({ reason: 'other-signer', purpose: 'renewal', problem })
}

function hasKeys(host: Host, { identity, tunnel, bus }: PublicKeys): boolean {
  return host.identityKey.equals(identity) && host.tunnelKey.equals(tunnel) && host.busKey === bus
}

/** Throws unless each key is free, or the host's own already. */
function checkKeys(database: Database, { identity, tunnel, bus }: PublicKeys, own?: Host): void {
  const { members } = database
  checkIdentityKey(database, identity)
  const tunnelHolder = members.tunnelKeyHolder(tunnel)
  if (tunnel.length !== KEY_BYTES) throw badKey('tunnel', `it has ${tunnel.length} bytes, not 32`)
  if (tunnelHolder !== undefined && tunnelHolder !== own?.id) throw takenKey('tunnel')
  if (!/^U[A-Z2-7]{55}$/.test(bus)) throw badKey('bus', 'it is no public nkey of a user')
  const busHolder = members.busKeyHolder(bus)
  const isTaken = busHolder !== undefined && busHolder !== own?.id
  if (isTaken || members.isBusKeyRevoked(bus)) throw takenKey('bus')
}

function checkIdentityKey(database: Database, key: Buffer): void {
  if (key.length !== KEY_BYTES) throw badKey('identity', `it has ${key.length} bytes, not 32`)
  const isTaken =
    database.members.holderOf(key) !== undefined || database.members.revokedAt(key) !== undefined
  if (isTaken) throw takenKey('identity')
}

function badKey(which: string, problem: string): InvalidArgumentError {
  return new InvalidArgumentError({ field: `keys.${which}`, problem })
}

function takenKey(which: string): InvalidArgumentError {
  return new InvalidArgumentError({
    field: `keys.${which}`,
    problem: 'it is, or was, the key of another member of the domain',
    remedy: 'make new keys: use another identity folder',
  })
}

/**
 * The addresses with their zones: where the token names one it is that, whatever the joiner would like. A trusted zone is never
 * the joiner's choice: links inside may be plain.
 */
function inZoneOf(
  database: Database,
  { zoneId }: Token,
  addresses: readonly HostAddress[],
): HostAddress[] {
  if (zoneId === 0) {
    for (const { zone } of addresses) checkUntrusted(database, zone)
    return [...addresses]
  }
  const zone = database.zone(zoneId)
  if (!zone) throw new ZoneNotFoundError({ zone: String(zoneId) })
  return addresses.map((address) => {
    if (address.zone !== '' && address.zone !== zone.name) {
      throw new InvalidArgumentError({
        field: 'addresses',
        problem: `the token is for zone ${zone.name}, not ${address.zone}`,
        remedy: `leave the zone out, or have a token made for zone ${address.zone}`,
      })
    }
    return { ...address, zone: zone.name }
  })
}

function checkUntrusted(database: Database, name: string): void {
  const zone = database.zone(database.zoneNames.get(name) ?? 0)
  if (!zone?.trusted) return
  throw new PermissionDeniedError({
    what: `joining with an address in zone ${name}`,
    problem: 'links inside that zone may be plain, and the token does not name it',
    remedy: `have a token made for the zone: weft token create --zone ${name}`,
  })
}
