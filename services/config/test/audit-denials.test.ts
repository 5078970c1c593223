import assert from 'node:assert/strict'
import { test } from 'node:test'
import { generateIdentityKey, signStatement } from '@weft/identity'
import { Entry } from '@weft/proto/weftline/audit/v1/audit.ts'
import { createLogger } from '@weft/telemetry'
import { eventually } from '@weft/testing'
import { Audit } from '../src/audit/audit.ts'
import { AuditBudget, BUDGET_DAY_UNITS } from '../src/audit/budget.ts'
import type { AuditCopy } from '../src/audit/copy.ts'
import { type CountedDenial, type Denial, Denials } from '../src/audit/denials.ts'
import { AuditEvents } from '../src/audit/events.ts'

/* The audit log keeps all that it gets, so nobody may have much written into it just by being refused. */

test('callers who are nobody make one entry a minute, which has the count of all', () => {
  const denials = new Denials()

  const told = deniedFor(HOUR_MS, denials, (index) => denial({ who: '', action: `/a/${index}` }))

  assert(told.length <= 10 + 60)
  const rest = denials.takeAll()
  assert.equal(countOf([...told, ...rest]), (HOUR_MS / STEP_MS) * KINDS)
})

test('a member that is denied all day makes 500 entries at once, and 500 a day', () => {
  const denials = new Denials()
  const ofOne = (index: number) => denial({ who: 'host/7', action: `/a/${index}` })

  const told = deniedFor(3 * DAY_MS, denials, ofOne)

  assert(told.length <= 4 * 500)
  // And nobody else's are told the later for it.
  denials.add(denial({ who: 'host/8' }))
  const next = denials.take(3 * DAY_MS + 1, { roomForNobody: true })
  assert(next.some(({ who }) => who === 'host/8'))
})

test('callers who are nobody keep no denial of a member from being told', () => {
  const denials = new Denials()
  for (let index = 0; index < 500; index++) denials.add(denial({ who: '', action: `/a/${index}` }))
  denials.take(0, { roomForNobody: true })

  denials.add(denial({ who: 'host/7' }))

  const told = denials.take(1, { roomForNobody: true })
  assert.deepEqual(
    told.map(({ who }) => who),
    ['host/7'],
  )
})

test('while the log is half full, callers who are nobody are only counted', async () => {
  const written: Entry[] = []
  let looks = 0
  const half: AuditCopy = {
    kind: 'bucket',
    name: 'bucket audit',
    append: async (records) => {
      for (const { record } of records) {
        if (record.kind?.$case === 'entry') written.push(Entry.decode(record.kind.value))
      }
    },
    fill: async () => {
      looks++
      return { sizeBytes: 50, sizeMaxBytes: 100 }
    },
    [Symbol.asyncDispose]: async () => {},
  }
  await using audit = new Audit({
    writer: 'w',
    copies: [half],
    signHead: (head) => signStatement('audit-head', head, generateIdentityKey()),
    events: new AuditEvents(createLogger({ service: 'config', level: 'silent' })),
    tickMs: 5,
  })
  await eventually(() => looks > 0)

  for (let count = 0; count < 3; count++) audit.denied(denial({ who: '' }))
  audit.denied(denial({ who: 'spiffe://test.weft/host/7' }))

  await eventually(() => written.length > 0)
  await audit[Symbol.asyncDispose]()
  assert.deepEqual(
    written.map(({ who, count }) => [who, count]),
    [
      ['spiffe://test.weft/host/7', 1],
      ['', 3],
    ],
  )
})

test('what a member has written into the audit log is bounded by the day', () => {
  const budget = new AuditBudget()
  let taken = 0

  for (let nowMs = 0; nowMs < 3 * DAY_MS; nowMs += 1_000) {
    if (budget.take('host/7', 1, nowMs) === 0) taken++
  }

  assert(taken <= 4 * BUDGET_DAY_UNITS)
  assert(taken >= 3 * BUDGET_DAY_UNITS)
  assert.equal(budget.take('host/8', 1, 3 * DAY_MS), 0)
})

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS
const STEP_MS = 10_000
const KINDS = 20

/** What is told of somebody who is denied in several ways, again and again. */
function deniedFor(
  timeMs: number,
  denials: Denials,
  denialOf: (index: number) => Denial,
): CountedDenial[] {
  const told: CountedDenial[] = []
  for (let nowMs = 0; nowMs < timeMs; nowMs += STEP_MS) {
    for (let index = 0; index < KINDS; index++) denials.add(denialOf(index))
    told.push(...denials.take(nowMs, { roomForNobody: true }))
  }
  return told
}

function countOf(denials: readonly CountedDenial[]): number {
  return denials.reduce((sum, { count }) => sum + count, 0)
}

function denial(some: Partial<Denial>): Denial {
  return {
    who: '',
    from: '192.0.2.1:40000',
    action: '/weftline.config.v1.EnrolmentService/Join',
    object: '',
    tenant: '',
    reason: 'token-refused: unknown',
    ...some,
  }
}
