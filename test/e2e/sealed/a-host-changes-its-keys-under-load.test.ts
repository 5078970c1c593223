import assert from 'node:assert/strict'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { eventually } from '../../support/eventually.ts'
import { ping } from '../../support/probe.ts'
import { BLUE, establish, sealedLab, target } from '../support/blue.ts'
import { at, scaled } from '../support/lab.ts'
import { identityOf, weftAt } from '../support/members.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'

const HOST = 'alpha'
const RATE = scaled(2000, 5000)
/** Beyond it all sessions were made with the new key. */
const REKEY_MS = 130_000
const [web, , api, edge] = BLUE

test('a host gets new keys while packets flow, and none is lost', async (t) => {
  const lab = await sealedLab()
  await establish(lab, web, [api, edge])
  await establish(lab, api, [web])
  await using out = await Traffic.start(at(lab, web.name), target(lab, api), { rate: RATE }, 5340)
  await using into = await Traffic.start(at(lab, api.name), target(lab, web), { rate: RATE }, 5341)
  for (let round = 0; round < scaled(2, 10); round++) {
    const before = await tunnelKeyOf(lab)
    const { code, stderr } = await rotate(lab)
    assert.equal(code, 0, stderr)
    assert.notEqual(await tunnelKeyOf(lab), before)
    // To a host that there was no session with, whatever it has heard of.
    await lab.restart('shuttle@gamma', 'SIGKILL')
    await eventually(async () => {
      const { received } = await ping(at(lab, web.name), edge.ip4, {
        count: 1,
        'timeout-ms': 500,
      })
      assert.equal(received, 1)
    })
    await new Promise((resolve) => setTimeout(resolve, scaled(1_000, REKEY_MS)))
  }
  for (const traffic of [out, into]) {
    const loss = await traffic.stop()
    t.diagnostic(
      `${loss.lost} of ${loss.sent} lost, silence ${loss.longestSilenceMs.toFixed(1)} ms`,
    )
    await assertNothingLost(lab, loss)
  }
  // With the new keys on both sides.
  await lab.restart('shuttle@beta', 'SIGKILL')
  await eventually(async () => {
    const { received } = await ping(at(lab, api.name), web.ip4, { count: 1, 'timeout-ms': 500 })
    assert.equal(received, 1)
  })
})

function rotate(lab: Lab) {
  return weftAt(at(lab, HOST), ['host', 'rotate-keys', '--identity', identityOf(lab, HOST)])
}

async function tunnelKeyOf(lab: Lab): Promise<string> {
  const { stdout } = await weftAt(at(lab, HOST), [
    ...['host', 'keys', '--identity', identityOf(lab, HOST), '-o', 'json'],
  ])
  return (JSON.parse(stdout) as { tunnelKey: string }).tunnelKey
}
