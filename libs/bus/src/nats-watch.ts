import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { createInbox, type Msg, type NatsConnection } from '@nats-io/transport-node'
import { counter, type Logger } from '@weft/telemetry'
import { BatchQueue } from './batch-queue.ts'
import type { BucketShape, Codec, ResetReason, WatchBatch, WatchEvent } from './bus.ts'
import { decodeValue } from './checks.ts'
import {
  deliveryPlace,
  isDeletion,
  type JetStream,
  keySubject,
  type Start,
  type StreamInfo,
  streamName,
} from './jetstream.ts'

/** A consumer that says nothing for two and a half heartbeats is gone. */
const HEARTBEATS_MISSED_MAX = 2.5

/** A watch that was cut off for a longer part of the time for which deletions are remembered starts anew. */
const RESUME_MAX_PART = 0.1

/** Pause before a watch is set up again: full jitter up to this, doubling from `RETRY_MIN_MS`. */
const RETRY_MIN_MS = 100
const RETRY_MAX_MS = 5000

const restartsTotal = counter<'bucket'>({
  name: 'weft_bus_watch_restarts_total',
  help: 'Times that a watch was set up again, by bucket',
  labels: ['bucket'],
})

export interface WatchSource<T> {
  readonly connection: NatsConnection
  readonly jetStream: JetStream
  readonly shape: BucketShape
  readonly codec: Codec<T>
  readonly log: Logger
  /** Begins the names of consumers, so that an allow-list can be written. */
  readonly clientName: string
  readonly inboxPrefix: string
  readonly heartbeatMs: number
  /** Answers the stream, which it makes if it is not there. */
  ensureStream(): Promise<StreamInfo>
  /** Calls back when the connection was lost and is there again. */
  onReconnect(listener: () => void): () => void
}

/** Where a watch stands: in which incarnation of the stream, and up to where all is told. */
interface Cursor {
  readonly created: string
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
 * consumer; the next one goes on from the cursor if the stream is still the same one, else the caller is told `reset`.
 */
export async function* watchBucket<T>(
  source: WatchSource<T>,
  prefix: string,
  signal: AbortSignal,
): AsyncGenerator<WatchBatch<T>, void, undefined> {
  const { shape, log } = source
  let cursor: Cursor | undefined
  let failures = 0
  while (!signal.aborted) {
    try {
      await using session = await WatchSession.open(source, prefix, cursor, signal)
      if (session.reset) yield [{ kind: 'reset', reason: session.reset }]
      cursor = session.cursor
      for await (const batch of session.batches()) {
        failures = 0
        const events = batch.map((queued) => eventOf(source, queued))
        cursor.revision = batch.at(-1)?.revision ?? cursor.revision
        cursor.isComplete ||= events.some(({ kind }) => kind === 'snapshot-end')
        yield events
      }
    } catch (error) {
      if (error instanceof Damaged) throw error.cause
      log.debug({ err: error, bucket: shape.name, prefix }, 'a watch could not be set up')
    }
    if (signal.aborted) return
    restartsTotal.add(1, { bucket: shape.name })
    const pauseMs = Math.random() * Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** failures)
    failures = Math.min(failures + 1, 10)
    await delay(pauseMs, undefined, { signal }).catch(() => undefined)
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
    signal: AbortSignal,
  ): Promise<WatchSession> {
    const { connection, jetStream, shape } = source
    await using opening = new AsyncDisposableStack()
    const stack = new AsyncDisposableStack()
    opening.use(stack)
    const info = await source.ensureStream()
    const reset = previous && resetReason(previous, info, shape)
    const isResumed = previous !== undefined && reset === undefined
    const session = new WatchSession(stack, isResumed ? previous : newCursor(info), reset, signal)
    const end = (reason: string) => (): void => session.#end(reason)
    const abort = end('aborted')
    signal.addEventListener('abort', abort, { once: true })
    stack.defer(() => signal.removeEventListener('abort', abort))
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
      stream: streamName(shape.name),
      name: `${source.clientName}-${randomUUID().slice(0, 13)}`,
      filter,
      deliverSubject,
      start,
      heartbeatMs: source.heartbeatMs,
    })
    // A stream that was replaced between the two calls would have its cursor mixed up.
    const check = await jetStream.streamInfo(streamName(shape.name))
    if (check.created !== info.created) throw new Error('the bucket was replaced meanwhile')
    if (!isResumed) {
      session.#snapshotRevision = BigInt(info.state.last_seq)
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

/** A value that no codec reads ends the watch with its error. */
class Damaged extends Error {}

function eventOf<T>(
  { shape, codec }: WatchSource<T>,
  { message, revision }: Queued,
): WatchEvent<T> {
  if (!message) return { kind: 'snapshot-end', revision }
  const key = message.subject.slice(keySubject(shape.name, '').length)
  if (message.isDeletion) return { kind: 'delete', key, revision }
  try {
    return { kind: 'put', key, value: decodeValue(shape, key, codec, message.data), revision }
  } catch (cause) {
    throw new Damaged('damaged', { cause })
  }
}

function newCursor(info: StreamInfo): Cursor {
  return { created: info.created, revision: 0n, isComplete: false, aliveAt: performance.now() }
}

function resetReason(
  cursor: Cursor,
  info: StreamInfo,
  shape: BucketShape,
): ResetReason | undefined {
  if (info.created !== cursor.created) return 'recreated'
  if (BigInt(info.state.last_seq) < cursor.revision) return 'rewound'
  const awayMs = performance.now() - cursor.aliveAt
  const isResumable = cursor.isComplete && awayMs <= shape.deletionTtlMs * RESUME_MAX_PART
  return isResumable ? undefined : 'missed'
}
