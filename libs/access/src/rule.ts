import type { ServiceName } from '@weft/identity'
import type { World } from './world.ts'

/** A role, as the contracts have it (`weftline.config.v1.Role`). An owner is also all others, an operator a subscriber. */
export type Role = 'owner' | 'operator' | 'subscriber' | 'auditor'

/** The tenants whose objects a call may see. */
export type Scope = 'all' | ReadonlySet<number>

/**
 * Where a user needs the role: in the whole `domain`; anywhere, with an answer that is `filtered` by the call's scope; or in
 * the tenant that the request names. Undefined is for a tenant that is not known, or for several: that takes the whole domain.
 */
export type UserScope<Q> =
  | 'domain'
  | 'filtered'
  | ((request: Q, world: World) => number | 'filtered' | undefined)

export interface UserRule<Q> {
  /** Any of them. */
  readonly roles: readonly Role[]
  readonly scope: UserScope<Q>
}

/** Who may call one method. Who is not named may not. */
export interface AccessRule<Q> {
  /** Whoever reaches the server: only for methods that authenticate by what they are sent. */
  readonly anyone?: true
  readonly services?: readonly ServiceName[]
  /** `any` for what a host may ask about itself alone, as its certificate says who it is. */
  readonly hosts?: 'any' | ((request: Q, hostId: number, world: World) => boolean)
  /** `any` takes no role. */
  readonly users?: 'any' | UserRule<Q>
}

/** What a rule sees of a request: nothing of a stream of them, since it is judged before the first one. */
type RequestOf<M> = M extends { readonly requestStream: true }
  ? undefined
  : M extends { requestDeserialize(bytes: Buffer): infer Q }
    ? Q
    : never

/** A rule for every method of a service. A method that has none does not compile. */
export type AccessTable<S> = { readonly [K in keyof S]: AccessRule<RequestOf<S[K]>> }
