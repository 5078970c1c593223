import {
  InvalidArgumentError,
  LimitReachedError,
  PermissionDeniedError,
  UserExistsError,
  UserNotFoundError,
} from '@weft/errors'
import type {
  CreateUserRequest,
  DeleteUserRequest,
  UpdateUserRequest,
  UserGrant,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import { type Grant, Role, type User } from '@weft/proto/weftline/config/v1/records.ts'
import type { Database } from '../database.ts'
import { limits } from '../limits.ts'
import {
  answer,
  type Caller,
  checkCount,
  checkName,
  checkRevision,
  createdMeta,
  newId,
  type Plan,
  put,
  remove,
  repeated,
  rewrittenMeta,
  type Step,
} from './plan.ts'
import { revokeKey } from './revocation.ts'
import { tenantNamed } from './tenants.ts'

/** A user may be away this long and still renew the certificate by the key alone. */
export const USER_HORIZON_MS: number = 30 * 24 * 3600 * 1000

export function createUser(
  database: Database,
  request: CreateUserRequest,
  caller: Caller,
): Plan<User> {
  const { name } = request
  checkName('user', name)
  const earlier = repeated(database, caller, 'user', (user) => user.name === name)
  if (earlier) return answer(earlier)
  if (database.members.userNames.get(name) !== undefined) throw new UserExistsError({ user: name })
  if (database.counts.user >= limits.users) {
    throw new LimitReachedError({ what: 'users', limit: limits.users })
  }
  const id = newId(database)
  return put('user', id, {
    id,
    name,
    grants: grantsOf(database, request.grants),
    identityKey: Buffer.alloc(0),
    tokenId: 0,
    horizonUnixMs: 0n,
    meta: createdMeta(database, caller, {}),
  })
}

export function updateUser(
  database: Database,
  request: UpdateUserRequest,
  caller: Caller,
): Plan<User> {
  const { name } = request
  const earlier = repeated(database, caller, 'user', (user) => user.name === name)
  if (earlier) return answer(earlier)
  const user = userNamed(database, name)
  checkRevision(`user ${name}`, user.meta, request.expectedRevision)
  const grants = grantsOf(database, request.grants)
  if (!grants.some(isOwnership)) checkNotLastOwner(database, user)
  return put('user', user.id, { ...user, grants, meta: rewrittenMeta(user.meta, caller) })
}

/** Removes a user, one step after the other: the key is void before its user is gone. */
export function deleteUser({ name }: Pick<DeleteUserRequest, 'name'>): readonly Step[] {
  // Another user may take the name between two steps.
  let onlyId: number | undefined
  const dispensable = (database: Database): User | undefined => {
    const user = database.user(database.members.userNames.get(name) ?? 0)
    if (!user || (onlyId !== undefined && user.id !== onlyId)) return undefined
    onlyId = user.id
    checkNotLastOwner(database, user)
    return user
  }
  return [
    (database, caller) => {
      const user = dispensable(database)
      if (!user || user.identityKey.length === 0) return answer(undefined)
      const { identityKey } = user
      const retired = { identityKey, busKey: '', hostId: 0, reason: 'removed' }
      return revokeKey(database, retired, caller)
    },
    (database) => {
      const user = dispensable(database)
      return user ? remove('user', user.id) : answer(false)
    },
  ]
}

/**
 * Makes the first user of a domain, who owns it, if there is none. Of several replicas that start at the same time one
 * makes it: each write follows what its plan was made from.
 */
export function seedOwner(
  database: Database,
  identityKey: Buffer,
  caller: Caller,
): Plan<User | undefined> {
  if (database.counts.user > 0) return answer(undefined)
  const id = newId(database)
  return put('user', id, {
    id,
    name: 'owner',
    grants: [{ tenantId: 0, role: Role.ROLE_OWNER }],
    identityKey,
    tokenId: 0,
    horizonUnixMs: BigInt(caller.nowUnixMs + USER_HORIZON_MS),
    meta: createdMeta(database, caller, {}),
  })
}

export function userNamed(database: Database, name: string): User {
  const id = database.members.userNames.get(name)
  const user = id === undefined ? undefined : database.user(id)
  if (!user) throw new UserNotFoundError({ user: name })
  return user
}

function grantsOf(database: Database, grants: readonly UserGrant[]): Grant[] {
  checkCount('grants', grants, limits.grantsPerUser)
  const seen = new Set<string>()
  return grants.flatMap(({ tenant, role }) => {
    if (!roles.has(role)) {
      throw new InvalidArgumentError({
        field: 'grants',
        problem: `${role} is no role`,
        remedy: 'choose owner, operator, subscriber or auditor',
      })
    }
    const tenantId = tenant === '' ? 0 : tenantNamed(database, tenant).id
    const key = `${tenantId}/${role}`
    if (seen.has(key)) return []
    seen.add(key)
    return { tenantId, role }
  })
}

const roles: ReadonlySet<Role> = new Set([
  Role.ROLE_OWNER,
  Role.ROLE_OPERATOR,
  Role.ROLE_SUBSCRIBER,
  Role.ROLE_AUDITOR,
])

/** A domain without an owner could never have one again. */
function checkNotLastOwner(database: Database, user: User): void {
  if (!user.grants.some(isOwnership)) return
  for (const other of database.members.users()) {
    if (other.id !== user.id && other.grants.some(isOwnership)) return
  }
  throw new PermissionDeniedError({
    what: `taking the domain from ${user.name}, its last owner,`,
    remedy: 'make somebody else owner of the domain first: weft user grant',
  })
}

function isOwnership({ tenantId, role }: Grant): boolean {
  return tenantId === 0 && role === Role.ROLE_OWNER
}
