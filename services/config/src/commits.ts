import { setTimeout as delay } from 'node:timers/promises'
import { type Bucket, recordKey } from '@weft/bus'
import {
  DeadlineExceededError,
  ExitCode,
  IdempotencyMismatchError,
  OverloadedError,
  RevisionConflictError,
  UnavailableError,
  UnknownOutcomeError,
  WeftError,
} from '@weft/errors'
import type { Record as StoredRecord } from '@weft/proto/weftline/config/v1/records.ts'
import type { Database, Write } from './domain/database.ts'
import type { Plan } from './domain/requests/plan.ts'
import type { Events } from './events.ts'
import type { Replica } from './replica.ts'

/** Requests that wait for their turn; more are refused. */
export const QUEUE_MAX = 1_000
/** Time for one request from its arrival, where its caller set no deadline. */
const COMMIT_TIMEOUT_MS = 10_000
/** How long a write is tried while the bus is away; then the caller hears of it, and has time left to try again. */
const PATIENCE_MS = 500
const RETRY_MIN_MS = 1
const RETRY_MAX_MS = 250

export interface CommitRequest<T> {
  /** For errors, for example `CreateNetwork`. */
  readonly what: string
  readonly idempotencyKey: string
  readonly signal: AbortSignal
  /** Decides what the request comes to; called again whenever another write came first. */
  readonly plan: (database: Database) => Plan<T>
  /** Awaited before the first try to write; if it rejects, nothing is written. */
  readonly beforeWrite?: () => Promise<void>
  /** Hears of the write, with the revisions of its record before (0 if it was not there) and after. */
  readonly onWritten?: (write: Write, revisions: WriteRevisions) => void
}

export interface WriteRevisions {
  readonly revisionBefore: bigint
  readonly revisionAfter: bigint
}

/**
 * The only way to write the VN database: one record a message, one message a transaction. A plan is made at revision N
 * and its write is accepted only as the bucket's write N+1, so whatever the plan was judged by still holds: names,
 * addresses and VNIs stay unique however many replicas write. One write of a replica is on its way at a time.
 */
export class Commits implements AsyncDisposable {
  readonly #bucket: Bucket<StoredRecord>
  readonly #replica: Replica
  readonly #events: Events
  readonly #queue: (() => Promise<void>)[] = []
  readonly #stop = new AbortController()
  #running: Promise<void> | undefined

  constructor(bucket: Bucket<StoredRecord>, replica: Replica, events: Events) {
    this.#bucket = bucket
    this.#replica = replica
    this.#events = events
  }

  get queueDepth(): number {
    return this.#queue.length
  }

  /**
   * Writes what the plan says and answers its result, once the replica itself shows the write. Throws what the plan
   * throws, `OverloadedError`, `UnavailableError`, and `DeadlineExceededError`, after which the write may yet be made:
   * repeating the request with its idempotency key tells.
   */
  commit<T>(request: CommitRequest<T>): Promise<T> {
    if (this.#queue.length >= QUEUE_MAX) {
      return Promise.reject(new OverloadedError({ what: 'config', limit: QUEUE_MAX }))
    }
    const { promise, resolve, reject } = Promise.withResolvers<T>()
    const timeout = AbortSignal.timeout(COMMIT_TIMEOUT_MS)
    const signal = AbortSignal.any([request.signal, timeout, this.#stop.signal])
    this.#queue.push(() => this.#perform({ ...request, signal }).then(resolve, reject))
    this.#running ??= this.#drain()
    return promise
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort()
    await this.#running
  }

  async #drain(): Promise<void> {
    for (let job = this.#queue.shift(); job; job = this.#queue.shift()) await job()
    this.#running = undefined
  }

  async #perform<T>(request: CommitRequest<T>): Promise<T> {
    const { what, idempotencyKey, signal } = request
    const startedAt = performance.now()
    let duplicates = 0
    let isCleared = request.beforeWrite === undefined
    let isCurrent = false
    for (let attempt = 1; ; attempt++) {
      if (this.#stop.signal.aborted) throw stopping()
      if (signal.aborted) throw new DeadlineExceededError({ what })
      if (this.#replica.lost) throw this.#replica.lost
      const plan = attempted(() => request.plan(this.#replica.database))
      if (!plan.write) {
        // A write would be refused if another one came first. Who is answered without one may have been told by another
        // replica what has not come here yet.
        if (isCurrent) return plan.result()
        isCurrent = true
        await this.#meetLeader(signal)
        continue
      }
      if (!isCleared) {
        await request.beforeWrite?.()
        isCleared = true
        // Meanwhile the replica may have heard of other writes: a plan counts only for the revision it was made at.
        continue
      }
      const revisionBefore = revisionOf(plan.write, this.#replica.database)
      const outcome = await this.#write(plan.write, idempotencyKey)
      if (outcome.kind === 'written') {
        request.onWritten?.(plan.write, { revisionBefore, revisionAfter: outcome.revision })
        this.#replica.apply(plan.write, outcome.revision)
        this.#events.recordWritten(plan.write, performance.now() - startedAt)
        return plan.result()
      }
      this.#events.writeRepeated(outcome.kind)
      if (outcome.kind === 'unavailable' && performance.now() - startedAt > PATIENCE_MS) {
        throw outcome.error
      }
      // The server made a write with this key before; a plan that knows of it and still wants to write is another request.
      if (outcome.kind === 'duplicate' && ++duplicates > 1) {
        throw new IdempotencyMismatchError({ key: idempotencyKey })
      }
      await this.#catchUp(attempt, outcome, signal)
      // A removal leaves no key behind by which a new plan could tell that it was made after all.
      const mayBeMade = outcome.kind === 'unknown' || outcome.kind === 'duplicate'
      if (mayBeMade && isGone(plan.write, this.#replica.database)) return plan.result()
    }
  }

  async #write(write: Write, idempotencyKey: string): Promise<Outcome> {
    const key = recordKey(write.kind, write.id)
    const options = {
      expectedBucketRevision: this.#replica.database.revision,
      idempotencyKey,
    }
    try {
      const { revision, isDuplicate } = write.record
        ? await this.#bucket.put(key, stored(write), options)
        : await this.#bucket.delete(key, options)
      return isDuplicate ? { kind: 'duplicate' } : { kind: 'written', revision }
    } catch (error) {
      if (error instanceof RevisionConflictError) return { kind: 'conflict', error }
      if (error instanceof UnknownOutcomeError) return { kind: 'unknown' }
      if (error instanceof UnavailableError) return { kind: 'unavailable', error }
      throw error
    }
  }

  /** Waits until the replica knows what the leader knows now; while the bus is away, what is here is all that is known. */
  async #meetLeader(signal: AbortSignal): Promise<void> {
    const patience = AbortSignal.any([signal, AbortSignal.timeout(PATIENCE_MS)])
    try {
      await this.#replica.untilDatabase(await this.#bucket.lastRevision(), patience)
    } catch (error) {
      const isAway = error instanceof WeftError && error.exitCode === ExitCode.Unavailable
      if (!isAway && !patience.aborted) throw error
    }
  }

  /** Waits until the replica knows every write that the leader has, so that the next plan stands a chance. */
  async #catchUp(attempt: number, outcome: Outcome, signal: AbortSignal): Promise<void> {
    try {
      if (outcome.kind === 'unavailable') {
        await delay(backoffMs(attempt), undefined, { signal })
      } else {
        // No pause after a conflict: one of the writers has won, and whoever pauses loses to it again and again.
        const revision = await this.#leaderRevision(outcome, signal)
        if (revision < this.#replica.database.revision) {
          // The store lost writes. The replica hears of it when its watch is set up again.
          await delay(backoffMs(attempt), undefined, { signal })
        }
        await this.#replica.untilDatabase(revision, signal)
      }
    } catch (error) {
      // The loop says what the abort was for.
      if (!signal.aborted) throw error
    }
  }

  async #leaderRevision(outcome: Outcome, signal: AbortSignal): Promise<bigint> {
    const told = outcome.kind === 'conflict' ? outcome.error.facts['actual'] : undefined
    if (told !== undefined) return BigInt(told)
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#bucket.lastRevision()
      } catch (error) {
        if (!(error instanceof WeftError) || error.exitCode !== ExitCode.Unavailable) throw error
        await delay(backoffMs(attempt), undefined, { signal })
      }
    }
  }
}

/** A plan that refuses is one that writes nothing. */
function attempted<T>(plan: () => Plan<T>): Plan<T> {
  try {
    return plan()
  } catch (error) {
    return {
      result() {
        throw error
      },
    }
  }
}

/** What came of one attempt to write. */
type Outcome =
  | { readonly kind: 'written'; readonly revision: bigint }
  /** Another write came first. */
  | { readonly kind: 'conflict'; readonly error: RevisionConflictError }
  /** A write with the same idempotency key was made before. */
  | { readonly kind: 'duplicate' }
  /** It may have been made. */
  | { readonly kind: 'unknown' }
  /** It was not made. */
  | { readonly kind: 'unavailable'; readonly error: UnavailableError }

function stored({ kind, record }: Write): StoredRecord {
  return { kind: { $case: kind, value: record } as StoredRecord['kind'] }
}

function revisionOf({ kind, id }: Write, database: Database): bigint {
  return database[kind](id)?.meta?.revision ?? 0n
}

function isGone(write: Write, database: Database): boolean {
  return write.record === undefined && !database.has(write.kind, write.id)
}

function stopping(): UnavailableError {
  return new UnavailableError({
    service: 'config',
    address: 'this replica',
    problem: 'it is stopping',
  })
}

/** Full jitter. */
function backoffMs(attempt: number): number {
  return Math.random() * Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** attempt)
}
