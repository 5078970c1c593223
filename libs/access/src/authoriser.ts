import {
  asWeftError,
  PermissionDeniedError,
  UnauthenticatedError,
  type WeftError,
} from '@weft/errors'
import { formatIdentity, type Peer } from '@weft/identity'
import { Role as RoleCode } from '@weft/proto/weftline/config/v1/records.ts'
import type { AccessRule, Role, Scope, UserRule } from './rule.ts'
import type { World } from './world.ts'

/** A call before it is served. */
export interface CallToJudge {
  /** Full method name, for example `/weftline.config.v1.ConfigService/CreateNetwork`. */
  readonly method: string
  /** Undefined for somebody who showed no certificate. */
  readonly caller: Peer | undefined
  /** Address of the caller. */
  readonly peer: string
  /** Undefined for a stream of requests. */
  readonly request: unknown
  readonly rule: AccessRule<never>
}

/** Tells what a call may see, or throws why it is not served. */
export type Authorise = (call: CallToJudge) => Scope

export interface AuthoriserOptions {
  readonly world: World
  /** Told of every call that is refused. */
  readonly onDenied?: (call: CallToJudge, reason: WeftError) => void
}

/** Judges calls by the rules of their methods: throws `PermissionDeniedError` or `UnauthenticatedError`. */
export function authoriser({ world, onDenied }: AuthoriserOptions): Authorise {
  return (call) => {
    try {
      return judge(call, world)
    } catch (error) {
      onDenied?.(call, asWeftError(error))
      throw error
    }
  }
}

/** Hosts, and those whom nobody knows yet, see what their request names and the rule allows, and no tenant as such. */
const NO_TENANT: ReadonlySet<number> = new Set()

function judge(call: CallToJudge, world: World): Scope {
  const { caller, method } = call
  const rule = call.rule as AccessRule<unknown>
  if (rule.anyone) return NO_TENANT
  if (caller === undefined) throw new UnauthenticatedError({ what: method.slice(1) })
  const { identity } = caller
  switch (identity.kind) {
    case 'service':
      if (rule.services?.includes(identity.id)) return 'all'
      throw denied(call, 'not-for-this-service', 'it is not for this service')
    case 'host':
      if (rule.hosts === undefined) throw denied(call, 'not-for-hosts', 'it is not for hosts')
      if (rule.hosts === 'any' || rule.hosts(call.request, identity.id, world)) return NO_TENANT
      throw denied(
        call,
        'not-its-own',
        'a host may ask for itself and for the tenants that it carries',
      )
    case 'user':
      if (rule.users === undefined) throw denied(call, 'not-for-users', 'it is not for users')
      if (rule.users === 'any') return NO_TENANT
      return scopeOfUser(call, rule.users, identity.id, world)
  }
}

function scopeOfUser(
  call: CallToJudge,
  { roles, scope }: UserRule<unknown>,
  userId: number,
  world: World,
): Scope {
  const grants = world.grantsOf(userId).filter(({ role }) => isEnough(role, roles))
  if (grants.some(({ tenantId }) => tenantId === 0)) return 'all'
  const wanted = typeof scope === 'function' ? scope(call.request, world) : scope
  const tenants = new Set(grants.map(({ tenantId }) => tenantId))
  const role = `the role ${roles.join(' or ')}`
  switch (wanted) {
    case 'domain':
      throw denied(call, 'no-role-in-domain', `it takes ${role} in the whole domain`)
    case 'filtered':
      if (tenants.size > 0) return tenants
      throw denied(call, 'no-role-anywhere', `it takes ${role} in a tenant`)
    default:
      if (wanted !== undefined && tenants.has(wanted)) return tenants
      // Says the same of a tenant that exists and of one that does not.
      throw denied(call, 'no-role-in-tenant', `it takes ${role} in the tenant that is asked for`)
  }
}

/** Whether a role does where one of `wanted` is asked for. */
function isEnough(code: RoleCode, wanted: readonly Role[]): boolean {
  switch (code) {
    case RoleCode.ROLE_OWNER:
      return true
    case RoleCode.ROLE_OPERATOR:
      return wanted.includes('operator') || wanted.includes('subscriber')
    case RoleCode.ROLE_SUBSCRIBER:
      return wanted.includes('subscriber')
    case RoleCode.ROLE_AUDITOR:
      return wanted.includes('auditor')
    // What a newer version wrote is no right here.
    case RoleCode.ROLE_UNSPECIFIED:
    case RoleCode.UNRECOGNIZED:
    default:
      return false
  }
}

/** Why a call is not served, as it is counted. */
type Denial =
  | 'not-for-this-service'
  | 'not-for-hosts'
  | 'not-its-own'
  | 'not-for-users'
  | 'no-role-in-domain'
  | 'no-role-anywhere'
  | 'no-role-in-tenant'

function denied(
  { method, caller }: CallToJudge,
  reason: Denial,
  problem: string,
): PermissionDeniedError {
  const who = caller === undefined ? 'nobody' : formatIdentity(caller.identity)
  const isUser = caller?.identity.kind === 'user'
  return new PermissionDeniedError({
    what: `${method.slice(method.lastIndexOf('.') + 1)} by ${who}`,
    problem,
    reason,
    ...(isUser && { remedy: 'ask an owner for the role: weft user ls shows who has which' }),
  })
}
