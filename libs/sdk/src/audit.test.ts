import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import test from 'node:test'
import { generateIdentityKey, publicKeyOf, signStatement } from '@weft/identity'
import { Entry, Head } from '@weft/proto/weftline/audit/v1/audit.ts'
import { type AuditChain, verifyAuditChain } from './audit.ts'

const key = generateIdentityKey()
const SIGNER = publicKeyOf(key).toString('hex')

test('a chain with its head is whole', async () => {
  const verdict = await verifyAuditChain(chainOf(5), [SIGNER])
  assert.deepEqual(verdict.problems, [])
  assert.equal(verdict.entries, 5)
  assert.equal(verdict.unsigned, 0)
  assert.equal(verdict.signer, SIGNER)
})

test('entries after the head are counted as unsigned', async () => {
  const { entries } = chainOf(5)
  const verdict = await verifyAuditChain({ ...chainOf(3), entries })
  assert.deepEqual([verdict.problems, verdict.unsigned], [[], 2])
})

const BROKEN: readonly (readonly [string, (chain: Chain) => AuditChain, RegExp])[] = [
  ['an entry that is missing', without(1), /entries 2 to 2 are missing/],
  ['the oldest entry missing', without(0), /entries 1 to 1 are missing/],
  ['a chain that was cut off', without(4), /ends at 4, and its head is at 5/],
  ['two entries in another order', swapped, /comes after|are missing/],
  ['an entry that was changed', (chain) => changed(chain, 1), /entry 3 does not follow/],
  ['the newest entry changed', (chain) => changed(chain, 4), /entry 5 is not that of the head/],
  ['no head', (chain) => ({ ...chain, head: undefined }), /no signed head/],
  ['a head of another writer', (chain) => ({ ...chain, writer: 'other' }), /another writer/],
  ['bytes that are no entry', (chain) => replaced(chain, 1, Buffer.from([0xff])), /2 is no entry/],
]
for (const [what, breakIt, problem] of BROKEN) {
  test(`${what} is found`, async () => {
    const { problems } = await verifyAuditChain(breakIt(chainOf(5)))
    assert.match(problems.join('; '), problem)
  })
}

test('a head of another key is refused where the key is known, and a forged one always', async () => {
  const chain = chainOf(2)
  const other = publicKeyOf(generateIdentityKey()).toString('hex')
  assert.match((await verifyAuditChain(chain, [other])).problems.join(), /another key/)
  const forged = { ...chain.head, signature: Buffer.alloc(64, 1) }
  assert.match((await verifyAuditChain({ ...chain, head: forged })).problems.join(), /signature/)
})

interface Chain extends AuditChain {
  readonly head: NonNullable<AuditChain['head']>
  readonly entries: Buffer[]
}

function chainOf(length: number): Chain {
  const entries: Buffer[] = []
  let previousHash: Buffer = Buffer.alloc(32)
  for (let number = 1; number <= length; number++) {
    const entry = Entry.create({
      writer: 'w',
      number: BigInt(number),
      previousHash,
      action: 'a',
      count: 1,
    })
    const bytes = Buffer.from(Entry.encode(entry).finish())
    previousHash = createHash('sha256').update(bytes).digest()
    entries.push(bytes)
  }
  const head = Head.encode({
    writer: 'w',
    number: BigInt(length),
    hash: previousHash,
    signedAtUnixMs: 1n,
  }).finish()
  return { writer: 'w', head: signStatement('audit-head', head, key), entries }
}

function without(index: number): (chain: Chain) => AuditChain {
  return (chain) => ({ ...chain, entries: chain.entries.toSpliced(index, 1) })
}

function swapped(chain: Chain): AuditChain {
  const [first = Buffer.alloc(0), second = Buffer.alloc(0), ...rest] = chain.entries
  return { ...chain, entries: [second, first, ...rest] }
}

function changed(chain: Chain, index: number): AuditChain {
  const entry = Entry.decode(chain.entries[index] ?? Buffer.alloc(0))
  return replaced(chain, index, Buffer.from(Entry.encode({ ...entry, who: 'eve' }).finish()))
}

function replaced(chain: Chain, index: number, bytes: Buffer): AuditChain {
  return { ...chain, entries: chain.entries.with(index, bytes) }
}
