import assert from 'node:assert/strict'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { eventually } from '../../support/eventually.ts'
import { ping } from '../../support/probe.ts'
import { BLUE, establish, routedLab, target } from '../support/blue.ts'
import { at, scaled } from '../support/lab.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'
import { WrongClock } from '../support/wrong-clock.ts'

const HOST = 'gamma'
const FORWARDER = `forwarder@${HOST}`
const [web, , api, edge] = BLUE
const HOUR_MS = 3_600_000
const TEN_YEARS_MS = 10 * 365 * 24 * HOUR_MS
/** T20 of the threat model: five minutes. */
const WRONG_FOR_MS = scaled(2000, 300_000)

test('a clock that jumps while a forwarder runs takes no packet, and nobody has to do anything when it is right', async (t) => {
  const lab = await routedLab()
  await establish(lab, web, [edge])
  using clock = new WrongClock(lab, HOST)
  await lab.restart(FORWARDER, 'SIGTERM', { program: clock.program })
  try {
    await lab.untilReady()
    for (const [what, offsetMs] of [
      ['ten years ahead', TEN_YEARS_MS],
      ['an hour behind', -HOUR_MS],
      ['ten years behind', -TEN_YEARS_MS],
      ['an hour ahead', HOUR_MS],
    ] as const) {
      await t.test(what, async () => {
        await using traffic = await Traffic.start(at(lab, web.name), target(lab, edge), {
          rate: 500,
          flows: 4,
        })
        clock.setMs(offsetMs)
        await new Promise((resolve) => setTimeout(resolve, WRONG_FOR_MS))
        clock.setMs(0)
        const rightAt = Date.now()
        await eventually(async () => assertInStep(lab))
        await assertNothingLost(lab, await traffic.stop())
        t.diagnostic(`${what}: in step ${Date.now() - rightAt} ms after it was right`)
      })
    }
  } finally {
    await lab.restart(FORWARDER, 'SIGTERM')
  }
})

test('a forwarder that starts ten years ahead works as soon as its clock is right', async () => {
  const lab = await routedLab()
  using clock = new WrongClock(lab, HOST)
  clock.setMs(TEN_YEARS_MS)
  await lab.restart(FORWARDER, 'SIGKILL', { program: clock.program })
  try {
    await new Promise((resolve) => setTimeout(resolve, WRONG_FOR_MS))
    clock.setMs(0)
    await eventually(async () => assertInStep(lab))
    // No flow is left of what was before: these two have to be joined anew.
    await eventually(async () => {
      const { received } = await ping(at(lab, api.name), edge.ip4, { 'timeout-ms': 1000 })
      assert.equal(received, 1)
    })
  } finally {
    await lab.restart(FORWARDER, 'SIGTERM')
  }
  await eventually(async () => assertInStep(lab))
})

/** All that the host depends on answers it, and it has all its rows. */
async function assertInStep(lab: Lab): Promise<void> {
  const { dependencies, fromDisk, endpoints } = await lab.status(HOST)
  const silent = dependencies.filter(({ health }) => health !== 'ok').map(({ name }) => name)
  assert.deepEqual(silent, [])
  assert.equal(fromDisk, false)
  assert.ok(endpoints >= BLUE.length, `${endpoints} endpoints`)
}
