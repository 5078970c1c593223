import assert from 'node:assert/strict'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import type { OpenConnection } from '@weft/sdk'
import { eventually } from '../../support/eventually.ts'
import { ping } from '../../support/probe.ts'
import { BLUE, establish, RED, sealedLab, target } from '../support/blue.ts'
import { at, isTorture, scaled } from '../support/lab.ts'
import { identityOf, weftAt } from '../support/members.ts'
import { Traffic } from '../support/traffic.ts'

const HOST = 'alpha'
const RATE = scaled(500, 2000)
/** Beyond it all sessions were made with the new key. */
const REKEY_MS = 130_000
/** A host may give up eight keys within eight days (config's `formerKeysPerHost`); other scenarios of this lab need some of them. */
const ROTATIONS_MAX = 6
const [web, , api, edge] = BLUE

test('a host gets new keys while packets flow, and its sessions stay', async (t) => {
  const lab = await sealedLab()
  await lab.untilReady()
  await establish(lab, web, [api, edge])
  await establish(lab, api, [web])
  const before = await eventually(async () => {
    const session = await sessionWith(lab)
    assert.ok(session?.openSince, 'it has not been reported yet')
    return session
  })
  await using out = await Traffic.start(at(lab, web.name), target(lab, api), { rate: RATE }, 5340)
  await using into = await Traffic.start(at(lab, api.name), target(lab, web), { rate: RATE }, 5341)
  for (let round = 0; round < scaled(1, ROTATIONS_MAX); round++) {
    const formerKey = await tunnelKeyOf(lab)
    const { code, stderr } = await rotate(lab)
    assert.equal(code, 0, stderr)
    assert.notEqual(await tunnelKeyOf(lab), formerKey)
    await new Promise((resolve) => setTimeout(resolve, scaled(2_000, REKEY_MS)))
  }
  for (const traffic of [out, into]) {
    const loss = await traffic.stop()
    t.diagnostic(
      `${loss.lost} of ${loss.sent} lost, silence ${loss.longestSilenceMs.toFixed(1)} ms`,
    )
    assert.equal(loss.doubled, 0)
  }
  const after = await sessionWith(lab)
  assert.equal(after?.state, 'open')
  assert.deepEqual(after.openSince, before.openSince, 'it was open all the while')
  if (!isTorture) assert.equal(ageChange(before, after), 0, 'a new session was begun')
  // Sessions that are begun now are begun with the new key, by either side.
  for (const [shuttle, other] of [
    ['shuttle@beta', api],
    ['shuttle@gamma', edge],
  ] as const) {
    await lab.restart(shuttle, 'SIGKILL')
    await eventually(async () => {
      const { received } = await ping(at(lab, other.name), web.ip4, {
        count: 1,
        'timeout-ms': 500,
      })
      assert.equal(received, 1)
    })
  }
  // A locked tenant has to vouch for the new keys itself.
  await lab.signTenants()
  const [redWeb, redApi] = RED
  await eventually(async () => {
    const { received } = await ping(at(lab, redWeb.name), redApi.ip4, { count: 1 })
    assert.equal(received, 1)
  })
})

/** What the other host says of its connection to the one that changes its keys. */
async function sessionWith(lab: Lab): Promise<OpenConnection | undefined> {
  const connections = await lab.client.host('beta').listOpenConnections()
  return connections.find(({ host, carrier }) => host === HOST && carrier === 'sealed')
}

/** In seconds: the time of a handshake is reckoned back from its age. */
function ageChange(before: OpenConnection | undefined, after: OpenConnection): number {
  const [then = 0, now = 0] = [before, after].map((one) => one?.lastHandshake?.getTime())
  return Math.round((now - then) / 1_000)
}

function rotate(lab: Lab) {
  return weftAt(at(lab, HOST), ['host', 'rotate-keys', '--identity', identityOf(lab, HOST)])
}

async function tunnelKeyOf(lab: Lab): Promise<string> {
  const { stdout } = await weftAt(at(lab, HOST), [
    ...['host', 'keys', '--identity', identityOf(lab, HOST), '-o', 'json'],
  ])
  return (JSON.parse(stdout) as { tunnelKey: string }).tunnelKey
}
