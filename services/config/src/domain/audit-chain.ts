import { AuditPhase, Entry, Head } from '@weft/proto/weftline/audit/v1/audit.ts'

/**
 * Longest texts of an entry, in bytes of UTF-8; what is longer is cut and ends with `…`. The longest object that is right,
 * `endpoint` with three names of 63, has 200. With 104 for the writer, 32 for a hash and 80 for the rest, an entry has at
 * most 1,368 bytes.
 */
export const auditLimits = {
  who: 128,
  from: 64,
  action: 128,
  object: 512,
  tenant: 64,
  reason: 256,
} as const

/** What an entry says, before it has a place in a chain; as `entryFacts` makes it. */
export interface EntryFacts {
  readonly phase: AuditPhase
  readonly atUnixMs: number
  readonly who: string
  readonly from: string
  readonly action: string
  readonly object: string
  readonly tenant: string
  readonly reason: string
  /** Number of the intent that this is the outcome of, 0 otherwise. */
  readonly intent: bigint
  readonly revisionBefore: bigint
  readonly revisionAfter: bigint
  readonly count: number
}

/** An entry in its place. */
interface LinkedEntry {
  readonly number: bigint
  /** As encoded: this is what is hashed and kept. */
  readonly bytes: Uint8Array
}

/** SHA-256. */
type Hash = (bytes: Uint8Array) => Uint8Array

/** What a chain begins with in place of a hash. */
const NO_HASH: Uint8Array = new Uint8Array(32)
const COUNT_MAX = 0xffff_ffff

/** The chain of one writer: entries numbered from 1 without gaps, each with the hash of the one before it. */
export class AuditChain {
  readonly writer: string
  readonly #hashOf: Hash
  #number = 0n
  #hash: Uint8Array = NO_HASH

  constructor(writer: string, hashOf: Hash) {
    this.writer = writer
    this.#hashOf = hashOf
  }

  /** Number of the newest entry, 0 for none. */
  get number(): bigint {
    return this.#number
  }

  append(facts: EntryFacts): LinkedEntry {
    this.#number++
    const entry: Entry = {
      writer: this.writer,
      number: this.#number,
      previousHash: Buffer.from(this.#hash),
      atUnixMs: BigInt(facts.atUnixMs),
      phase: facts.phase,
      intent: facts.intent,
      who: facts.who,
      from: facts.from,
      action: facts.action,
      object: facts.object,
      tenant: facts.tenant,
      reason: facts.reason,
      revisionBefore: facts.revisionBefore,
      revisionAfter: facts.revisionAfter,
      count: Math.min(facts.count, COUNT_MAX),
    }
    const bytes = Entry.encode(entry).finish()
    this.#hash = this.#hashOf(bytes)
    return { number: this.#number, bytes }
  }

  /** The head of the chain as it is now, encoded for its signature. */
  head(signedAtUnixMs: number): Uint8Array {
    return Head.encode({
      writer: this.writer,
      number: this.#number,
      hash: Buffer.from(this.#hash),
      signedAtUnixMs: BigInt(signedAtUnixMs),
    }).finish()
  }
}

/** What no caller means to write down: tokens and login codes, private keys, seeds of nkeys. */
const SECRETS =
  /(weft-(?:join|login)-v\d+)\.\S*|-----BEGIN [A-Z ]*PRIVATE KEY-----[^]*|\bS[ACNOUX][A-Z2-7]{20,}/g
/** What could deceive whoever reads it on a terminal. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu
const CUT_MARK = '…'
const CUT_MARK_BYTES = 3

/** A text of an entry: at most `maxBytes` long in UTF-8, printable, and without anything that looks like a secret. */
export function auditText(text: string, maxBytes: number): string {
  // Whatever a caller sends is looked at only as far as a place among its first characters can matter.
  const looked = text.slice(0, 4 * maxBytes)
  const told = looked
    .replace(SECRETS, (_secret, kind: string | undefined) => `${kind ?? 'a key'} (hidden)`)
    .replace(UNPRINTABLE, '?')
  const bytes = Buffer.from(told)
  if (bytes.byteLength <= maxBytes && looked.length === text.length) return told
  let end = Math.min(bytes.byteLength, maxBytes - CUT_MARK_BYTES)
  // Not within a character: its further bytes are 10xxxxxx (RFC 3629).
  while (end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end--
  return bytes.toString('utf8', 0, end) + CUT_MARK
}

/** Facts of an entry of which these are known. Its texts come out short, printable and without secrets. */
export function entryFacts(known: Partial<EntryFacts> & Pick<EntryFacts, 'atUnixMs'>): EntryFacts {
  return {
    phase: AuditPhase.AUDIT_PHASE_UNSPECIFIED,
    intent: 0n,
    revisionBefore: 0n,
    revisionAfter: 0n,
    count: 1,
    ...known,
    ...auditTexts(known),
  }
}

/** The texts of an entry, as `auditText` leaves them. */
type AuditTexts = { readonly [Field in keyof typeof auditLimits]: string }

export function auditTexts(texts: Partial<AuditTexts>): AuditTexts {
  const text = (field: keyof AuditTexts): string =>
    auditText(texts[field] ?? '', auditLimits[field])
  return {
    who: text('who'),
    from: text('from'),
    action: text('action'),
    object: text('object'),
    tenant: text('tenant'),
    reason: text('reason'),
  }
}
