import { createHash } from 'node:crypto'
import { asWeftError } from '@weft/errors'
import { openStatement } from '@weft/identity'
import { AuditPhase, Entry, Head } from '@weft/proto/weftline/audit/v1/audit.ts'
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

/** What verification found out about a chain. */
export interface AuditVerdict {
  readonly writer: string
  readonly entries: number
  /** Entries after the newest that a signed head covers: they are linked, but nobody has vouched for them yet. */
  readonly unsigned: number
  /** Ed25519 public key of who signed the head, lower-case hex; empty without one. */
  readonly signer: string
  readonly signedAt: Date | undefined
  /** Why it is not what was written, in order; empty if it is. */
  readonly problems: readonly string[]
}

/** One broken link is followed by others; more than these say nothing new. */
const PROBLEMS_MAX = 20
const NO_HASH: Buffer = Buffer.alloc(32)

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

/**
 * Verifies a chain: numbers from 1 without gaps, each entry with the SHA-256 of the encoded one before it, and a head
 * that is signed (purpose `audit-head`) and has the hash of its entry. So nothing was changed, removed or put in up to the
 * head; what was cut off at the end is missed because the head tells how many there are.
 * @param signers Ed25519 public keys, lower-case hex, of which one has to have signed; any may have if there are none
 */
export async function verifyAuditChain(
  chain: AuditChain,
  signers: readonly string[] = [],
): Promise<AuditVerdict> {
  const problems: string[] = []
  const complain = (problem: string): void => {
    if (problems.length < PROBLEMS_MAX) problems.push(problem)
  }
  const head = openHead(chain, signers, complain)
  let previous = NO_HASH
  let number = 0n
  let entries = 0
  // A head is signed before the first entry, so that no chain is overlooked.
  let headHash = head?.number === 0n ? NO_HASH : undefined
  for await (const bytes of chain.entries) {
    entries++
    const hash = createHash('sha256').update(bytes).digest()
    const entry = decoded(bytes)
    if (entry === undefined) {
      number++
      complain(`entry ${number} is no entry`)
    } else {
      if (entry.writer !== chain.writer) complain(`entry ${entry.number} is of another writer`)
      if (entry.number !== number + 1n) complain(gapText(number, entry.number))
      else if (!previous.equals(entry.previousHash)) {
        complain(`entry ${entry.number} does not follow from the one before it`)
      }
      number = entry.number
    }
    if (number === head?.number) headHash = hash
    previous = hash
  }
  if (head !== undefined) {
    if (headHash === undefined) complain(`it ends at ${number}, and its head is at ${head.number}`)
    else if (!headHash.equals(head.hash)) complain(`entry ${head.number} is not that of the head`)
  }
  const signed = head?.number ?? 0n
  return {
    writer: chain.writer,
    entries,
    unsigned: number > signed ? Number(number - signed) : 0,
    signer: chain.head === undefined ? '' : Buffer.from(chain.head.signerKey).toString('hex'),
    signedAt: head && new Date(Number(head.signedAtUnixMs)),
    problems,
  }
}

/** Undefined, after complaining, unless the head is signed as it has to be. */
function openHead(
  { head: signed, writer }: AuditChain,
  signers: readonly string[],
  complain: (problem: string) => void,
): Head | undefined {
  if (signed === undefined) {
    complain('it has no signed head')
    return undefined
  }
  try {
    const head = openStatement('audit-head', signed, Head)
    const signer = Buffer.from(signed.signerKey).toString('hex')
    if (signers.length > 0 && !signers.includes(signer)) {
      complain(`its head is signed by another key: ${signer}`)
      return undefined
    }
    if (head.writer !== writer) {
      complain(`its head is of another writer: ${head.writer}`)
      return undefined
    }
    return head
  } catch (error) {
    complain(asWeftError(error).message)
    return undefined
  }
}

function decoded(bytes: Uint8Array): Entry | undefined {
  try {
    return Entry.decode(bytes)
  } catch {
    return undefined
  }
}

function gapText(before: bigint, number: bigint): string {
  return number <= before
    ? `entry ${number} comes after entry ${before}`
    : `entries ${before + 1n} to ${number - 1n} are missing`
}
