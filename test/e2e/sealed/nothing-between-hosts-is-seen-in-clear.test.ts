import assert from 'node:assert/strict'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { eventually } from '../../support/eventually.ts'
import { hex } from '../../support/frames.ts'
import { askByTcp, ping, startSniffer, startTcpEcho } from '../../support/probe.ts'
import { BLUE, type Known, pairsOf, RED, sealedLab } from '../support/blue.ts'
import { assertConservation } from '../support/counters.ts'
import { at, scaled } from '../support/lab.ts'
import { attachEndpoints, detachEndpoints, takeInAgain } from '../support/members.ts'

const [web, , api, edge] = BLUE
/** What ping repeats in its payload: it takes 16 bytes. */
const CANARY = hex('woven in the ope')
const ECHO_PORT = 7007

test('every two endpoints of a network talk, by ICMP and TCP over both families', async () => {
  const lab = await sealedLab()
  for (const network of [BLUE, RED]) {
    for (const [source, other] of pairsOf(network)) {
      for (const address of [other.ip4, other.ip6]) {
        const { lost } = await ping(at(lab, source.name), address, { 'timeout-ms': 5000 })
        assert.equal(lost, 0, `${source.name} to ${address}`)
      }
      const listen = `${other.ip4}:${ECHO_PORT}`
      await using _echo = await startTcpEcho(at(lab, other.name), { listen })
      const { answered } = await askByTcp(at(lab, source.name), listen, { count: 20, size: 30_000 })
      assert.equal(answered, 20, `${source.name} to ${listen}`)
    }
  }
  for (const host of ['alpha', 'beta', 'gamma']) {
    await eventually(async () => {
      const connections = await lab.client.host(host).listOpenConnections()
      const states = connections.map(({ carrier, state }) => `${carrier} ${state}`)
      assert.deepEqual(states, ['sealed open', 'sealed open'])
    })
  }
  await assertConservation(lab)
})

test('no wire between hosts ever carries a payload in clear, whatever begins and ends meanwhile', async (t) => {
  const lab = await sealedLab()
  await using sniffers = new AsyncDisposableStack()
  const wires = await Promise.all(
    lab.weftHosts.map(({ name }) =>
      startSniffer(at(lab, name), { device: 'under0', match: CANARY }),
    ),
  )
  for (const wire of wires) sniffers.use(wire)
  const inside = sniffers.use(
    await startSniffer(at(lab, web.name), { device: 'eth0', match: CANARY }),
  )
  for (const [source, other] of [
    [web, api],
    [web, edge],
    [api, edge],
    [edge, web],
  ] as const) {
    sniffers.use(await startCanaries(lab, source, other))
  }
  let events = 0
  for (let round = 0; round < scaled(1, 25); round++) {
    for (const act of lifecycle(lab)) {
      await act()
      events++
      await untilAnswered(lab, web, api)
    }
  }
  await untilAnswered(lab, web, edge)

  const seen = await inside.stop()
  assert.ok(seen.matched >= 100, `only ${seen.matched} canaries were sent`)
  let frames = 0
  for (const wire of wires) {
    const result = await wire.stop()
    assert.equal(result.matched, 0)
    frames += result.frames
  }
  t.diagnostic(
    `${events} events, ${seen.matched} canaries at one endpoint, ${frames} frames on the wires`,
  )
})

/** What begins and ends in the life of a host. */
function lifecycle(lab: Lab): readonly (() => Promise<unknown>)[] {
  return [
    () => lab.restart('forwarder@alpha', 'SIGKILL'),
    () => lab.restart('forwarder@beta', 'SIGTERM'),
    () => lab.restart('shuttle@alpha', 'SIGKILL'),
    () => lab.restart('shuttle@beta', 'SIGTERM'),
    () => detachEndpoints(lab, 'gamma'),
    () => attachEndpoints(lab, 'gamma'),
    () => lab.client.hosts.revoke({ name: 'gamma', reason: 'a test' }),
    () => takeInAgain(lab, 'gamma'),
  ]
}

/** Echo requests with the canary, a hundred a second, whether or not they are answered. */
async function startCanaries(lab: Lab, source: Known, other: Known): Promise<AsyncDisposable> {
  return at(lab, source.name).start([
    ...['ping', '-q', '-i', '0.01', '-s', '200', '-p', CANARY, other.ip4],
  ])
}

async function untilAnswered(lab: Lab, source: Known, other: Known): Promise<void> {
  await eventually(async () => {
    const { received } = await ping(at(lab, source.name), other.ip4, {
      count: 1,
      'timeout-ms': 500,
    })
    assert.equal(received, 1, `${source.name} to ${other.name}`)
  })
}
