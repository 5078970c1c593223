import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { describe, test } from 'node:test'
import { generateIdentityKey, publicKeyOf, signStatement } from '@weft/identity'
import { AuditPhase, AuditRecord, Entry } from '@weft/proto/weftline/audit/v1/audit.ts'
import type { Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import {
  type AuditChainReport,
  type AuditCopy,
  type AuditFindingKind,
  readAuditFile,
  verifyAuditCopies,
} from '@weft/sdk'
import fc from 'fast-check'
import { crc32c, FILE_MAGIC, frameOf } from '../src/audit/frame.ts'
import { AuditChain, auditText, entryFacts } from '../src/domain/audit-chain.ts'

const key = generateIdentityKey()
const signers = [publicKeyOf(key)]
/** Long enough for an edge, a middle and a tail. */
const LENGTH = 12
const SIGNED = 9n

describe('a chain', () => {
  test('that nobody touched has nothing wrong, however many entries and heads it has', () => {
    fc.assert(
      fc.property(fc.array(fc.boolean(), { maxLength: 40 }), (headsAfter) => {
        const chain = new AuditChain('w', sha256)
        const heads = [signHead(chain.head(0))]
        const entries = headsAfter.map((isHeadAfter, index) => {
          const { bytes } = chain.append(entryFacts({ atUnixMs: index, object: `${index}` }))
          if (isHeadAfter) heads.push(signHead(chain.head(index)))
          return bytes
        })
        heads.push(signHead(chain.head(99)))

        const report = verifyAuditCopies(
          'w',
          [copyOf('a', entries, heads), copyOf('b', entries, heads)],
          signers,
        )

        assert.deepEqual(report.findings, [])
        assert.deepEqual(
          report.entries.map(({ number }) => number),
          entries.map((_, index) => BigInt(index + 1)),
        )
      }),
    )
  })

  test('of which one byte of one entry was changed in one copy names that entry and that copy, and no other', () => {
    const { entries, heads } = makeChain()
    fc.assert(
      fc.property(
        fc.nat(LENGTH - 1),
        fc.nat(10_000),
        fc.integer({ min: 1, max: 255 }),
        (index, place, change) => {
          const bytes = Buffer.from(entries[index] ?? [])
          const at = place % bytes.byteLength
          bytes[at] = (bytes[at] ?? 0) ^ change
          const copies = [
            copyOf('good', entries, heads),
            copyOf('bad', entries.with(index, bytes), heads),
          ]

          const { findings, entries: told } = verifyAuditCopies('w', copies, signers)

          const number = BigInt(index + 1)
          const problems = findings.filter(({ severity }) => severity === 'problem')
          // Behind the last head nobody vouches for a number: another one there looks like a chain that was cut off.
          const judged = number <= SIGNED ? problems : findings
          assert(judged.length > 0, JSON.stringify(findings, stringify))
          const isNamed = findings.some(
            ({ firstNumber, lastNumber }) => firstNumber <= number && number <= lastNumber,
          )
          assert(isNamed, JSON.stringify(findings, stringify))
          assert(problems.every(({ copy }) => copy !== 'good'))
          if (number <= SIGNED) assert.deepEqual(told[index], Entry.decode(entries[index] ?? bytes))
        },
      ),
      { examples: [[LENGTH - 1, 4, 16]] },
    )
  })

  test('of which one entry was changed in every copy names that entry', () => {
    const { entries, heads } = makeChain()
    for (let number = 1n; number <= SIGNED; number++) {
      const forged = forge(entries, number, (entry) => ({
        ...entry,
        who: 'spiffe://test.weft/user/666',
      }))

      const report = verifyAuditCopies(
        'w',
        [copyOf('a', forged, heads), copyOf('b', forged, heads)],
        signers,
      )

      assert.deepEqual(problems(report), [
        ['modified', 'a', number, number],
        ['modified', 'b', number, number],
      ])
    }
  })

  test('of which one entry and its link were changed in every copy names that entry', () => {
    const { entries, heads } = makeChain()
    for (let number = 2n; number <= SIGNED; number++) {
      const forged = forge(entries, number, (entry) => ({
        ...entry,
        previousHash: Buffer.alloc(32, 7),
      }))

      const report = verifyAuditCopies('w', [copyOf('a', forged, heads)], signers)

      assert.deepEqual(problems(report), [['modified', 'a', number, number]])
    }
  })

  test('that was written anew from some entry on names all that the head vouches for', () => {
    const { entries, heads } = makeChain()
    const again = new AuditChain('w', sha256)
    const anew = entries.map((bytes, index) => {
      const { atUnixMs, object } = Entry.decode(bytes)
      return again.append(
        entryFacts({ atUnixMs: Number(atUnixMs), object: index === 4 ? 'x' : object }),
      ).bytes
    })

    const report = verifyAuditCopies(
      'w',
      [copyOf('a', anew, heads), copyOf('b', entries, heads)],
      signers,
    )

    const numbers = report.findings
      .filter(({ kind, copy }) => kind === 'modified' && copy === 'a')
      .map(({ firstNumber }) => firstNumber)
    assert.deepEqual(new Set(numbers), new Set([5n, 6n, 7n, 8n, 9n]))
    assert.equal(report.entries[4]?.object, 'object 5')
  })

  test('from which entries were removed names them, and the copy that lacks them', () => {
    const { entries, heads } = makeChain()
    const without = entries.filter((_, index) => ![2, 3, 6].includes(index))

    const one = verifyAuditCopies(
      'w',
      [copyOf('a', without, heads), copyOf('b', entries, heads)],
      signers,
    )
    const both = verifyAuditCopies(
      'w',
      [copyOf('a', without, heads), copyOf('b', without, heads)],
      signers,
    )

    assert.deepEqual(problems(one), [
      ['missing', 'a', 3n, 4n],
      ['missing', 'a', 7n, 7n],
    ])
    assert.deepEqual(problems(both), [
      ['missing', 'every copy', 7n, 7n],
      ['missing', 'every copy', 3n, 4n],
    ])
    const texts = [...one.findings, ...both.findings].map(({ text }) => text)
    assert(texts.includes('entry 7 of chain w (a) is missing'))
    assert(texts.includes('entries 3 to 4 of chain w are missing'))
  })

  test('from whose end entries were removed names those that a head vouches for', () => {
    const { entries, heads } = makeChain()
    const cut = entries.slice(0, 6)

    const report = verifyAuditCopies('w', [copyOf('a', cut, heads), copyOf('b', cut, [])], signers)

    assert.deepEqual(problems(report), [['missing', 'every copy', 7n, 9n]])
  })

  test('whose copies differ after the last head, as a crash leaves them, is told without an accusation', () => {
    const { entries, heads } = makeChain()
    const copies = [copyOf('a', entries, heads), copyOf('b', entries.toSpliced(10, 1), heads)]

    const report = verifyAuditCopies('w', copies, signers)

    assert.deepEqual(
      report.findings.map(({ kind, severity, firstNumber }) => [kind, severity, firstNumber]),
      [
        ['unconfirmed', 'notice', 11n],
        ['unsigned', 'notice', 10n],
      ],
    )
  })

  test('whose entries were put in another order names them', () => {
    const { entries, heads } = makeChain()
    const swapped = entries.with(3, at(entries, 4)).with(4, at(entries, 3))
    const repeated = entries.toSpliced(5, 0, at(entries, 2))

    const report = verifyAuditCopies(
      'w',
      [copyOf('a', swapped, heads), copyOf('b', repeated, heads)],
      signers,
    )

    assert.deepEqual(problems(report), [
      ['reordered', 'a', 4n, 4n],
      ['repeated', 'b', 3n, 3n],
    ])
  })

  test('with an entry of another chain, one that cannot be read, and a head of another writer or key names each', () => {
    const { entries, heads } = makeChain()
    const other = makeChain('other')
    const stranger = generateIdentityKey()
    const broken = { ...at(heads, 1), signature: Buffer.alloc(64) }
    const strange = signStatement('audit-head', Buffer.from(at(heads, 1).payload), stranger)
    const copy = copyOf('a', entries.with(4, at(other.entries, 4)).with(6, Buffer.alloc(0)), [
      ...heads,
      broken,
      strange,
      ...other.heads.slice(1),
    ])

    const report = verifyAuditCopies('w', [copy, copyOf('b', entries, heads)], signers)

    assert.deepEqual(problems(report), [
      ['bad-head', 'a', 0n, 0n],
      ['unknown-signer', 'a', 0n, 0n],
      ['bad-head', 'a', 0n, 0n],
      ['foreign', 'a', 5n, 5n],
      ['malformed', 'a', 7n, 7n],
      ['missing', 'a', 5n, 5n],
      ['missing', 'a', 7n, 7n],
    ])
  })

  test('whose writer signed two histories says so', () => {
    const { entries, heads } = makeChain()
    const second = new AuditChain('w', sha256)
    for (let index = 0; index < 5; index++)
      second.append(entryFacts({ atUnixMs: 5, object: 'other' }))

    const fork = [...heads, signHead(second.head(1))]
    const report = verifyAuditCopies('w', [copyOf('a', entries, fork)], signers)

    assert(problems(report).some(([kind, , number]) => kind === 'forked' && number === 5n))
  })

  test('without any head is not vouched for', () => {
    const report = verifyAuditCopies('w', [copyOf('a', makeChain().entries, [])], signers)

    assert.deepEqual(problems(report), [['no-head', 'every copy', 0n, 0n]])
  })

  test('says which intents have no outcome', () => {
    const chain = new AuditChain('w', sha256)
    const { AUDIT_PHASE_INTENT, AUDIT_PHASE_DONE } = AuditPhase
    const entries = [
      chain.append(entryFacts({ atUnixMs: 1, phase: AUDIT_PHASE_INTENT })),
      chain.append(entryFacts({ atUnixMs: 1, phase: AUDIT_PHASE_INTENT })),
      chain.append(entryFacts({ atUnixMs: 1, phase: AUDIT_PHASE_DONE, intent: 1n })),
    ].map(({ bytes }) => bytes)

    const report = verifyAuditCopies(
      'w',
      [copyOf('a', entries, [signHead(chain.head(1))])],
      signers,
    )

    assert.deepEqual(report.unknownOutcomes, [2n])
  })

  test('of anything at all is judged without an exception, and without waiting for the numbers it claims', () => {
    const bytes = fc.uint8Array({ maxLength: 80 })
    const entry = fc
      .record({
        number: fc.bigInt(0n, 2n ** 64n - 1n),
        previousHash: fc.uint8Array({ maxLength: 40 }),
      })
      .map(({ number, previousHash }) =>
        Entry.encode(
          Entry.create({ writer: 'w', number, previousHash: Buffer.from(previousHash) }),
        ).finish(),
      )
    fc.assert(
      fc.property(fc.array(fc.oneof(bytes, entry), { maxLength: 20 }), (entries) => {
        const { heads } = makeChain()
        const report = verifyAuditCopies('w', [copyOf('a', entries, heads)], signers)
        assert(problems(report).length > 0)
      }),
    )
  })
})

describe('a file of a chain', () => {
  test('is read as it was written, and a torn end is told', () => {
    const { entries, heads } = makeChain()
    const file = fileOf(entries, heads)
    for (let cutBytes = 0; cutBytes < 200; cutBytes++) {
      const copy = readAuditFile('f', file.subarray(0, file.byteLength - cutBytes))

      assert(copy)
      assert.deepEqual(copy.damagedAtBytes, [])
      const whole = fileOf(copy.entries, copy.heads).byteLength
      assert.equal(whole + (copy.tornBytes ?? 0), file.byteLength - cutBytes)
      const { findings } = verifyAuditCopies('w', [copy], signers)
      assert(findings.every(({ kind }) => ['torn', 'unsigned', 'missing'].includes(kind)))
    }
  })

  test('that ends in zeros, as file systems leave it after a power cut, is torn there', () => {
    const { entries, heads } = makeChain()
    const file = Buffer.concat([fileOf(entries, heads), Buffer.alloc(500)])

    const copy = readAuditFile('f', file)

    assert.equal(copy?.entries.length, LENGTH)
    assert.equal(copy?.tornBytes, 500)
    assert.deepEqual(copy?.damagedAtBytes, [])
  })

  test('of which any byte was changed is told to be damaged, or has an entry that is named', () => {
    const { entries, heads } = makeChain()
    const file = fileOf(entries, heads)
    fc.assert(
      fc.property(
        fc.nat(file.byteLength - 1),
        fc.integer({ min: 1, max: 255 }),
        (place, change) => {
          const bytes = Buffer.from(file)
          bytes[place] = (bytes[place] ?? 0) ^ change
          const copy = readAuditFile('f', bytes)
          if (copy === undefined) return
          const { findings } = verifyAuditCopies('w', [copy], signers)
          const kinds: AuditFindingKind[] = ['missing', 'damaged', 'torn', 'no-head']
          assert(findings.some(({ kind }) => kinds.includes(kind)))
        },
      ),
    )
  })

  test('is no other file', () => {
    assert.equal(readAuditFile('f', Buffer.from('something else')), undefined)
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        readAuditFile('f', Buffer.concat([FILE_MAGIC, bytes]))
      }),
    )
  })

  test('has the checksum of RFC 3720', () => {
    // Appendix B.4, whose bytes are in the order of the wire.
    assert.equal(crc32c(Buffer.alloc(32)), 0x8a9136aa)
    assert.equal(crc32c(Buffer.alloc(32, 0xff)), 0x62a8ab43)
    assert.equal(crc32c(Uint8Array.from({ length: 32 }, (_, index) => index)), 0x46dd794e)
  })
})

test('a text is cut between characters, and is never longer than its limit', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: 'binary', maxLength: 400 }),
      fc.integer({ min: 3, max: 128 }),
      (text, max) => {
        const told = auditText(text, max)
        assert(Buffer.byteLength(told) <= max)
        assert(told.isWellFormed())
        assert.equal(told.includes('\ufffd'), text.slice(0, told.length).includes('\ufffd'))
        assert.equal(auditText(told, max), told)
      },
    ),
  )
})

interface MadeChain {
  readonly entries: Uint8Array[]
  readonly heads: Signed[]
}

/** 12 entries, with heads of the empty chain and of entry 9. */
function makeChain(writer = 'w'): MadeChain {
  const chain = new AuditChain(writer, sha256)
  const heads = [signHead(chain.head(0))]
  const entries: Uint8Array[] = []
  for (let number = 1; number <= LENGTH; number++) {
    entries.push(chain.append(entryFacts({ atUnixMs: number, object: `object ${number}` })).bytes)
    if (BigInt(number) === SIGNED) heads.push(signHead(chain.head(number)))
  }
  return { entries, heads }
}

function copyOf(name: string, entries: readonly Uint8Array[], heads: readonly Signed[]): AuditCopy {
  return { name, entries, heads }
}

function forge(
  entries: readonly Uint8Array[],
  number: bigint,
  change: (entry: Entry) => Entry,
): Uint8Array[] {
  const index = Number(number) - 1
  return entries.with(index, Entry.encode(change(Entry.decode(at(entries, index)))).finish())
}

function fileOf(entries: readonly Uint8Array[], heads: readonly Signed[]): Buffer {
  const records: AuditRecord['kind'][] = [
    ...heads.slice(0, 1).map((value) => ({ $case: 'head' as const, value })),
    ...entries.map((entry) => ({ $case: 'entry' as const, value: Buffer.from(entry) })),
    ...heads.slice(1).map((value) => ({ $case: 'head' as const, value })),
  ]
  return Buffer.concat([
    FILE_MAGIC,
    ...records.map((kind) => frameOf(AuditRecord.create({ kind }))),
  ])
}

function problems({ findings }: AuditChainReport): [AuditFindingKind, string, bigint, bigint][] {
  return findings
    .filter(({ severity }) => severity === 'problem')
    .map(({ kind, copy, firstNumber, lastNumber }) => [kind, copy, firstNumber, lastNumber])
}

function at<T>(items: readonly T[], index: number): T {
  const item = items[index]
  assert(item !== undefined)
  return item
}

function signHead(head: Uint8Array): Signed {
  return signStatement('audit-head', head, key)
}

function sha256(bytes: Uint8Array): Uint8Array {
  return createHash('sha256').update(bytes).digest()
}

function stringify(_name: string, value: unknown): unknown {
  return typeof value === 'bigint' ? String(value) : value
}
