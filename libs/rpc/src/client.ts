import { once } from 'node:events'
import { Duplex, type Writable } from 'node:stream'
import {
  type CallOptions as GrpcCallOptions,
  Client as GrpcClient,
  Metadata,
  type MethodDefinition,
} from '@grpc/grpc-js'
import {
  asWeftError,
  CancelledError,
  GrpcStatus,
  UnavailableError,
  type WeftError,
} from '@weft/errors'
import { histogram, injectTrace, SpanKind, span } from '@weft/telemetry'
import { type ChannelSecurity, channelSecurity } from './channel-security.ts'
import { errorOf } from './errors.ts'
import { CHANNEL_OPTIONS, REQUEST_MAX_BYTES } from './limits.ts'
import type { ClientSecurity } from './security.ts'
import type { CallOptions, Client, ServiceDefinition } from './types.ts'

export interface ClientOptions {
  /** How it makes sure of the server, and who it is itself. */
  readonly security: ClientSecurity
  /** Time for a unary call with its retries; 5000 by default. */
  readonly timeoutMs?: number
  /** False if a call must not be made twice; true by default, since every change carries an idempotency key. */
  readonly retries?: boolean
}

const DEADLINE_DEFAULT_MS = 5000

type Method = MethodDefinition<unknown, unknown>

const callSeconds = histogram<'method' | 'code'>({
  name: 'weft_rpc_client_duration_seconds',
  help: 'Time from a call to its answer with all retries, by method and gRPC status',
  labels: ['method', 'code'],
})

/**
 * At most 5 tries with jittered, doubling pauses, only for statuses that promise a later try may do (`@weft/errors`). The
 * budget: a failure costs one of ten tokens and ten successes earn one; below five tokens nothing is tried again.
 */
const SERVICE_CONFIG = {
  methodConfig: [
    {
      name: [{}],
      retryPolicy: {
        maxAttempts: 5,
        initialBackoff: '0.05s',
        maxBackoff: '1s',
        backoffMultiplier: 2,
        retryableStatusCodes: ['UNAVAILABLE', 'RESOURCE_EXHAUSTED'],
      },
    },
  ],
  retryThrottling: { maxTokens: 10, tokenRatio: 0.1 },
}

/**
 * Makes a client of a service at `target`: `HOST:PORT`, or those of all its replicas with commas between them, of which the
 * first that answers is used, or `unix:/PATH`. It connects at its first call and again whenever that is needed; with a certificate that was
 * renewed for the calls that begin from then on, while those that run stay where they are.
 */
export function connect<S extends ServiceDefinition>(
  target: string,
  definition: S,
  options: ClientOptions,
): Client<S> {
  const { timeoutMs = DEADLINE_DEFAULT_MS, security } = options
  const calls = new Calls(() => new Channel(target, options), target, timeoutMs)
  const unlisten =
    security.kind === 'mutual-tls' &&
    security.credentials.onChange((what) => {
      if (what === 'renewed') calls.reconnect()
    })
  const client: { [name: string | symbol]: unknown } = {
    [Symbol.asyncDispose]: async () => {
      if (unlisten) unlisten()
      calls.close()
    },
  }
  for (const [name, method] of Object.entries(definition)) {
    client[name] = calls.caller(method as unknown as Method)
  }
  return client as Client<S>
}

/** A channel of gRPC, which is closed when it is retired and its last call has ended. */
class Channel {
  readonly grpc: GrpcClient
  readonly #security: ChannelSecurity
  #callCount = 0
  #isRetired = false

  constructor(target: string, { security, retries = true }: ClientOptions) {
    this.#security = channelSecurity(security, target)
    const channel = this.#security.dials.channelTo(target)
    this.grpc = new GrpcClient(channel.target, this.#security.credentials, {
      ...CHANNEL_OPTIONS,
      ...channel.options,
      ...(security.kind === 'socket-mode'
        ? {}
        : { 'grpc.max_send_message_length': REQUEST_MAX_BYTES }),
      'grpc.enable_http_proxy': 0,
      'grpc.service_config_disable_resolution': 1,
      'grpc.enable_retries': retries ? 1 : 0,
      ...(retries ? { 'grpc.service_config': JSON.stringify(SERVICE_CONFIG) } : {}),
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 2000,
      // A peer that vanished without a word is noticed on an open stream within half a minute.
      'grpc.keepalive_time_ms': 20_000,
      'grpc.keepalive_timeout_ms': 10_000,
    })
  }

  /** Counts a call until the returned object is disposed. */
  use(): Disposable {
    this.#callCount++
    return {
      [Symbol.dispose]: () => {
        this.#callCount--
        if (this.#isRetired && this.#callCount === 0) this.grpc.close()
      },
    }
  }

  retire(): void {
    this.#isRetired = true
    if (this.#callCount === 0) this.grpc.close()
  }

  /** What a call failed with, in classes of ours. */
  errorOf(error: unknown, path: string, target: string): WeftError {
    const known = errorOf(error, path, target)
    const { refusal } = this.#security
    // gRPC only says that there is no connection, and the words of the last try.
    const isRefused = refusal !== undefined && known.message.includes(refusal.message)
    return isRefused && known instanceof UnavailableError ? refusal : known
  }
}

class Calls {
  readonly #open: () => Channel
  readonly #target: string
  readonly #timeoutMs: number
  #channel: Channel

  constructor(open: () => Channel, target: string, timeoutMs: number) {
    this.#open = open
    this.#channel = open()
    this.#target = target
    this.#timeoutMs = timeoutMs
  }

  /** Lets new calls connect anew. */
  reconnect(): void {
    const before = this.#channel
    this.#channel = this.#open()
    before.retire()
  }

  close(): void {
    this.#channel.grpc.close()
  }

  /** The client's function for a method, of one of four shapes. */
  caller(method: Method): unknown {
    const { requestStream, responseStream } = method
    if (!requestStream && !responseStream) {
      return (request: unknown, options: CallOptions = {}) => this.#unary(method, request, options)
    }
    if (!responseStream) {
      return (requests: AsyncIterable<unknown>, options: CallOptions = {}) =>
        this.#sendAll(method, requests, options)
    }
    return (request: unknown, options: CallOptions = {}) => this.#stream(method, request, options)
  }

  #unary(method: Method, request: unknown, options: CallOptions): Promise<unknown> {
    return this.#measured(method, options, (channel, metadata) => {
      const { promise, resolve, reject } = Promise.withResolvers<unknown>()
      const callOptions = this.#callOptions({ timeoutMs: this.#timeoutMs, ...options })
      const call = withoutStack(() =>
        channel.makeUnaryRequest(
          method.path,
          method.requestSerialize,
          method.responseDeserialize,
          request,
          metadata,
          callOptions,
          (error, response) => (error ? reject(error) : resolve(response)),
        ),
      )
      return cancelledBy(options.signal, call, promise)
    })
  }

  #sendAll(
    method: Method,
    requests: AsyncIterable<unknown>,
    options: CallOptions,
  ): Promise<unknown> {
    return this.#measured(method, options, (channel, metadata) => {
      const { promise, resolve, reject } = Promise.withResolvers<unknown>()
      const call = channel.makeClientStreamRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        metadata,
        this.#callOptions(options),
        (error, response) => (error ? reject(error) : resolve(response)),
      )
      const sent = send(requests, call)
      sent.catch((error: unknown) => {
        reject(error)
        call.cancel()
      })
      return cancelledBy(options.signal, call, promise)
    })
  }

  /** Starts at the first `next` and is cancelled when the iteration is left. */
  async *#stream(
    method: Method,
    request: unknown,
    options: CallOptions,
  ): AsyncGenerator<unknown, void, undefined> {
    const { path } = method
    if (options.signal?.aborted) throw new CancelledError({ what: path.slice(1) })
    const metadata = metadataOf(options)
    const channel = this.#channel
    using _used = channel.use()
    const call = method.requestStream
      ? channel.grpc.makeBidiStreamRequest(
          path,
          method.requestSerialize,
          method.responseDeserialize,
          metadata,
          this.#callOptions(options),
        )
      : channel.grpc.makeServerStreamRequest(
          path,
          method.requestSerialize,
          method.responseDeserialize,
          request,
          metadata,
          this.#callOptions(options),
        )
    const cancel = (): void => call.cancel()
    options.signal?.addEventListener('abort', cancel, { once: true })
    let failure: unknown
    if (call instanceof Duplex) {
      send(request as AsyncIterable<unknown>, call).catch((error: unknown) => {
        failure = error
        call.cancel()
      })
    }
    try {
      yield* call
    } catch (error) {
      if (options.signal?.aborted) throw new CancelledError({ what: path.slice(1) })
      throw failure === undefined
        ? channel.errorOf(error, path, this.#target)
        : asWeftError(failure)
    } finally {
      options.signal?.removeEventListener('abort', cancel)
      call.cancel()
    }
  }

  /** A call with one answer, in a span, with its duration and its error's class. */
  async #measured(
    method: Method,
    options: CallOptions,
    start: (channel: GrpcClient, metadata: Metadata) => Promise<unknown>,
  ): Promise<unknown> {
    const { path } = method
    const startedAt = performance.now()
    let code: GrpcStatus = GrpcStatus.Ok
    const channel = this.#channel
    using _used = channel.use()
    try {
      return await span(
        path.slice(1),
        { 'server.address': this.#target },
        async () => {
          if (options.signal?.aborted) throw new CancelledError({ what: path.slice(1) })
          try {
            return await start(channel.grpc, metadataOf(options))
          } catch (error) {
            throw channel.errorOf(error, path, this.#target)
          }
        },
        SpanKind.CLIENT,
      )
    } catch (error) {
      code = asWeftError(error).grpcStatus
      throw error
    } finally {
      callSeconds.record((performance.now() - startedAt) / 1000, { method: path, code })
    }
  }

  #callOptions({ timeoutMs }: CallOptions): GrpcCallOptions {
    return timeoutMs === undefined || timeoutMs === Infinity
      ? {}
      : { deadline: Date.now() + timeoutMs }
  }
}

/**
 * gRPC notes for every call where it was made, in case that it fails: a tenth of what a call costs, for a stack that the error
 * of ours, which is made in its place, does not have.
 */
function withoutStack<T>(start: () => T): T {
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  try {
    return start()
  } finally {
    Error.stackTraceLimit = stackTraceLimit
  }
}

function metadataOf(options: CallOptions): Metadata {
  const metadata = new Metadata()
  for (const [name, value] of Object.entries(options.metadata ?? {})) metadata.set(name, value)
  injectTrace((name, value) => metadata.set(name, value))
  return metadata
}

async function cancelledBy<T>(
  signal: AbortSignal | undefined,
  call: { cancel(): void },
  outcome: Promise<T>,
): Promise<T> {
  const cancel = (): void => call.cancel()
  signal?.addEventListener('abort', cancel, { once: true })
  try {
    return await outcome
  } finally {
    signal?.removeEventListener('abort', cancel)
  }
}

/** Writes everything, no faster than the peer takes it; stops at the first request after the call has ended. */
async function send(requests: AsyncIterable<unknown>, call: Writable): Promise<void> {
  let isOver = false
  const over = new AbortController()
  call.once('status', () => {
    isOver = true
    over.abort()
  })
  for await (const request of requests) {
    if (isOver) return
    if (!call.write(request)) {
      try {
        await once(call, 'drain', { signal: over.signal })
      } catch {
        // The call ended meanwhile, and its status tells why.
        return
      }
    }
  }
  call.end()
}
