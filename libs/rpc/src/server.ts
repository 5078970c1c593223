import { once } from 'node:events'
import { chmod, chown, lstat, rm } from 'node:fs/promises'
import { createConnection } from 'node:net'
import {
  Server as GrpcServer,
  type ServiceDefinition as GrpcServiceDefinition,
  type handleClientStreamingCall,
  type handleUnaryCall,
  logVerbosity,
  type Metadata,
  type ServerDuplexStream,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  setLogVerbosity,
  type UntypedHandleCall,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js'
import {
  asWeftError,
  GrpcStatus,
  OverloadedError,
  PortInUseError,
  UnauthenticatedError,
  UnavailableError,
  WeftError,
} from '@weft/errors'
import { histogram, type Logger, SpanKind, span, withTraceOf } from '@weft/telemetry'
import { isAuthentic, serverCredentials } from './credentials.ts'
import { statusOf } from './errors.ts'
import { health } from './health.ts'
import { CALLS_AT_ONCE_MAX, CHANNEL_OPTIONS, RETRY_AFTER_MS, STOP_GRACE_MS } from './limits.ts'
import { reflection } from './reflection.ts'
import type { AnyHandler, CallContext, Implementation, Method, ServiceDefinition } from './types.ts'

export interface ServeOptions {
  /** `host:port` (port 0 for any), `[v6]:port` or `unix:/path`. */
  readonly listen: readonly string[]
  readonly services: readonly Implementation[]
  readonly log: Logger
  /** Mode of unix sockets; 0o660 by default. */
  readonly socketMode?: number
  /** Group id of unix sockets; the process's own by default. */
  readonly socketGroup?: number
  /** Decides further whether a call is served, by throwing. */
  readonly authorise?: (call: CallContext) => void
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

const callSeconds = histogram<'method' | 'code'>({
  name: 'weft_rpc_server_duration_seconds',
  help: 'Time from the arrival of a call to its end, by method and gRPC status',
  labels: ['method', 'code'],
})

// What it would print to standard error is in the errors that it gives.
setLogVerbosity(logVerbosity.NONE)

/**
 * Serves gRPC, with health and reflection. Throws `PortInUseError`. Disposing refuses new calls, ends streams by their
 * signal and gives running calls `STOP_GRACE_MS`.
 */
export async function serve(options: ServeOptions): Promise<Server> {
  const server = new GrpcServer(CHANNEL_OPTIONS)
  const calls = new Calls(options)
  const names = options.services.map(({ definition }) => serviceNameOf(definition))
  const healthService = health(names)
  const services = [...options.services, healthService.implementation, ...reflection(names)]
  for (const { definition, handlers } of services) {
    const implementation: UntypedServiceImplementation = {}
    for (const [name, method] of Object.entries(definition)) {
      const handler = handlers[name]
      if (!handler) throw new TypeError(`${method.path} has no handler`)
      implementation[name] = calls.adapt(method, handler)
    }
    server.addService(definition as unknown as GrpcServiceDefinition, implementation)
  }
  try {
    const addresses: string[] = []
    for (const address of options.listen) addresses.push(await bind(server, address, options))
    return {
      addresses,
      setServing: healthService.setServing,
      async [Symbol.asyncDispose]() {
        healthService.setServing(false)
        calls.endStreams()
        await stop(server)
      },
    }
  } catch (error) {
    server.forceShutdown()
    throw error
  }
}

/** All calls of one server: admits them, runs their handlers and turns errors into statuses. */
class Calls {
  readonly #options: ServeOptions
  readonly #streams = new Set<AbortController>()
  #unaryCount = 0
  #isStopping = false

  constructor(options: ServeOptions) {
    this.#options = options
  }

  /** The function that grpc-js calls for a method. */
  adapt({ path, requestStream, responseStream }: Method, handler: AnyHandler): UntypedHandleCall {
    const handle = handler as (request: unknown, context: CallContext) => unknown
    if (responseStream) {
      return (call: ServerDuplexStream<unknown, unknown>) => {
        this.#stream(path, call, async (context) => {
          const request = requestStream ? requestsOf(call, context.signal) : requestOf(call)
          const responses = handle(request, context) as AsyncIterable<unknown>
          for await (const response of responses) {
            if (!call.write(response)) await once(call, 'drain', { signal: context.signal })
          }
        }).then(
          () => call.end(),
          (error: unknown) => call.emit('error', statusOf(error)),
        )
      }
    }
    if (requestStream) {
      const readable: handleClientStreamingCall<unknown, unknown> = (call, answer) => {
        this.#stream(path, call, async (context) =>
          handle(requestsOf(call, context.signal), context),
        ).then(
          (response) => answer(null, response),
          (error: unknown) => answer(statusOf(error)),
        )
      }
      return readable
    }
    const unary: handleUnaryCall<unknown, unknown> = (call, answer) => {
      this.#unary(path, call, async (context) => handle(call.request, context)).then(
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
    path: string,
    call: ServerUnaryCall<unknown, unknown>,
    handle: (context: CallContext) => Promise<T>,
  ): Promise<T> {
    this.#unaryCount++
    try {
      return await this.#run(path, call, this.#unaryCount, new AbortController(), (context) =>
        span(path.slice(1), {}, () => handle(context), SpanKind.SERVER),
      )
    } finally {
      this.#unaryCount--
    }
  }

  /** Like a unary call, but without a span, which would stay open as long as the stream. */
  async #stream<T>(
    path: string,
    call: ServerReadableStream<unknown, unknown> | ServerDuplexStream<unknown, unknown>,
    handle: (context: CallContext) => Promise<T>,
  ): Promise<T> {
    const stopping = (): UnavailableError =>
      new UnavailableError({ service: path.slice(1), address: 'this server', problem: 'it stops' })
    if (this.#isStopping) throw stopping()
    const abort = new AbortController()
    this.#streams.add(abort)
    try {
      const result = await this.#run(path, call, this.#streams.size, abort, handle)
      abort.signal.throwIfAborted()
      return result
    } catch (error) {
      throw abort.signal.reason === STOPPING ? stopping() : error
    } finally {
      this.#streams.delete(abort)
    }
  }

  async #run<T>(
    path: string,
    call: AnyCall,
    callsAtOnce: number,
    abort: AbortController,
    handle: (context: CallContext) => Promise<T>,
  ): Promise<T> {
    const startedAt = performance.now()
    let code: GrpcStatus = GrpcStatus.Ok
    call.once('cancelled', () => abort.abort())
    try {
      if (callsAtOnce > CALLS_AT_ONCE_MAX) {
        throw new OverloadedError({
          what: path.slice(1),
          limit: CALLS_AT_ONCE_MAX,
          retryAfterMs: RETRY_AFTER_MS,
        })
      }
      const context = contextOf(path, call, abort.signal)
      if (!isAuthentic(context)) throw new UnauthenticatedError({ what: path.slice(1) })
      this.#options.authorise?.(context)
      return await withTraceOf(
        (name) => context.metadata[name],
        () => handle(context),
      )
    } catch (error) {
      const isGone = abort.signal.aborted
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
}

/** Why the streams of a stopping server are aborted. */
const STOPPING = Symbol('stopping')

function contextOf(path: string, call: AnyCall, signal: AbortSignal): CallContext {
  const deadline = call.getDeadline()
  const peer = call.getPeer()
  return {
    signal,
    deadline: deadline === Infinity ? undefined : new Date(deadline),
    peer: peer === 'unknown' ? 'unix' : peer,
    method: path,
    metadata: textsOf(call.metadata),
  }
}

function textsOf(metadata: Metadata): { readonly [name: string]: string } {
  const texts: { [name: string]: string } = {}
  for (const [name, value] of Object.entries(metadata.getMap())) {
    if (typeof value === 'string') texts[name] = value
  }
  return texts
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

async function bind(server: GrpcServer, address: string, options: ServeOptions): Promise<string> {
  const path = address.startsWith('unix:') ? address.slice('unix:'.length) : undefined
  if (path !== undefined) await removeStaleSocket(path)
  const { promise, resolve, reject } = Promise.withResolvers<number>()
  server.bindAsync(address, serverCredentials(), (error, port) => {
    if (!error) resolve(port)
    else reject(/EADDRINUSE/.test(error.message) ? new PortInUseError({ address }) : error)
  })
  const port = await promise
  if (path === undefined) return address.replace(/:[0-9]+$/, `:${port}`)
  await chmod(path, options.socketMode ?? 0o660)
  if (options.socketGroup !== undefined) await chown(path, -1, options.socketGroup)
  return address
}

/** Removes a socket that a process left which was killed; throws `PortInUseError` if somebody answers on it. */
async function removeStaleSocket(path: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined)
  if (!found) return
  if (!found.isSocket()) throw new PortInUseError({ address: `unix:${path}` })
  const socket = createConnection(path)
  const isAnswered = await once(socket, 'connect').then(
    () => true,
    () => false,
  )
  socket.destroy()
  if (isAnswered) throw new PortInUseError({ address: `unix:${path}` })
  await rm(path, { force: true })
}

async function stop(server: GrpcServer): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  const timer = setTimeout(() => server.forceShutdown(), STOP_GRACE_MS)
  server.tryShutdown(() => resolve())
  await promise
  clearTimeout(timer)
}

/** `weftline.config.v1.ConfigService` of a definition. */
function serviceNameOf(definition: ServiceDefinition): string {
  return Object.values(definition)[0]?.path.split('/')[1] ?? ''
}
