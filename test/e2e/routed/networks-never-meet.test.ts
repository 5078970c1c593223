import assert from 'node:assert/strict'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { NewPlace } from '../../support/place.ts'
import { type Probe, ping, type Received, send, startReceiver } from '../../support/probe.ts'
import { BLUE, type Known, pairsOf, RED, routedLab } from '../support/blue.ts'
import { at, PREFIX, scaled } from '../support/lab.ts'
import { socketAddress } from '../support/traffic.ts'

const PORT = 5310
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
  const receivers = await Promise.all(all.map((endpoint) => listen(lab, endpoint)))
  const churn = comeAndGo(lab)
  for (let round = 0; round < scaled(1, 10); round++) {
    for (const network of [BLUE, RED]) {
      for (const [source, other] of pairsOf(network)) {
        await Promise.all([sendTo(lab, source, other.ip4), sendTo(lab, source, other.ip6)])
      }
    }
    // These addresses exist in blue only: nobody in red has them.
    for (const source of RED) {
      await Promise.all([sendTo(lab, source, '10.20.0.12'), sendTo(lab, source, 'fd20::14')])
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

async function listen(lab: Lab, endpoint: Known): Promise<Probe<Received>> {
  return await startReceiver(at(lab, endpoint.name), {
    listen: `[::]:${PORT}`,
    label: labelOf(endpoint),
  })
}

/** Every call is a flow of its own at the receiver. */
let nextFlow = 0

async function sendTo(lab: Lab, source: Known, address: string): Promise<void> {
  await send(at(lab, source.name), {
    to: socketAddress(address, PORT),
    rate: 2000,
    count: COUNT,
    label: labelOf(source),
    'first-flow': nextFlow++,
  })
}

/** Endpoints with one MAC and address in both networks, made and removed until told to stop. */
function comeAndGo(lab: Lab): { stop: () => Promise<void> } {
  const end = new AbortController()
  const cycle = async (network: string, host: string): Promise<void> => {
    const ref = { tenant: lab.plan.tenantOfNetwork(network), network, endpoint: 'guest' }
    await using place = await NewPlace.make(`${PREFIX}-${network}-guest`)
    while (!end.signal.aborted) {
      await lab.client.endpoints.create(ref)
      await lab.client.host(host).attach(ref, { kind: 'netns', path: place.path })
      await lab.client.host(host).detach(ref)
      await lab.client.endpoints.delete(ref)
    }
  }
  const done = Promise.all([cycle('blue', 'beta'), cycle('red', 'alpha')])
  // What goes wrong meanwhile is told by `stop`.
  done.catch(() => {})
  return {
    stop: async () => {
      end.abort()
      await done
    },
  }
}

function labelOf(endpoint: Known): number {
  return endpoint.name.startsWith('blue/') ? LABELS.blue : LABELS.red
}
