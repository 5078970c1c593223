import {
  type ChannelOptions,
  Server as GrpcServer,
  type ServiceDefinition as GrpcServiceDefinition,
  type handleClientStreamingCall,
  type handleUnaryCall,
  logVerbosity,
  type Metadata,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  setLogVerbosity,
  type UntypedHandleCall,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js'
import type { AccessRule, Scope } from '@weft/access'
import {
  asWeftError,
  CancelledError,
  GrpcStatus,
  OverloadedError,
  UnavailableError,
  WeftError,
} from '@weft/errors'
import { formatIdentity } from '@weft/identity'
import {
  counter,
  histogram,
  type Logger,
  SpanKind,
  SparseLog,
  span,
  withTraceOf,
} from '@weft/telemetry'
import { type CallKind, type Connection, Connections } from './connections.ts'
import { statusOf } from './errors.ts'
import { health } from './health.ts'
import {
  CALLS_AT_ONCE_MAX,
  CHANNEL_OPTIONS,
  GUARDED_SERVER_OPTIONS,
  MESSAGES_WAITING_MAX,
  RETRY_AFTER_MS,
  STOP_GRACE_MS,
  UNKNOWN_CALLER_SERVER_OPTIONS,
} from './limits.ts'
import { type Listener, listen } from './listener.ts'
import { reflection } from './reflection.ts'
import type { ServerSecurity } from './security.ts'
import {
  type AnyHandler,
  type CallContext,
  GUARDED_BY_SOCKET,
  type Implementation,
  type Method,
  type ServiceDefinition,
} from './types.ts'

export interface ServeOptions {
  /** `host:port` (port 0 for any), `[v6]:port` or `unix:/path`. */
  readonly listen: readonly string[]
  readonly services: readonly Implementation[]
  readonly log: Logger
  /** Who may call. */
  readonly security: ServerSecurity
  /** Mode of unix sockets; 0o660 by default. */
  readonly socketMode?: number
  /** Group id of unix sockets; the process's own by default. */
  readonly socketGroup?: number
}

export interface Server extends AsyncDisposable {
  /** Where it listens, with the ports that were chosen for port 0. */
  readonly addresses: readonly string[]
  /** What health checks are told; serving from the start. */
  setServing(isServing: boolean): void
}

/** What calls of all four shapes have. */
type AnyCall = NodeJS.EventEmitter &
  Pick<ServerUnaryCall<unknown, unknown>, 'getDeadline' | 'getPeer' | 'metadata'>

/** A method as it is served. */
interface Served {
  readonly path: string
  /** Undefined where the socket guards it. */
  readonly rule: AccessRule<never> | undefined
}

const callSeconds = histogram<'method' | 'code'>({
  name: 'weft_rpc_server_duration_seconds',
  help: 'Time from the arrival of a call to its end, by method and gRPC status',
  labels: ['method', 'code'],
})

const denials = counter<'method' | 'reason'>({
  name: 'weft_rpc_server_calls_denied_total',
  help: 'Calls of known peers that the rules of access refuse, by method and reason',
  labels: ['method', 'reason'],
})

const serverOptions = {
  'mutual-tls': GUARDED_SERVER_OPTIONS,
  'server-tls': UNKNOWN_CALLER_SERVER_OPTIONS,
  'socket-mode': CHANNEL_OPTIONS,
} as const satisfies Record<ServerSecurity['kind'], ChannelOptions>

// What it would print to standard error is in the errors that it gives.
setLogVerbosity(logVerbosity.NONE)

/**
 * Serves gRPC, with health and reflection. Throws `PortInUseError`. Disposing refuses new calls, ends streams by their
 * signal and gives running calls `STOP_GRACE_MS`.
 */
export async function serve(options: ServeOptions): Promise<Server> {
  const { security, socketMode, socketGroup } = options
  const isGuarded = security.kind !== 'socket-mode'
  const server = new GrpcServer(serverOptions[security.kind])
  const connections = new Connections(isGuarded ? security.credentials : undefined)
  const calls = new Calls(options, connections)
  const names = options.services.map(({ definition }) => serviceNameOf(definition))
  const healthService = health(names)
  const services = [...options.services, healthService.implementation, ...reflection(names)]
  for (const { definition, handlers, access } of services) {
    const implementation: UntypedServiceImplementation = {}
    for (const [name, method] of Object.entries(definition)) {
      const handler = handlers[name]
      if (!handler) throw new TypeError(`${method.path} has no handler`)
      const rule = access === GUARDED_BY_SOCKET ? undefined : access[name]
      if (isGuarded && !rule) throw new TypeError(`${method.path} has no rule who may call it`)
      implementation[name] = calls.adapt(method, rule, handler)
    }
    server.addService(definition as unknown as GrpcServiceDefinition, implementation)
  }
  // TLS ends in front of gRPC: only connections whose peer is known get this far.
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure())
  const listeners: Listener[] = []
  const close = async (): Promise<void> => {
    connections[Symbol.dispose]()
    await Promise.all(listeners.map((listener) => listener[Symbol.asyncDispose]()))
  }
  try {
    for (const address of options.listen) {
      listeners.push(
        await listen(address, {
          security,
          connections,
          onConnection: (socket) => injector.injectConnection(socket),
          log: options.log,
          socketMode,
          socketGroup,
        }),
      )
    }
  } catch (error) {
    server.forceShutdown()
    await close()
    throw error
  }
  return {
    addresses: listeners.map(({ address }) => address),
    setServing: healthService.setServing,
    async [Symbol.asyncDispose]() {
      healthService.setServing(false)
      const ended = Promise.all(listeners.map((listener) => listener.close()))
      calls.endStreams()
      // Each connection ends with its last call.
      server.tryShutdown(() => undefined)
      await inTime(ended, STOP_GRACE_MS)
      await close()
    },
  }
}

/** All calls of one server: admits them, runs their handlers and turns errors into statuses. */
class Calls {
  readonly #options: ServeOptions
  readonly #connections: Connections
  readonly #warnings: SparseLog
  readonly #streams = new Set<AbortController>()
  #unaryCount = 0
  #isStopping = false

  constructor(options: ServeOptions, connections: Connections) {
    this.#options = options
    this.#connections = connections
    this.#warnings = new SparseLog(options.log)
  }

  /** The function that grpc-js calls for a method. */
  adapt(
    { path, requestStream, responseStream }: Method,
    rule: AccessRule<never> | undefined,
    handler: AnyHandler,
  ): UntypedHandleCall {
    const served = { path, rule }
    const handle = handler as (request: unknown, context: CallContext) => unknown
    if (responseStream) {
      return (call: ServerDuplexStream<unknown, unknown>) => {
        const one = requestStream ? undefined : requestOf(call)
        this.#stream(served, call, one, async (context) => {
          const request = requestStream ? requestsOf(call, context.signal) : one
          const responses = handle(request, context) as AsyncIterable<unknown>
          for await (const response of responses) {
            if (call.writableLength < MESSAGES_WAITING_MAX) call.write(response)
            else await write(call, response, context.signal)
          }
        }).then(
          () => call.end(),
          (error: unknown) => call.emit('error', statusOf(error)),
        )
      }
    }
    if (requestStream) {
      const readable: handleClientStreamingCall<unknown, unknown> = (call, answer) => {
        this.#stream(served, call, undefined, async (context) =>
          handle(requestsOf(call, context.signal), context),
        ).then(
          (response) => answer(null, response),
          (error: unknown) => answer(statusOf(error)),
        )
      }
      return readable
    }
    const unary: handleUnaryCall<unknown, unknown> = (call, answer) => {
      this.#unary(served, call, async (context) => handle(call.request, context)).then(
        (response) => answer(null, response),
        (error: unknown) => answer(statusOf(error)),
      )
    }
    return unary
  }

  /** Asks all streams to end, and takes no more. */
  endStreams(): void {
    this.#isStopping = true
    for (const stream of this.#streams) stream.abort(STOPPING)
  }

  async #unary<T>(
    served: Served,
    call: ServerUnaryCall<unknown, unknown>,
    handle: (context: CallContext) => Promise<T>,
  ): Promise<T> {
    this.#unaryCount++
    const abort = new AbortController()
    try {
      return await this.#run(served, call, 'unaryCalls', abort, call.request, (context) =>
        span(served.path.slice(1), {}, () => handle(context), SpanKind.SERVER),
      )
    } finally {
      this.#unaryCount--
    }
  }

  /** Like a unary call, but without a span, which would stay open as long as the stream. */
  async #stream<T>(
    served: Served,
    call: ServerReadableStream<unknown, unknown> | ServerDuplexStream<unknown, unknown>,
    request: unknown,
    handle: (context: CallContext) => Promise<T>,
  ): Promise<T> {
    const { path } = served
    const stopping = (): UnavailableError =>
      new UnavailableError({ service: path.slice(1), address: 'this server', problem: 'it stops' })
    if (this.#isStopping) throw stopping()
    const abort = new AbortController()
    this.#streams.add(abort)
    try {
      const result = await this.#run(served, call, 'streams', abort, request, (context) =>
        Promise.race([handle(context), endOf(abort.signal)]),
      )
      abort.signal.throwIfAborted()
      return result
    } catch (error) {
      throw abort.signal.reason === STOPPING ? stopping() : error
    } finally {
      this.#streams.delete(abort)
    }
  }

  async #run<T>(
    { path, rule }: Served,
    call: AnyCall,
    kind: CallKind,
    abort: AbortController,
    request: unknown,
    handle: (context: CallContext) => Promise<T>,
  ): Promise<T> {
    const startedAt = performance.now()
    let code: GrpcStatus = GrpcStatus.Ok
    let connection: Connection | undefined
    let isAnswered = false
    // gRPC says so of every call that has ended, when its caller has taken all of the answer as well: until then it counts.
    call.once('cancelled', () => {
      // Nobody waits any more for the signal of a unary call that has its answer, and an abort is a fifth of what the call costs.
      if (!isAnswered) abort.abort()
      connection?.release(abort)
    })
    try {
      connection = this.#connections.find(call.getPeer())
      if (!connection) throw new CancelledError({ what: path.slice(1) })
      connection.admit(kind, abort, path.slice(1))
      const callsAtOnce = kind === 'streams' ? this.#streams.size : this.#unaryCount
      if (callsAtOnce > CALLS_AT_ONCE_MAX) {
        throw new OverloadedError({
          what: path.slice(1),
          limit: CALLS_AT_ONCE_MAX,
          retryAfterMs: RETRY_AFTER_MS,
        })
      }
      const judged = connection
      const judge = (): Scope => this.#authorise(path, rule, judged, request)
      const context = contextOf(path, call, abort.signal, connection, judge)
      const result = await withTraceOf(
        (name) => context.metadata[name],
        () => handle(context),
      )
      if (connection.ended) throw connection.ended
      isAnswered = kind === 'unaryCalls'
      return result
    } catch (caught) {
      // Why the connection has ended counts, not what a handler made of that.
      const error = connection?.ended ?? caught
      const isGone = abort.signal.aborted && !connection?.ended
      code = isGone ? GrpcStatus.Cancelled : asWeftError(error).grpcStatus
      if (!isGone && !(error instanceof WeftError)) {
        this.#options.log.error({ err: error, method: path }, 'a call failed by a defect')
      }
      throw error
    } finally {
      const seconds = (performance.now() - startedAt) / 1000
      callSeconds.record(seconds, { method: path, code })
    }
  }

  /** What the call may see; throws if it is not allowed. */
  #authorise(
    method: string,
    rule: AccessRule<never> | undefined,
    { caller, address }: Connection,
    request: unknown,
  ): Scope {
    const { security } = this.#options
    if (security.kind === 'socket-mode') return 'all'
    if (!rule) throw new TypeError(`${method} has no rule who may call it`)
    try {
      return security.authorise({ method, rule, caller, peer: address, request })
    } catch (error) {
      this.#noteDenial(method, { caller, address }, asWeftError(error))
      throw error
    }
  }

  #noteDenial(
    method: string,
    { caller, address }: Pick<Connection, 'caller' | 'address'>,
    { code, facts, message, grpcStatus }: WeftError,
  ): void {
    const { PermissionDenied, Unauthenticated } = GrpcStatus
    if (grpcStatus !== PermissionDenied && grpcStatus !== Unauthenticated) return
    const reason = facts['reason'] ?? code
    denials.add(1, { method, reason })
    const who = caller ? formatIdentity(caller.identity) : 'nobody'
    const told = { method, reason, caller: who, peer: address, problem: message }
    this.#warnings.warn(reason, told, 'a call was denied')
  }
}

/** Rejects as soon as the connection of a call has ended, whatever its handler is waiting for. */
function endOf(signal: AbortSignal): Promise<never> {
  const { promise, reject } = Promise.withResolvers<never>()
  signal.addEventListener('abort', () => {
    if (signal.reason instanceof WeftError) reject(signal.reason)
  })
  return promise
}

/** Why the streams of a stopping server are aborted. */
const STOPPING = Symbol('stopping')

function contextOf(
  path: string,
  call: AnyCall,
  signal: AbortSignal,
  { address, caller }: Connection,
  judge: () => Scope,
): CallContext {
  const deadline = call.getDeadline()
  let texts: CallContext['metadata'] | undefined
  return {
    signal,
    deadline: deadline === Infinity ? undefined : new Date(deadline),
    peer: address,
    caller,
    scope: judge(),
    judgeAgain: judge,
    method: path,
    // Most handlers never look.
    get metadata() {
      texts ??= textsOf(call.metadata)
      return texts
    },
  }
}

function textsOf(metadata: Metadata): { readonly [name: string]: string } {
  const texts: { [name: string]: string } = {}
  for (const [name, value] of Object.entries(metadata.getMap())) {
    if (typeof value === 'string') texts[name] = value
  }
  return texts
}

/** Resolves when the connection has taken the message; rejects when there is no use in waiting. */
async function write(
  call: ServerDuplexStream<unknown, unknown>,
  message: unknown,
  signal: AbortSignal,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const stop = (): void => reject(new CancelledError({ what: 'a stream' }))
  if (signal.aborted) stop()
  signal.addEventListener('abort', stop, { once: true })
  call.write(message, () => resolve())
  try {
    await promise
  } finally {
    signal.removeEventListener('abort', stop)
  }
}

function requestOf(call: unknown): unknown {
  return (call as ServerWritableStream<unknown, unknown>).request
}

/** What the caller sends. Ends when the caller has said all, goes away, or the server stops. */
async function* requestsOf(
  call: ServerReadableStream<unknown, unknown> | ServerDuplexStream<unknown, unknown>,
  signal: AbortSignal,
): AsyncGenerator<unknown, void, undefined> {
  const end = (): void => {
    if (!call.destroyed) call.push(null)
  }
  signal.addEventListener('abort', end, { once: true })
  try {
    // The response goes out on the same stream, which must not end with the requests.
    yield* call.iterator({ destroyOnReturn: false })
  } catch (error) {
    if (!signal.aborted) throw error
  } finally {
    signal.removeEventListener('abort', end)
  }
}

/** Waits for something, but not for long. */
async function inTime(what: Promise<unknown>, timeMs: number): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  const timer = setTimeout(resolve, timeMs)
  await Promise.race([what, promise])
  clearTimeout(timer)
}

/** `weftline.config.v1.ConfigService` of a definition. */
function serviceNameOf(definition: ServiceDefinition): string {
  return Object.values(definition)[0]?.path.split('/')[1] ?? ''
}
