import {
  CancelledError,
  DeadlineExceededError,
  fromWire,
  LimitReachedError,
  RevisionConflictError,
  toWire,
  UnavailableError,
} from '@weft/errors'
import { createLogger, type Logger } from '@weft/telemetry'
import { BatchQueue } from './batch-queue.ts'
import type {
  Bucket,
  BucketFill,
  BucketShape,
  Bus,
  BusState,
  Codec,
  Delivery,
  Entry,
  RemoteBucket,
  RequestCodecs,
  RequestOptions,
  SubscribeOptions,
  Subscription,
  WatchBatch,
  WatchEvent,
  WatchedBucket,
  WatchOptions,
  WriteOptions,
  Written,
} from './bus.ts'
import {
  checkDeletable,
  checkKey,
  closedError,
  decodeValue,
  encodeMessage,
  encodeValue,
} from './checks.ts'
import { EventReader } from './event-reader.ts'
import { HandlerQueue } from './handler-queue.ts'
import { isUnderPrefix, type Subject, type SubjectPattern } from './subjects.ts'

/** A bus inside this process, for tests: what is connected to it meets as on one NATS server. */
export interface MemoryBus {
  /** One more client. */
  connect(): Bus
  /** Loses a bucket, as a restart of the server loses one in memory. */
  dropBucket(name: string): void
  /** Cuts all clients off, or lets them back. */
  setReachable(isReachable: boolean): void
}

/** Makes an empty one. */
export function memoryBus(): MemoryBus {
  return new Hub()
}

const ADDRESS = 'memory'
const REQUEST_TIMEOUT_DEFAULT_MS = 2000

interface Packet {
  readonly subject: string
  readonly payload: Uint8Array
  readonly answer?: (payload: Uint8Array | Error) => void
}

interface Listener {
  readonly pattern: readonly string[]
  readonly queue: string | undefined
  deliver(packet: Packet): void
}

class Hub implements MemoryBus {
  readonly listeners = new Set<Listener>()
  readonly stores = new Map<string, Store>()
  readonly clients = new Set<MemoryClient>()
  isReachable = true
  #turn = 0

  connect(): Bus {
    const client = new MemoryClient(this)
    this.clients.add(client)
    return client
  }

  dropBucket(name: string): void {
    const store = this.stores.get(name)
    this.stores.delete(name)
    store?.lose()
  }

  setReachable(isReachable: boolean): void {
    this.isReachable = isReachable
    for (const client of this.clients) client.changed()
  }

  store(shape: BucketShape): Store {
    const store = this.stores.get(shape.name) ?? new Store(shape)
    this.stores.set(shape.name, store)
    return store
  }

  /** Delivers in a later turn, as a network does. Answers how many will get it. */
  send(packet: Packet): number {
    const receivers = this.#receivers(packet.subject.split('.'))
    for (const receiver of receivers) setImmediate(() => receiver.deliver(packet))
    return receivers.length
  }

  /** All without a queue, and one of each queue. */
  #receivers(subject: readonly string[]): Listener[] {
    const receivers: Listener[] = []
    const queues = new Map<string, Listener[]>()
    for (const listener of this.listeners) {
      if (!matches(listener.pattern, subject)) continue
      if (listener.queue === undefined) receivers.push(listener)
      else queues.set(listener.queue, [...(queues.get(listener.queue) ?? []), listener])
    }
    for (const members of queues.values()) {
      const chosen = members[this.#turn++ % members.length]
      if (chosen) receivers.push(chosen)
    }
    return receivers
  }
}

class MemoryClient implements Bus {
  readonly #hub: Hub
  readonly log: Logger = createLogger({ service: 'memory-bus', level: 'silent' })
  readonly #listeners = new Set<(state: BusState) => void>()
  readonly #subscriptions = new Set<Subscription>()
  #isClosed = false

  constructor(hub: Hub) {
    this.#hub = hub
  }

  get state(): BusState {
    if (this.#isClosed) return 'closed'
    return this.#hub.isReachable ? 'connected' : 'disconnected'
  }

  onStateChange(listener: (state: BusState) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Tells the listeners. */
  changed(): void {
    for (const listener of this.#listeners) listener(this.state)
  }

  publish<T>(subject: Subject, codec: Codec<T>, message: T): void {
    const payload = encodeMessage(subject, codec, message)
    if (this.#isClosed) throw closedError(ADDRESS)
    if (this.#hub.isReachable) this.#hub.send({ subject, payload })
  }

  async request<Q, A>(
    subject: Subject,
    codecs: RequestCodecs<Q, A>,
    message: Q,
    options: RequestOptions = {},
  ): Promise<A> {
    const { timeoutMs = REQUEST_TIMEOUT_DEFAULT_MS, signal } = options
    const payload = encodeMessage(subject, codecs.request, message)
    this.checkReachable()
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>()
    const answer = (reply: Uint8Array | Error): void =>
      reply instanceof Error ? reject(reply) : resolve(reply)
    if (this.#hub.send({ subject, payload, answer }) === 0) {
      throw unavailable(`nobody listens on ${subject}`)
    }
    const what = `the request ${subject}`
    const timer = setTimeout(
      () => reject(new DeadlineExceededError({ what, timeoutMs })),
      timeoutMs,
    )
    const cancel = (): void => reject(new CancelledError({ what }))
    signal?.addEventListener('abort', cancel, { once: true })
    try {
      return codecs.reply.decode(await promise)
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener('abort', cancel)
    }
  }

  subscribe<T>(
    pattern: SubjectPattern,
    codec: Codec<T>,
    handler: (message: T, delivery: Delivery) => void | Promise<void>,
    options: SubscribeOptions = {},
  ): Subscription {
    return this.#listen(pattern, options, async ({ subject, payload }) => {
      await handler(codec.decode(payload), { subject })
    })
  }

  respond<Q, A>(
    pattern: SubjectPattern,
    codecs: RequestCodecs<Q, A>,
    handler: (message: Q, delivery: Delivery) => A | Promise<A>,
    options: SubscribeOptions = {},
  ): Subscription {
    return this.#listen(pattern, options, async ({ subject, payload, answer }) => {
      try {
        const reply = await handler(codecs.request.decode(payload), { subject })
        answer?.(encodeMessage(`answer to ${subject}`, codecs.reply, reply))
      } catch (error) {
        answer?.(fromWire(toWire(error)))
        throw error
      }
    })
  }

  async ping(): Promise<void> {
    this.checkReachable()
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
  ): Promise<Bucket<T> | WatchedBucket<T>> {
    if (!options) this.checkReachable()
    if (this.#isClosed) throw closedError(ADDRESS)
    this.#hub.store(shape)
    const bucket = new MemoryBucket(this.#hub, this, shape, codec)
    if (options?.access !== 'watch') return bucket
    return { name: bucket.name, watch: (prefix, { signal }) => bucket.watchBlindly(prefix, signal) }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true
    this.#hub.clients.delete(this)
    await Promise.all([...this.#subscriptions].map((one) => one[Symbol.asyncDispose]()))
    this.changed()
  }

  checkReachable(): void {
    if (this.#isClosed) throw closedError(ADDRESS)
    if (!this.#hub.isReachable) throw unavailable('the connection is lost')
  }

  #listen(
    pattern: SubjectPattern,
    options: SubscribeOptions,
    handle: (packet: Packet) => Promise<void>,
  ): Subscription {
    const queue = new HandlerQueue(pattern, handle, options, this.log)
    const listener: Listener = {
      pattern: pattern.split('.'),
      queue: options.queue,
      deliver: (packet) => queue.push(packet, packet.payload.byteLength),
    }
    this.#hub.listeners.add(listener)
    const subscription: Subscription = {
      [Symbol.asyncDispose]: async () => {
        this.#hub.listeners.delete(listener)
        this.#subscriptions.delete(subscription)
        await queue.settled()
      },
    }
    this.#subscriptions.add(subscription)
    return subscription
  }
}

/** `bytes` are undefined for a deletion. */
interface StoredValue {
  readonly bytes: Uint8Array | undefined
  readonly revision: bigint
}

interface StoredChange extends StoredValue {
  readonly key: string
}

/** The stream of one bucket: what is written keeps its last value for each key and a number among all writes. */
class Store {
  readonly values = new Map<string, StoredValue>()
  readonly watchers = new Set<{ change(change: StoredChange): void; lose(): void }>()
  readonly #shape: BucketShape
  /** Of idempotency keys, with when they were seen. */
  readonly #revisions = new Map<string, { readonly revision: bigint; readonly atMs: number }>()
  lastRevision = 0n
  #sizeBytes = 0

  constructor(shape: BucketShape) {
    this.#shape = shape
  }

  get sizeBytes(): number {
    return this.#sizeBytes
  }

  /** In the order in which a server checks: what is expected, then idempotency, then space. */
  write(key: string, bytes: Uint8Array | undefined, options: WriteOptions): Written {
    const { idempotencyKey, expectedBucketRevision, expectedKeyRevision } = options
    const expect = (what: string, expected: bigint | undefined, actual: bigint): void => {
      if (expected !== undefined && expected !== actual) {
        throw new RevisionConflictError({ what, expected, actual })
      }
    }
    const { name, sizeMaxBytes, duplicateWindowMs } = this.#shape
    const present = this.values.get(key)
    const isFree = expectedKeyRevision === 0n && present?.bytes === undefined
    expect(`bucket ${name}`, expectedBucketRevision, this.lastRevision)
    if (!isFree) expect(`${name}/${key}`, expectedKeyRevision, present?.revision ?? 0n)
    const nowMs = performance.now()
    const seen = idempotencyKey === undefined ? undefined : this.#revisions.get(idempotencyKey)
    if (seen && nowMs - seen.atMs <= duplicateWindowMs) {
      return { revision: seen.revision, isDuplicate: true }
    }
    const sizeBytes = this.#sizeBytes + (bytes?.byteLength ?? 0) - (present?.bytes?.byteLength ?? 0)
    if (sizeBytes > sizeMaxBytes) {
      throw new LimitReachedError({ what: `bytes in bucket ${name}`, limit: sizeMaxBytes })
    }
    this.#sizeBytes = sizeBytes
    const revision = this.#store(key, bytes)
    if (idempotencyKey !== undefined) this.#revisions.set(idempotencyKey, { revision, atMs: nowMs })
    return { revision, isDuplicate: false }
  }

  lose(): void {
    for (const watcher of this.watchers) watcher.lose()
  }

  #store(key: string, bytes: Uint8Array | undefined): bigint {
    this.lastRevision++
    const revision = this.lastRevision
    this.values.delete(key)
    this.values.set(key, { bytes, revision })
    for (const watcher of this.watchers) watcher.change({ key, bytes, revision })
    return revision
  }
}

class MemoryBucket<T> implements Bucket<T> {
  readonly name: string
  readonly #hub: Hub
  readonly #client: MemoryClient
  readonly #shape: BucketShape
  readonly #codec: Codec<T>
  readonly #events: EventReader<T>

  constructor(hub: Hub, client: MemoryClient, shape: BucketShape, codec: Codec<T>) {
    this.name = shape.name
    this.#hub = hub
    this.#client = client
    this.#shape = shape
    this.#codec = codec
    this.#events = new EventReader(shape, codec, client.log)
  }

  async get(key: string): Promise<Entry<T> | undefined> {
    await this.#reach()
    const stored = this.#hub.store(this.#shape).values.get(key)
    if (!stored?.bytes) return undefined
    const value = decodeValue(this.#shape, key, this.#codec, stored.bytes)
    return { key, value, revision: stored.revision }
  }

  async put(key: string, value: T, options: WriteOptions = {}): Promise<Written> {
    checkKey(key)
    const bytes = encodeValue(this.#shape, key, this.#codec, value)
    await this.#reach()
    return this.#hub.store(this.#shape).write(key, bytes, options)
  }

  async delete(key: string, options: WriteOptions = {}): Promise<Written> {
    checkKey(key)
    checkDeletable(this.#shape)
    await this.#reach()
    return this.#hub.store(this.#shape).write(key, undefined, options)
  }

  async lastRevision(): Promise<bigint> {
    await this.#reach()
    return this.#hub.store(this.#shape).lastRevision
  }

  async fill(): Promise<BucketFill> {
    await this.#reach()
    const { sizeBytes } = this.#hub.store(this.#shape)
    return { sizeBytes, sizeMaxBytes: this.#shape.sizeMaxBytes }
  }

  watch(prefix: string, { signal }: WatchOptions): AsyncIterable<WatchBatch<T>> {
    return this.#watch(prefix, signal, false)
  }

  /** The same for whoever may ask for nothing but a watch: each interruption begins it anew. */
  watchBlindly(prefix: string, signal: AbortSignal): AsyncIterable<WatchBatch<T>> {
    return this.#watch(prefix, signal, true)
  }

  async *#watch(
    prefix: string,
    signal: AbortSignal,
    isBlind: boolean,
  ): AsyncGenerator<WatchBatch<T>, void, undefined> {
    let isFirst = true
    while (!signal.aborted) {
      await this.#untilReachable(signal)
      const store = this.#hub.store(this.#shape)
      const queue = new BatchQueue<WatchEvent<T>>()
      if (!isFirst) queue.push({ kind: 'reset', reason: isBlind ? 'missed' : 'recreated' })
      isFirst = false
      for (const [key, { bytes, revision }] of store.values) {
        if (bytes && isUnderPrefix(key, prefix)) queue.push(this.#event({ key, bytes, revision }))
      }
      queue.push({ kind: 'snapshot-end', revision: store.lastRevision })
      const lost = new AbortController()
      const watcher = {
        change: (change: StoredChange): void => {
          if (isUnderPrefix(change.key, prefix)) queue.push(this.#event(change))
        },
        lose: (): void => {
          lost.abort()
          queue.interrupt()
        },
      }
      store.watchers.add(watcher)
      const interrupt = (): void => queue.interrupt()
      signal.addEventListener('abort', interrupt, { once: true })
      const unhear = this.#client.onStateChange(() => {
        if (isBlind) watcher.lose()
      })
      try {
        while (!signal.aborted && !lost.signal.aborted) {
          await queue.filled()
          // What was written while the client was cut off comes when it is back.
          await this.#untilReachable(signal)
          const batch = signal.aborted || lost.signal.aborted ? [] : queue.take()
          if (batch.length > 0) yield batch
        }
      } finally {
        unhear()
        store.watchers.delete(watcher)
        signal.removeEventListener('abort', interrupt)
      }
    }
  }

  #event({ key, bytes, revision }: StoredChange): WatchEvent<T> {
    if (!bytes) return { kind: 'delete', key, revision }
    return this.#events.read(key, bytes, revision)
  }

  /** A turn of the event loop, as a network takes one, so that writers race as they do in life. */
  async #reach(): Promise<void> {
    await new Promise(setImmediate)
    this.#client.checkReachable()
  }

  async #untilReachable(signal: AbortSignal): Promise<void> {
    while (this.#client.state === 'disconnected' && !signal.aborted) {
      const { promise, resolve } = Promise.withResolvers<void>()
      const stop = this.#client.onStateChange(() => resolve())
      const abort = (): void => resolve()
      signal.addEventListener('abort', abort, { once: true })
      await promise
      signal.removeEventListener('abort', abort)
      stop()
    }
  }
}

function matches(pattern: readonly string[], subject: readonly string[]): boolean {
  return (
    pattern.length === subject.length &&
    pattern.every((token, index) => token === '*' || token === subject[index])
  )
}

function unavailable(problem: string): UnavailableError {
  return new UnavailableError({ service: 'nats', address: ADDRESS, problem })
}
