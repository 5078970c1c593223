import assert from 'node:assert/strict'
import test, { type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Lab } from '@weft/lab'
import { eventually } from '../../support/eventually.ts'
import { at } from '../support/lab.ts'
import {
  AT_HOME,
  connectionTo,
  DEADLINE_MS,
  natLab,
  OUTSIDE,
  outsideOf,
  untilAnswered,
} from '../support/nat.ts'
import { type Loss, Traffic } from '../support/traffic.ts'

const [web, api] = AT_HOME
const [edge] = OUTSIDE
const OTHER_PORT = 30_001
/** Datagrams in a second, each way. */
const RATE = 200
/** Before and after what happens. */
const LOAD_MS = 1_000

test('a NAT that forgets its mappings under load stops nobody', async (t) => {
  const lab = await natLab()
  const losses = await underLoad(lab, t, async () => {
    await lab.restartNat(web.underlay)
    await untilAnswered(lab, web, api)
    await untilAnswered(lab, api, web)
    await untilAnswered(lab, web, edge)
  })
  for (const { sent, received } of losses) assert.ok(received > sent / 2, `${received} of ${sent}`)
})

test('a NAT that gives its host another port under load stops nobody: it is found there by itself', async (t) => {
  const lab = await natLab()
  const place = outsideOf(lab, web.underlay)
  await underLoad(lab, t, async () => {
    await lab.restartNat(web.underlay, { port: OTHER_PORT })
    // Who is reached by anybody hears from there where the host is now.
    await untilAnswered(lab, web, edge)
    await untilAnswered(lab, web, api)
    await untilAnswered(lab, api, web)
    await eventually(async () => {
      const { endpoint } = await connectionTo(lab, api.host, web.host)
      assert.equal(endpoint?.port, OTHER_PORT, `${api.host} has ${web.host} not at ${place}`)
    }, DEADLINE_MS)
  })

  await lab.restartNat(web.underlay)
  await untilAnswered(lab, web, api)
})

/** Acts while both hosts behind NATs send to each other, and tells what arrived of that. */
async function underLoad(lab: Lab, t: TestContext, act: () => Promise<void>): Promise<Loss[]> {
  await untilAnswered(lab, web, api)
  const target = (known: typeof web | typeof api) => ({
    place: at(lab, known.name),
    address: known.ip4,
  })
  const options = { rate: RATE, size: 200 }
  await using there = await Traffic.start(at(lab, web.name), target(api), options)
  await using back = await Traffic.start(at(lab, api.name), target(web), options)

  await sleep(LOAD_MS)
  const began = performance.now()
  await act()
  t.diagnostic(`both ways again after ${Math.round(performance.now() - began)} ms`)
  await sleep(LOAD_MS)

  const losses: Loss[] = []
  for (const [way, traffic] of Object.entries({ there, back })) {
    const loss = await traffic.stop()
    losses.push(loss)
    const silence = `longest silence ${Math.round(loss.longestSilenceMs)} ms`
    t.diagnostic(`${way}: ${loss.received} of ${loss.sent}, ${silence}`)
    assert.ok(loss.received > 0)
  }
  return losses
}
