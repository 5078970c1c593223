import { asWeftError, GrpcStatus, type WeftError } from '@weft/errors'
import { formatIdentity, type Peer } from '@weft/identity'
import type { CallContext, Handlers, ServiceDefinition } from '@weft/rpc'
import type { WriteRevisions } from '../commits.ts'
import type { Write } from '../domain/database.ts'
import type { About } from './about.ts'
import type { Audit, AuditedAction, Intent } from './audit.ts'

/** Where an action comes from, as far as the audit log tells. */
export interface Origin {
  /** Undefined for somebody who showed no certificate. */
  readonly caller: Pick<Peer, 'identity'> | undefined
  /** Address of the caller. */
  readonly peer: string
  /** Full method name. */
  readonly method: string
}

/** One action on its way through the audit log: its intent before anything is done, then what came of it. */
export class Recording {
  readonly #audit: Audit
  readonly #action: AuditedAction
  readonly #about: About
  readonly #admit: () => void
  #intent: Promise<Intent> | undefined
  #revisions: WriteRevisions = { revisionBefore: 0n, revisionAfter: 0n }

  /** `admit` is called before the intent is written, and throws if it must not be. */
  constructor(audit: Audit, origin: Origin, about: About, admit: () => void = () => undefined) {
    this.#audit = audit
    this.#about = about
    this.#admit = admit
    this.#action = {
      ...originTexts(origin),
      object: `${about.kind} ${about.name}`,
      tenant: about.tenant ?? '',
      reason: about.reason ?? '',
    }
  }

  /** Whether its intent is written, or on its way. */
  get hasBegun(): boolean {
    return this.#intent !== undefined
  }

  /** Resolves when the action may be done; rejects if it must not. */
  async begin(): Promise<void> {
    this.#intent ??= this.#begun()
    await this.#intent
  }

  async #begun(): Promise<Intent> {
    this.#admit()
    return await this.#audit.intent(this.#action)
  }

  /** Something was written. Of several records it is that of the object whose revisions are told. */
  wrote({ kind }: Write, revisions: WriteRevisions): void {
    if (kind === this.#about.kind) this.#revisions = revisions
  }

  /** Does the work of an action, and records what came of it, if its intent was recorded. */
  async during<T>(work: () => Promise<T>): Promise<T> {
    try {
      const result = await work()
      ;(await this.#intent)?.done(this.#revisions)
      return result
    } catch (error) {
      const intent = await this.#intent?.catch(() => undefined)
      intent?.failed(asWeftError(error).code)
      throw error
    }
  }
}

/** The handlers, whose refusals are told to the audit log. */
export function tellingDenials<S extends ServiceDefinition>(
  handlers: Handlers<S>,
  audit: Audit,
): Handlers<S> {
  type Handler = (request: unknown, context: CallContext) => Promise<unknown>
  const telling = Object.entries(handlers as { readonly [method: string]: Handler }).map(
    ([name, handle]): [string, Handler] => [
      name,
      async (request, context) => {
        try {
          return await handle(request, context)
        } catch (error) {
          noteDenial(audit, context, asWeftError(error))
          throw error
        }
      },
    ],
  )
  // Each is what it was before, and calls are all unary here.
  return Object.fromEntries(telling) as Handlers<S>
}

/** Counts the error if it says that somebody was refused. */
export function noteDenial(audit: Audit, origin: Origin, error: WeftError): void {
  const { PermissionDenied, Unauthenticated } = GrpcStatus
  if (error.grpcStatus !== PermissionDenied && error.grpcStatus !== Unauthenticated) return
  const { reason } = error.facts
  audit.denied({
    ...originTexts(origin),
    object: '',
    tenant: '',
    reason: reason === undefined ? error.code : `${error.code}: ${reason}`,
  })
}

function originTexts({
  caller,
  peer,
  method,
}: Origin): Pick<AuditedAction, 'who' | 'from' | 'action'> {
  return { who: caller ? formatIdentity(caller.identity) : '', from: peer, action: method }
}
