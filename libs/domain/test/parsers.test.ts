import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { asWeftError, WeftError } from '@weft/errors'
import { pemOfKey } from '@weft/identity'
import { temporaryFolder } from '@weft/testing'
import fc from 'fast-check'
import { readIssuer } from '../src/authority.ts'
import { createDomain } from '../src/create.ts'
import { formatDomainFile, parseDomainFile } from '../src/domain-file.ts'
import { readIdentity } from '../src/identity-folder.ts'

/*
 * What lies in the folders of a domain, mutated: a disk may damage it, and somebody who copies them may mix them up. `npm test`
 * tries some cases; `WEFT_FUZZ_RUNS=100000` tries more, and a failure tells the seed that repeats it (`WEFT_FUZZ_SEED`).
 */
const { WEFT_FUZZ_RUNS, WEFT_FUZZ_SEED } = process.env
const RUNS = {
  numRuns: Number(WEFT_FUZZ_RUNS ?? 60),
  ...(WEFT_FUZZ_SEED !== undefined && { seed: Number(WEFT_FUZZ_SEED) }),
}

let temporary: Awaited<ReturnType<typeof temporaryFolder>>
let folder: string

before(async () => {
  temporary = await temporaryFolder()
  folder = join(temporary.path, 'domain')
  const places = {
    config: ['127.0.0.1:7001'],
    enrolment: ['127.0.0.1:7004'],
    locationResolver: [],
    routingPolicy: [],
    bus: ['nats://127.0.0.1:4222'],
  }
  await createDomain({ name: 'lab.example', places, out: folder, now: new Date() })
})
after(() => temporary[Symbol.asyncDispose]())

describe('what came mutated', () => {
  test('in domain.json is read as it says, or refused', () => {
    const text = readFileSync(join(folder, 'authority/domain.json'))
    fc.assert(
      fc.property(mutationsOf(text), (mutated) => {
        const answer = answerOf(() => parseDomainFile(mutated.toString(), 'domain.json'))
        if (answer instanceof Error) return assertRefusal(answer)
        assert.deepEqual(parseDomainFile(formatDomainFile(answer), 'domain.json'), answer)
      }),
      RUNS,
    )
  })

  for (const name of ['credentials.binpb', 'identity.key', 'bus.seed']) {
    test(`in ${name} is the same identity, or none`, async () => {
      const at = join(folder, 'services/config')
      const path = join(at, name)
      const original = readFileSync(path)
      const stored = await readIdentity(at)
      assert(stored)
      using restoring = new DisposableStack()
      restoring.defer(() => writeFileSync(path, original))
      await fc.assert(
        fc.asyncProperty(mutationsOf(original), async (mutated) => {
          writeFileSync(path, mutated)
          const answer = await readIdentity(at).catch(asError)
          if (answer instanceof Error) return assertRefusal(answer)
          // The root is believed as it lies there: who may write it is the member itself.
          assert.deepEqual(answer?.identity, stored.identity)
          assert.deepEqual(pemOfKey(answer.keys.identity), pemOfKey(stored.keys.identity))
        }),
        RUNS,
      )
    })
  }

  for (const name of ['intermediate.pem', 'intermediate.key']) {
    test(`in ${name} is the same authority, or none`, async () => {
      const path = join(folder, 'authority', name)
      const original = readFileSync(path)
      await fc.assert(
        fc.asyncProperty(mutationsOf(original), async (mutated) => {
          writeFileSync(path, mutated)
          const answer = await readIssuer(join(folder, 'authority')).catch(asError)
          if (answer instanceof Error) assertRefusal(answer)
          // Nobody has verified it yet, but its key is that of its certificate.
          else assert.equal(answer.key.asymmetricKeyType, 'ed25519')
        }),
        RUNS,
      )
      writeFileSync(path, original)
    })
  }
})

function answerOf<T>(act: () => T): T | Error {
  try {
    return act()
  } catch (error) {
    return asError(error)
  }
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : asWeftError(error)
}

function assertRefusal(error: Error): void {
  assert(error instanceof WeftError, String(error.stack))
  assert.notEqual(error.code, 'internal', String(error.stack))
}

/** The bytes with up to three changes: a bit flipped, or bytes cut out, put in, or said twice. */
function mutationsOf(original: Buffer): fc.Arbitrary<Buffer> {
  const at = fc.nat({ max: original.length - 1 })
  const change = fc.oneof(
    fc.tuple(at, fc.nat({ max: 7 })).map(([position, bit]) => (bytes: Buffer): Buffer => {
      const copy = Buffer.from(bytes)
      if (position < copy.length) copy.writeUInt8(copy.readUInt8(position) ^ (1 << bit), position)
      return copy
    }),
    fc.tuple(at, fc.nat({ max: 20 }), fc.uint8Array({ maxLength: 20 })).map(
      ([position, length, added]) =>
        (bytes: Buffer): Buffer =>
          Buffer.concat([bytes.subarray(0, position), added, bytes.subarray(position + length)]),
    ),
    fc.tuple(at, fc.nat({ max: 40 })).map(
      ([position, length]) =>
        (bytes: Buffer): Buffer =>
          Buffer.concat([bytes.subarray(0, position + length), bytes.subarray(position)]),
    ),
  )
  return fc
    .array(change, { minLength: 1, maxLength: 3 })
    .map((changes) => changes.reduce((bytes, apply) => apply(bytes), original))
}
