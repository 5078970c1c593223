import test from 'node:test'
import { BLUE, establish, routedLab, target } from '../support/blue.ts'
import { at, scaled } from '../support/lab.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'

const RATE = 10_000
const FLOWS = 4
const [web, db, api] = BLUE

test('a forwarder that is killed and started again loses no packet of established flows', async (t) => {
  const lab = await routedLab()
  await establish(lab, web, [db, api])
  // Half of them stay on the host, half of them cross to another one.
  await using same = await Traffic.start(at(lab, web.name), target(lab, db), {
    rate: RATE / 2,
    flows: FLOWS / 2,
  })
  await using across = await Traffic.start(at(lab, web.name), target(lab, api), {
    rate: RATE / 2,
    flows: FLOWS / 2,
  })
  for (let count = 0; count < scaled(3, 20); count++) await lab.restart('forwarder@alpha')
  for (const traffic of [same, across]) {
    const loss = await traffic.stop()
    await assertNothingLost(lab, loss)
    t.diagnostic(`${loss.sent} packets, longest silence ${loss.longestSilenceMs.toFixed(1)} ms`)
  }
})
