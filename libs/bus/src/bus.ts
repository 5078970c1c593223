import type { Subject, SubjectPattern } from './subjects.ts'

/** Writes and reads one kind of message; what ts-proto generates fits. */
export interface Codec<T> {
  encode(message: T): { finish(): Uint8Array }
  decode(bytes: Uint8Array): T
}

/** Whether messages get through: `connected`, `disconnected` (trying again by itself), or `closed` for good. */
export type BusState = 'connected' | 'disconnected' | 'closed'

/**
 * Messages and watched state. What is published while disconnected is lost; requests and bucket operations then fail with
 * `UnavailableError`, `DeadlineExceededError` or `UnknownOutcomeError`; subscriptions and watches go on by themselves.
 */
export interface Bus extends AsyncDisposable {
  readonly state: BusState
  /** Calls the listener on every change of state, until the returned function is called. */
  onStateChange(listener: (state: BusState) => void): () => void
  /** Waits for an answer of the server itself. Rejects with `UnavailableError` or `DeadlineExceededError`. */
  ping(options?: RequestOptions): Promise<void>
  /** Sends to whoever listens; nobody answers. Throws `MessageTooLargeError`. */
  publish<T>(subject: Subject, codec: Codec<T>, message: T): void
  /** Sends and waits for one answer. Rejects with `UnavailableError` if nobody listens, `DeadlineExceededError`, or the error that the responder threw. */
  request<Q, A>(
    subject: Subject,
    codecs: RequestCodecs<Q, A>,
    message: Q,
    options?: RequestOptions,
  ): Promise<A>
  /** Receives what is published. At most `concurrency` handlers run at once; what waits is bounded by `SUBSCRIPTION_PENDING_MAX_BYTES`. */
  subscribe<T>(
    pattern: SubjectPattern,
    codec: Codec<T>,
    handler: (message: T, delivery: Delivery) => void | Promise<void>,
    options?: SubscribeOptions,
  ): Subscription
  /** Answers requests; an error that the handler throws reaches the caller as the same class. */
  respond<Q, A>(
    pattern: SubjectPattern,
    codecs: RequestCodecs<Q, A>,
    handler: (message: Q, delivery: Delivery) => A | Promise<A>,
    options?: SubscribeOptions,
  ): Subscription
  /** Opens a bucket, making it if it is not there. */
  openBucket<T>(shape: BucketShape, codec: Codec<T>): Promise<Bucket<T>>
  /**
   * Opens a bucket only to watch it, for whoever may ask nothing else of the server. Such a watch does not know whether the
   * bucket is still the same: after every interruption it tells `reset` with reason `missed` and the whole snapshot.
   */
  openBucket<T>(
    shape: BucketShape,
    codec: Codec<T>,
    options: { readonly access: 'watch' },
  ): Promise<WatchedBucket<T>>
  /** Opens a bucket of another service, to read it. One that its service has not made yet is empty. */
  openBucket<T>(
    shape: BucketShape,
    codec: Codec<T>,
    options: { readonly access: 'remote' },
  ): Promise<RemoteBucket<T>>
}

export interface RequestCodecs<Q, A> {
  readonly request: Codec<Q>
  readonly reply: Codec<A>
}

export interface RequestOptions {
  /** 2000 by default. */
  readonly timeoutMs?: number
  readonly signal?: AbortSignal
}

export interface SubscribeOptions {
  /** Each message goes to one of the subscribers that name the same queue. */
  readonly queue?: string
  /** Handlers at work at once; 64 by default. */
  readonly concurrency?: number
  /** Called when messages were dropped because too many waited: whoever keeps state from them reads it anew. */
  readonly onOverflow?: () => void
}

export interface Delivery {
  readonly subject: string
}

/** Disposing lets running handlers finish. */
export interface Subscription extends AsyncDisposable {}

/** What waits for the handlers of one subscription; beyond it the newest messages are dropped and counted. */
export const SUBSCRIPTION_PENDING_MAX_BYTES: number = 8 * 1024 * 1024

/** How a bucket is kept. */
export interface BucketShape {
  readonly name: string
  readonly description: string
  /** `memory` is lost when the server restarts: for derived state only. */
  readonly storage: 'file' | 'memory'
  /**
   * `every-value`: nothing that was written is ever removed, by deletion, by a write to the same key, or by time. A key still
   * reads as its last value; the ones before stay in the store, for whoever looks into it.
   */
  readonly keeps: 'last-value' | 'every-value'
  /** Upper bound of all values together; a full bucket refuses writes. */
  readonly sizeMaxBytes: number
  readonly valueMaxBytes: number
  /** How long an idempotency key is remembered by the server. */
  readonly duplicateWindowMs: number
  /** How long the store remembers that a key was deleted, in whole seconds; a watch that was cut off for a tenth of it starts anew. */
  readonly deletionTtlMs: number
}

/** One value. Its revision is the number of its write among all writes to the bucket. */
export interface Entry<T> {
  readonly key: string
  readonly value: T
  readonly revision: bigint
}

/** Bucket operations wait at most this long for the server. */
export const BUCKET_TIMEOUT_MS = 3000

export interface WriteOptions {
  /** The write is made only if the last write to the whole bucket has this revision (0 for none): then all that was read at it still holds. */
  readonly expectedBucketRevision?: bigint
  /** The write is made only if the last write to this key has this revision; 0 if there must be none, or only a deletion. */
  readonly expectedKeyRevision?: bigint
  /** A write whose key was seen within the duplicate window is not made again: the first one is answered. What it expects is checked before: a repeat after an unknown outcome may meet its own first write as a conflict. */
  readonly idempotencyKey?: string
}

export interface Written {
  readonly revision: bigint
  /** True if an earlier write with the same idempotency key was answered. */
  readonly isDuplicate: boolean
}

/**
 * A map of keys (dot-separated tokens) to messages, every write of which has a revision. Writes reject with
 * `RevisionConflictError`, `MessageTooLargeError`, `LimitReachedError` (full), `UnavailableError` (not made), and
 * `UnknownOutcomeError` (may have been made: read and compare).
 */
export interface Bucket<T> {
  readonly name: string
  /** Reads from the leader, so that it sees every acknowledged write. */
  get(key: string): Promise<Entry<T> | undefined>
  put(key: string, value: T, options?: WriteOptions): Promise<Written>
  /** Throws `RangeError` if the bucket keeps every value. */
  delete(key: string, options?: WriteOptions): Promise<Written>
  /** Revision of the last write to the bucket, 0 if there was none; from the leader. */
  lastRevision(): Promise<bigint>
  /** How full it is, from the leader. */
  fill(): Promise<BucketFill>
  /**
   * Everything under a prefix (`''` for all, else whole tokens, for example `host.7`), then its changes, in order and in
   * batches. First come puts, then `snapshot-end`. A `reset` says that the bucket was lost, made anew or fell back, or that
   * changes may have been missed: the whole snapshot follows again, ended by `snapshot-end`, and only then, if the caller
   * trusts the bucket to be complete, are keys that did not come again gone. It never ends but by `signal`.
   */
  watch(prefix: string, options: WatchOptions): AsyncIterable<WatchBatch<T>>
}

export interface BucketFill {
  /** All values with what the store adds. */
  readonly sizeBytes: number
  /** A bucket of this size refuses writes. */
  readonly sizeMaxBytes: number
}

/** A bucket that may only be watched. */
export type WatchedBucket<T> = Pick<Bucket<T>, 'name' | 'watch'>

/** A bucket of another service. */
export type RemoteBucket<T> = Pick<Bucket<T>, 'name' | 'watch' | 'lastRevision'>

export interface WatchOptions {
  /** Aborting it ends the iteration without an error. */
  readonly signal: AbortSignal
  /** The revision up to which the caller knows the bucket beside the watch, by its own writes. A bucket that is behind it was rewound. */
  readonly known?: (() => bigint) | undefined
}

/** Never empty. Under load it holds all that arrived meanwhile, up to `WATCH_BATCH_MAX`. */
export type WatchBatch<T> = readonly WatchEvent<T>[]

export type WatchEvent<T> =
  | {
      readonly kind: 'put'
      readonly key: string
      readonly value: T
      readonly revision: bigint
    }
  | { readonly kind: 'delete'; readonly key: string; readonly revision: bigint }
  /** There is a value, and it cannot be read; it has been counted and logged. */
  | { readonly kind: 'damaged'; readonly key: string; readonly revision: bigint }
  /** All up to `revision` was told. */
  | { readonly kind: 'snapshot-end'; readonly revision: bigint }
  | { readonly kind: 'reset'; readonly reason: ResetReason }

/** `recreated`: another bucket of the same name; `rewound`: it lost its newest writes; `missed`: cut off for too long to go on from the last change. */
export type ResetReason = 'recreated' | 'rewound' | 'missed'

export const WATCH_BATCH_MAX = 1024
