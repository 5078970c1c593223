import { setTimeout as delay } from 'node:timers/promises'
import {
  connect,
  errors,
  type Msg,
  type MsgHdrs,
  type NatsConnection,
} from '@nats-io/transport-node'
import {
  CancelledError,
  DeadlineExceededError,
  fromWire,
  NatsTooOldError,
  toWire,
  UnauthenticatedError,
  UnavailableError,
} from '@weft/errors'
import { injectTrace, type Logger, SpanKind, span, withTraceOf } from '@weft/telemetry'
import {
  BUCKET_TIMEOUT_MS,
  type Bucket,
  type BucketShape,
  type Bus,
  type BusState,
  type Codec,
  type Delivery,
  type RequestCodecs,
  type RequestOptions,
  type SubscribeOptions,
  type Subscription,
} from './bus.ts'
import { closedError, encodeMessage } from './checks.ts'
import { busCredentials } from './credentials.ts'
import { HandlerQueue } from './handler-queue.ts'
import { JetStream, writeHeaders } from './jetstream.ts'
import { type BucketHost, isConnectionTrouble, isNoResponders, NatsBucket } from './nats-bucket.ts'
import type { Subject, SubjectPattern } from './subjects.ts'

export interface ConnectOptions {
  /** For example `['nats://127.0.0.1:4222']`. */
  readonly servers: readonly string[]
  /** Who this is, for example `config-1` or the id of a host; begins the names of its consumers and its inboxes. */
  readonly name: string
  readonly log: Logger
  /** How long to try until the first connection; for ever by default. */
  readonly connectTimeoutMs?: number
  /** Ends the first connecting. */
  readonly signal?: AbortSignal
  /** Copies of each bucket that is made; 1 by default, up to 3 in a cluster. */
  readonly replicas?: number
  /** How often the server says that a watch is alive; `WATCH_HEARTBEAT_MS` by default. */
  readonly watchHeartbeatMs?: number
}

/** With 10,000 watches 2,000 heartbeats a second; a watch whose consumer vanished without a reconnect is set up again within 13 s. */
export const WATCH_HEARTBEAT_MS = 5000

const REQUEST_TIMEOUT_DEFAULT_MS = 2000
const CONNECT_TRY_TIMEOUT_MS = 2000
/** Pause between tries to connect: full jitter, so that not all come back at once. */
const CONNECT_PAUSE_MAX_MS = 1000

const ERROR_HEADER = 'Weft-Error'

/**
 * Connects to NATS; from then on it reconnects by itself until it is disposed. Throws `UnavailableError` after the time to
 * connect, `CancelledError` by the signal, `NatsTooOldError`, `UnauthenticatedError`.
 */
export async function connectBus(options: ConnectOptions): Promise<Bus> {
  const connection = await firstConnection(options)
  const version = connection.info?.version ?? ''
  if (!isNewEnough(version)) {
    const address = connection.getServer()
    await connection.close()
    throw new NatsTooOldError({ address, version })
  }
  return new NatsBus(connection, options)
}

/**
 * True for 2.12.7 and later 2.12, and from 2.14.0 on, without pre-releases. Earlier ones let a client pass the
 * authorisation of routes and of queues (advisories.nats.io, secnote 2026-16 and 2026-18).
 */
export function isNewEnough(version: string): boolean {
  const match = /^([0-9]+)\.([0-9]+)\.([0-9]+)(-.+)?$/.exec(version)
  if (!match) return false
  const [major = 0, minor = 0, patch = 0] = match.slice(1, 4).map(Number)
  const isPreRelease = match[4] !== undefined
  if (major !== 2) return major > 2
  if (minor === 12) return patch > 7 || (patch === 7 && !isPreRelease)
  return minor > 14 || (minor === 14 && (patch > 0 || !isPreRelease))
}

class NatsBus implements Bus {
  readonly #connection: NatsConnection
  readonly #address: string
  readonly #log: Logger
  readonly #host: BucketHost
  readonly #listeners = new Set<(state: BusState) => void>()
  #state: BusState = 'connected'

  constructor(connection: NatsConnection, options: ConnectOptions) {
    this.#connection = connection
    this.#address = options.servers.join(',')
    this.#log = options.log
    this.#host = {
      connection,
      jetStream: new JetStream(connection, BUCKET_TIMEOUT_MS),
      log: options.log,
      address: this.#address,
      clientName: tokenOf(options.name),
      inboxPrefix: inboxPrefix(options.name),
      replicas: options.replicas ?? 1,
      heartbeatMs: options.watchHeartbeatMs ?? WATCH_HEARTBEAT_MS,
      isConnected: () => this.#state === 'connected',
      onReconnect: (listener) =>
        this.onStateChange((state) => {
          if (state === 'connected') listener()
        }),
    }
    void this.#follow()
  }

  get state(): BusState {
    return this.#state
  }

  onStateChange(listener: (state: BusState) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  async ping({
    timeoutMs = REQUEST_TIMEOUT_DEFAULT_MS,
    signal,
  }: RequestOptions = {}): Promise<void> {
    if (this.#state !== 'connected') throw this.#unavailable('the connection is lost')
    const limit = AbortSignal.timeout(timeoutMs)
    const ends = signal ? AbortSignal.any([limit, signal]) : limit
    try {
      await cancellable(this.#connection.flush(), ends, 'ping')
    } catch (error) {
      if (limit.aborted) throw new DeadlineExceededError({ what: 'a ping of NATS', timeoutMs })
      throw isConnectionTrouble(error) ? this.#unavailable((error as Error).message) : error
    }
  }

  publish<T>(subject: Subject, codec: Codec<T>, message: T): void {
    if (this.#state === 'closed') throw closedError(this.#address)
    const payload = encodeMessage(subject, codec, message)
    this.#connection.publish(subject, payload, { headers: traceHeaders() })
  }

  async request<Q, A>(
    subject: Subject,
    codecs: RequestCodecs<Q, A>,
    message: Q,
    options: RequestOptions = {},
  ): Promise<A> {
    const { timeoutMs = REQUEST_TIMEOUT_DEFAULT_MS, signal } = options
    const payload = encodeMessage(subject, codecs.request, message)
    if (this.#state !== 'connected') throw this.#unavailable('the connection is lost')
    return span(
      `request ${subject}`,
      {},
      async () => {
        const asked = this.#connection.request(subject, payload, {
          headers: traceHeaders(),
          timeout: timeoutMs,
        })
        const reply = await cancellable(asked, signal, subject).catch((error: unknown) => {
          throw this.#requestError(error, subject, timeoutMs)
        })
        const failure = reply.headers?.get(ERROR_HEADER)
        if (failure) throw fromWire(JSON.parse(Buffer.from(failure, 'base64url').toString()))
        return codecs.reply.decode(reply.data)
      },
      SpanKind.CLIENT,
    )
  }

  subscribe<T>(
    pattern: SubjectPattern,
    codec: Codec<T>,
    handler: (message: T, delivery: Delivery) => void | Promise<void>,
    options: SubscribeOptions = {},
  ): Subscription {
    return this.#listen(pattern, options, async (message) => {
      await handler(codec.decode(message.data), { subject: message.subject })
    })
  }

  respond<Q, A>(
    pattern: SubjectPattern,
    codecs: RequestCodecs<Q, A>,
    handler: (message: Q, delivery: Delivery) => A | Promise<A>,
    options: SubscribeOptions = {},
  ): Subscription {
    return this.#listen(pattern, options, async (message) => {
      try {
        const answer = await handler(codecs.request.decode(message.data), {
          subject: message.subject,
        })
        message.respond(encodeMessage(`answer to ${message.subject}`, codecs.reply, answer))
      } catch (error) {
        const info = Buffer.from(JSON.stringify(toWire(error))).toString('base64url')
        message.respond(undefined, { headers: writeHeaders({ [ERROR_HEADER]: info }) })
        throw error
      }
    })
  }

  async openBucket<T>(shape: BucketShape, codec: Codec<T>): Promise<Bucket<T>> {
    const bucket = new NatsBucket(this.#host, shape, codec)
    await bucket.lastRevision()
    return bucket
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#connection.isClosed()) {
      // Draining waits for a server, and there may be none, or none any more.
      if (this.#state === 'connected') await this.#connection.drain().catch(() => undefined)
      if (!this.#connection.isClosed()) await this.#connection.close()
    }
    this.#change('closed')
  }

  #listen(
    pattern: SubjectPattern,
    options: SubscribeOptions,
    handle: (message: Msg) => Promise<void>,
  ): Subscription {
    const traced = (message: Msg): Promise<void> =>
      withTraceOf(
        (name) => message.headers?.get(name) || undefined,
        () => span(`receive ${pattern}`, {}, () => handle(message), SpanKind.CONSUMER),
      )
    const queue = new HandlerQueue(pattern, traced, options, this.#log)
    const subscription = this.#connection.subscribe(pattern, {
      ...(options.queue === undefined ? {} : { queue: options.queue }),
      callback: (error, message) => {
        if (error) this.#log.error({ err: error, pattern }, 'a subscription was refused')
        else queue.push(message, message.data.byteLength)
      },
    })
    return {
      async [Symbol.asyncDispose]() {
        subscription.unsubscribe()
        await queue.settled()
      },
    }
  }

  async #follow(): Promise<void> {
    for await (const status of this.#connection.status()) {
      if (status.type === 'disconnect') this.#change('disconnected')
      else if (status.type === 'reconnect') this.#change('connected')
      else if (status.type === 'error') this.#log.warn({ err: status.error }, 'NATS refused')
    }
    this.#change('closed')
  }

  #change(state: BusState): void {
    if (this.#state === state || this.#state === 'closed') return
    this.#state = state
    const facts = { state, servers: this.#address }
    if (state === 'disconnected') this.#log.warn(facts, 'the connection to NATS is lost')
    else this.#log.info(facts, `the connection to NATS is ${state}`)
    for (const listener of this.#listeners) listener(state)
  }

  #requestError(error: unknown, subject: string, timeoutMs: number): unknown {
    if (isNoResponders(error)) return this.#unavailable(`nobody listens on ${subject}`)
    if (error instanceof errors.TimeoutError) {
      return new DeadlineExceededError({ what: `the request ${subject}`, timeoutMs })
    }
    return isConnectionTrouble(error) ? this.#unavailable((error as Error).message) : error
  }

  #unavailable(problem: string): UnavailableError {
    return new UnavailableError({ service: 'nats', address: this.#address, problem })
  }
}

async function firstConnection(options: ConnectOptions): Promise<NatsConnection> {
  const { servers, name, signal, connectTimeoutMs = Infinity, log } = options
  const address = servers.join(',')
  const giveUpAt = performance.now() + connectTimeoutMs
  let isTold = false
  while (true) {
    try {
      signal?.throwIfAborted()
      return await connect({
        ...busCredentials(),
        servers: [...servers],
        name,
        inboxPrefix: inboxPrefix(name),
        timeout: CONNECT_TRY_TIMEOUT_MS,
        maxReconnectAttempts: -1,
        reconnectDelayHandler: () => Math.random() * CONNECT_PAUSE_MAX_MS,
        ignoreAuthErrorAbort: true,
        pingInterval: 10_000,
        maxPingOut: 2,
      })
    } catch (error) {
      if (signal?.aborted) throw new CancelledError({ what: `connecting to NATS at ${address}` })
      if (error instanceof errors.AuthorizationError) {
        throw new UnauthenticatedError({ what: `connecting to NATS at ${address}` })
      }
      const problem = (error as Error).message
      if (performance.now() >= giveUpAt) {
        throw new UnavailableError({ service: 'nats', address, problem }, { cause: error })
      }
      if (!isTold) log.warn({ servers: address, problem }, 'NATS does not answer; trying on')
      isTold = true
      const pauseMs = Math.random() * CONNECT_PAUSE_MAX_MS
      const leftMs = Math.max(0, giveUpAt - performance.now())
      await delay(Math.min(pauseMs, leftMs), undefined, signal ? { signal } : {}).catch(() => {})
    }
  }
}

async function cancellable<R>(
  outcome: Promise<R>,
  signal: AbortSignal | undefined,
  subject: string,
): Promise<R> {
  if (!signal) return outcome
  const { promise: cancelled, reject } = Promise.withResolvers<never>()
  const cancel = (): void => reject(new CancelledError({ what: `the request ${subject}` }))
  if (signal.aborted) cancel()
  signal.addEventListener('abort', cancel, { once: true })
  try {
    return await Promise.race([outcome, cancelled])
  } finally {
    signal.removeEventListener('abort', cancel)
  }
}

function traceHeaders(): MsgHdrs {
  const values: { [name: string]: string } = {}
  injectTrace((name, value) => {
    values[name] = value
  })
  return writeHeaders(values)
}

function inboxPrefix(name: string): string {
  return `_INBOX_${tokenOf(name)}`
}

/** A name as one token of a subject. */
function tokenOf(name: string): string {
  return name.replaceAll(/[^\w-]/g, '_')
}
