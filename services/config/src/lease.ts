import { setTimeout as delay } from 'node:timers/promises'
import { type Bucket, leaseKey } from '@weft/bus'
import { RevisionConflictError } from '@weft/errors'
import { ControllerLease } from '@weft/proto/weftline/config/v1/rows.ts'

export const LEASE_KEY: string = leaseKey('config', 'controller')
/** A watch is for what lies under a prefix; under this one lies only the lease. */
const LEASE_PREFIX = 'config'
/** The holder renews this often … */
export const LEASE_RENEWAL_MS = 500
/** … and whoever saw no renewal for this long, by its own clock, takes the lease: no clocks are compared. */
const LEASE_EXPIRY_MS = 2_000
const LEASE_CHECK_MS = 250

interface Holder {
  readonly replicaId: string
  readonly revision: bigint
  readonly seenAtMs: number
}

/**
 * Waits until the lease is free, given back or not renewed any more, and takes it. Answers the revision of the bucket at
 * which it was taken, or undefined once the signal is aborted.
 */
export async function takeLease(
  bucket: Bucket<ControllerLease>,
  replicaId: string,
  signal: AbortSignal,
): Promise<bigint | undefined> {
  const stop = new AbortController()
  const view = new LeaseView(bucket, AbortSignal.any([signal, stop.signal]))
  try {
    for (;;) {
      await Promise.race([view.changed, delay(LEASE_CHECK_MS)])
      if (signal.aborted) return undefined
      const { holder } = view
      if (holder === 'unknown') continue
      const isOurs = holder?.replicaId === replicaId
      if (holder && !isOurs && performance.now() - holder.seenAtMs < LEASE_EXPIRY_MS) continue
      try {
        const expectedKeyRevision = holder?.revision ?? 0n
        const lease = ControllerLease.create({ replicaId })
        return (await bucket.put(LEASE_KEY, lease, { expectedKeyRevision })).revision
      } catch (error) {
        // Another replica was faster: the watch will show it.
        if (!(error instanceof RevisionConflictError)) throw error
      }
    }
  } finally {
    stop.abort()
    await view.ended
  }
}

/** Who holds the lease, as its watch tells. */
class LeaseView {
  holder: Holder | 'unknown' | undefined = 'unknown'
  /** Rejects if the watch fails. */
  readonly ended: Promise<void>
  #change = Promise.withResolvers<void>()

  constructor(bucket: Bucket<ControllerLease>, signal: AbortSignal) {
    this.ended = this.#watch(bucket, signal)
    this.ended.catch((error: unknown) => this.#change.reject(error))
  }

  get changed(): Promise<void> {
    return this.#change.promise
  }

  async #watch(bucket: Bucket<ControllerLease>, signal: AbortSignal): Promise<void> {
    for await (const batch of bucket.watch(LEASE_PREFIX, { signal })) {
      for (const event of batch) {
        switch (event.kind) {
          case 'put':
            this.holder = {
              replicaId: event.value.replicaId,
              revision: event.revision,
              seenAtMs: performance.now(),
            }
            break
          case 'damaged':
            // Whoever holds it renews it; if nobody does, it is taken.
            this.holder = { replicaId: '', revision: event.revision, seenAtMs: performance.now() }
            break
          case 'delete':
            this.holder = undefined
            break
          case 'reset':
            this.holder = 'unknown'
            break
          case 'snapshot-end':
            if (this.holder === 'unknown') this.holder = undefined
            break
        }
      }
      this.#change.resolve()
      this.#change = Promise.withResolvers()
    }
  }
}
