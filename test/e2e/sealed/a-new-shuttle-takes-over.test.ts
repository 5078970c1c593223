import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { loadavg } from 'node:os'
import test, { type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Lab } from '@weft/lab'
import { eventually } from '../../support/eventually.ts'
import { ping } from '../../support/probe.ts'
import { BLUE, establish, type Known, sealedLab, target } from '../support/blue.ts'
import { at, scaled } from '../support/lab.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'

/**
 * While one process follows the other 1,024 frames wait in the kernel: a second of them in the short form, which runs wherever the machine
 * is busy with something else too.
 */
const UPGRADE_RATE = scaled(1000, 5000)
/** A packet each millisecond: so exactly is a gap measured. */
const PROBE_RATE = 1000
/** What keeps a shuttle starts one that has lived for a second again at once. */
const LIFE_MS = 1200
const SHUTTLES = ['shuttle@alpha', 'shuttle@beta'] as const
const [web, , api] = BLUE

test('shuttles that follow each other lose no sealed packet and keep their sessions', async (t) => {
  const lab = await sealedLab()
  await establish(lab, web, [api])
  await using forth = await start(lab, web, api, UPGRADE_RATE)
  await using back = await start(lab, api, web, UPGRADE_RATE)
  for (let round = 0; round < scaled(10, 100); round++) {
    const shuttle = SHUTTLES[round % SHUTTLES.length] ?? SHUTTLES[0]
    const before = takenOver(lab, shuttle).length
    await lab.upgrade(shuttle)
    await eventually(async () => {
      const since = takenOver(lab, shuttle).slice(before)
      assert.ok(since.length > 0 && since.every((sessions) => sessions > 0), since.join())
    })
    await sleep(LIFE_MS / 3)
  }
  for (const [way, traffic] of [
    ['to api', forth],
    ['to web', back],
  ] as const) {
    const loss = await traffic.stop()
    t.diagnostic(`${way}: ${loss.sent} packets, longest silence ${ms(loss.longestSilenceMs)}`)
    await assertNothingLost(lab, loss)
  }
})

for (const shuttle of SHUTTLES) {
  test(`flows go on soon after ${shuttle} was killed, in both directions`, async (t) => {
    const lab = await sealedLab()
    const gaps = await gapsOf(lab, scaled(5, 50), () => lab.kill(shuttle, 'SIGKILL'))
    tell(t, gaps)
  })
}

test('flows go on soon after a shuttle was killed whose forwarder is away', async (t) => {
  const lab = await sealedLab()
  await establish(lab, web, [api])
  await lab.stop('forwarder@alpha', 'SIGKILL')
  try {
    tell(t, await gapsOf(lab, scaled(2, 20), () => lab.kill('shuttle@alpha', 'SIGKILL')))
  } finally {
    await lab.start('forwarder@alpha')
    await lab.untilReady()
  }
})

interface Gaps {
  readonly forth: number[]
  readonly back: number[]
}

/** The longest silence of each direction around each time that something is done. */
async function gapsOf(lab: Lab, rounds: number, act: () => boolean): Promise<Gaps> {
  const gaps: Gaps = { forth: [], back: [] }
  await establish(lab, web, [api])
  for (let round = 0; round < rounds; round++) {
    await using forth = await start(lab, web, api, PROBE_RATE)
    await using back = await start(lab, api, web, PROBE_RATE)
    await sleep(LIFE_MS)
    assert.ok(act(), 'it did not run')
    await sleep(100)
    await eventually(async () => {
      const { received } = await ping(at(lab, web.name), api.ip4, { count: 1, 'timeout-ms': 200 })
      assert.equal(received, 1)
    })
    const [to, from] = await Promise.all([forth.stop(), back.stop()])
    assert.equal(to.doubled + from.doubled, 0)
    gaps.forth.push(to.longestSilenceMs)
    gaps.back.push(from.longestSilenceMs)
  }
  return gaps
}

function start(lab: Lab, source: Known, to: Known, rate: number): Promise<Traffic> {
  return Traffic.start(at(lab, source.name), target(lab, to), { rate })
}

function tell(t: TestContext, { forth, back }: Gaps): void {
  for (const [way, gaps] of [
    ['web to api', forth],
    ['api to web', back],
  ] as const) {
    const sorted = gaps.toSorted((a, b) => a - b)
    const part = (share: number): string => ms(sorted[Math.ceil(sorted.length * share) - 1] ?? 0)
    t.diagnostic(
      `${way}: gap of ${sorted.length} kills p50 ${part(0.5)}, p99 ${part(0.99)}, longest ${part(1)}; load ${loadavg()[0]?.toFixed(1)}`,
    )
  }
}

/** How many sessions each process of a shuttle has taken over, as it says. */
function takenOver(lab: Lab, shuttle: string): number[] {
  const lines = readFileSync(lab.logFile(shuttle), 'utf8').split('\n')
  const goesOn = lines.filter((line) => line.includes('"sessions_taken_over"'))
  return goesOn.map(
    (line) => (JSON.parse(line) as { sessions_taken_over: number }).sessions_taken_over,
  )
}

function ms(milliseconds: number): string {
  return `${milliseconds.toFixed(1)} ms`
}
