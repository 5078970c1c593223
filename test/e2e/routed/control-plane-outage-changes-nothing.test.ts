import assert from 'node:assert/strict'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { eventually } from '../../support/eventually.ts'
import { ping } from '../../support/probe.ts'
import { BLUE, establish, pairsOf, routedLab, target } from '../support/blue.ts'
import { at, scaled } from '../support/lab.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'

const [web, db, api, edge] = BLUE
/** Dependencies of a host in the control plane; the shuttle is beside it and lives on. */
const ABOVE = ['bus', 'config', 'location-resolver', 'routing-policy']

test('without NATS and services known flows lose nothing, new ones work, and status tells', async (t) => {
  const lab = await routedLab()
  await establish(lab, web, [api])
  await using traffic = await Traffic.start(at(lab, web.name), target(lab, api), {
    rate: 4000,
    flows: 4,
  })
  await lab.stopControl()
  try {
    const pairs = pairsOf([db, edge])
    for (const [source, other] of pairs) {
      const { received } = await ping(at(lab, source.name), other.ip4, {
        count: 3,
        'timeout-ms': 5000,
      })
      assert.equal(received, 3, `${source.name} to ${other.name}`)
    }
    await eventually(async () => assertStale(lab, ABOVE))
    await new Promise((resolve) => setTimeout(resolve, scaled(5000, 30_000)))
  } finally {
    await lab.startControl()
  }
  const startedAt = Date.now()
  await eventually(async () => assertStale(lab, []))
  t.diagnostic(`in step ${Date.now() - startedAt} ms after config answered again`)
  await assertNothingLost(lab, await traffic.stop())
})

test('a forwarder that starts while everything above it is dead forwards from disk', async (t) => {
  const lab = await routedLab()
  await lab.stopControl()
  try {
    await lab.stop('forwarder@beta', 'SIGKILL')
    const startedAt = Date.now()
    await lab.restart('forwarder@beta')
    // New to the kernel as well: nobody has used IPv6 between these two.
    const { received } = await ping(at(lab, api.name), edge.ip6, { count: 1, 'timeout-ms': 10_000 })
    assert.equal(received, 1)
    t.diagnostic(`answered ${Date.now() - startedAt} ms after the start`)
    assert.equal((await lab.status('beta')).fromDisk, true)
  } finally {
    await lab.startControl()
  }
  await eventually(async () => assertStale(lab, []))
  await eventually(async () => assert.equal((await lab.status('beta')).fromDisk, false))
})

/** Exactly these dependencies do not answer, and each says for how long. */
async function assertStale(lab: Lab, expected: readonly string[]): Promise<void> {
  for (const { name } of lab.weftHosts) {
    const { dependencies } = await lab.status(name)
    const silent = dependencies.filter(({ health }) => health !== 'ok')
    assert.deepEqual(
      silent.map((dependency) => dependency.name).toSorted(),
      [...expected].toSorted(),
      name,
    )
    for (const dependency of silent) assert.notEqual(dependency.error, '', dependency.name)
  }
}
