import assert from 'node:assert/strict'
import test from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Lab } from '@weft/lab'
import { formatMacAddress } from '@weft/net'
import { eventually } from '../../support/eventually.ts'
import { udp4 } from '../../support/frames.ts'
import { ping } from '../../support/probe.ts'
import { BLUE, establish, type Known, sealedLab, target } from '../support/blue.ts'
import { Arrivals } from '../support/evil.ts'
import { at, scaled } from '../support/lab.ts'
import { PrivateFolder, takeInAgain } from '../support/members.ts'
import { Rogue, type Saying, tunnelKeysOf } from '../support/rogue.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'

const HOST = 'gamma'
const [web, , api, edge] = BLUE
const RATE = 500
/** What it has to say takes longer than anybody listens. */
const COUNT = 60 * RATE
/** By which the thief is later than the host whose keys it has, however often that was restarted: each time is a minute at most. */
const AHEAD_S = 120
/** So long nothing may come before it counts as the end. */
const SILENCE_MS = 1_000
const POLL_MS = 10

test('a revoked host that goes on sending under its keys is heard by no peer any more', async (t) => {
  const lab = await sealedLab()
  const vni = (await lab.client.networks.get({ tenant: lab.plan.tenant, network: 'blue' })).vni
  for (let round = 0; round < scaled(1, 10); round++) {
    await eventually(() => establish(lab, edge, [web, api]))
    await establish(lab, web, [api])
    using folder = new PrivateFolder()
    const secret = tunnelKeysOf(lab, HOST).secret
    await using made = new AsyncDisposableStack()
    made.defer(async () => {
      await lab.start(`shuttle@${HOST}`)
      await takeInAgain(lab, HOST)
    })
    await lab.stop(`shuttle@${HOST}`, 'SIGKILL')
    await using others = await Traffic.start(at(lab, web.name), target(lab, api), { rate: RATE })
    const listeners: readonly Listener[] = await Promise.all(
      [web, api].map(async (peer, index) => {
        // One that both others' traffic does not come to: nothing but what is thrown at it is counted.
        const arrivals = made.use(await Arrivals.watch(lab, [peer.name], edge.ip4))
        const frame = await frameTo(lab, peer)
        const aheadS = AHEAD_S * (round + 1)
        const saying = { frame, vnis: [vni], count: COUNT, rate: RATE, aheadS }
        const rogue = await Rogue.start(
          ...([lab, HOST, peer.host, saying, folder, secret, index] as const),
        )
        return { peer, arrivals, saying, rogue: made.use(rogue) }
      }),
    )
    for (const { peer, arrivals } of listeners) {
      await eventually(async () => assert.ok((await arrivals.count()) > 0, `${peer.host} hears it`))
    }

    const revokedAt = performance.now()
    await lab.client.hosts.revoke({ name: HOST, reason: 'a test' })
    const answeredMs = performance.now() - revokedAt
    const ends = await Promise.all(listeners.map(({ arrivals }) => lastArrival(arrivals)))
    for (const [index, { peer }] of listeners.entries()) {
      const after = Math.round((ends[index] ?? 0) - revokedAt)
      t.diagnostic(
        `${peer.host} hears it for ${after} ms after the command, which took ${Math.round(answeredMs)} ms`,
      )
    }

    // Nor does it get a new session.
    const before = await Promise.all(listeners.map(({ arrivals }) => arrivals.count()))
    const again = await Promise.all(
      listeners.map(({ peer, saying }, index) =>
        Rogue.start(lab, HOST, peer.host, saying, folder, secret, listeners.length + index),
      ),
    )
    assert.deepEqual(
      await Promise.all(again.map((rogue) => rogue.end())),
      listeners.map(() => undefined),
    )
    assert.deepEqual(await Promise.all(listeners.map(({ arrivals }) => arrivals.count())), before)
    await assertNothingLost(lab, await others.stop())
  }
  await eventually(async () => {
    const { received } = await ping(at(lab, web.name), edge.ip4, { count: 1 })
    assert.equal(received, 1)
  })
})

interface Listener {
  readonly peer: Known
  readonly arrivals: Arrivals
  readonly saying: Saying
  readonly rogue: Rogue
}

/** What `edge` says to another endpoint. */
async function frameTo(lab: Lab, peer: Known): Promise<string> {
  const mac = async (name: string): Promise<string> => {
    const endpoint = name.split('/')[1] ?? ''
    const ref = { tenant: lab.plan.tenant, network: 'blue', endpoint }
    return formatMacAddress((await lab.client.endpoints.get(ref)).mac)
  }
  const macs = { sourceMac: await mac(edge.name), targetMac: await mac(peer.name) }
  return udp4({ ...macs, source: edge.ip4, target: peer.ip4 }, 'revoked')
}

/** When the last packet came, once none does any more. */
async function lastArrival(arrivals: Arrivals): Promise<number> {
  let [count, at] = [await arrivals.count(), performance.now()]
  return await eventually(async () => {
    await sleep(POLL_MS)
    const now = await arrivals.count()
    if (now !== count) [count, at] = [now, performance.now()]
    assert.ok(performance.now() - at > SILENCE_MS, 'it is heard still')
    return at
  })
}
