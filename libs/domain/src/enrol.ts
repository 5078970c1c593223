import { rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import {
  asWeftError,
  ClockWrongError,
  type ErrorCode,
  InvalidArgumentError,
  type WeftError,
} from '@weft/errors'
import {
  type Identity,
  parseToken,
  publicKeyOf,
  signStatement,
  type TenantKeyPin,
} from '@weft/identity'
import { CLOCK_TOLERANCE_MS } from '@weft/identity/authority'
import {
  EnrolmentServiceService,
  JoinStatement,
  LoginStatement,
} from '@weft/proto/weftline/config/v1/enrolment.ts'
import type { SealedListener } from '@weft/proto/weftline/config/v1/records.ts'
import type { Credentials as CredentialsMessage } from '@weft/proto/weftline/identity/v1/identity.ts'
import { type Client, connect } from '@weft/rpc'
import type { Places } from './domain-file.ts'
import { giveTo, isMissing, makePrivateFolder } from './files.ts'
import {
  checkCredentials,
  hasIdentity,
  type MemberKeys,
  readNextKeys,
  settleKeys,
  writeCredentials,
  writeNextKeys,
} from './identity-folder.ts'
import { identityFiles, NEXT_SUFFIX } from './layout.ts'
import { idempotencyKeyOf, newHostKeys, newUserKeys, publicKeysOf } from './member-keys.ts'
import { NOWHERE } from './places.ts'
import { findDomain, type PinnedDomain } from './preflight.ts'
import { writeTenantKeys } from './tenant-keys.ts'

interface Enrolment {
  /** `HOST:PORT` or `unix:/PATH` of the enrolment listener. */
  readonly control: string
  /** SHA-256 of the domain's root certificate, as `weft init` printed it. */
  readonly fingerprint: string
  /** Where the identity goes. There must be none. */
  readonly folder: string
  readonly signal?: AbortSignal
  /** Milliseconds since 1970. */
  readonly now?: () => number
}

export interface JoinHost extends Enrolment {
  /** Text of a join token. */
  readonly token: string
  /** Name of the host; empty for the one that the token prescribes. */
  readonly name: string
  /** Underlay addresses, 4 or 16 bytes in network order; zones are those of the token unless named. */
  readonly addresses: readonly { readonly address: Uint8Array; readonly zone: string }[]
  readonly capabilities: readonly string[]
  /** Versions of the wire format that the host understands. */
  readonly wireVersions: readonly number[]
  /** Where its sealed transport listens; by default at port 61820 of its addresses. */
  readonly sealedListener?: SealedListener
  /** Keys of locked tenants that the host trusts before it has met them. */
  readonly tenantKeys?: readonly TenantKeyPin[]
  /** User to whom the folder is given, for a forwarder that does not run as who joins. */
  readonly ownerUid?: number
}

export interface LoginUser extends Enrolment {
  /** Text of a login code. */
  readonly code: string
}

/** A new member. */
export interface Enrolled {
  readonly identity: Identity
  /** Of the host or user. */
  readonly name: string
  readonly places: Places
  /** By how much this machine's clock is ahead of config's; negative if it is behind. */
  readonly clockAheadMs: number
  /** The identity is there, but nobody can be judged by this clock before it is set. */
  readonly clockWrong: ClockWrongError | undefined
}

/**
 * Makes this machine a host of a domain: looks who answers and says nothing before its root has the fingerprint, makes
 * keys, whose private parts stay in the folder, and has them certified for the token. Whatever fails leaves nothing behind,
 * but where the outcome is unknown the keys are kept, so that doing the same again ends it well.
 * @throws TokenRefusedError; CertificateRefusedError if somebody else answers; UnavailableError; InvalidArgumentError
 */
export async function joinHost(options: JoinHost): Promise<Enrolled> {
  parseToken('join', options.token)
  const { message, nowUnixMs, ...rest } = await enrol(
    options,
    newHostKeys,
    async (enrolment, keys, idempotencyKey, sentAtUnixMs) => {
      const payload = JoinStatement.encode({
        token: options.token.trim(),
        name: options.name,
        keys: publicKeysOf(keys),
        addresses: options.addresses.map(({ address, zone }) => ({
          address: Buffer.from(address),
          zone,
        })),
        capabilities: [...options.capabilities],
        wireVersions: [...options.wireVersions],
        sentAtUnixMs,
        sealedListener: options.sealedListener,
      }).finish()
      const statement = signStatement('join', payload, keys.identity)
      const answer = await enrolment.join({ idempotencyKey, statement }, options)
      // A forwarder that waits for its identity reads them as soon as there is one.
      if (options.tenantKeys) await writeTenantKeys(options.folder, options.tenantKeys)
      return { ...answer, name: answer.credentials?.hostName ?? '' }
    },
  )
  if (options.ownerUid !== undefined) {
    await giveTo(options.ownerUid, options.folder, [
      identityFiles.identityKey,
      identityFiles.tunnelKey,
      identityFiles.busSeed,
      identityFiles.credentials,
      ...(options.tenantKeys ? [identityFiles.tenantKeys] : []),
    ])
  }
  return { ...rest, places: message.places ?? NOWHERE, ...clockOf(options, nowUnixMs) }
}

/** Gives a user a certificate for a one-time code, in the way of `joinHost`. @throws as `joinHost` */
export async function loginUser(options: LoginUser): Promise<Enrolled> {
  parseToken('login', options.code)
  const { message, nowUnixMs, ...rest } = await enrol(
    options,
    newUserKeys,
    async (enrolment, keys, idempotencyKey, sentAtUnixMs) => {
      const payload = LoginStatement.encode({
        code: options.code.trim(),
        keys: publicKeysOf(keys),
        sentAtUnixMs,
      }).finish()
      const statement = signStatement('login', payload, keys.identity)
      const answer = await enrolment.login({ idempotencyKey, statement }, options)
      return { ...answer, name: answer.user }
    },
  )
  return { ...rest, places: message.places ?? NOWHERE, ...clockOf(options, nowUnixMs) }
}

interface EnrolmentAnswer {
  readonly credentials?: CredentialsMessage | undefined
  readonly name: string
  readonly nowUnixMs: bigint
}

async function enrol(
  options: Enrolment,
  makeKeys: () => MemberKeys,
  ask: (
    enrolment: Client<typeof EnrolmentServiceService>,
    keys: MemberKeys,
    idempotencyKey: string,
    sentAtUnixMs: bigint,
  ) => Promise<EnrolmentAnswer>,
): Promise<{
  identity: Identity
  name: string
  message: CredentialsMessage
  nowUnixMs: number
}> {
  const { control, folder } = options
  if (await hasIdentity(folder)) throw alreadyThere(folder)
  const now = (options.now ?? Date.now)()
  const domain = await findDomain({ ...options, now })
  // Those of an attempt whose outcome is unknown may have been certified.
  const keys = (await readNextKeys(folder)) ?? makeKeys()
  const isNew = await makeFolder(folder)
  await writeNextKeys(folder, keys)
  try {
    const answer = await askPinned(control, domain, (enrolment) =>
      ask(enrolment, keys, idempotencyKeyOf(keys), BigInt(now)),
    )
    const publicKey = publicKeyOf(keys.identity)
    const { identity, message } = checkCredentials(answer.credentials, {
      publicKey,
      root: domain.root,
    })
    await writeCredentials(folder, message)
    await settleKeys(folder)
    return { identity, message, name: answer.name, nowUnixMs: Number(answer.nowUnixMs) }
  } catch (error) {
    const failure = asWeftError(error)
    if (!UNKNOWN_OUTCOME.has(failure.code)) await removeKeys(folder, isNew)
    throw failure
  }
}

async function askPinned<T>(
  control: string,
  { rootPem, domain }: PinnedDomain,
  ask: (enrolment: Client<typeof EnrolmentServiceService>) => Promise<T>,
): Promise<T> {
  await using enrolment = connect(control, EnrolmentServiceService, {
    security: { kind: 'pinned', rootPem, domain, peer: 'config' },
    timeoutMs: ENROLMENT_TIMEOUT_MS,
  })
  return await ask(enrolment)
}

/** Of many who enrol at once most wait for their turn, and whoever gives up and repeats it makes the others wait for longer. */
const ENROLMENT_TIMEOUT_MS = 30_000

/** After these the answer may have been lost only. */
const UNKNOWN_OUTCOME: ReadonlySet<ErrorCode> = new Set([
  'unavailable',
  'deadline-exceeded',
  'unknown-outcome',
  'cancelled',
  'internal',
])

/** Says whether it was made. */
async function makeFolder(folder: string): Promise<boolean> {
  let isNew = false
  try {
    await stat(folder)
  } catch (error) {
    if (!isMissing(error)) throw error
    isNew = true
  }
  await makePrivateFolder(folder)
  return isNew
}

async function removeKeys(folder: string, isNew: boolean): Promise<void> {
  const { identityKey, tunnelKey, busSeed } = identityFiles
  for (const name of [identityKey, tunnelKey, busSeed]) {
    await rm(join(folder, name + NEXT_SUFFIX), { force: true })
  }
  if (isNew) await rm(folder, { recursive: true, force: true })
}

function clockOf(
  options: Enrolment,
  nowUnixMs: number,
): Pick<Enrolled, 'clockAheadMs' | 'clockWrong'> {
  const hereUnixMs = (options.now ?? Date.now)()
  const clockAheadMs = hereUnixMs - nowUnixMs
  const isWrong = nowUnixMs > 0 && Math.abs(clockAheadMs) > CLOCK_TOLERANCE_MS
  return {
    clockAheadMs,
    clockWrong: isWrong
      ? new ClockWrongError({ hereUnixMs, thereUnixMs: nowUnixMs, there: 'config' })
      : undefined,
  }
}

function alreadyThere(folder: string): WeftError {
  return new InvalidArgumentError({
    field: 'identity',
    problem: `${folder} holds an identity already`,
    remedy: 'leave the domain first (weft leave), or name another folder',
  })
}
