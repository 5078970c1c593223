import assert from 'node:assert/strict'
import test from 'node:test'
import { eventually } from '../../support/eventually.ts'
import { ping } from '../../support/probe.ts'
import { BLUE, establish, sealedLab, target } from '../support/blue.ts'
import { at, scaled } from '../support/lab.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'

const RATE = 1000
const [web, , api] = BLUE

test('a forwarder that is killed and starts anew costs no sealed packet', async (t) => {
  const lab = await sealedLab()
  await establish(lab, web, [api])
  await using traffic = await Traffic.start(at(lab, web.name), target(lab, api), { rate: RATE })
  for (let round = 0; round < scaled(2, 20); round++) {
    await lab.restart('forwarder@alpha', 'SIGKILL')
    await lab.restart('forwarder@beta', 'SIGTERM')
  }
  const loss = await traffic.stop()
  t.diagnostic(`${loss.sent} packets, longest silence ${loss.longestSilenceMs.toFixed(1)} ms`)
  await assertNothingLost(lab, loss)
})

for (const shuttle of ['shuttle@alpha', 'shuttle@beta']) {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    test(`after ${shuttle} and what keeps it ended by ${signal} and started anew, known flows go on by themselves`, async (t) => {
      const lab = await sealedLab()
      await establish(lab, web, [api])
      await using traffic = await Traffic.start(at(lab, web.name), target(lab, api), { rate: RATE })
      for (let round = 0; round < scaled(1, 10); round++) {
        await lab.restart(shuttle, signal)
        await eventually(async () => {
          const { received } = await ping(at(lab, web.name), api.ip4, {
            count: 1,
            'timeout-ms': 200,
          })
          assert.equal(received, 1)
        })
      }
      const { sent, lost, doubled, longestSilenceMs } = await traffic.stop()
      t.diagnostic(`${lost} of ${sent} lost, longest silence ${longestSilenceMs.toFixed(1)} ms`)
      assert.equal(doubled, 0)
    })
  }
}
