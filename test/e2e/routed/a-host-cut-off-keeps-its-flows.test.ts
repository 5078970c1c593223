import assert from 'node:assert/strict'
import { readFileSync, statSync } from 'node:fs'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { formatIpAddress } from '@weft/net'
import { eventually } from '../../support/eventually.ts'
import { ping } from '../../support/probe.ts'
import { BLUE, establish, type Known, routedLab, target } from '../support/blue.ts'
import { at, scaled } from '../support/lab.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'

const HOST = 'gamma'
const [web, db, api, edge] = BLUE
/** Attached at another host while this one cannot hear of it. */
const LATE = { network: 'blue', name: 'late', host: 'beta' }
/** T17 of the threat model: ten minutes, in which the forwarder is started again from disk. */
const CUT_MS = scaled(8_000, 600_000)
const SHUTTLE = `shuttle@${HOST}`
const ABOVE = ['bus', 'config', 'location-resolver', 'routing-policy']

test('a host that NATS and all services cannot be reached from loses no packet of known flows', async (t) => {
  const lab = await routedLab()
  await establish(lab, web, [edge])
  await establish(lab, edge, [db])
  await using into = await Traffic.start(at(lab, web.name), target(lab, edge), {
    rate: 1000,
    flows: 4,
  })
  await using outOf = await Traffic.start(
    at(lab, edge.name),
    target(lab, db),
    { rate: 1000, flows: 4 },
    5330,
  )
  const shuttleLogStart = statSync(lab.logFile(SHUTTLE)).size
  const cutAt = Date.now()
  const cut = await cutOff(lab)
  try {
    await eventually(async () => assertSilent(lab, ABOVE))
    await lab.addEndpoint(LATE)
    const late = await addressOf(lab)
    await assertReached(lab, web, late, 1)

    const startedAt = Date.now()
    await lab.restart(`forwarder@${HOST}`)
    // New to the kernel as well: nobody has used IPv6 between these two.
    const { received } = await ping(at(lab, edge.name), api.ip6, { 'timeout-ms': 10_000 })
    assert.equal(received, 1, 'a new flow between known endpoints')
    t.diagnostic(`answered ${Date.now() - startedAt} ms after the forwarder was killed`)
    assert.equal((await lab.status(HOST)).fromDisk, true)
    await assertReached(lab, edge, late, 0)
    await assertSilent(lab, ABOVE)
    assert.doesNotMatch(logSince(lab, shuttleLogStart), /detached/, 'something was taken away')
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, cutAt + CUT_MS - Date.now())))
  } finally {
    await cut[Symbol.asyncDispose]()
  }
  const healedAt = Date.now()
  await eventually(async () => assertSilent(lab, []))
  await eventually(async () => assert.equal((await lab.status(HOST)).fromDisk, false))
  t.diagnostic(`in step ${Date.now() - healedAt} ms after the way was there again`)
  await assertReached(lab, edge, await addressOf(lab), 1)
  await lab.removeEndpoint(LATE.network, LATE.name)
  for (const traffic of [into, outOf]) await assertNothingLost(lab, await traffic.stop())
})

/** Takes the host's wire out of the management network's switch: nothing tells it, packets are just gone. */
async function cutOff(lab: Lab): Promise<AsyncDisposable> {
  const control = at(lab, 'control')
  await control.ip(`link set m-${HOST} nomaster`)
  return {
    [Symbol.asyncDispose]: () => control.ip(`link set m-${HOST} master mgmt0`),
  }
}

/** Exactly these of what the host depends on do not answer it. */
async function assertSilent(lab: Lab, expected: readonly string[]): Promise<void> {
  const { dependencies } = await lab.status(HOST)
  const silent = dependencies.filter(({ health }) => health !== 'ok').map(({ name }) => name)
  assert.deepEqual(silent.toSorted(), [...expected].toSorted())
}

async function assertReached(
  lab: Lab,
  source: Known,
  address: string,
  expected: 0 | 1,
): Promise<void> {
  const { received } = await ping(at(lab, source.name), address, {
    'timeout-ms': expected === 1 ? 10_000 : 1000,
  })
  assert.equal(received, expected, `${source.name} to ${address}`)
}

async function addressOf(lab: Lab): Promise<string> {
  const { tenant } = lab.plan
  const ref = { tenant, network: LATE.network, endpoint: LATE.name }
  const { addresses } = await lab.client.endpoints.get(ref)
  const address = addresses.find(({ family }) => family === 4)
  assert.ok(address !== undefined)
  return formatIpAddress(address)
}

function logSince(lab: Lab, start: number): string {
  return readFileSync(lab.logFile(SHUTTLE)).subarray(start).toString('utf8')
}
