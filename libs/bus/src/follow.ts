import type { Bucket, Entry, ResetReason, WatchEvent } from './bus.ts'

/** A copy of a bucket in memory. */
export interface BucketCopy<T> {
  put(entry: Entry<T>): void
  delete(key: string, revision: bigint): void
  /**
   * The value of the key cannot be read. It is there, so what follows from its absence does not follow: whoever it is about
   * has no rights by it, and what it forbids stays forbidden. It is counted and logged already.
   */
  damaged(key: string, revision: bigint): void
  /** The keys that the copy holds. */
  keys(): Iterable<string>
  /** The bucket lost writes: all that it still has follows, with revisions that may begin anew. What does not come again was lost, not deleted. */
  reset(reason: Exclude<ResetReason, 'missed'>): void
  /** The revision that the copy holds beside what it was told, where it takes what it wrote itself at once. */
  known?(): bigint
  /** The copy holds everything up to `revision`: after the snapshot, then after every batch of changes. */
  caughtUp(revision: bigint): void
}

/** Fills the copy with everything under the prefix, then keeps it in step with the bucket until it is disposed. */
export async function follow<T>(
  bucket: Pick<Bucket<T>, 'watch'>,
  copy: BucketCopy<T>,
  prefix = '',
): Promise<AsyncDisposable> {
  const stop = new AbortController()
  const filled = Promise.withResolvers<void>()
  const following = keepInStep(bucket, copy, prefix, stop.signal, filled.resolve)
  await Promise.race([filled.promise, following])
  // The race has handled `following`; what follows from it is left unhandled, so that the process hears of a copy that stopped.
  void following.then(() => undefined)
  return {
    async [Symbol.asyncDispose]() {
      stop.abort()
      await following
    },
  }
}

async function keepInStep<T>(
  bucket: Pick<Bucket<T>, 'watch'>,
  copy: BucketCopy<T>,
  prefix: string,
  signal: AbortSignal,
  onFilled: () => void,
): Promise<void> {
  let isFilling = true
  // What the copy has and a repeated snapshot has not told so far.
  let notSeen = new Set<string>()
  const apply = (event: WatchEvent<T>): void => {
    switch (event.kind) {
      case 'put':
        notSeen.delete(event.key)
        copy.put(event)
        break
      case 'delete':
        notSeen.delete(event.key)
        copy.delete(event.key, event.revision)
        break
      case 'damaged':
        notSeen.delete(event.key)
        copy.damaged(event.key, event.revision)
        break
      case 'reset':
        isFilling = true
        if (event.reason === 'missed') {
          notSeen = new Set(copy.keys())
        } else {
          notSeen.clear()
          copy.reset(event.reason)
        }
        break
      case 'snapshot-end':
        for (const key of notSeen) copy.delete(key, event.revision)
        notSeen.clear()
        isFilling = false
        copy.caughtUp(event.revision)
        onFilled()
        break
    }
  }
  const known = copy.known && (() => copy.known?.() ?? 0n)
  for await (const batch of bucket.watch(prefix, { signal, known })) {
    for (const event of batch) apply(event)
    const last = batch.at(-1)
    if (!isFilling && last && last.kind !== 'reset' && last.kind !== 'snapshot-end') {
      copy.caughtUp(last.revision)
    }
  }
}
