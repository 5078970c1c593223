import assert from 'node:assert/strict'
import { test } from 'node:test'
import { buckets, memoryBus } from '@weft/bus'
import { AuditUnavailableError, OverloadedError } from '@weft/errors'
import { generateIdentityKey, signStatement } from '@weft/identity'
import { AuditPhase, AuditRecord, type Entry } from '@weft/proto/weftline/audit/v1/audit.ts'
import { createLogger } from '@weft/telemetry'
import { eventually } from '@weft/testing'
import { Audit, INTENTS_MAX } from '../src/audit/audit.ts'
import { AuditEvents } from '../src/audit/events.ts'
import { action, readChain, startAudit } from './audit-site.ts'

const { AUDIT_PHASE_INTENT, AUDIT_PHASE_DONE, AUDIT_PHASE_FAILED, AUDIT_PHASE_DENIED } = AuditPhase

test('an intent is in both copies before its action may be done', async () => {
  await using site = await startAudit()

  await site.audit.intent(action({ reason: 'a test' }))

  const [file, bucket] = [await site.readFile(), await site.readBucket()]
  assert.equal(file.entries.length, 1)
  assert.deepEqual(bucket.entries, file.entries)
  const [entry] = (await site.verify()).entries
  assert(entry)
  assert.equal(entry.phase, AUDIT_PHASE_INTENT)
  assert.equal(entry.who, 'spiffe://test.weft/user/1')
  assert.equal(entry.from, '127.0.0.1:40000')
  assert.equal(entry.object, 'network acme/blue')
  assert.equal(entry.reason, 'a test')
})

test('an outcome names its intent, is told once, and is written before the writer ends', async () => {
  await using site = await startAudit()
  const first = await site.audit.intent(action())
  const second = await site.audit.intent(action({ object: 'network acme/red' }))
  const lost = await site.audit.intent(action({ object: 'network acme/lost' }))
  second.failed('network-exists')
  first.done({ revisionBefore: 0n, revisionAfter: 17n })
  first.failed('internal')
  assert(lost)

  await site.stop()

  const report = await site.verify()
  assert.deepEqual(report.findings, [])
  assert.deepEqual(report.unknownOutcomes, [3n])
  assert.equal(report.head?.number, 5n)
  const [, , , failed, done] = report.entries
  assert(failed && done)
  assert.deepEqual(
    [failed.phase, failed.intent, failed.reason],
    [AUDIT_PHASE_FAILED, 2n, 'network-exists'],
  )
  assert.equal(failed.object, 'network acme/red')
  assert.deepEqual([done.phase, done.intent, done.revisionAfter], [AUDIT_PHASE_DONE, 1n, 17n])
})

test('500 intents at once make one chain, in both copies the same', async () => {
  await using site = await startAudit()

  const intents = await Promise.all(
    Array.from({ length: 500 }, (_, index) =>
      site.audit.intent(action({ object: `network acme/n${index}` })),
    ),
  )
  for (const [index, intent] of intents.entries()) {
    if (index % 3) intent.done({ revisionBefore: 0n, revisionAfter: BigInt(index) })
    else intent.failed('network-exists')
  }
  await site.stop()

  const report = await site.verify()
  assert.deepEqual(report.findings, [])
  assert.deepEqual(report.unknownOutcomes, [])
  assert.equal(report.entries.length, 1_000)
  const outcomes = report.entries.filter(({ intent }) => intent > 0n)
  for (const outcome of outcomes) {
    const intent = report.entries[Number(outcome.intent) - 1]
    assert.equal(intent?.object, outcome.object)
  }
})

test('every writer is listed from its start on, and a page after the other shows its entries', async () => {
  await using bus = memoryBus().connect()
  await using first = await startAudit({ bus, writer: 'replica-1' })
  await using second = await startAudit({ bus, writer: 'replica-2' })
  for (let index = 0; index < 25; index++) await first.audit.intent(action({ object: `${index}` }))

  const { heads } = await second.handlers.listWriters({}, {
    signal: new AbortController().signal,
  } as never)
  const chain = await readChain(second.handlers, 'replica-1', 7)

  assert.equal(heads.length, 2)
  assert.deepEqual(chain.entries, (await first.readFile()).entries)
})

test('a signed head follows the newest entry while the writer goes on', async () => {
  await using site = await startAudit({ tickMs: 5, headAfterMs: 0 })
  for (let index = 0; index < 3; index++) await site.audit.intent(action())

  await eventually(async () => (await site.verify()).head?.number === 3n)

  const { findings } = await site.verify()
  assert.deepEqual(findings, [])
})

test('intents beyond the queue are refused at once, and those in it are written', async () => {
  await using site = await startAudit()
  const accepted = Array.from({ length: INTENTS_MAX }, () => site.audit.intent(action()))

  await assert.rejects(site.audit.intent(action()), OverloadedError)

  await Promise.all(accepted)
  await site.audit.intent(action())
  assert.equal((await site.readFile()).entries.length, INTENTS_MAX + 1)
})

test('while the bus is away every intent is refused, outcomes wait, and all goes on by itself', async () => {
  const hub = memoryBus()
  await using bus = hub.connect()
  await using site = await startAudit({ bus })
  const running = await site.audit.intent(action({ object: 'before' }))
  hub.setReachable(false)

  const late = site.audit.intent(action({ object: 'first without the bus' }))
  await assert.rejects(late, (error) => {
    assert(error instanceof AuditUnavailableError)
    assert.match(error.message, /CreateNetwork was not done.*bucket audit/)
    return true
  })
  await assert.rejects(site.audit.intent(action({ object: 'second' })), AuditUnavailableError)
  running.done({ revisionBefore: 0n, revisionAfter: 1n })
  hub.setReachable(true)
  await eventually(() => site.audit.intent(action({ object: 'after' })))
  await site.stop()

  const report = await site.verify()
  assert.deepEqual(report.findings, [])
  assert.deepEqual(
    report.entries.map(({ phase, object, intent, reason }) => [phase, object, intent, reason]),
    [
      [AUDIT_PHASE_INTENT, 'before', 0n, ''],
      [AUDIT_PHASE_INTENT, 'first without the bus', 0n, ''],
      [AUDIT_PHASE_DONE, 'before', 1n, ''],
      [AUDIT_PHASE_FAILED, 'first without the bus', 2n, 'audit-unavailable'],
      [AUDIT_PHASE_INTENT, 'after', 0n, ''],
    ],
  )
})

test('a key that somebody else wrote stops the writer, which overwrites nothing', async () => {
  await using site = await startAudit({ writer: 'usurped' })
  await site.audit.intent(action({ object: 'first' }))
  const bucket = await site.bus.openBucket(buckets.audit, AuditRecord)
  const foreign = AuditRecord.create({ kind: { $case: 'entry', value: Buffer.from('foreign') } })
  await bucket.put('entry.usurped.2', foreign)

  await assert.rejects(site.audit.intent(action({ object: 'second' })), AuditUnavailableError)

  assert.deepEqual((await bucket.get('entry.usurped.2'))?.value, foreign)
  const report = await site.verify()
  assert(report.findings.some(({ kind, copy }) => kind === 'malformed' && copy === 'bucket'))
})

test('a denial is written at once, its repetitions as one entry with their count', async () => {
  await using site = await startAudit({ tickMs: 5 })
  const denial = {
    ...action({ who: 'spiffe://test.weft/host/7' }),
    reason: 'permission-denied',
  }

  for (let index = 0; index < 1_000; index++) site.audit.denied(denial)
  await eventually(async () => (await site.readFile()).entries.length === 1)
  await site.stop()

  const { entries, findings } = await site.verify()
  assert.deepEqual(findings, [])
  assert.deepEqual(
    entries.map(({ phase, who, reason, count }) => [phase, who, reason, count]),
    [
      [AUDIT_PHASE_DENIED, 'spiffe://test.weft/host/7', 'permission-denied', 1],
      [AUDIT_PHASE_DENIED, 'spiffe://test.weft/host/7', 'permission-denied', 999],
    ],
  )
})

test('what is too frequent for entries is told as one count', async () => {
  await using site = await startAudit()
  const renew = '/weftline.config.v1.CertificateService/Renew'
  for (let index = 0; index < 300; index++) site.audit.counted(renew)

  await site.stop()

  const [entry, ...more] = (await site.verify()).entries
  assert.deepEqual([entry?.action, entry?.count, more.length], [renew, 300, 0])
})

test('no secret that a caller sends gets into any copy, and no text is longer than its limit', async () => {
  await using site = await startAudit({ tickMs: 5 })
  const canaries = {
    token: `weft-join-v1.42.${'Canary1'.repeat(6)}x`,
    code: `weft-login-v1.43.${'Canary2'.repeat(6)}x`,
    pem: `-----BEGIN PRIVATE KEY-----\nCanary3Canary3Canary3\n-----END PRIVATE KEY-----`,
    seed: `SUA${'CANARY4'.repeat(7)}AB`,
  }
  const all = Object.values(canaries).join(' ')
  const texts = { who: all, from: all, action: all, object: all, tenant: all, reason: all }

  const intent = await site.audit.intent(texts)
  intent.failed(all)
  site.audit.denied(texts)
  site.audit.counted(all)
  for (const padding of [100, 120, 480, 500, 2_030, 2_040]) {
    await site.audit.intent(action({ object: `${'x'.repeat(padding)} ${all}` }))
  }
  await site.audit.intent(action({ object: `evil\u001b[2J\u202e${'ü'.repeat(100_000)}` }))
  await site.stop()

  const { entries } = await site.verify()
  assert(entries.length >= 10)
  for (const copy of [await site.readFile(), await site.readBucket()]) {
    assert.doesNotMatch(Buffer.concat(copy.entries).toString('latin1'), /canary/i)
  }
  for (const entry of entries) assert(textBytes(entry) < 1_200)
  const cut = entries.find(({ object }) => object.startsWith('evil'))
  assert.match(cut?.object ?? '', /^evil\?\[2J\?ü{240,260}…$/)
})

test('a bucket that is nearly full is said to be, while there is time', async () => {
  const said: string[] = []
  const stream = { write: (line: string) => void said.push(line) }
  const full = {
    kind: 'bucket' as const,
    name: 'bucket audit',
    append: async () => {},
    fill: async () => ({ sizeBytes: 80, sizeMaxBytes: 100 }),
    [Symbol.asyncDispose]: async () => {},
  }
  await using _audit = new Audit({
    writer: 'w',
    copies: [full],
    signHead: (head) => signStatement('audit-head', head, generateIdentityKey()),
    events: new AuditEvents(createLogger({ service: 'config', stream })),
    tickMs: 5,
  })

  const line = await eventually(() => said.find((one) => one.includes('nearly full')))

  assert.match(line, /"sizeBytes":80,"sizeMaxBytes":100/)
})

test('an ended writer takes nothing more', async () => {
  await using site = await startAudit()
  await site.stop()

  await assert.rejects(site.audit.intent(action()), AuditUnavailableError)

  assert.equal((await site.readFile()).entries.length, 0)
})

function textBytes(entry: Entry): number {
  const { who, from, action: what, object, tenant, reason } = entry
  return Buffer.byteLength([who, from, what, object, tenant, reason].join(''))
}
