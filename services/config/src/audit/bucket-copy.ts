import { auditEntryKey, auditHeadKey, type Bucket, type BucketFill } from '@weft/bus'
import { InternalError, RevisionConflictError } from '@weft/errors'
import { AuditRecord } from '@weft/proto/weftline/audit/v1/audit.ts'
import type { AuditCopy, CopyRecord } from './copy.ts'

/** Writes on their way at once: enough to keep the server's disk busy. */
const WRITES_AT_ONCE = 64

/** A chain in the bucket `audit`: a key for each entry, and one for the newest head. */
export class BucketCopy implements AuditCopy {
  readonly kind = 'bucket'
  readonly name: string
  readonly #bucket: Bucket<AuditRecord>
  readonly #writer: string

  constructor(bucket: Bucket<AuditRecord>, writer: string) {
    this.name = `bucket ${bucket.name}`
    this.#bucket = bucket
    this.#writer = writer
  }

  async append(records: readonly CopyRecord[]): Promise<void> {
    const rest = records.values()
    const workers = Array.from({ length: Math.min(WRITES_AT_ONCE, records.length) }, async () => {
      for (const record of rest) await this.#put(record)
    })
    // All have to end before anything is tried again.
    for (const outcome of await Promise.allSettled(workers)) {
      if (outcome.status === 'rejected') throw outcome.reason
    }
  }

  fill(): Promise<BucketFill> {
    return this.#bucket.fill()
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  async #put({ number, record }: CopyRecord): Promise<void> {
    if (number === undefined) {
      await this.#bucket.put(auditHeadKey(this.#writer), record)
      return
    }
    const key = auditEntryKey(this.#writer, number)
    try {
      await this.#bucket.put(key, record, { expectedKeyRevision: 0n })
    } catch (error) {
      // An earlier try may have been made although nobody heard of it.
      if (!(error instanceof RevisionConflictError)) throw error
      const there = await this.#bucket.get(key)
      if (there && isSame(there.value, record)) return
      throw new InternalError(`somebody else wrote ${this.#bucket.name}/${key}`, { cause: error })
    }
  }
}

function isSame(left: AuditRecord, right: AuditRecord): boolean {
  return Buffer.compare(AuditRecord.encode(left).finish(), AuditRecord.encode(right).finish()) === 0
}
