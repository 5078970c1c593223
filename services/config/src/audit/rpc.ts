import {
  AUDIT_HEAD_PREFIX,
  auditEntryKey,
  auditHeadKey,
  type Bucket,
  type Bus,
  buckets,
  type Codec,
} from '@weft/bus'
import { InvalidArgumentError, LimitReachedError } from '@weft/errors'
import { AuditRecord, type AuditServiceService, Head } from '@weft/proto/weftline/audit/v1/audit.ts'
import { Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import type { Handlers } from '@weft/rpc'

/** Entries in one page: at most 1,000 of 1.4 KiB, 1.4 MiB. */
const PAGE_MAX = 1_000
const PAGE_DEFAULT = 500
/** Chains that are listed, each with a head of about 260 bytes: 2.6 MiB. */
const WRITERS_MAX = 10_000
const READS_AT_ONCE = 64
/** Numbers that are looked for in one call. */
const PROBES_MAX = 10_000
/** Beyond its signed head a chain ends where so many numbers in a row are not there: a crash leaves no wider gap than a batch. */
const GAP_MAX = 512

/** Values as they are stored: a damaged one is shown to whoever verifies, and hides nothing else. */
const stored: Codec<Uint8Array> = {
  encode: (bytes) => ({ finish: () => bytes }),
  decode: (bytes) => bytes,
}

/** Handlers of AuditService: what the bucket `audit` holds of all writers. */
export async function auditHandlers(bus: Bus): Promise<Handlers<typeof AuditServiceService>> {
  const bucket = await bus.openBucket(buckets.audit, stored)
  return {
    async listEntries({ writer, fromNumber, size }, { signal }) {
      if (!/^[\w-]{1,128}$/.test(writer)) {
        throw new InvalidArgumentError({ field: 'writer', problem: 'it is not the id of a writer' })
      }
      if (size > PAGE_MAX) {
        throw new InvalidArgumentError({
          field: 'size',
          problem: `${size} is more than ${PAGE_MAX}`,
        })
      }
      const wanted = size || PAGE_DEFAULT
      const headNumber = await headNumberOf(bucket, writer)
      const entries: Buffer[] = []
      let number = fromNumber || 1n
      let missing = 0
      let probes = 0
      while (number <= headNumber || missing < GAP_MAX) {
        if (entries.length >= wanted || probes >= PROBES_MAX) return { entries, nextNumber: number }
        signal.throwIfAborted()
        const count = Math.min(READS_AT_ONCE, wanted - entries.length)
        for (const entry of await readEntries(bucket, writer, number, count)) {
          if (entry) entries.push(entry)
          missing = entry ? 0 : missing + 1
        }
        number += BigInt(count)
        probes += count
      }
      return { entries, nextNumber: 0n }
    },

    async listWriters(_request, { signal }) {
      const heads = new Map<string, Signed>()
      const told = new AbortController()
      const watched = { signal: AbortSignal.any([signal, told.signal]) }
      for await (const batch of bucket.watch(AUDIT_HEAD_PREFIX, watched)) {
        for (const event of batch) {
          if (event.kind === 'snapshot-end') told.abort()
          else if (event.kind === 'put') heads.set(event.key, headIn(event.value))
        }
        if (heads.size > WRITERS_MAX) {
          throw new LimitReachedError({ what: 'chains of the audit log', limit: WRITERS_MAX })
        }
      }
      signal.throwIfAborted()
      const sorted = [...heads].sort(([left], [right]) => (left < right ? -1 : 1))
      return { heads: sorted.map(([, head]) => head) }
    },
  }
}

async function headNumberOf(bucket: Bucket<Uint8Array>, writer: string): Promise<bigint> {
  const head = await bucket.get(auditHeadKey(writer))
  try {
    return head ? Head.decode(headIn(head.value).payload).number : 0n
  } catch {
    return 0n
  }
}

/** In the order of their numbers; undefined where there is none. */
function readEntries(
  bucket: Bucket<Uint8Array>,
  writer: string,
  from: bigint,
  count: number,
): Promise<(Buffer | undefined)[]> {
  const reads = Array.from({ length: count }, async (_, index) => {
    const entry = await bucket.get(auditEntryKey(writer, from + BigInt(index)))
    return entry && entryIn(entry.value)
  })
  return Promise.all(reads)
}

/** Empty for what is no entry: nobody takes that for one. */
function entryIn(bytes: Uint8Array): Buffer {
  const { kind } = recordIn(bytes)
  return kind?.$case === 'entry' ? kind.value : Buffer.alloc(0)
}

function headIn(bytes: Uint8Array): Signed {
  const { kind } = recordIn(bytes)
  return kind?.$case === 'head' ? kind.value : Signed.create()
}

function recordIn(bytes: Uint8Array): AuditRecord {
  try {
    return AuditRecord.decode(bytes)
  } catch {
    return AuditRecord.create()
  }
}
