import { type ErrorCode, type ExitCode, type GrpcStatus, reasons } from './codes.ts'

/** A fact as its author gives it; lists are joined with `, `. Undefined facts are left out. */
export type Fact = string | number | bigint | boolean | readonly string[] | undefined

/** An error on the wire: the shape of `weftline.common.v1.ErrorInfo`. */
export interface ErrorInfo {
  readonly code: string
  readonly message: string
  readonly facts: { readonly [name: string]: string }
  readonly remedy: string
}

/** Base of all errors that a caller may act on: a stable code, what was wrong, the facts by name, and the way out. */
export class WeftError extends Error {
  readonly code: ErrorCode
  readonly facts: { readonly [name: string]: string }
  /** The way out, for people; empty where there is none. */
  readonly remedy: string

  constructor(
    code: ErrorCode,
    message: string,
    facts: { readonly [name: string]: Fact },
    remedy: string,
    options?: { readonly cause?: unknown },
  ) {
    super(message, options)
    this.code = code
    this.facts = factsAsText(facts)
    this.remedy = remedy
  }

  override get name(): string {
    return this.constructor.name
  }

  get grpcStatus(): GrpcStatus {
    return reasons[this.code].grpc
  }

  get exitCode(): ExitCode {
    return reasons[this.code].exit
  }
}

function factsAsText(facts: { readonly [name: string]: Fact }): { [name: string]: string } {
  const texts: { [name: string]: string } = {}
  for (const [name, fact] of Object.entries(facts)) {
    if (fact !== undefined) texts[name] = typeof fact === 'object' ? fact.join(', ') : String(fact)
  }
  return texts
}
