import { randomBytes, randomUUID } from 'node:crypto'
import {
  AuditUnavailableError,
  InternalError,
  InvalidArgumentError,
  OverloadedError,
} from '@weft/errors'
import { Role } from '@weft/proto/weftline/config/v1/records.ts'
import type { CallContext } from '@weft/rpc'
import { type About, aboutRequest } from './audit/about.ts'
import type { Audit } from './audit/audit.ts'
import { AuditBudget, BUDGET_MAX_UNITS } from './audit/budget.ts'
import { Recording } from './audit/recording.ts'
import type { Commits } from './commits.ts'
import type { Database } from './domain/database.ts'
import { limits } from './domain/limits.ts'
import type { Caller, Plan, Step } from './domain/requests/plan.ts'

/** Who asks for a write, in a record's `written_by`. */
export interface Asking {
  /** Empty for one of our choice. */
  readonly idempotencyKey: string
  /** The caller's identity by default. */
  readonly writtenBy?: string
  /** For the audit log; a request of ConfigService says it itself. `counted`: too frequent for an entry, and told as a number. */
  readonly about?: About | 'counted'
  /** Who it is where no certificate says so. */
  readonly userId?: number
}

/** What an action takes of its caller's share of the audit log (`BUDGET_MAX_UNITS`) … */
const ACTION_UNITS = 1
/** … and one of somebody without a certificate, who does such a thing once in days: 500 at once, then six a minute. */
const ENROLMENT_UNITS = 10

/**
 * Turns calls into writes: every change of the VN database on behalf of somebody goes through here, and is recorded before
 * it is made. What writes nothing, because it is refused or was done before, is no entry in the audit log.
 */
export class Requests {
  readonly #commits: Commits
  readonly #audit: Audit
  readonly #database: Database
  readonly #budget = new AuditBudget()

  constructor(commits: Commits, audit: Audit, database: Database) {
    this.#commits = commits
    this.#audit = audit
    this.#database = database
  }

  /** Makes the plan of a request and commits it. */
  commit<T>(
    plan: (database: Database, caller: Caller) => Plan<T>,
    asking: Asking,
    context: CallContext,
  ): Promise<T> {
    if (asking.about === 'counted') return this.#commit(plan, asking, context)
    const recording = this.#recording(asking, context)
    return recording.during(() => this.#commit(plan, asking, context, recording))
  }

  /** Counts a call that is too frequent for an entry in the audit log and gives nobody a new right. */
  counted({ method }: CallContext): void {
    this.#audit.counted(method)
  }

  /**
   * Records an action that gives nobody a new right, and does it only then, whatever it writes. While there is little room in
   * the audit log, it is counted there.
   */
  async recorded<T>(
    { about, ...asking }: Asking & { readonly about: About },
    context: CallContext,
    work: () => Promise<T>,
  ): Promise<T> {
    if (this.#audit.isNearlyFull && !this.#runsDomain(asking, context)) {
      this.counted(context)
      return work()
    }
    const recording = this.#recordingOf(about, asking, context)
    await recording.begin()
    return recording.during(work)
  }

  /** The same for a plan that is made from a whole request. */
  write<Q extends { readonly idempotencyKey: string }, T>(
    plan: (database: Database, request: Q, caller: Caller) => Plan<T>,
    request: Q,
    context: CallContext,
  ): Promise<T> {
    return this.commit((database, caller) => plan(database, request, caller), request, context)
  }

  /**
   * Commits steps one after the other, each a transaction, and answers the result of the last one. Who repeats the request
   * after it was cut short gets on where it stopped.
   */
  async inTurn(steps: readonly Step[], asking: Asking, context: CallContext): Promise<unknown> {
    const { idempotencyKey } = callerOf(asking, context)
    const recording = this.#recording(asking, context)
    return recording.during(async () => {
      let result: unknown
      for (const [index, step] of steps.entries()) {
        const isLast = index === steps.length - 1
        // The key itself belongs to the write that the request is for. No caller has a say in those of the others: one that
        // was used before would keep a step from being written.
        const key = isLast ? idempotencyKey : randomUUID()
        result = await this.#commit(step, { ...asking, idempotencyKey: key }, context, recording)
      }
      return result
    })
  }

  async #commit<T>(
    plan: (database: Database, caller: Caller) => Plan<T>,
    asking: Asking,
    context: CallContext,
    recording?: Recording,
  ): Promise<T> {
    const caller = callerOf(asking, context)
    // What will probably write is recorded before it waits for its turn, together with others.
    if (recording && wouldWrite(plan, this.#database, caller)) await recording.begin()
    return this.#commits.commit({
      what: context.method.slice(context.method.lastIndexOf('/') + 1),
      idempotencyKey: caller.idempotencyKey,
      signal: context.signal,
      plan: (database) => plan(database, caller),
      ...(recording && {
        ...(!recording.hasBegun && { beforeWrite: () => recording.begin() }),
        onWritten: (write, revisions) => recording.wrote(write, revisions),
      }),
    })
  }

  #recording(asking: Asking, context: CallContext): Recording {
    const { about: told, ...request } = asking
    const about = told ?? aboutRequest(context.method, request, this.#database)
    if (!about || about === 'counted')
      throw new InternalError(`nobody says what ${context.method} is about`)
    return this.#recordingOf(about, asking, context)
  }

  #recordingOf(about: About, asking: Asking, context: CallContext): Recording {
    return new Recording(this.#audit, context, about, () => this.#admit(asking, context))
  }

  /**
   * Throws if the caller has used up the share of the audit log that is the caller's, or if what is left of it is not for the
   * caller: a log that is full keeps everybody from doing anything, from revoking as well.
   */
  #admit(asking: Asking, context: CallContext): void {
    if (this.#runsDomain(asking, context)) return
    const who = asking.writtenBy ?? nameOf(context)
    if (this.#audit.isNearlyFull) {
      throw new AuditUnavailableError({
        what: context.method.slice(context.method.lastIndexOf('/') + 1),
        problem:
          'the audit log is nearly full, and what is left is for owners and operators of the domain',
        remedy: 'have an operator of the domain archive the audit log',
      })
    }
    const units = context.caller ? ACTION_UNITS : ENROLMENT_UNITS
    const retryAfterMs = this.#budget.take(who, units, performance.now())
    if (retryAfterMs === 0) return
    throw new OverloadedError({
      what: `the audit log, as far as it is for ${who},`,
      limit: BUDGET_MAX_UNITS / units,
      retryAfterMs,
    })
  }

  /** Whether the caller has the whole domain to look after. */
  #runsDomain({ userId }: Asking, { caller }: CallContext): boolean {
    const id = caller?.identity.kind === 'user' ? caller.identity.id : userId
    const grants = this.#database.user(id ?? 0)?.grants ?? []
    return grants.some(({ tenantId, role }) => tenantId === 0 && RUNNERS.has(role))
  }
}

const RUNNERS: ReadonlySet<Role> = new Set([Role.ROLE_OWNER, Role.ROLE_OPERATOR])

function wouldWrite<T>(
  plan: (database: Database, caller: Caller) => Plan<T>,
  database: Database,
  caller: Caller,
): boolean {
  try {
    return plan(database, caller).write !== undefined
  } catch {
    // It is refused when its turn comes, unless a write that comes first makes it possible.
    return false
  }
}

function callerOf({ idempotencyKey, writtenBy }: Asking, context: CallContext): Caller {
  if (idempotencyKey.length > limits.idempotencyKeyLength || !/^[!-~]*$/.test(idempotencyKey)) {
    throw new InvalidArgumentError({
      field: 'idempotency_key',
      problem: `it is not up to ${limits.idempotencyKeyLength} printable characters without spaces`,
      remedy: 'give a UUID',
    })
  }
  return {
    idempotencyKey: idempotencyKey === '' ? randomUUID() : idempotencyKey,
    writtenBy: writtenBy ?? nameOf(context),
    nowUnixMs: Date.now(),
    random: randomBytes,
  }
}

/** `user/1`, `host/7`, `service/config`: the identity without its domain. */
function nameOf({ caller, peer }: CallContext): string {
  return caller ? `${caller.identity.kind}/${caller.identity.id}` : peer
}
