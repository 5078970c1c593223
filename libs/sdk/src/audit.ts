import { AuditPhase, Entry } from '@weft/proto/weftline/audit/v1/audit.ts'
import type { Signed } from '@weft/proto/weftline/identity/v1/identity.ts'

/** An entry of the audit, for people and programs. */
export interface AuditEntry {
  /** A replica from one of its starts on: each has a chain of its own. */
  readonly writer: string
  /** From 1, without gaps. */
  readonly number: bigint
  readonly at: Date
  readonly phase: 'intent' | 'done' | 'failed' | 'denied' | 'unknown'
  /** Number of the intent that this is the outcome of; 0 otherwise. */
  readonly intent: bigint
  /** An identity as URI; empty for somebody unknown. */
  readonly who: string
  readonly from: string
  readonly action: string
  readonly object: string
  readonly tenant: string
  readonly revisionBefore: bigint
  readonly revisionAfter: bigint
  readonly reason: string
  /** How many denials it stands for. */
  readonly count: number
}

/** A chain with its head, as the control server or a file has them. */
export interface AuditChain {
  readonly writer: string
  /** Undefined where none was signed yet. */
  readonly head: Signed | undefined
  /** Encoded, oldest first. */
  readonly entries: AsyncIterable<Uint8Array> | Iterable<Uint8Array>
}

const PHASES: { readonly [phase: number]: AuditEntry['phase'] } = {
  [AuditPhase.AUDIT_PHASE_INTENT]: 'intent',
  [AuditPhase.AUDIT_PHASE_DONE]: 'done',
  [AuditPhase.AUDIT_PHASE_FAILED]: 'failed',
  [AuditPhase.AUDIT_PHASE_DENIED]: 'denied',
}

/** What an entry says. @throws if it is none */
export function decodeAuditEntry(bytes: Uint8Array): AuditEntry {
  const { phase, atUnixMs, previousHash: _, ...rest } = Entry.decode(bytes)
  return { ...rest, at: new Date(Number(atUnixMs)), phase: PHASES[phase] ?? 'unknown' }
}
