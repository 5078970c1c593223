import { headers, type MsgHdrs, type NatsConnection } from '@nats-io/transport-node'
import type { BucketShape } from './bus.ts'
import { HOST_CONSUMERS_MAX, isReadRemotely } from './policy.ts'
import {
  jetStreamApi,
  keySubject,
  mirrorSubjects,
  remoteReading,
  streamName,
} from './server-subjects.ts'

/*
 * The few calls of the JetStream API that buckets need (nats-server's server/jetstream_api.go), with its field names. A
 * bucket is a stream of the layout that NATS calls KV, so that its own tools read it: stream KV_<bucket>, subjects
 * $KV.<bucket>.<key>, one message a key, deletions as messages with a header.
 */

/** An answer of JetStream that says no. */
export class JetStreamError extends Error {
  readonly code: number
  constructor(code: number, description: string) {
    super(description)
    this.code = code
  }
}

/** True for a no for this reason. */
export function isNo(error: unknown, code: number): boolean {
  return error instanceof JetStreamError && error.code === code
}

/** `err_code`s that callers act on. */
export const JetStreamCode = {
  ConsumerNotFound: 10014,
  StreamNotFound: 10059,
  NoMessageFound: 10037,
  WrongLastSequence: 10071,
  /** The same, said by newer servers. */
  WrongLastSequenceConstant: 10164,
  MaximumBytes: 10077,
} as const

export interface StreamInfo {
  readonly created: string
  readonly state: { readonly last_seq: number; readonly bytes: number }
  readonly config: {
    readonly max_bytes: number
    readonly metadata?: { readonly [name: string]: string }
  }
}

/** In the metadata of a mirror: when the bucket was made of which it is a copy. */
export const ORIGIN_CREATED = 'weft-origin-created'

export interface ConsumerInfo {
  readonly num_pending: number
  readonly delivered: { readonly consumer_seq: number }
}

/** A message as it lies in its stream. */
export interface StoredMessage {
  readonly subject: string
  readonly sequence: bigint
  readonly data: Uint8Array
  readonly isDeletion: boolean
}

/** The same as the server writes it; data and headers in base64. */
interface MessageText {
  readonly subject: string
  readonly seq: number
  readonly hdrs?: string
  readonly data?: string
}

export interface PubAck {
  readonly seq: number
  readonly duplicate?: boolean
}

/** What a deliver subject is told where to begin. */
export type Start = 'last_per_subject' | { readonly sequence: bigint }

const NANOSECONDS_PER_MS = 1e6

/** A consumer whose subscriber is gone is removed by the server after this time. */
const CONSUMER_INACTIVE_MS = 30_000

export class JetStream {
  readonly #connection: NatsConnection
  readonly #timeoutMs: number

  constructor(connection: NatsConnection, timeoutMs: number) {
    this.#connection = connection
    this.#timeoutMs = timeoutMs
  }

  streamInfo(bucket: string): Promise<StreamInfo> {
    return this.ask(jetStreamApi.streamInfo(bucket), {})
  }

  /** Makes the stream of a bucket; one that is there with the same configuration is left as it is. */
  createStream(shape: BucketShape, replicas: number): Promise<StreamInfo> {
    const keepsAll = shape.keeps === 'every-value'
    const told = { src: keySubject(shape.name, '>'), dest: remoteReading.stored(shape.name, '>') }
    return this.ask(jetStreamApi.streamCreate(shape.name), {
      ...streamConfig(shape, replicas),
      ...(isReadRemotely(shape.name) && { allow_direct: true, republish: told }),
      subjects: [keySubject(shape.name, '>')],
      discard: 'new',
      max_msgs_per_subject: keepsAll ? -1 : 1,
      duplicate_window: shape.duplicateWindowMs * NANOSECONDS_PER_MS,
      allow_rollup_hdrs: !keepsAll,
      deny_delete: true,
      deny_purge: keepsAll,
      allow_msg_ttl: !keepsAll,
    })
  }

  /**
   * Makes a copy of a bucket of another account, which the server keeps up to date. It has no subjects of its own: nothing
   * that anybody publishes in this account changes it. `originCreated` says of which incarnation of the bucket it is a copy.
   */
  createMirror(shape: BucketShape, replicas: number, originCreated: string): Promise<StreamInfo> {
    return this.ask(jetStreamApi.streamCreate(shape.name), {
      ...streamConfig(shape, replicas),
      discard: 'old',
      max_msgs_per_subject: 1,
      max_consumers: HOST_CONSUMERS_MAX,
      deny_delete: true,
      allow_msg_ttl: true,
      mirror: {
        name: streamName(shape.name),
        external: { api: mirrorSubjects.prefix, deliver: mirrorSubjects.deliver(shape.name) },
      },
      // Of a host's consumers only those live on that somebody listens to.
      consumer_limits: { inactive_threshold: CONSUMER_INACTIVE_MS * NANOSECONDS_PER_MS },
      metadata: { [ORIGIN_CREATED]: originCreated },
    })
  }

  deleteStream(bucket: string): Promise<unknown> {
    return this.ask(jetStreamApi.streamDelete(bucket), {})
  }

  /** Removes a consumer, if it is there. */
  async deleteConsumer(bucket: string, name: string): Promise<void> {
    try {
      await this.ask(jetStreamApi.consumerDelete(bucket, name), {})
    } catch (error) {
      if (!isNo(error, JetStreamCode.ConsumerNotFound)) throw error
    }
  }

  /** Makes a consumer that pushes to `deliverSubject` until nobody listens there. */
  createConsumer(options: {
    readonly bucket: string
    readonly name: string
    readonly filter: string
    readonly deliverSubject: string
    readonly start: Start
    readonly heartbeatMs: number
  }): Promise<ConsumerInfo> {
    const { bucket, name, filter, start } = options
    return this.ask(jetStreamApi.consumerCreate(bucket, name, filter), {
      stream_name: streamName(bucket),
      config: {
        name,
        filter_subject: filter,
        deliver_subject: options.deliverSubject,
        ...(start === 'last_per_subject'
          ? { deliver_policy: start }
          : { deliver_policy: 'by_start_sequence', opt_start_seq: Number(start.sequence) }),
        ack_policy: 'none',
        max_deliver: 1,
        replay_policy: 'instant',
        flow_control: true,
        idle_heartbeat: options.heartbeatMs * NANOSECONDS_PER_MS,
        inactive_threshold: CONSUMER_INACTIVE_MS * NANOSECONDS_PER_MS,
        mem_storage: true,
        num_replicas: 1,
      },
    })
  }

  /** The last message of a subject, from the leader. */
  async lastMessage(bucket: string, key: string): Promise<StoredMessage | undefined> {
    try {
      const { message } = await this.ask<{ message: MessageText }>(
        jetStreamApi.messageGet(bucket),
        { last_by_subj: keySubject(bucket, key) },
      )
      return {
        subject: message.subject,
        sequence: BigInt(message.seq),
        data: Buffer.from(message.data ?? '', 'base64'),
        isDeletion: saysDeletion(message),
      }
    } catch (error) {
      if (isNo(error, JetStreamCode.NoMessageFound)) return undefined
      throw error
    }
  }

  async publish(subject: string, payload: Uint8Array, headers: MsgHdrs): Promise<PubAck> {
    const reply = await this.#connection.request(subject, payload, {
      headers,
      timeout: this.#timeoutMs,
    })
    return parseAnswer(reply.json())
  }

  /** Asks the server something. @throws JetStreamError if it says no */
  async ask<T>(subject: string, request: object): Promise<T> {
    const payload = JSON.stringify(request)
    const reply = await this.#connection.request(subject, payload, {
      timeout: this.#timeoutMs,
    })
    return parseAnswer(reply.json())
  }
}

function streamConfig(shape: BucketShape, replicas: number): object {
  return {
    name: streamName(shape.name),
    description: shape.description,
    storage: shape.storage,
    retention: 'limits',
    max_bytes: shape.sizeMaxBytes,
    // The limit counts headers and subject as well.
    max_msg_size: shape.valueMaxBytes + 1024,
    num_replicas: replicas,
    allow_direct: false,
  }
}

/** True for messages that say that a key is gone. */
export function isDeletion(message: { readonly headers?: MsgHdrs | undefined }): boolean {
  return message.headers?.has('KV-Operation') ?? false
}

/** The same where the headers come as text. */
function saysDeletion({ hdrs }: MessageText): boolean {
  return hdrs !== undefined && /^KV-Operation:/m.test(Buffer.from(hdrs, 'base64').toString())
}

export function writeHeaders(values: { readonly [name: string]: string | undefined }): MsgHdrs {
  const written = headers()
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined) written.set(name, value)
  }
  return written
}

/** The place of a pushed message: in its stream, among the consumer's deliveries, and how many are to come. */
export interface DeliveryPlace {
  readonly streamSequence: bigint
  readonly consumerSequence: number
  readonly pending: number
}

/** Reads it from the reply subject: `$JS.ACK.[domain.account.]stream.consumer.deliveries.stream-seq.consumer-seq.time.pending[.token]`. */
export function deliveryPlace(reply: string): DeliveryPlace {
  const tokens = reply.split('.')
  const at = tokens.length > 9 ? 7 : 5
  return {
    streamSequence: BigInt(tokens[at] ?? 0),
    consumerSequence: Number(tokens[at + 1]),
    pending: Number(tokens[at + 3]),
  }
}

function parseAnswer<T>(
  answer: T & { readonly error?: { err_code?: number; description: string } },
): T {
  const { error } = answer
  if (error) throw new JetStreamError(error.err_code ?? 0, error.description)
  return answer
}
