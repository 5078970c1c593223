import assert from 'node:assert/strict'
import test from 'node:test'
import { ping } from '../../support/probe.ts'
import { BLUE, type Known, pairsOf, RED, routedLab } from '../support/blue.ts'
import { at, scaled } from '../support/lab.ts'
import { comeAndGo, listenFor, sendLabelled } from '../support/labelled.ts'

const LABELS = { blue: 0xb, red: 0xe }
const COUNT = 50

test('the same MAC and addresses in two networks: nothing crosses while endpoints come and go', async () => {
  const lab = await routedLab()
  const all = [...BLUE, ...RED]
  // The first packets of a connection wait in bounded queues: bursts are for connections that are known.
  for (const network of [BLUE, RED]) {
    for (const [source, other] of pairsOf(network)) {
      await Promise.all(
        [other.ip4, other.ip6].map((address) =>
          ping(at(lab, source.name), address, { 'timeout-ms': 5000 }),
        ),
      )
    }
  }
  const sendBoth = async (source: Known, addresses: readonly string[]): Promise<void> => {
    await Promise.all(
      addresses.map((address) => sendLabelled(lab, source.name, labelOf(source), address, COUNT)),
    )
  }
  const receivers = await Promise.all(
    all.map((endpoint) => listenFor(lab, endpoint.name, labelOf(endpoint))),
  )
  const churn = comeAndGo(lab, [
    ['blue', 'beta'],
    ['red', 'alpha'],
  ])
  for (let round = 0; round < scaled(1, 10); round++) {
    for (const network of [BLUE, RED]) {
      for (const [source, other] of pairsOf(network)) {
        await sendBoth(source, [other.ip4, other.ip6])
      }
    }
    // These addresses exist in blue only: nobody in red has them.
    for (const source of RED) {
      await sendBoth(source, ['10.20.0.12', 'fd20::14'])
    }
  }
  await churn.stop()

  for (const [index, receiver] of receivers.entries()) {
    const endpoint = all[index]
    assert.ok(endpoint !== undefined)
    const others = all.filter((other) => labelOf(other) === labelOf(endpoint)).length - 1
    const { received, foreign } = await receiver.stop()
    assert.equal(foreign, 0, `${endpoint.name} got packets of the other network`)
    assert.equal(
      received,
      others * 2 * COUNT * scaled(1, 10),
      `${endpoint.name} misses packets of its own`,
    )
  }
})

function labelOf(endpoint: Known): number {
  return endpoint.name.startsWith('blue/') ? LABELS.blue : LABELS.red
}
