import { errors, type NatsConnection } from '@nats-io/transport-node'
import {
  asWeftError,
  InternalError,
  LimitReachedError,
  RevisionConflictError,
  UnavailableError,
  UnknownOutcomeError,
} from '@weft/errors'
import type { Logger } from '@weft/telemetry'
import type {
  Bucket,
  BucketFill,
  BucketShape,
  Codec,
  Entry,
  WatchBatch,
  WatchOptions,
  WriteOptions,
  Written,
} from './bus.ts'
import { checkDeletable, checkKey, decodeValue, encodeValue } from './checks.ts'
import {
  isNo,
  type JetStream,
  JetStreamCode,
  JetStreamError,
  type PubAck,
  type StoredMessage,
  type StreamInfo,
  writeHeaders,
} from './jetstream.ts'
import { type ConsumerNames, watchBucket } from './nats-watch.ts'
import { keySubject } from './server-subjects.ts'

/** What a bucket needs of the connection that opened it. */
export interface BucketHost {
  readonly connection: NatsConnection
  readonly jetStream: JetStream
  readonly log: Logger
  readonly address: string
  readonly consumerNames: ConsumerNames
  readonly inboxPrefix: string
  readonly replicas: number
  readonly heartbeatMs: number
  isConnected(): boolean
  onReconnect(listener: () => void): () => void
}

/** A bucket of NATS. */
export class NatsBucket<T> implements Bucket<T> {
  readonly name: string
  readonly #host: BucketHost
  readonly #shape: BucketShape
  readonly #codec: Codec<T>

  constructor(host: BucketHost, shape: BucketShape, codec: Codec<T>) {
    this.name = shape.name
    this.#host = host
    this.#shape = shape
    this.#codec = codec
  }

  /** Answers the stream of the bucket, which it makes if it is not there: one in memory is gone after a restart of the server. */
  async ensureStream(): Promise<StreamInfo> {
    try {
      return await this.#host.jetStream.streamInfo(this.name)
    } catch (error) {
      if (!isNo(error, JetStreamCode.StreamNotFound)) throw error
      return this.#host.jetStream.createStream(this.#shape, this.#host.replicas)
    }
  }

  async get(key: string): Promise<Entry<T> | undefined> {
    const stored = await this.#read(key)
    if (!stored || stored.isDeletion) return undefined
    const value = decodeValue(this.#shape, key, this.#codec, stored.data)
    return { key, value, revision: stored.sequence }
  }

  put(key: string, value: T, options: WriteOptions = {}): Promise<Written> {
    checkKey(key)
    return this.#write(key, encodeValue(this.#shape, key, this.#codec, value), {}, options)
  }

  delete(key: string, options: WriteOptions = {}): Promise<Written> {
    checkKey(key)
    checkDeletable(this.#shape)
    const ttl = `${this.#shape.deletionTtlMs / 1000}s`
    const deletion = { 'KV-Operation': 'DEL', 'Nats-TTL': ttl }
    return this.#write(key, new Uint8Array(), deletion, options)
  }

  async lastRevision(): Promise<bigint> {
    const { state } = await this.#reading(() => this.ensureStream())
    return BigInt(state.last_seq)
  }

  async fill(): Promise<BucketFill> {
    const { state, config } = await this.#reading(() => this.ensureStream())
    return { sizeBytes: state.bytes, sizeMaxBytes: config.max_bytes }
  }

  watch(prefix: string, options: WatchOptions): AsyncIterable<WatchBatch<T>> {
    return this.#watch(prefix, options, () => this.ensureStream())
  }

  /** The same for whoever may ask for nothing but a watch. */
  watchBlindly(prefix: string, options: WatchOptions): AsyncIterable<WatchBatch<T>> {
    return this.#watch(prefix, options, undefined)
  }

  #watch(
    prefix: string,
    options: WatchOptions,
    stream: (() => Promise<StreamInfo>) | undefined,
  ): AsyncIterable<WatchBatch<T>> {
    const { connection, jetStream, log, consumerNames, inboxPrefix, heartbeatMs } = this.#host
    const source = {
      connection,
      jetStream,
      log,
      consumerNames,
      inboxPrefix,
      heartbeatMs,
      shape: this.#shape,
      codec: this.#codec,
      stream,
      onReconnect: (listener: () => void) => this.#host.onReconnect(listener),
    }
    return watchBucket(source, prefix, options)
  }

  async #write(
    key: string,
    payload: Uint8Array,
    operation: { readonly [name: string]: string },
    options: WriteOptions,
  ): Promise<Written> {
    const publish = (expectedKeyRevision = options.expectedKeyRevision): Promise<PubAck> =>
      this.#publish(key, payload, {
        ...operation,
        'Nats-Expected-Last-Sequence': options.expectedBucketRevision?.toString(),
        'Nats-Expected-Last-Subject-Sequence': expectedKeyRevision?.toString(),
        'Nats-Msg-Id': options.idempotencyKey,
      })
    try {
      return written(await publish())
    } catch (error) {
      if (options.expectedKeyRevision !== 0n || !isConflict(error)) {
        throw this.#writeError(error, key, options)
      }
    }
    // To NATS a deleted key has the revision of its deletion.
    const stored = await this.#read(key)
    if (stored && !stored.isDeletion) {
      const { sequence: actual } = stored
      throw new RevisionConflictError({ what: `${this.name}/${key}`, expected: 0n, actual })
    }
    try {
      return written(await publish(stored?.sequence ?? 0n))
    } catch (error) {
      throw this.#writeError(error, key, options)
    }
  }

  async #publish(
    key: string,
    payload: Uint8Array,
    values: { readonly [name: string]: string | undefined },
  ): Promise<PubAck> {
    if (!this.#host.isConnected()) throw this.#unavailable('the connection is lost')
    const subject = keySubject(this.name, key)
    const headers = writeHeaders(values)
    try {
      return await this.#host.jetStream.publish(subject, payload, headers)
    } catch (error) {
      if (!isNoResponders(error)) throw error
      // Nobody stores this subject: the stream is gone, and the write surely was not made.
      await this.#reading(() => this.ensureStream())
      return this.#host.jetStream.publish(subject, payload, headers)
    }
  }

  #read(key: string): Promise<StoredMessage | undefined> {
    return this.#reading(async () => {
      const { jetStream } = this.#host
      try {
        return await jetStream.lastMessage(this.name, key)
      } catch (error) {
        if (!isNo(error, JetStreamCode.StreamNotFound)) throw error
        await this.ensureStream()
        return undefined
      }
    })
  }

  #reading<R>(read: () => Promise<R>): Promise<R> {
    return reading(this.#host, read)
  }

  #writeError(error: unknown, key: string, options: WriteOptions): Error {
    const what = `${this.name}/${key}`
    if (error instanceof JetStreamError) {
      if (isConflict(error)) {
        const isWhole = options.expectedBucketRevision !== undefined
        const actual = /sequence: ([0-9]+)/.exec(error.message)?.[1]
        return new RevisionConflictError({
          what: isWhole ? `bucket ${this.name}` : what,
          expected: options.expectedBucketRevision ?? options.expectedKeyRevision ?? 0n,
          ...(actual === undefined ? {} : { actual: BigInt(actual) }),
        })
      }
      if (error.code === JetStreamCode.MaximumBytes) {
        return new LimitReachedError({
          what: `bytes in bucket ${this.name}`,
          limit: this.#shape.sizeMaxBytes,
        })
      }
      return new InternalError(`${what} was refused: ${error.message}`, { cause: error })
    }
    if (isNoResponders(error)) return this.#unavailable('JetStream is not there')
    if (isConnectionTrouble(error)) {
      const problem = (error as Error).message
      return new UnknownOutcomeError({ what: `the write of ${what}`, problem }, { cause: error })
    }
    return asWeftError(error)
  }

  #unavailable(problem: string): UnavailableError {
    return unavailable(this.#host, problem)
  }
}

/** Reads from the server. @throws UnavailableError if it cannot be read now */
export async function reading<R>(host: BucketHost, read: () => Promise<R>): Promise<R> {
  if (!host.isConnected()) throw unavailable(host, 'the connection is lost')
  try {
    return await read()
  } catch (error) {
    if (error instanceof JetStreamError) throw unavailable(host, error.message)
    if (isNoResponders(error)) throw unavailable(host, 'JetStream is not there')
    if (isConnectionTrouble(error)) throw unavailable(host, (error as Error).message)
    throw asWeftError(error)
  }
}

function unavailable({ address }: BucketHost, problem: string): UnavailableError {
  return new UnavailableError({ service: 'nats', address, problem })
}

/** True if nobody listens on a subject; the server says so at once. */
export function isNoResponders(error: unknown): boolean {
  return (
    error instanceof errors.NoRespondersError ||
    (error instanceof errors.RequestError && error.isNoResponders())
  )
}

/** True if an answer did not come, for whatever reason. */
export function isConnectionTrouble(error: unknown): boolean {
  return (
    error instanceof errors.TimeoutError ||
    error instanceof errors.RequestError ||
    error instanceof errors.ConnectionError ||
    error instanceof errors.ClosedConnectionError ||
    error instanceof errors.DrainingConnectionError
  )
}

function isConflict(error: unknown): boolean {
  const { WrongLastSequence, WrongLastSequenceConstant } = JetStreamCode
  return isNo(error, WrongLastSequence) || isNo(error, WrongLastSequenceConstant)
}

function written(ack: PubAck): Written {
  return { revision: BigInt(ack.seq), isDuplicate: ack.duplicate === true }
}
