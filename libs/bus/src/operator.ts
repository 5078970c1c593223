import { InternalError, LimitReachedError, UnavailableError } from '@weft/errors'
import type { BusLogin } from '@weft/identity'
import { BUCKET_TIMEOUT_MS, type Bus } from './bus.ts'
import { NatsBus } from './connect.ts'
import { encodeJwt, secondsOf } from './jwt.ts'
import { isConnectionTrouble, isNoResponders } from './nats-bucket.ts'
import { type BusKeys, newKeys, openSeed } from './nkey.ts'
import {
  type AccountName,
  accountNames,
  type BusPrincipal,
  type Crossing,
  crossings,
  HOST_CONSUMERS_MAX,
  hostPolicy,
  inboxPrefixOf,
  type Permissions,
  permissionsOf,
} from './policy.ts'
import { CLAIMS_UPDATE } from './server-subjects.ts'

export { type NatsServerOptions, natsServerConfig } from './nats-server-config.ts'
export {
  type BusKeys,
  isBusPublicKey,
  type KeyRole,
  newKeys as newBusKeys,
  openSeed as openBusSeed,
} from './nkey.ts'
export {
  type AccountName,
  accountNames,
  accountOf,
  type BusPrincipal,
  type BusService,
  inboxPrefixOf,
  type Permissions,
  permissionsOf,
} from './policy.ts'

/*
 * The operator of the bus: what nats-server believes. It believes whom the operator's key vouches for: accounts, and these
 * for their users. So whoever joins needs a JWT, and no server needs to be told.
 */

/** Public keys of the accounts. */
export type AccountIds = { readonly [name in AccountName]: string }

/** All keys and statements of a new operator. Seeds are secrets. */
export interface BusOperator {
  /** Vouches for itself and its signing key; kept offline. */
  readonly operator: BusKeys
  /** Vouches for accounts, in the operator's name. */
  readonly signing: BusKeys
  readonly accounts: { readonly [name in AccountName]: BusKeys }
  readonly operatorJwt: string
  readonly accountJwts: { readonly [name in AccountName]: string }
}

/** Users in the JWT of an account that are refused; what holds more would not fit in a message (`max_payload`, 256 KiB). */
export const REVOKED_USERS_MAX = 2000

/** Bytes in one message of a host, which reports one endpoint or renews its lease. A service may send what the servers take. */
const HOST_PAYLOAD_MAX_BYTES = 64 * 1024
/** Of one host: its rows, its answers, the announcements, and what is under way when it connects again. */
const HOST_SUBSCRIPTIONS_MAX = 64
const SERVICE_SUBSCRIPTIONS_MAX = 1024

/**
 * 10,000 hosts, twice while they connect again. nats-server has no limit for one user: a host with many connections at once
 * can keep others from connecting, not cut them off, until its key is revoked, which cuts off all of its own.
 */
const HOST_CONNECTIONS_MAX = 20_000
const SERVICE_CONNECTIONS_MAX = 256
const SERVICE_CONSUMERS_MAX = 1024

/** In the year 9999: a key that is revoked stays so. */
const FOR_EVER_S = 253_402_300_799

/** Makes the keys of an operator and its accounts. */
export function createBusOperator(options: { domain: string; now: Date }): BusOperator {
  const { domain, now } = options
  const operator = newKeys('operator')
  const signing = newKeys('operator')
  const accounts = forAccounts(() => newKeys('account'))
  const ids = forAccounts((name) => accounts[name].publicKey)
  const operatorJwt = encodeJwt(
    {
      name: domain,
      sub: operator.publicKey,
      iat: secondsOf(now),
      nats: {
        type: 'operator',
        signing_keys: [signing.publicKey],
        system_account: ids.system,
      },
    },
    openSeed('operator', operator.seed),
  )
  const accountJwts = forAccounts((account) =>
    accountJwt({ account, ids, signingSeed: signing.seed, now }),
  )
  return { operator, signing, accounts, operatorJwt, accountJwts }
}

/** One of something for each account. */
export function forAccounts<T>(make: (name: AccountName) => T): {
  readonly [name in AccountName]: T
} {
  const entries = accountNames.map((name) => [name, make(name)] as const)
  return Object.fromEntries(entries) as { [name in AccountName]: T }
}

/**
 * The JWT of an account: its limits, what it exchanges with others, and the users (public keys) that are refused for
 * ever. A user whose last JWT has expired need not be named any more. @throws LimitReachedError beyond `REVOKED_USERS_MAX`.
 */
export function accountJwt(options: {
  readonly account: AccountName
  readonly ids: AccountIds
  /** Of the operator or of its signing key. */
  readonly signingSeed: Uint8Array
  readonly now: Date
  readonly revokedUsers?: readonly string[]
}): string {
  const { account, ids, signingSeed, now, revokedUsers = [] } = options
  if (revokedUsers.length > REVOKED_USERS_MAX) {
    throw new LimitReachedError({ what: 'revoked users of the bus', limit: REVOKED_USERS_MAX })
  }
  return encodeJwt(
    {
      name: account.toUpperCase(),
      sub: ids[account],
      iat: secondsOf(now),
      nats: {
        type: 'account',
        limits: accountLimits(account),
        ...(account === 'system' ? {} : exchange(account, ids)),
        revocations: Object.fromEntries(revokedUsers.map((key) => [key, FOR_EVER_S])),
      },
    },
    openSeed('operator', signingSeed),
  )
}

/** The JWT of a user, with what the policy allows it. `account` is the seed of the account that the principal belongs to. */
export function userJwt(options: {
  readonly account: Uint8Array
  readonly publicKey: string
  readonly principal: BusPrincipal
  readonly now: Date
  readonly expiresAt: Date
}): string {
  const { principal } = options
  const isHost = principal.kind === 'host'
  return limitedUserJwt({
    ...options,
    name: nameOf(principal),
    permissions: permissionsOf(principal),
    subscriptionsMax: isHost ? HOST_SUBSCRIPTIONS_MAX : SERVICE_SUBSCRIPTIONS_MAX,
    payloadMaxBytes: isHost ? HOST_PAYLOAD_MAX_BYTES : -1,
  })
}

/** The JWT of a user with these rights, whatever the policy says: `userJwt` gives those of the policy, tests others. */
export function limitedUserJwt(options: {
  readonly account: Uint8Array
  readonly publicKey: string
  readonly name: string
  readonly permissions: Permissions
  readonly now: Date
  readonly expiresAt: Date
  readonly subscriptionsMax: number
  readonly payloadMaxBytes: number
}): string {
  const { permissions, now, expiresAt } = options
  // To nats-server an empty list allows everything.
  if (permissions.publish.length === 0 || permissions.subscribe.length === 0) {
    throw new InternalError(`${options.name} has no rights on the bus`)
  }
  return encodeJwt(
    {
      name: options.name,
      sub: options.publicKey,
      iat: secondsOf(now),
      exp: secondsOf(expiresAt),
      nats: {
        type: 'user',
        pub: { allow: permissions.publish },
        sub: { allow: permissions.subscribe },
        subs: options.subscriptionsMax,
        payload: options.payloadMaxBytes,
        data: -1,
        allowed_connection_types: ['STANDARD'],
      },
    },
    openSeed('account', options.account),
  )
}

/** What a principal shows to the bus: new keys, and the JWT for them. */
export function newBusLogin(options: {
  readonly account: Uint8Array
  readonly principal: BusPrincipal
  readonly now: Date
  readonly expiresAt: Date
}): BusLogin {
  const { publicKey, seed } = newKeys('user')
  const jwt = userJwt({ ...options, publicKey })
  return { jwt, seed, inboxPrefix: inboxPrefixOf(options.principal) }
}

/**
 * Gives the servers a new JWT of an account; users that it revokes are cut off at once. `bus` is that of the system user.
 * Resolves when one server has taken it: all hear the same message, and one that was away learns it when it is back.
 */
export async function pushAccount(bus: Bus, jwt: string): Promise<void> {
  const { connection, address } = hostOf(bus)
  const unavailable = (problem: string, cause?: unknown): UnavailableError =>
    new UnavailableError({ service: 'nats', address, problem }, { cause })
  const reply = await connection
    .request(CLAIMS_UPDATE, jwt, { timeout: BUCKET_TIMEOUT_MS })
    .catch((error: unknown) => {
      if (isNoResponders(error)) throw unavailable('the user is not of the system account', error)
      if (isConnectionTrouble(error)) throw unavailable((error as Error).message, error)
      throw error
    })
  const { data, error } = reply.json<{
    readonly data?: { readonly code?: number }
    readonly error?: { readonly description?: string }
  }>()
  if (data?.code !== 200) {
    throw unavailable(`the new account was refused: ${error?.description ?? 'it said nothing'}`)
  }
}

function hostOf(bus: Bus): NatsBus['host'] {
  if (bus instanceof NatsBus) return bus.host
  throw new InternalError('this bus has no servers')
}

function nameOf(principal: BusPrincipal): string {
  switch (principal.kind) {
    case 'service':
      return `service ${principal.name} ${principal.replica}`
    case 'host':
      return `host ${principal.id}`
    default:
      return principal.kind
  }
}

function accountLimits(account: AccountName): object {
  const isHosts = account === 'hosts'
  const shared = {
    subs: -1,
    data: -1,
    payload: -1,
    imports: -1,
    exports: -1,
    wildcards: true,
    leaf: 0,
    disallow_bearer: true,
  }
  if (account === 'system') return { ...shared, conn: SERVICE_CONNECTIONS_MAX }
  return {
    ...shared,
    conn: isHosts ? HOST_CONNECTIONS_MAX : SERVICE_CONNECTIONS_MAX,
    // Each stream has a limit, and the server one for all: a third one here would only be reserved in vain.
    mem_storage: -1,
    disk_storage: isHosts ? 0 : -1,
    streams: isHosts ? hostPolicy.reads.length : -1,
    consumer: isHosts ? HOST_CONSUMERS_MAX : SERVICE_CONSUMERS_MAX,
  }
}

/** Exports and imports of an account. */
function exchange(account: AccountName, ids: AccountIds): object {
  const exported = new Map<string, Crossing>()
  // Several accounts may import the same.
  for (const crossing of crossings()) {
    if (crossing.from === account) exported.set(crossing.subject, crossing)
  }
  const exports = [...exported.values()].map(({ name, kind, subject }) => ({
    name,
    subject,
    type: typeOf(kind),
    ...(kind === 'service' ? { response_type: 'Singleton' } : {}),
    ...(kind === 'service-of-many' ? { response_type: 'Stream' } : {}),
  }))
  const imports = crossings()
    .filter(({ to }) => to === account)
    .map(({ name, kind, subject, from, as }) => ({
      name,
      subject,
      type: typeOf(kind),
      account: ids[from],
      ...(as === undefined ? {} : { local_subject: as }),
    }))
  return { exports, imports }
}

function typeOf(kind: Crossing['kind']): 'service' | 'stream' {
  return kind === 'stream' ? 'stream' : 'service'
}
