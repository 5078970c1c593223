import { createHash } from 'node:crypto'
import { verifyStatement } from '@weft/identity'
import { AuditPhase, AuditRecord, Entry, Head } from '@weft/proto/weftline/audit/v1/audit.ts'
import type { Signed } from '@weft/proto/weftline/identity/v1/identity.ts'

/** What one copy of the audit log holds of one chain. */
export interface AuditCopy {
  /** Where it comes from, for the findings. */
  readonly name: string
  /** As encoded, in the order in which the copy has them. */
  readonly entries: readonly Uint8Array[]
  readonly heads: readonly Signed[]
  /** Of a file: bytes at its end that are no whole record. */
  readonly tornBytes?: number
  /** Of a file: where records begin that cannot be read, although later ones can. */
  readonly damagedAtBytes?: readonly number[]
}

/** What is wrong; the notices are what a crash of the writer leaves, or a chain that is being written. */
const findings = {
  missing: { severity: 'problem', text: 'is missing' },
  modified: {
    severity: 'problem',
    text: 'was modified: its hash is not the one that the chain has',
  },
  conflicting: {
    severity: 'problem',
    text: 'is there in different forms, and no head says which is right',
  },
  reordered: { severity: 'problem', text: 'stands behind later entries' },
  repeated: { severity: 'problem', text: 'is there twice' },
  malformed: { severity: 'problem', text: 'cannot be read' },
  foreign: { severity: 'problem', text: 'belongs to another chain' },
  'bad-head': { severity: 'problem', text: 'has a signed head that is not valid' },
  'unknown-signer': { severity: 'problem', text: 'has a head that no known service signed' },
  forked: { severity: 'problem', text: 'has signed heads or hashes that contradict each other' },
  'no-head': { severity: 'problem', text: 'has no valid signed head: nothing vouches for it' },
  unlinked: { severity: 'problem', text: 'do not fit together: one of them was modified' },
  damaged: { severity: 'problem', text: 'has damaged records in its file' },
  unconfirmed: {
    severity: 'notice',
    text: 'is missing, after the last signed head: the writer crashed while it was written, or somebody removed it',
  },
  unsigned: { severity: 'notice', text: 'is not covered by a signed head yet' },
  torn: {
    severity: 'notice',
    text: 'ends within a record: the writer crashed while it was written',
  },
} as const

export type AuditFindingKind = keyof typeof findings

/** Something that is wrong with a chain, or may be. */
export interface AuditFinding {
  readonly kind: AuditFindingKind
  readonly severity: 'problem' | 'notice'
  readonly writer: string
  /** The entries it is about, 0 if it is about the chain as a whole. */
  readonly firstNumber: bigint
  readonly lastNumber: bigint
  /** Name of the copy, `every copy` if it is about all. */
  readonly copy: string
  /** All of that for people. */
  readonly text: string
}

export interface AuditChainReport {
  readonly writer: string
  /** By number; of several forms the one that the chain vouches for. */
  readonly entries: readonly Entry[]
  /** The newest valid one. */
  readonly head: Head | undefined
  /** Ed25519 public key of who signed it, 32 bytes. */
  readonly signer: Uint8Array | undefined
  readonly findings: readonly AuditFinding[]
  /** Intents of which nobody knows what came of them: the writer crashed, or they are being done. */
  readonly unknownOutcomes: readonly bigint[]
}

/**
 * Verifies one chain by all its copies: that each entry is there, in its place, as it was when the next one and the signed
 * heads were made. `signers` are the Ed25519 keys (32 bytes) of the services that may sign heads.
 *
 * A head is written after its entries are in every copy. For a chain that is still written: first read the heads of the
 * bucket (ListWriters), then the files, then the entries of the bucket (ListEntries); then nothing new looks missing.
 */
export function verifyAuditCopies(
  writer: string,
  copies: readonly AuditCopy[],
  signers: readonly Uint8Array[],
): AuditChainReport {
  const notes = new Notes(writer)
  for (const copy of copies) noteDamage(copy, notes)
  const heads = new Heads(writer, copies, signers, notes)
  const placed = copies.map((copy) => ({ copy, entries: placeEntries(writer, copy, notes) }))
  const entries = judgeEntries(placed, heads, notes)
  const unsigned = entries.filter(({ number }) => number > heads.newestNumber)
  const [first] = unsigned
  const last = unsigned.at(-1)
  if (first && last) notes.add('unsigned', EVERY_COPY, first.number, last.number)
  return {
    writer,
    entries,
    head: heads.newest,
    signer: heads.signer,
    findings: notes.findings,
    unknownOutcomes: intentsWithoutOutcome(entries),
  }
}

const EVERY_COPY = 'every copy'
const NO_HASH = '00'.repeat(32)

class Notes {
  readonly findings: AuditFinding[] = []
  readonly #writer: string

  constructor(writer: string) {
    this.#writer = writer
  }

  add(kind: AuditFindingKind, copy: string, firstNumber = 0n, lastNumber = firstNumber): void {
    const writer = this.#writer
    const { severity, text } = findings[kind]
    const isOne = firstNumber === lastNumber
    const which = isOne ? `entry ${firstNumber}` : `entries ${firstNumber} to ${lastNumber}`
    const what = firstNumber === 0n ? `chain ${writer}` : `${which} of chain ${writer}`
    const place = copy === EVERY_COPY ? '' : ` (${copy})`
    this.findings.push({
      kind,
      severity,
      writer,
      firstNumber,
      lastNumber,
      copy,
      text: `${what}${place} ${isOne ? text : text.replace(/^is /, 'are ')}`,
    })
  }

  /** One finding for each run of numbers. */
  addRuns(kind: AuditFindingKind, copy: string, numbers: readonly bigint[]): void {
    const sorted = numbers.toSorted((left, right) => (left < right ? -1 : 1))
    let first: bigint | undefined
    for (const [index, number] of sorted.entries()) {
      first ??= number
      if (sorted[index + 1] === number + 1n) continue
      this.add(kind, copy, first, number)
      first = undefined
    }
  }
}

function noteDamage({ name, tornBytes = 0, damagedAtBytes = [] }: AuditCopy, notes: Notes): void {
  if (damagedAtBytes.length > 0) notes.add('damaged', name)
  if (tornBytes > 0) notes.add('torn', name)
}

/** The valid heads of all copies. */
class Heads {
  newest: Head | undefined
  /** Who signed the newest. */
  signer: Uint8Array | undefined
  readonly #hashes = new Map<bigint, string>()

  constructor(
    writer: string,
    copies: readonly AuditCopy[],
    signers: readonly Uint8Array[],
    notes: Notes,
  ) {
    for (const { name, heads } of copies) {
      for (const signed of heads) {
        const isKnown = signers.some((signer) => signed.signerKey.equals(signer))
        const head = isKnown ? openHead(signed) : undefined
        if (!isKnown) notes.add('unknown-signer', name)
        else if (head?.writer !== writer) notes.add('bad-head', name)
        else this.#add(head, signed.signerKey, name, notes)
      }
    }
    if (!this.newest) notes.add('no-head', EVERY_COPY)
  }

  get newestNumber(): bigint {
    return this.newest?.number ?? 0n
  }

  /** In hex. */
  hashOf(number: bigint): string | undefined {
    return this.#hashes.get(number)
  }

  #add(head: Head, signer: Uint8Array, copy: string, notes: Notes): void {
    const hash = hex(head.hash)
    const known = this.#hashes.get(head.number)
    if (known !== undefined && known !== hash) notes.add('forked', copy, head.number)
    this.#hashes.set(head.number, known ?? hash)
    if (this.newest && head.number <= this.newest.number) return
    this.newest = head
    this.signer = signer
  }
}

function openHead(signed: Signed): Head | undefined {
  try {
    return Head.decode(verifyStatement('audit-head', signed))
  } catch {
    return undefined
  }
}

/** An entry in one copy. */
interface Found {
  readonly entry: Entry
  /** In hex. */
  readonly hash: string
}

interface Placed {
  readonly copy: AuditCopy
  readonly entries: ReadonlyMap<bigint, Found>
}

/** The entries of a copy by what they say is their number. */
function placeEntries(writer: string, copy: AuditCopy, notes: Notes): Map<bigint, Found> {
  const entries = new Map<bigint, Found>()
  let highest = 0n
  for (const bytes of copy.entries) {
    const entry = readEntry(bytes)
    if (!entry) {
      notes.add('malformed', copy.name, highest + 1n)
      continue
    }
    const { number } = entry
    const found = { entry, hash: createHash('sha256').update(bytes).digest('hex') }
    const other = entries.get(number)
    if (entry.writer !== writer) {
      notes.add('foreign', copy.name, number)
    } else if (other) {
      notes.add(other.hash === found.hash ? 'repeated' : 'conflicting', copy.name, number)
    } else {
      if (number < highest) notes.add('reordered', copy.name, number)
      else highest = number
      entries.set(number, found)
    }
  }
  return entries
}

function readEntry(bytes: Uint8Array): Entry | undefined {
  try {
    const entry = Entry.decode(bytes)
    return entry.number > 0n && entry.previousHash.byteLength === 32 ? entry : undefined
  } catch {
    return undefined
  }
}

/**
 * From the newest entry down: a head or the entry after it says which hash each must have. So an entry that was modified is
 * told from its neighbours, which were not. Answers the entries by number.
 */
function judgeEntries(placed: readonly Placed[], heads: Heads, notes: Notes): Entry[] {
  const numbers = new Set(placed.flatMap(({ entries }) => [...entries.keys()]))
  const missing = placed.map(({ copy }) => ({ copy: copy.name, numbers: [] as bigint[] }))
  const chosen: Entry[] = []
  /** The hash that the next lower entry has to have, in hex. */
  let expected: string | undefined
  /** Whether a head vouches for it. */
  let isSure = false
  /** This one and all above are judged. */
  let above = heads.newestNumber + 1n
  for (const number of [...numbers].sort((left, right) => (left < right ? 1 : -1))) {
    if (number >= above) above = number + 1n
    if (number < above - 1n) {
      noteGap(number + 1n, above - 1n, heads.newestNumber, notes)
      expected = undefined
    }
    above = number
    const signed = heads.hashOf(number)
    if (signed !== undefined) {
      if (expected !== undefined && expected !== signed) {
        if (isSure) notes.add('forked', EVERY_COPY, number)
        else notes.add('unlinked', EVERY_COPY, number, number + 1n)
      }
      expected = signed
      isSure = true
    }
    const forms: Found[] = []
    let isUnlinked = false
    for (const [index, { copy, entries }] of placed.entries()) {
      const form = entries.get(number)
      if (!form) {
        missing[index]?.numbers.push(number)
        continue
      }
      forms.push(form)
      if (expected === undefined || form.hash === expected) continue
      if (isSure) notes.add('modified', copy.name, number)
      else isUnlinked = true
    }
    if (isUnlinked) notes.add('unlinked', EVERY_COPY, number, number + 1n)
    if (expected === undefined && new Set(forms.map(({ hash }) => hash)).size > 1) {
      notes.add('conflicting', EVERY_COPY, number)
    }
    /** Whether a form says of the entry before what a copy of that one confirms. */
    const isLinked = ({ entry }: Found): boolean =>
      placed.some(({ entries }) => entries.get(number - 1n)?.hash === hex(entry.previousHash))
    const authentic = forms.find(({ hash }) => hash === expected)
    const form = authentic ?? forms.find(isLinked) ?? forms[0]
    if (!form) continue
    chosen.push(form.entry)
    if (number === 1n) {
      if (hex(form.entry.previousHash) !== NO_HASH) notes.add('modified', EVERY_COPY, number)
      continue
    }
    // What an entry says that was modified, or may have been, counts only if the one before it confirms that.
    const isUndisputed = expected === undefined && forms.length === 1
    const isBelieved = authentic !== undefined || isUndisputed || isLinked(form)
    expected = isBelieved ? hex(form.entry.previousHash) : undefined
    if (expected === undefined) isSure = false
  }
  if (above > 1n) noteGap(1n, above - 1n, heads.newestNumber, notes)
  for (const { copy, numbers: all } of missing) {
    const isSigned = (number: bigint): boolean => number <= heads.newestNumber
    notes.addRuns('missing', copy, all.filter(isSigned))
    notes.addRuns(
      'unconfirmed',
      copy,
      all.filter((number) => !isSigned(number)),
    )
  }
  return chosen.toReversed()
}

/** No copy has these. */
function noteGap(first: bigint, last: bigint, newestHead: bigint, notes: Notes): void {
  const lastSigned = last < newestHead ? last : newestHead
  if (first <= lastSigned) notes.add('missing', EVERY_COPY, first, lastSigned)
  const firstUnsigned = first > newestHead ? first : newestHead + 1n
  if (firstUnsigned <= last) notes.add('unconfirmed', EVERY_COPY, firstUnsigned, last)
}

function intentsWithoutOutcome(entries: readonly Entry[]): bigint[] {
  const open = new Set<bigint>()
  for (const { phase, number, intent } of entries) {
    if (phase === AuditPhase.AUDIT_PHASE_INTENT) open.add(number)
    else open.delete(intent)
  }
  return [...open]
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}

const FILE_MAGIC = Buffer.from('weftaud1')
const FRAME_HEADER_BYTES = 8
const RECORD_BYTES_MAX = 64 * 1024

/**
 * Reads the local copy of a chain, a file `<writer>.audit`: 8 bytes `weftaud1`, then frames of length and CRC-32C (4 bytes
 * each, little endian) and an `AuditRecord`. What cannot be read is left out and told. Undefined for any other file.
 */
export function readAuditFile(name: string, bytes: Uint8Array): AuditCopy | undefined {
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const isTornAtOnce = FILE_MAGIC.subarray(0, file.byteLength).equals(file)
  if (isTornAtOnce) return { name, entries: [], heads: [], tornBytes: file.byteLength }
  if (!file.subarray(0, FILE_MAGIC.byteLength).equals(FILE_MAGIC)) return undefined
  const entries: Buffer[] = []
  const heads: Signed[] = []
  const damagedAtBytes: number[] = []
  /** Up to here there was something good. */
  let goodBytes = FILE_MAGIC.byteLength
  let at = goodBytes
  while (at + FRAME_HEADER_BYTES <= file.byteLength) {
    const end = at + FRAME_HEADER_BYTES + file.readUInt32LE(at)
    const payload = file.subarray(at + FRAME_HEADER_BYTES, end)
    if (end > file.byteLength || payload.byteLength > RECORD_BYTES_MAX) break
    const isWhole = payload.byteLength > 0 && crc32c(payload) === file.readUInt32LE(at + 4)
    const kind = isWhole ? readRecord(payload)?.kind : undefined
    if (kind?.$case === 'entry') entries.push(kind.value)
    if (kind?.$case === 'head') heads.push(kind.value)
    if (kind) goodBytes = end
    else damagedAtBytes.push(at)
    at = end
  }
  return {
    name,
    entries,
    heads,
    // What follows the last good record is what a crash leaves.
    tornBytes: file.byteLength - goodBytes,
    damagedAtBytes: damagedAtBytes.filter((offset) => offset < goodBytes),
  }
}

function readRecord(payload: Uint8Array): AuditRecord | undefined {
  try {
    return AuditRecord.decode(payload)
  } catch {
    return undefined
  }
}

/** CRC-32C (RFC 3720 appendix B.4), reflected polynomial of 0x1EDC6F41. */
const CRC32C_TABLE: Uint32Array = Uint32Array.from({ length: 256 }, (_, index) => {
  let value = index
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f6_3b78 : value >>> 1
  return value
})

function crc32c(bytes: Uint8Array): number {
  let crc = 0xffff_ffff
  for (const byte of bytes) crc = (crc >>> 8) ^ (CRC32C_TABLE[(crc ^ byte) & 0xff] ?? 0)
  return (crc ^ 0xffff_ffff) >>> 0
}
