import { setTimeout as delay } from 'node:timers/promises'
import { createInbox, type NatsConnection } from '@nats-io/transport-node'
import type { Logger } from '@weft/telemetry'
import { BatchQueue } from './batch-queue.ts'
import {
  type BucketShape,
  type Codec,
  WATCH_BATCH_MAX,
  type WatchBatch,
  type WatchEvent,
  type WatchOptions,
} from './bus.ts'
import { EventReader } from './event-reader.ts'
import type { StoredMessage, StreamInfo } from './jetstream.ts'
import { type Cursor, newCursor, resetReason } from './nats-watch.ts'
import { type RemoteStream, storedMessage } from './remote-stream.ts'
import { keySubject, remoteReading } from './server-subjects.ts'
import { isUnderPrefix } from './subjects.ts'
import { WatchRetry } from './watch-retry.ts'

/** Messages that were told and wait to be taken; beyond either they are dropped, and read from the stream instead. */
const HEARD_MAX = 8192
const HEARD_MAX_BYTES = 8 * 1024 * 1024
/** Until a server that is behind the leader is asked again. */
const BEHIND_PAUSE_MS = 20

export interface RemoteWatchSource<T> {
  readonly connection: NatsConnection
  readonly stream: RemoteStream
  readonly shape: BucketShape
  readonly codec: Codec<T>
  readonly log: Logger
  readonly inboxPrefix: string
  /** How often it is looked whether something was not heard. */
  readonly heartbeatMs: number
  /** Calls back when the connection was lost and is there again. */
  onReconnect(listener: () => void): () => void
}

/**
 * Implements `Bucket.watch` for a bucket of another account. The server tells every message of its stream once it is stored,
 * with its sequence; what was before, and what was not heard, is read from the stream. Sequences have no gaps, so
 * nothing is missed, and once in a heartbeat the leader is asked for the last one.
 *
 * A bucket that nobody has made yet is empty.
 */
export async function* watchRemotely<T>(
  source: RemoteWatchSource<T>,
  prefix: string,
  { signal, known }: WatchOptions,
): AsyncGenerator<WatchBatch<T>, void, undefined> {
  const { shape, codec, log } = source
  const events = new EventReader(shape, codec, log)
  const retry = new WatchRetry(shape.name, prefix, log, signal)
  let cursor: Cursor | undefined
  while (!signal.aborted) {
    try {
      const knownRevision = known?.() ?? 0n
      const info = await source.stream.info()
      // Whoever keeps it makes it again, or its server is on its way back.
      if (!info && cursor?.created !== undefined) throw new Error('the bucket is not there')
      if (cursor) cursor.created ??= info?.created
      const reset = cursor && info && resetReason(cursor, info, shape, knownRevision)
      if (!cursor || reset) cursor = newCursor(info)
      if (reset) yield [{ kind: 'reset', reason: reset }]
      using session = new RemoteSession(source, cursor, signal)
      for await (const batch of session.batches()) {
        retry.succeeded()
        const told = batch.flatMap((queued) => eventOf(queued, shape, prefix, events))
        if (told.length > 0) yield told
      }
    } catch (error) {
      retry.failed(error)
    }
    await retry.pause()
  }
}

/** A message, or the end of the snapshot. */
type Told = StoredMessage | { readonly snapshotEnd: bigint }

class RemoteSession<T> implements Disposable {
  readonly #source: RemoteWatchSource<T>
  readonly #cursor: Cursor
  readonly #heard = new BatchQueue<StoredMessage>()
  readonly #stack = new DisposableStack()
  #heardBytes = 0
  /** Whether there is something to read that was not heard. */
  #isBehind = true
  #problem: Error | undefined
  #isEnded = false

  constructor(source: RemoteWatchSource<T>, cursor: Cursor, signal: AbortSignal) {
    this.#source = source
    this.#cursor = cursor
    const { connection, shape, heartbeatMs } = source
    const end = (): void => this.#end()
    signal.addEventListener('abort', end, { once: true })
    this.#stack.defer(() => signal.removeEventListener('abort', end))
    // A signal says nothing to who listens after it was aborted: while the stream was asked.
    if (signal.aborted) end()
    this.#stack.defer(source.onReconnect(end))
    const subscription = connection.subscribe(remoteReading.stored(shape.name, '>'), {
      callback: (error, message) => {
        if (error) this.#end(error)
        else this.#hear(() => storedMessage(message))
      },
    })
    this.#stack.defer(() => subscription.unsubscribe())
    const looking = setInterval(() => void this.#look(), heartbeatMs)
    this.#stack.defer(() => clearInterval(looking))
  }

  async *batches(): AsyncGenerator<readonly Told[], void, undefined> {
    while (!this.#isEnded) {
      if (this.#isBehind) {
        this.#isBehind = false
        yield* this.#read()
      } else {
        await this.#heard.filled()
        const batch = this.#isEnded ? [] : this.#next(this.#heard.take())
        if (batch.length > 0) yield batch
      }
    }
    if (this.#problem) throw this.#problem
  }

  [Symbol.dispose](): void {
    this.#stack.dispose()
  }

  /** All that is in the stream beyond the cursor. */
  async *#read(): AsyncGenerator<readonly Told[], void, undefined> {
    const { stream, inboxPrefix } = this.#source
    const cursor = this.#cursor
    const info = await this.#ask()
    const goal = BigInt(info?.state.last_seq ?? 0)
    for (let isAtEnd = info === undefined; !isAtEnd && !this.#isEnded; ) {
      const { messages, hasMore } = await stream.read(
        cursor.revision + 1n,
        createInbox(inboxPrefix),
      )
      const last = messages.at(-1)
      if (last) {
        cursor.revision = last.sequence
        // What was deleted before the snapshot began was never told.
        const told = cursor.isComplete
          ? messages
          : messages.filter((message) => !message.isDeletion || message.sequence > goal)
        for (let from = 0; from < told.length; from += WATCH_BATCH_MAX) {
          yield told.slice(from, from + WATCH_BATCH_MAX)
        }
      }
      if (hasMore) continue
      // Another server may have answered than the leader, and be behind it. The last messages may also be gone.
      isAtEnd = cursor.revision >= goal || !(await stream.hasFrom(cursor.revision + 1n))
      if (!isAtEnd && !last) await delay(BEHIND_PAUSE_MS)
    }
    if (this.#isEnded) return
    if (cursor.revision < goal) cursor.revision = goal
    cursor.aliveAt = performance.now()
    if (cursor.isComplete) return
    cursor.isComplete = true
    yield [{ snapshotEnd: cursor.revision }]
  }

  /** Of what was heard that which comes next; after a gap nothing, since it is read from the stream. */
  #next(heard: readonly StoredMessage[]): StoredMessage[] {
    const next: StoredMessage[] = []
    for (const message of heard) {
      this.#heardBytes -= message.data.byteLength
      // What comes after a gap is taken as well: it is among what is read then.
      if (this.#isBehind || message.sequence <= this.#cursor.revision) continue
      if (message.sequence !== this.#cursor.revision + 1n) {
        this.#isBehind = true
        continue
      }
      this.#cursor.revision = message.sequence
      next.push(message)
    }
    if (next.length > 0) this.#cursor.aliveAt = performance.now()
    return next
  }

  #hear(read: () => StoredMessage): void {
    try {
      const message = read()
      const sumBytes = this.#heardBytes + message.data.byteLength
      if (this.#heard.size >= HEARD_MAX || sumBytes > HEARD_MAX_BYTES) {
        this.#isBehind = true
      } else {
        this.#heardBytes = sumBytes
        this.#heard.push(message)
      }
    } catch (error) {
      this.#end(error as Error)
    }
  }

  /** Sees whether the last message was not heard, and whether the bucket is still the same. */
  async #look(): Promise<void> {
    try {
      const info = await this.#ask()
      this.#cursor.aliveAt = performance.now()
      if (!info || BigInt(info.state.last_seq) <= this.#cursor.revision) return
      this.#isBehind = true
      this.#heard.interrupt()
    } catch (error) {
      this.#end(error as Error)
    }
  }

  /** Throws if the bucket is not the same any more. */
  async #ask(): Promise<StreamInfo | undefined> {
    const { stream, shape } = this.#source
    // More may be heard before the answer comes.
    const { revision } = this.#cursor
    const info = await stream.info()
    if (!info && this.#cursor.created === undefined) return undefined
    if (!info) throw new Error('the bucket is not there any more')
    this.#cursor.created ??= info.created
    const now = { ...this.#cursor, revision, isComplete: true, aliveAt: performance.now() }
    const reason = resetReason(now, info, shape, 0n)
    if (reason) throw new Error(`the bucket was ${reason}`)
    return info
  }

  #end(problem?: Error): void {
    this.#problem ??= problem
    this.#isEnded = true
    this.#heard.interrupt()
  }
}

function eventOf<T>(
  told: Told,
  shape: BucketShape,
  prefix: string,
  events: EventReader<T>,
): WatchEvent<T>[] {
  if ('snapshotEnd' in told) return [{ kind: 'snapshot-end', revision: told.snapshotEnd }]
  const { subject, sequence: revision, data, isDeletion } = told
  const key = subject.slice(keySubject(shape.name, '').length)
  if (!isUnderPrefix(key, prefix)) return []
  return [isDeletion ? { kind: 'delete', key, revision } : events.read(key, data, revision)]
}
