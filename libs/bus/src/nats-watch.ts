import { randomUUID } from 'node:crypto'
import { createInbox, type Msg, type NatsConnection } from '@nats-io/transport-node'
import type { Logger } from '@weft/telemetry'
import { BatchQueue } from './batch-queue.ts'
import type {
  BucketShape,
  Codec,
  ResetReason,
  WatchBatch,
  WatchEvent,
  WatchOptions,
} from './bus.ts'
import { EventReader } from './event-reader.ts'
import {
  deliveryPlace,
  isDeletion,
  type JetStream,
  type Start,
  type StreamInfo,
} from './jetstream.ts'
import { keySubject } from './server-subjects.ts'
import { WatchRetry } from './watch-retry.ts'

/** A consumer that says nothing for two and a half heartbeats is gone. */
const HEARTBEATS_MISSED_MAX = 2.5

/** A watch that was cut off for a longer part of the time for which deletions are remembered starts anew. */
const RESUME_MAX_PART = 0.1

/** What the consumers of a client are called. */
export type ConsumerNames =
  /** As it likes: begins with this, for whoever looks at the server. Nobody can guess the rest, and change the consumer. */
  | { readonly prefix: string }
  /** One of these, which are for no other client: so it has at most so many. */
  | { readonly fixed: readonly string[] }

export interface WatchSource<T> {
  readonly connection: NatsConnection
  readonly jetStream: JetStream
  readonly shape: BucketShape
  readonly codec: Codec<T>
  readonly log: Logger
  readonly consumerNames: ConsumerNames
  readonly inboxPrefix: string
  readonly heartbeatMs: number
  /** Answers the stream, which it makes if it is not there; undefined for whoever may not ask. */
  readonly stream: (() => Promise<StreamInfo>) | undefined
  /** Calls back when the connection was lost and is there again. */
  onReconnect(listener: () => void): () => void
}

/** Where a watch stands: in which incarnation of the stream, and up to where all is told. */
export interface Cursor {
  /** Undefined for whoever may not ask, and while there is none. */
  created: string | undefined
  revision: bigint
  /** False until the end of the snapshot was told. */
  isComplete: boolean
  aliveAt: number
}

type Received = {
  readonly subject: string
  readonly data: Uint8Array
  readonly isDeletion: boolean
}

/** One delivery, or the end of the snapshot, as it stands in the queue until it is taken. */
type Queued = { readonly message: Received | undefined; readonly revision: bigint }

/**
 * Implements `Bucket.watch` on one push consumer at a time: it has one filter, delivers the last message of each key first,
 * and sends heartbeats that tell its last delivery. Whatever is odd (a gap, silence, a reconnect, a missing stream) ends the
 * consumer; the next one goes on from the cursor if the stream is surely the same one, else the caller is told `reset`.
 */
export async function* watchBucket<T>(
  source: WatchSource<T>,
  prefix: string,
  options: WatchOptions,
): AsyncGenerator<WatchBatch<T>, void, undefined> {
  const { signal } = options
  const { shape, codec, log } = source
  const reader = new EventReader(shape, codec, log)
  const retry = new WatchRetry(shape.name, prefix, log, signal)
  let cursor: Cursor | undefined
  while (!signal.aborted) {
    try {
      await using session = await WatchSession.open(source, prefix, cursor, options)
      if (session.reset) yield [{ kind: 'reset', reason: session.reset }]
      cursor = session.cursor
      for await (const batch of session.batches()) {
        retry.succeeded()
        const events = batch.map((queued) => eventOf(queued, shape, reader))
        cursor.revision = batch.at(-1)?.revision ?? cursor.revision
        cursor.isComplete ||= events.some(({ kind }) => kind === 'snapshot-end')
        yield events
      }
    } catch (error) {
      retry.failed(error)
    }
    await retry.pause()
  }
}

class WatchSession implements AsyncDisposable {
  readonly cursor: Cursor
  readonly reset: ResetReason | undefined
  readonly #queue = new BatchQueue<Queued>()
  readonly #stack: AsyncDisposableStack
  readonly #signal: AbortSignal
  #endedBy: string | undefined
  #lastConsumerSequence = 0
  #heldFlowControl: Msg | undefined
  /** Deliveries until the snapshot is complete; undefined when it is, or when there is none. */
  #snapshotLeft: number | undefined
  #snapshotRevision = 0n

  private constructor(
    stack: AsyncDisposableStack,
    cursor: Cursor,
    reset: ResetReason | undefined,
    signal: AbortSignal,
  ) {
    this.#stack = stack
    this.cursor = cursor
    this.reset = reset
    this.#signal = signal
  }

  static async open<T>(
    source: WatchSource<T>,
    prefix: string,
    previous: Cursor | undefined,
    { signal, known }: WatchOptions,
  ): Promise<WatchSession> {
    const { connection, jetStream, shape } = source
    await using opening = new AsyncDisposableStack()
    const stack = new AsyncDisposableStack()
    opening.use(stack)
    // Asked before the stream is: what is known by then is in it.
    const knownRevision = known?.() ?? 0n
    const info = await source.stream?.()
    const reset = previous && resetReason(previous, info, shape, knownRevision)
    const isResumed = previous !== undefined && reset === undefined
    const session = new WatchSession(stack, isResumed ? previous : newCursor(info), reset, signal)
    const end = (reason: string) => (): void => session.#end(reason)
    const abort = end('aborted')
    signal.addEventListener('abort', abort, { once: true })
    stack.defer(() => signal.removeEventListener('abort', abort))
    // A signal says nothing to who listens after it was aborted: while the stream was asked.
    if (signal.aborted) abort()
    stack.defer(source.onReconnect(end('reconnected')))
    // Made first: nothing is delivered before the loop below has set up how to read it.
    const deliverSubject = createInbox(source.inboxPrefix)
    const early: Msg[] = []
    let receive = (message: Msg): void => void early.push(message)
    const subscription = connection.subscribe(deliverSubject, {
      callback: (error, message) => (error ? session.#end(error.message) : receive(message)),
    })
    stack.defer(() => subscription.unsubscribe())
    const start: Start = isResumed ? { sequence: previous.revision + 1n } : 'last_per_subject'
    const filter = keySubject(shape.name, prefix === '' ? '>' : `${prefix}.>`)
    const consumer = await jetStream.createConsumer({
      bucket: shape.name,
      name: await freeName(source),
      filter,
      deliverSubject,
      start,
      heartbeatMs: source.heartbeatMs,
    })
    // A stream that was replaced between the two calls would have its cursor mixed up.
    const check = info && (await jetStream.streamInfo(shape.name))
    if (check?.created !== info?.created) throw new Error('the bucket was replaced meanwhile')
    if (!isResumed) {
      session.#snapshotRevision = BigInt(info?.state.last_seq ?? 0)
      session.#snapshotLeft = consumer.num_pending + consumer.delivered.consumer_seq
      if (session.#snapshotLeft === 0) session.#endSnapshot()
    }
    receive = (message) => session.#receive(message)
    for (const message of early) session.#receive(message)
    const watchdog = setInterval(() => {
      const silentMs = performance.now() - session.cursor.aliveAt
      if (silentMs > source.heartbeatMs * HEARTBEATS_MISSED_MAX) session.#end('silent')
    }, source.heartbeatMs / 2)
    session.cursor.aliveAt = performance.now()
    stack.defer(() => clearInterval(watchdog))
    opening.move()
    return session
  }

  async *batches(): AsyncGenerator<Queued[], void, undefined> {
    while (this.#endedBy === undefined) {
      await this.#queue.filled()
      // What came before the end is good; what is lost after it comes again by the cursor.
      const batch = this.#signal.aborted ? [] : this.#queue.take()
      if (batch.length > 0) yield batch
      if (this.#queue.size === 0) {
        this.#heldFlowControl?.respond()
        this.#heldFlowControl = undefined
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync()
  }

  #end(reason: string): void {
    this.#endedBy ??= reason
    this.#queue.interrupt()
  }

  #receive(message: Msg): void {
    if (this.#endedBy !== undefined) return
    this.cursor.aliveAt = performance.now()
    if (message.headers?.code === 100) {
      this.#control(message)
      return
    }
    const { streamSequence, consumerSequence } = deliveryPlace(message.reply ?? '')
    if (consumerSequence !== this.#lastConsumerSequence + 1) {
      this.#end('a delivery was lost')
      return
    }
    this.#lastConsumerSequence = consumerSequence
    const deletes = isDeletion(message)
    // A deletion in a snapshot tells of a key that the caller never saw.
    if (!deletes || this.#snapshotLeft === undefined) {
      const received = { subject: message.subject, data: message.data, isDeletion: deletes }
      this.#queue.push({ message: received, revision: streamSequence })
    }
    if (this.#snapshotLeft === undefined) return
    if (streamSequence > this.#snapshotRevision) this.#snapshotRevision = streamSequence
    this.#snapshotLeft--
    if (this.#snapshotLeft === 0) this.#endSnapshot()
  }

  /** Heartbeats and flow control (NATS ADR-4 and ADR-17). A request to go on is answered when all before it is taken: so much waits here at most as the server lets run ahead. */
  #control(message: Msg): void {
    const lastDelivered = message.headers?.get('Nats-Last-Consumer')
    if (lastDelivered && Number(lastDelivered) !== this.#lastConsumerSequence) {
      this.#end('a delivery was lost')
    } else if (message.reply) {
      if (this.#queue.size === 0) message.respond()
      else this.#heldFlowControl = message
    }
  }

  #endSnapshot(): void {
    this.#snapshotLeft = undefined
    this.#queue.push({ message: undefined, revision: this.#snapshotRevision })
  }
}

/** A name that no consumer has; one of ours that a session before has left behind is removed. */
async function freeName<T>({ consumerNames, jetStream, shape }: WatchSource<T>): Promise<string> {
  if ('prefix' in consumerNames) return `${consumerNames.prefix}-${randomUUID()}`
  const { fixed } = consumerNames
  const name = fixed[nextName++ % fixed.length]
  if (name === undefined) throw new RangeError('there are no names for consumers')
  await jetStream.deleteConsumer(shape.name, name)
  return name
}

/** Not the same one at each start: the process before may still be at work with it. */
let nextName = Math.floor(Math.random() * 1000)

function eventOf<T>(
  { message, revision }: Queued,
  shape: BucketShape,
  reader: EventReader<T>,
): WatchEvent<T> {
  if (!message) return { kind: 'snapshot-end', revision }
  const key = message.subject.slice(keySubject(shape.name, '').length)
  if (message.isDeletion) return { kind: 'delete', key, revision }
  return reader.read(key, message.data, revision)
}

/** Of a watch that begins. */
export function newCursor(info: StreamInfo | undefined): Cursor {
  return { created: info?.created, revision: 0n, isComplete: false, aliveAt: performance.now() }
}

/** Why all has to be told again; undefined if the watch can go on from the cursor. */
export function resetReason(
  cursor: Cursor,
  info: StreamInfo | undefined,
  shape: BucketShape,
  knownRevision: bigint,
): ResetReason | undefined {
  if (!info) return 'missed'
  if (info.created !== cursor.created) return 'recreated'
  const last = BigInt(info.state.last_seq)
  if (last < cursor.revision || last < knownRevision) return 'rewound'
  const awayMs = performance.now() - cursor.aliveAt
  const isResumable = cursor.isComplete && awayMs <= shape.deletionTtlMs * RESUME_MAX_PART
  return isResumable ? undefined : 'missed'
}
