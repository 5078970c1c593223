import type { AccessRule, AccessTable, Scope } from '@weft/access'
import type { Peer } from '@weft/identity'

/** A service as ts-proto generates it, for example `ConfigServiceService`. */
export interface ServiceDefinition {
  readonly [method: string]: Method
}

/** A method with messages of any type. */
export interface Method {
  readonly path: string
  readonly requestStream: boolean
  readonly responseStream: boolean
  requestSerialize(message: never): Buffer
  requestDeserialize(bytes: Buffer): unknown
  responseSerialize(message: never): Buffer
  responseDeserialize(bytes: Buffer): unknown
}

/** What a handler knows of its call. */
export interface CallContext {
  /** Aborted when the caller goes away, the deadline passes or the server stops. */
  readonly signal: AbortSignal
  /** Undefined if the caller set none. */
  readonly deadline: Date | undefined
  /** Address of the caller, for example `127.0.0.1:43210`, or `unix`. */
  readonly peer: string
  /** Who calls, as the certificate says; undefined where callers show none: on unix sockets guarded by their mode, and at enrolment. */
  readonly caller: Peer | undefined
  /** Tenants whose objects the caller may see, when the call began. */
  readonly scope: Scope
  /** Judges the call anew, for streams, which outlive what they were allowed by. Throws why it is not served any more. */
  readonly judgeAgain: () => Scope
  /** Full method name, for example `/weftline.config.v1.ConfigService/CreateNetwork`. */
  readonly method: string
  /** Metadata of the caller with text values; the last one of each name. */
  readonly metadata: { readonly [name: string]: string }
}

type Request<M> = M extends { requestDeserialize: (bytes: Buffer) => infer Q } ? Q : never
type Response<M> = M extends { responseDeserialize: (bytes: Buffer) => infer A } ? A : never

type Shape<M> = M extends { requestStream: infer Q; responseStream: infer A } ? [Q, A] : never

type Handler<M> =
  Shape<M> extends [false, false]
    ? (request: Request<M>, context: CallContext) => Promise<Response<M>>
    : Shape<M> extends [false, true]
      ? (request: Request<M>, context: CallContext) => AsyncIterable<Response<M>>
      : Shape<M> extends [true, false]
        ? (requests: AsyncIterable<Request<M>>, context: CallContext) => Promise<Response<M>>
        : (requests: AsyncIterable<Request<M>>, context: CallContext) => AsyncIterable<Response<M>>

/** Handlers of all methods of a service: async functions, and async generators where the response is a stream. */
export type Handlers<S> = { readonly [K in keyof S]: Handler<S[K]> }

/** A service with its handlers, and who may call them. */
export interface Implementation {
  readonly definition: ServiceDefinition
  readonly handlers: { readonly [method: string]: AnyHandler }
  readonly access: { readonly [method: string]: AccessRule<never> } | typeof GUARDED_BY_SOCKET
}

/** In place of a table of rules: whoever may open the socket may call. Such a service is never served elsewhere. */
export const GUARDED_BY_SOCKET: unique symbol = Symbol('guarded by its socket')

/** Which of the four shapes a handler has is known from its method's definition alone. */
export type AnyHandler = (request: never, context: CallContext) => unknown

/** Joins a service, as ts-proto generates it, with its handlers and with a rule for each of its methods. */
export function implement<S extends ServiceDefinition>(
  definition: S,
  handlers: Handlers<S>,
  access: AccessTable<S> | typeof GUARDED_BY_SOCKET,
): Implementation {
  return { definition, handlers, access }
}

export interface CallOptions {
  /** Time for the whole call with its retries. By default that of the client for unary calls, and none for streams. */
  readonly timeoutMs?: number
  readonly signal?: AbortSignal
  readonly metadata?: { readonly [name: string]: string }
}

type Call<M> =
  Shape<M> extends [false, false]
    ? (request: Request<M>, options?: CallOptions) => Promise<Response<M>>
    : Shape<M> extends [false, true]
      ? (request: Request<M>, options?: CallOptions) => AsyncIterable<Response<M>>
      : Shape<M> extends [true, false]
        ? (requests: AsyncIterable<Request<M>>, options?: CallOptions) => Promise<Response<M>>
        : (requests: AsyncIterable<Request<M>>, options?: CallOptions) => AsyncIterable<Response<M>>

/** A typed client: one function for each method. Errors come as the classes of `@weft/errors`. */
export type Client<S> = { readonly [K in keyof S]: Call<S[K]> } & AsyncDisposable
