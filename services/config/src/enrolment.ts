import { isBusPublicKey } from '@weft/bus/operator'
import {
  ClockWrongError,
  HostNotFoundError,
  HostRevokedError,
  InvalidArgumentError,
  OverloadedError,
  StatementRefusedError,
  UnauthenticatedError,
  UserNotFoundError,
} from '@weft/errors'
import {
  isSecretOf,
  openStatement,
  openTunnelKey,
  type Peer,
  type Purpose,
  parseToken,
  tunnelKeyProblem,
  verifyStatement,
} from '@weft/identity'
import { CLOCK_TOLERANCE_MS } from '@weft/identity/authority'
import {
  type CertificateServiceService,
  type EnrolmentServiceService,
  JoinStatement,
  LoginStatement,
  RenewalStatement,
  RotationStatement,
} from '@weft/proto/weftline/config/v1/enrolment.ts'
import type { Host, User } from '@weft/proto/weftline/config/v1/records.ts'
import {
  type Credentials,
  PublicKeys,
  type Signed,
} from '@weft/proto/weftline/identity/v1/identity.ts'
import type { CallContext, Handlers } from '@weft/rpc'
import { Admission, type Lateness, type Proven } from './admission.ts'
import type { Authority } from './authority.ts'
import type { Database } from './domain/database.ts'
import {
  type Claim,
  type HostProof,
  join,
  leave,
  login,
  provenHost,
  provenUser,
  renewHost,
  renewUser,
  rotateKeys,
} from './domain/requests/enrolment.ts'
import type { Caller, Plan } from './domain/requests/plan.ts'
import { checkedToken } from './domain/requests/tokens.ts'
import type { Events } from './events.ts'
import type { Replica } from './replica.ts'
import type { Asking, Requests } from './requests.ts'

export interface EnrolmentApi {
  readonly authority: Authority
  readonly replica: Replica
  readonly requests: Requests
  readonly events: Events
}

/** Handlers for those whom nobody knows yet: what they send is bounded, and cheap checks come before costly ones. */
export function enrolmentHandlers(api: EnrolmentApi): Handlers<EnrolmentServiceService> {
  const { authority, replica, requests, events } = api
  const { database } = replica
  const admission = new Admission()
  const admitted = <P extends Proven, T>(
    { peer, method }: CallContext,
    prove: (lateness: Lateness) => P | Promise<P>,
    work: (proven: P) => Promise<T>,
  ): Promise<T> =>
    admission.run(peer, prove, work).catch((error: unknown) => {
      if (error instanceof OverloadedError) events.enrolmentRefused(method, 'overloaded')
      throw error
    })
  /** The claim of somebody who knows the secret of a token. */
  const known = async (
    kind: 'join' | 'login',
    text: string,
    { signal }: CallContext,
    lateness: Lateness,
  ): Promise<Claim> => {
    const claim = claimOf(kind, text)
    const isLate = BigInt(claim.tokenId) > database.revision
    if (isLate) await lateness(() => caughtUpTo(replica, claim.tokenId, signal))
    checkedToken(database.token(claim.tokenId), kind, claim.isSecretOf)
    return claim
  }
  return {
    join(request, context) {
      const prove = async (lateness: Lateness) => {
        const said = peeked('join', request.statement, JoinStatement)
        const claim = await known('join', said.token, context, lateness)
        return { said, claim, named: undefined }
      }
      return admitted(context, prove, async ({ said, claim }) => {
        const keys = provenKeys(authority, 'join', request.statement, said.keys)
        // Its host may be there, unknown to be revoked: the store may be from a backup.
        checkNotVoid(replica, keys.identity, said.name)
        const { name, addresses, capabilities, wireVersions, sealedListener } = said
        const about = { name, addresses, capabilities, wireVersions, sealedListener }
        const host = await requests.commit(
          (current, caller) => join(current, { ...claim, ...about, keys }, caller),
          {
            ...request,
            writtenBy: `token/${claim.tokenId}`,
            about: { kind: 'host', name, reason: `token ${claim.tokenId}` },
          },
          context,
        )
        const now = new Date()
        events.hostJoined(host, Number(said.sentAtUnixMs) - now.getTime())
        return { credentials: authority.hostCredentials(host, now), nowUnixMs: unixMs(now) }
      })
    },

    login(request, context) {
      const prove = async (lateness: Lateness) => {
        const said = peeked('login', request.statement, LoginStatement)
        const claim = await known('login', said.code, context, lateness)
        return { said, claim, named: undefined }
      }
      return admitted(context, prove, async ({ said, claim }) => {
        const identityKey = said.keys?.identity ?? Buffer.alloc(0)
        verifyStatement('login', request.statement, identityKey)
        checkUnreserved(authority, { identity: identityKey, bus: '' })
        const steps = login({ ...claim, identityKey })
        const userId = database.token(claim.tokenId)?.userId ?? 0
        const name = database.user(userId)?.name ?? String(userId)
        const about = { kind: 'user', name, reason: `login code ${claim.tokenId}` } as const
        const asking = { ...request, writtenBy: `token/${claim.tokenId}`, userId, about }
        await requests.inTurn(steps, asking, context)
        const holder = database.members.holderOf(identityKey)
        const user = provenUser(database, holder?.id ?? 0, identityKey)
        const now = new Date()
        events.userLoggedIn(user)
        return {
          credentials: authority.userCredentials(user, now),
          user: user.name,
          nowUnixMs: unixMs(now),
        }
      })
    },

    renewExpired({ statement }, context) {
      const prove = () => {
        const said = peeked('renewal', statement, RenewalStatement)
        const signer = statement?.signerKey ?? Buffer.alloc(0)
        const owner = ownerOf(api, said.hostId, signer)
        return { said, signer, owner, named: writerOf(owner) }
      }
      return admitted(context, prove, async ({ said, signer, owner }) => {
        verifyStatement('renewal', statement, signer)
        const now = new Date()
        checkClock(Number(said.sentAtUnixMs), now.getTime())
        const asking = {
          // Whoever is refused leaves nothing behind but a denial: anybody may sign with a key of their own.
          ...checkedOwner(api, owner, now),
          idempotencyKey: '',
          about: { kind: owner.kind, name: nameOf(owner, api), reason: 'expired' },
        }
        const credentials = await requests.recorded(asking, context, () =>
          renewed(api, owner, context, now),
        )
        return { credentials, nowUnixMs: unixMs(now) }
      })
    },
  }
}

/** Handlers for those who have a valid certificate. */
export function certificateHandlers(api: EnrolmentApi): Handlers<CertificateServiceService> {
  const { authority, replica, requests, events } = api
  const { database } = replica
  return {
    async renew(_request, context) {
      const owner = certifiedOwner(callerOf(context))
      requests.counted(context)
      return { credentials: await renewed(api, owner, context, new Date()) }
    },

    async rotateKeys(request, context) {
      const caller = callerOf(context)
      const { statement } = request
      const said = openStatement('rotation', statement, RotationStatement)
      const oldKey = statement?.signerKey ?? Buffer.alloc(0)
      const newKeys = peeked('rotation-new', said.newKeys, PublicKeys)
      const keys = provenKeys(authority, 'rotation-new', said.newKeys, newKeys)
      const isCaller = oldKey.equals(caller.publicKey) || keys.identity.equals(caller.publicKey)
      if (said.hostId !== caller.identity.id || !isCaller) {
        throw new StatementRefusedError({ reason: 'other-signer', purpose: 'rotation' })
      }
      const proof: HostProof = { hostId: said.hostId, identityKey: oldKey }
      const name = database.host(said.hostId)?.name ?? String(said.hostId)
      const about = { kind: 'host', name, reason: 'new keys' } as const
      const steps = rotateKeys(proof, keys)
      // The last step answers the host as the others left it.
      const host = (await requests.inTurn(steps, { ...request, about }, context)) as Host
      events.keysRotated(host)
      return { credentials: authority.hostCredentials(host, new Date()) }
    },

    async leave(request, context) {
      const { identity, publicKey } = callerOf(context)
      if (identity.kind !== 'host') throw new HostNotFoundError({ host: String(identity.id) })
      // A repetition may find the host gone already.
      const host = database.host(identity.id)
      if (!host) return { left: false }
      const steps = leave(database, { hostId: identity.id, identityKey: publicKey })
      const about = { kind: 'host', name: host.name, reason: 'it leaves' } as const
      return { left: (await requests.inTurn(steps, { ...request, about }, context)) === true }
    },
  }
}

/** Who is to get a certificate, by the key that was proved. */
type Owner =
  | { readonly kind: 'host'; readonly id: number; readonly identityKey: Uint8Array }
  | {
      readonly kind: 'user'
      readonly id: number
      readonly identityKey: Uint8Array
      /** There is no valid certificate, but the key alone. */
      readonly isExpired: boolean
    }
  | {
      readonly kind: 'service'
      readonly name: NonNullable<ReturnType<Authority['serviceOf']>>
      readonly identityKey: Uint8Array
    }
type OwnerOf<K extends Owner['kind']> = Extract<Owner, { readonly kind: K }>

/** Who comes with a valid certificate. */
function certifiedOwner({ identity, publicKey: identityKey }: Peer): Owner {
  switch (identity.kind) {
    case 'service':
      return { kind: 'service', name: identity.id, identityKey }
    case 'host':
      return { kind: 'host', id: identity.id, identityKey }
    case 'user':
      return { kind: 'user', id: identity.id, identityKey, isExpired: false }
  }
}

/** For the audit log. */
function nameOf(owner: Owner, { replica }: EnrolmentApi): string {
  if (owner.kind === 'service') return owner.name
  return replica.database[owner.kind](owner.id)?.name ?? String(owner.id)
}

/** Who signs without a certificate: a host says which one it is, users and services are known by their keys. Throws if it is another's. */
function ownerOf({ authority, replica }: EnrolmentApi, hostId: number, signer: Buffer): Owner {
  const { database } = replica
  const { members } = database
  checkNotVoid(replica, signer, hostId || 'unknown')
  if (hostId !== 0) {
    provenHost(database, { hostId, identityKey: signer })
    return { kind: 'host', id: hostId, identityKey: signer }
  }
  const name = authority.serviceOf(signer)
  if (name) return { kind: 'service', name, identityKey: signer }
  const holder = members.holderOf(signer)
  if (holder?.kind !== 'user') throw new UserNotFoundError({ user: 'with this key' })
  return { kind: 'user', id: holder.id, identityKey: signer, isExpired: true }
}

/** Throws unless the owner's key is that of its record, and gets certificates. Tells who it is. */
function checkedOwner(
  { replica: { database } }: EnrolmentApi,
  owner: Owner,
  now: Date,
): Pick<Asking, 'userId'> & { readonly writtenBy: string } {
  const writtenBy = writerOf(owner)
  switch (owner.kind) {
    case 'service':
      return { writtenBy }
    case 'user':
      outlook(database, renewalOfUser(owner), now)
      return { writtenBy, userId: owner.id }
    case 'host':
      outlook(database, renewalOfHost(owner), now)
      return { writtenBy }
  }
}

/** `host/7`, `service/config`. */
function writerOf(owner: Owner): string {
  return `${owner.kind}/${owner.kind === 'service' ? owner.name : owner.id}`
}

function checkNotVoid({ database }: Replica, key: Buffer, host: string | number): void {
  if (database.members.isRevoked(key, Date.now())) throw new HostRevokedError({ host })
}

async function renewed(
  api: EnrolmentApi,
  owner: Owner,
  context: CallContext,
  now: Date,
): Promise<Credentials> {
  const credentials = await issued(api, owner, context, now)
  api.events.certificateRenewed(owner.kind)
  return credentials
}

async function issued(
  api: EnrolmentApi,
  owner: Owner,
  context: CallContext,
  now: Date,
): Promise<Credentials> {
  const { authority } = api
  switch (owner.kind) {
    case 'service':
      if (authority.serviceOf(owner.identityKey) === owner.name) {
        return authority.serviceCredentials(owner.name, now)
      }
      throw new UnauthenticatedError({ what: `the key of service ${owner.name}` })
    case 'user':
      return authority.userCredentials(await moved(api, renewalOfUser(owner), context, now), now)
    case 'host':
      return authority.hostCredentials(await moved(api, renewalOfHost(owner), context, now), now)
  }
}

type Renewal<T> = (database: Database, caller: Caller) => Plan<T>

function renewalOfHost({ id, identityKey }: OwnerOf<'host'>): Renewal<Host> {
  return (database, caller) => renewHost(database, { hostId: id, identityKey }, caller)
}

function renewalOfUser({ id, identityKey, isExpired }: OwnerOf<'user'>): Renewal<User> {
  return (database, caller) => renewUser(database, { userId: id, identityKey, isExpired }, caller)
}

/** The record of who renews, with the horizon where it belongs. */
async function moved<T>(
  { replica: { database }, requests }: EnrolmentApi,
  renewal: Renewal<T>,
  context: CallContext,
  now: Date,
): Promise<T> {
  // Most renewals write nothing, and do not have to wait for those who do.
  const plan = outlook(database, renewal, now)
  if (!plan.write) return plan.result()
  return await requests.commit(renewal, { idempotencyKey: '', about: 'counted' }, context)
}

/** What a renewal would come to now. */
function outlook<T>(database: Database, renewal: Renewal<T>, now: Date): Plan<T> {
  return renewal(database, { ...NOBODY, nowUnixMs: now.getTime() })
}

/** For a plan that is made to see whether it writes. */
const NOBODY: Omit<Caller, 'nowUnixMs'> = {
  idempotencyKey: '',
  writtenBy: '',
  random: (sizeBytes) => new Uint8Array(sizeBytes),
}

/** What a statement says, before anything is known of its signature. */
function peeked<T>(
  purpose: Purpose,
  statement: Signed | undefined,
  decoder: { decode(bytes: Uint8Array): T },
): T {
  if (!statement) throw new StatementRefusedError({ reason: 'missing', purpose })
  if (statement.payload.length > STATEMENT_MAX_BYTES) {
    throw new StatementRefusedError({ reason: 'too-large', purpose })
  }
  try {
    return decoder.decode(statement.payload)
  } catch {
    throw new StatementRefusedError({ reason: 'malformed', purpose })
  }
}

/** The largest, a join: 16 addresses of 86 bytes, 64 capabilities of 65, 16 versions and 400 bytes more are 6 KiB. */
const STATEMENT_MAX_BYTES = 16 * 1024

function claimOf(kind: 'join' | 'login', text: string): Claim {
  const { id, secret } = parseToken(kind, text)
  return { tokenId: id, isSecretOf: (hash) => isSecretOf(secret, hash) }
}

/** A token may have been made by another replica a moment ago; its id is the revision of its write. */
async function caughtUpTo(replica: Replica, tokenId: number, signal: AbortSignal): Promise<void> {
  const patience = AbortSignal.any([signal, AbortSignal.timeout(CATCH_UP_MS)])
  // Who comes with an id that nobody gave out is told below that the token is unknown.
  await replica.untilDatabase(BigInt(tokenId), patience).catch(() => undefined)
}

const CATCH_UP_MS = 500

/** The keys of a new host, whose identity key has to have signed the statement and which all can be used. */
function provenKeys(
  authority: Authority,
  purpose: 'join' | 'rotation-new',
  statement: Signed | undefined,
  keys: PublicKeys | undefined,
): PublicKeys {
  if (!keys) throw new InvalidArgumentError({ field: 'keys', problem: 'there are none' })
  verifyStatement(purpose, statement, keys.identity)
  const problem = tunnelKeyProblem(keys.tunnel)
  if (problem !== undefined) throw new InvalidArgumentError({ field: 'keys.tunnel', problem })
  openTunnelKey(keys.tunnelStatement, keys.identity, keys.tunnel)
  if (!isBusPublicKey('user', keys.bus)) {
    const wrong = 'it is no public nkey of a user'
    throw new InvalidArgumentError({ field: 'keys.bus', problem: wrong })
  }
  checkUnreserved(authority, keys)
  return keys
}

function checkUnreserved(
  authority: Authority,
  keys: { readonly identity: Uint8Array; readonly bus: string },
): void {
  if (!authority.isReserved(keys)) return
  throw new InvalidArgumentError({
    field: 'keys',
    problem: 'one of them is the key of a service of the domain',
    remedy: 'make new keys: use another identity folder',
  })
}

/** A statement from long ago may have been kept by somebody. */
function checkClock(sentAtUnixMs: number, nowUnixMs: number): void {
  if (Math.abs(sentAtUnixMs - nowUnixMs) <= CLOCK_TOLERANCE_MS) return
  throw new ClockWrongError({ hereUnixMs: sentAtUnixMs, thereUnixMs: nowUnixMs, there: 'config' })
}

function callerOf({ caller, method }: CallContext): Peer {
  if (caller) return caller
  throw new UnauthenticatedError({ what: method.slice(1) })
}

function unixMs(time: Date): bigint {
  return BigInt(time.getTime())
}
