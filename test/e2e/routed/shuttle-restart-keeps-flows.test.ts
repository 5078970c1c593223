import test from 'node:test'
import { eventually } from '../../support/eventually.ts'
import { BLUE, establish, routedLab, target } from '../support/blue.ts'
import { at, scaled } from '../support/lab.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'

const RATE = 10_000
const FLOWS = 4
const [web, db, api] = BLUE

for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
  test(`a shuttle that ends by ${signal} and starts anew on the same maps loses no packet`, async (t) => {
    const lab = await routedLab()
    await establish(lab, web, [db, api])
    await using same = await Traffic.start(at(lab, web.name), target(lab, db), {
      rate: RATE / 2,
      flows: FLOWS / 2,
    })
    await using across = await Traffic.start(at(lab, web.name), target(lab, api), {
      rate: RATE / 2,
      flows: FLOWS / 2,
    })
    for (let count = 0; count < scaled(2, 10); count++) {
      await lab.restart('shuttle@alpha', signal)
      await eventually(async () => {
        const { dependencies } = await lab.status('alpha')
        const shuttle = dependencies.find(({ name }) => name === 'shuttle')
        if (shuttle?.health !== 'ok') throw new Error(`the shuttle is ${shuttle?.health}`)
      })
    }
    for (const traffic of [same, across]) {
      const loss = await traffic.stop()
      await assertNothingLost(lab, loss)
      t.diagnostic(`${loss.sent} packets, longest silence ${loss.longestSilenceMs.toFixed(1)} ms`)
    }
  })
}
