import { errors, type Msg, type NatsConnection } from '@nats-io/transport-node'
import {
  isDeletion,
  isNo,
  type JetStream,
  JetStreamCode,
  type StoredMessage,
  type StreamInfo,
} from './jetstream.ts'
import { jetStreamApi, keySubject, remoteReading } from './server-subjects.ts'

export interface StoredBatch {
  readonly messages: readonly StoredMessage[]
  /** Whether the server that answered has more. */
  readonly hasMore: boolean
}

/** In one answer, whichever is reached first. */
const BATCH_MAX = 8192
const BATCH_MAX_BYTES = 4 * 1024 * 1024

/** The stream of a bucket of another account, as far as it may be asked for: see `remoteReading`. */
export class RemoteStream {
  readonly #bucket: string
  readonly #connection: NatsConnection
  readonly #jetStream: JetStream
  readonly #timeoutMs: number

  constructor(bucket: string, connection: NatsConnection, jetStream: JetStream, timeoutMs: number) {
    this.#bucket = bucket
    this.#connection = connection
    this.#jetStream = jetStream
    this.#timeoutMs = timeoutMs
  }

  /** Undefined if whoever keeps the bucket has not made it yet. */
  async info(): Promise<StreamInfo | undefined> {
    try {
      const subject = jetStreamApi.streamInfo(this.#bucket)
      return await this.#jetStream.ask(remoteReading.importedAs(subject), {})
    } catch (error) {
      if (isNo(error, JetStreamCode.StreamNotFound)) return undefined
      throw error
    }
  }

  /** Whether the leader has a message with that sequence or a later one. */
  async hasFrom(sequence: bigint): Promise<boolean> {
    try {
      const subject = jetStreamApi.messageGet(this.#bucket)
      await this.#jetStream.ask(remoteReading.importedAs(subject), {
        seq: Number(sequence),
        next_by_subj: keySubject(this.#bucket, '>'),
      })
      return true
    } catch (error) {
      if (isNo(error, JetStreamCode.NoMessageFound)) return false
      throw error
    }
  }

  /** Messages with that sequence and later ones, in order. The server that answers may be behind the leader. `inbox` is used for this alone. */
  async read(from: bigint, inbox: string): Promise<StoredBatch> {
    const answer = Promise.withResolvers<StoredBatch>()
    const batch = new BatchReader(answer.resolve)
    const subscription = this.#connection.subscribe(inbox, {
      callback: (error, message) => {
        try {
          if (error) throw error
          batch.take(message)
        } catch (problem) {
          answer.reject(problem)
        }
      },
    })
    const timer = setTimeout(() => answer.reject(new errors.TimeoutError()), this.#timeoutMs)
    try {
      const subject = remoteReading.importedAs(jetStreamApi.directGet(this.#bucket))
      const request = {
        seq: Number(from),
        next_by_subj: keySubject(this.#bucket, '>'),
        batch: BATCH_MAX,
        max_bytes: BATCH_MAX_BYTES,
      }
      this.#connection.publish(subject, JSON.stringify(request), { reply: inbox })
      return await answer.promise
    } finally {
      clearTimeout(timer)
      // The server forgets where the answers went once nobody listens there.
      subscription.unsubscribe()
    }
  }
}

/** Puts together an answer of DIRECT.GET (NATS ADR-31): messages that each name the one before, and what comes after them. */
class BatchReader {
  readonly #messages: StoredMessage[] = []
  readonly #onEnd: (batch: StoredBatch) => void

  constructor(onEnd: (batch: StoredBatch) => void) {
    this.#onEnd = onEnd
  }

  take(message: Msg): void {
    const code = message.headers?.code ?? 0
    if (code === NOT_FOUND) {
      this.#onEnd({ messages: [], hasMore: false })
    } else if (code === END_OF_BATCH) {
      this.#checkOrder(message)
      const hasMore = numberIn(message, 'Nats-Num-Pending') > 0n
      this.#onEnd({ messages: this.#messages, hasMore })
    } else if (code === 0) {
      this.#checkOrder(message)
      this.#messages.push(storedMessage(message))
    } else {
      throw new Error(message.headers?.description || `status ${code}`)
    }
  }

  #checkOrder(message: Msg): void {
    const before = this.#messages.at(-1)?.sequence ?? 0n
    if (numberIn(message, 'Nats-Last-Sequence') !== before) {
      throw new Error('a part of the answer was lost')
    }
  }
}

const END_OF_BATCH = 204
const NOT_FOUND = 404

/** What the server says of a message that it read from a stream, or tells after it was stored. */
export function storedMessage(message: Msg): StoredMessage {
  return {
    subject: textIn(message, 'Nats-Subject'),
    sequence: numberIn(message, 'Nats-Sequence'),
    data: message.data,
    isDeletion: isDeletion(message),
  }
}

function numberIn(message: Msg, header: string): bigint {
  const text = textIn(message, header)
  if (!/^[0-9]{1,19}$/.test(text)) throw new Error(`${header} is no number: ${text.slice(0, 20)}`)
  return BigInt(text)
}

/** The writer of a message may have given it the same header; that of the server stands last. */
function textIn(message: Msg, header: string): string {
  return message.headers?.last(header) ?? ''
}
