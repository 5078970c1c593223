import type { AuditRecord } from '@weft/proto/weftline/audit/v1/audit.ts'

/** A record on its way into the copies. */
export interface CopyRecord {
  /** Number of the entry; undefined for a head. */
  readonly number: bigint | undefined
  readonly record: AuditRecord
}

/** One of the copies of a chain. */
export interface AuditCopy extends AsyncDisposable {
  readonly kind: 'file' | 'bucket'
  /** For errors and logs. */
  readonly name: string
  /**
   * Resolves when the records are kept for good. After a rejection the same records come again, before any others, until
   * they are kept: nothing of them is kept twice.
   */
  append(records: readonly CopyRecord[]): Promise<void>
  /** How full it is, where that is known; for alarms. */
  fill?(): Promise<{ readonly sizeBytes: number; readonly sizeMaxBytes: number }>
}
