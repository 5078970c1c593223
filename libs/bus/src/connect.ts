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
import type { BusLogin, Credentials, Peer } from '@weft/identity'
import { injectTrace, type Logger, SpanKind, span, withTraceOf } from '@weft/telemetry'
import {
  BUCKET_TIMEOUT_MS,
  type Bucket,
  type BucketShape,
  type Bus,
  type BusState,
  type Codec,
  type Delivery,
  type RemoteBucket,
  type RequestCodecs,
  type RequestOptions,
  type SubscribeOptions,
  type Subscription,
  type WatchedBucket,
} from './bus.ts'
import { closedError, encodeMessage } from './checks.ts'
import { type BusIdentity, loginOf, natsIdentity } from './credentials.ts'
import { HandlerQueue } from './handler-queue.ts'
import { JetStream, writeHeaders } from './jetstream.ts'
import { type BucketHost, isConnectionTrouble, isNoResponders, NatsBucket } from './nats-bucket.ts'
import type { ConsumerNames } from './nats-watch.ts'
import { hostConsumerNames } from './policy.ts'
import { RemoteNatsBucket } from './remote-bucket.ts'
import type { Subject, SubjectPattern } from './subjects.ts'

export interface ConnectOptions {
  /** For example `['nats://127.0.0.1:4222']`. */
  readonly servers: readonly string[]
  /** Who this is and whom it believes. Certificate and login are renewed without the connection being noticed as lost for good. */
  readonly credentials: Credentials
  /** Logs in as another user than that of the credentials. */
  readonly login?: BusLogin
  /** What this is called by the servers, for example `config-1`; begins the names of its consumers. */
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
  /** The longest pause between new credentials and the connection that uses them; `RECONNECT_PAUSE_MAX_MS` by default. */
  readonly reconnectPauseMaxMs?: number
}

/** Old credentials are good for hours when new ones come: so not all hosts connect again at once. */
const RECONNECT_PAUSE_MAX_MS = 30_000

/** With 10,000 watches 2,000 heartbeats a second; a watch whose consumer vanished without a reconnect is set up again within 13 s. */
const WATCH_HEARTBEAT_MS = 5000

const REQUEST_TIMEOUT_DEFAULT_MS = 2000
const CONNECT_TRY_TIMEOUT_MS = 2000
/** Pause between tries to connect: full jitter, so that not all come back at once. */
const CONNECT_PAUSE_MAX_MS = 1000

const DRAIN_MAX_MS = 5_000
/** How long a bucket is waited for that is opened. */
const OPEN_PATIENCE_MS = 10_000

/** While nats-server reads its configuration anew (SIGHUP) it asks who comes for no login, and then refuses them for want of one. */
const REFUSALS_MAX = 3

/** How often the end of the server's certificate is looked at. */
const SERVER_EXPIRY_CHECK_MS = 1000

const ERROR_HEADER = 'Weft-Error'

/**
 * Connects to NATS; from then on it reconnects by itself until it is disposed. Throws `UnavailableError` after the time to
 * connect (a server that is not believed counts as none), `CancelledError` by the signal, `NatsTooOldError`,
 * `UnauthenticatedError`.
 */
export async function connectBus(options: ConnectOptions): Promise<Bus> {
  await using opened = new AsyncDisposableStack()
  const sockets = opened.use(new Sockets())
  const { connection, server } = await firstConnection(options, sockets)
  const version = connection.info?.version ?? ''
  if (!isNewEnough(version)) {
    const address = connection.getServer()
    await connection.close()
    throw new NatsTooOldError({ address, version })
  }
  return new NatsBus(connection, server, opened.move(), options)
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

/** The server at the other end; another one after each reconnect. */
interface Server {
  peer: Peer | undefined
}

/** The sockets of one client, of which one is in use at a time: the next one ends what is left of the one before. */
class Sockets implements Disposable {
  #last = new AbortController()

  next(): AbortSignal {
    this.#last.abort()
    this.#last = new AbortController()
    return this.#last.signal
  }

  [Symbol.dispose](): void {
    this.#last.abort()
  }
}

/** A bus over NATS. Only what makes or keeps streams knows it by this name. */
export class NatsBus implements Bus {
  readonly #connection: NatsConnection
  readonly #address: string
  readonly #log: Logger
  readonly #host: BucketHost
  readonly #listeners = new Set<(state: BusState) => void>()
  readonly #freshness: Disposable
  readonly #ends: AsyncDisposable
  #state: BusState = 'connected'

  /** `ends` is disposed after the connection. */
  constructor(
    connection: NatsConnection,
    server: Server,
    ends: AsyncDisposable,
    options: ConnectOptions,
  ) {
    this.#connection = connection
    this.#ends = ends
    this.#address = options.servers.join(',')
    this.#log = options.log
    this.#host = {
      connection,
      jetStream: new JetStream(connection, BUCKET_TIMEOUT_MS),
      log: options.log,
      address: this.#address,
      consumerNames: consumerNamesOf(options),
      inboxPrefix: loginOf(identityOf(options)).inboxPrefix,
      replicas: options.replicas ?? 1,
      heartbeatMs: options.watchHeartbeatMs ?? WATCH_HEARTBEAT_MS,
      isConnected: () => this.#state === 'connected',
      onReconnect: (listener) =>
        this.onStateChange((state) => {
          if (state === 'connected') listener()
        }),
    }
    this.#freshness = keepFresh(connection, server, options)
    void this.#follow()
  }

  /** For what is done with streams and not with buckets. */
  get host(): BucketHost {
    return this.#host
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

  openBucket<T>(shape: BucketShape, codec: Codec<T>): Promise<Bucket<T>>
  openBucket<T>(
    shape: BucketShape,
    codec: Codec<T>,
    options: { readonly access: 'watch' },
  ): Promise<WatchedBucket<T>>
  openBucket<T>(
    shape: BucketShape,
    codec: Codec<T>,
    options: { readonly access: 'remote' },
  ): Promise<RemoteBucket<T>>
  async openBucket<T>(
    shape: BucketShape,
    codec: Codec<T>,
    options?: { readonly access: 'watch' | 'remote' },
  ): Promise<Bucket<T> | WatchedBucket<T> | RemoteBucket<T>> {
    if (this.#state === 'closed') throw closedError(this.#address)
    if (options?.access === 'remote') return new RemoteNatsBucket(this.#host, shape, codec)
    const bucket = new NatsBucket(this.#host, shape, codec)
    if (options) {
      return {
        name: bucket.name,
        watch: (prefix, { signal }) => bucket.watchBlindly(prefix, { signal }),
      }
    }
    await this.#untilThere(() => bucket.lastRevision())
    return bucket
  }

  /** A server that starts, reads its configuration anew or has no leader yet says that it has no streams. */
  async #untilThere(look: () => Promise<unknown>): Promise<void> {
    const giveUpAt = performance.now() + OPEN_PATIENCE_MS
    while (true) {
      try {
        await look()
        return
      } catch (error) {
        const isPassing = error instanceof UnavailableError && this.#state !== 'closed'
        if (!isPassing || performance.now() >= giveUpAt) throw error
      }
      await delay(Math.random() * CONNECT_PAUSE_MAX_MS)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#freshness[Symbol.dispose]()
    if (!this.#connection.isClosed()) {
      // Draining waits for a server, and there may be none, or none any more.
      if (this.#state === 'connected') {
        const drained = this.#connection.drain().catch(() => undefined)
        // A connection that is lost meanwhile may never say that it is drained.
        await Promise.race([drained, delay(DRAIN_MAX_MS, undefined, { ref: false })])
      }
      if (!this.#connection.isClosed()) await this.#connection.close()
    }
    await this.#ends[Symbol.asyncDispose]()
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

/**
 * Connects again soon after the credentials were renewed, and at once when the server's certificate ends or was revoked: what a
 * connection rests on is never older than its certificates.
 */
function keepFresh(
  connection: NatsConnection,
  server: Server,
  { credentials, reconnectPauseMaxMs = RECONNECT_PAUSE_MAX_MS }: ConnectOptions,
): Disposable {
  let timer: NodeJS.Timeout | undefined
  const reconnect = (): void => void connection.reconnect().catch(() => undefined)
  const stop = credentials.onChange((what) => {
    if (what === 'renewed') {
      timer ??= setTimeout(() => {
        timer = undefined
        reconnect()
      }, Math.random() * reconnectPauseMaxMs)
    } else if (server.peer && credentials.isRevoked(server.peer.publicKey)) {
      reconnect()
    }
  })
  const expiry = setInterval(() => {
    if (server.peer && server.peer.notAfter.getTime() <= Date.now()) reconnect()
  }, SERVER_EXPIRY_CHECK_MS)
  expiry.unref()
  return {
    [Symbol.dispose]() {
      stop()
      clearTimeout(timer)
      clearInterval(expiry)
    },
  }
}

async function firstConnection(
  options: ConnectOptions,
  sockets: Sockets,
): Promise<{ readonly connection: NatsConnection; readonly server: Server }> {
  const { servers, name, signal, connectTimeoutMs = Infinity, log } = options
  const address = servers.join(',')
  const giveUpAt = performance.now() + connectTimeoutMs
  const identity = identityOf(options)
  const { inboxPrefix } = loginOf(identity)
  const server: Server = { peer: undefined }
  const onServer = (peer: Peer): void => {
    server.peer = peer
  }
  let isTold = false
  let refusals = 0
  while (true) {
    try {
      signal?.throwIfAborted()
      const connection = await connect({
        ...natsIdentity(identity, log, onServer, () => sockets.next()),
        servers: [...servers],
        name,
        inboxPrefix,
        timeout: CONNECT_TRY_TIMEOUT_MS,
        maxReconnectAttempts: -1,
        // A clock that was set back would let the client wait until it is as late again as it was: the pause is ours.
        reconnectDelayHandler: () => -Infinity,
        reconnectToServer: ([next]) => (next ? { server: next, delay: pauseBefore(next) } : null),
        ignoreAuthErrorAbort: true,
        pingInterval: 10_000,
        maxPingOut: 2,
      })
      return { connection, server }
    } catch (error) {
      if (signal?.aborted) throw new CancelledError({ what: `connecting to NATS at ${address}` })
      if (error instanceof errors.AuthorizationError && ++refusals === REFUSALS_MAX) {
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

/** None before a server is asked that was not asked lately. */
function pauseBefore(server: {
  readonly reconnects: number
  readonly lastConnect: number
}): number {
  const isLately = Math.abs(Date.now() - server.lastConnect) < CONNECT_PAUSE_MAX_MS
  return server.reconnects > 0 || isLately ? Math.random() * CONNECT_PAUSE_MAX_MS : 0
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

function identityOf({ credentials, login }: ConnectOptions): BusIdentity {
  return { credentials, login }
}

/** A host's are for it alone: what it may do on the bus names them. */
function consumerNamesOf({ credentials, login, name }: ConnectOptions): ConsumerNames {
  const { identity } = credentials
  if (identity.kind === 'host' && !login) return { fixed: hostConsumerNames(identity.id) }
  return { prefix: tokenOf(name) }
}

/** A name as one token of a subject. */
function tokenOf(name: string): string {
  return name.replaceAll(/[^\w-]/g, '_')
}
