import assert from 'node:assert/strict'
import { join } from 'node:path'
import test from 'node:test'
import { type Lab, PORTS } from '@weft/lab'
import { ROOT } from '../../check/repository.ts'
import { eventually } from '../../support/eventually.ts'
import { ping } from '../../support/probe.ts'
import { BLUE, establish, routedLab, target } from '../support/blue.ts'
import { weft } from '../support/cli.ts'
import { at, scaled } from '../support/lab.ts'
import { identityOf } from '../support/members.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'

const CAPTURED = join(ROOT, 'test/e2e/support/captured.ts')
const HOST = 'gamma'
const [web, , api] = BLUE
const RESETS = scaled(10_000, 100_000)
const TIMEOUT_MS = scaled(60_000, 600_000)
/** T14 of the threat model. */
const GROWTH_MAX_BYTES = 64 * 2 ** 20

test('a host with all its keys gets what is its own, and takes nothing from others', async (t) => {
  const lab = await routedLab()
  await establish(lab, web, [api])
  await using traffic = await Traffic.start(at(lab, web.name), target(lab, api), { rate: 500 })
  const before = lab.residentBytes('config')
  const { tenant } = lab.plan
  const endpoint = await lab.client.endpoints.get({ tenant, network: 'blue', endpoint: 'web' })
  const network = await lab.client.networks.get({ tenant, network: 'blue' })
  const alpha = await lab.client.hosts.get('alpha')

  const attack = at(lab, HOST).mustRun(
    [
      ...[process.execPath, CAPTURED, identityOf(lab, HOST)],
      ...[
        `${lab.plan.controlAddress}:${PORTS.config}`,
        `tls://${lab.plan.controlAddress}:${PORTS.nats}`,
      ],
      ...[alpha.id, endpoint.id, network.id, RESETS].map(String),
    ],
    TIMEOUT_MS,
  )
  let calls = 0
  const done = attack.then(
    () => true,
    () => true,
  )
  while (!(await Promise.race([done, pause(50)]))) {
    await lab.client.networks.get({ tenant, network: 'blue' })
    calls++
  }
  const outcomes = JSON.parse(await attack) as Record<string, string>

  const denied = [
    'createToken',
    'revokeHost',
    'deleteHost',
    'createNetwork',
    'listUsers',
    'listTokens',
  ]
  assert.deepEqual(outcomes, {
    ...Object.fromEntries(denied.map((name) => [name, 'permission-denied'])),
    getServerInfo: 'done',
    claimAsOneself: 'endpoint-not-assigned',
    claimAsOther: 'permission-denied',
    // The server of the bus takes nothing on the subject of another host, so nobody answers.
    claimOnOtherSubject: 'unavailable',
    resets: String(RESETS),
  })
  assert.ok(calls > 0, 'nobody else was served')
  const growth = lab.residentBytes('config') - before
  assert.ok(growth <= GROWTH_MAX_BYTES, `config grew by ${growth} bytes`)
  t.diagnostic(
    `${RESETS} streams reset; config grew by ${growth >> 10} KiB; ${calls} calls of others meanwhile`,
  )
  const own = await lab.client.hosts.get(HOST)
  await eventually(() => assertDenialsAreAudited(lab, `host/${own.id}`))
  await assertNothingLost(lab, await traffic.stop())
  await eventually(async () => {
    const { dependencies } = await lab.status(HOST)
    assert.deepEqual(
      dependencies.filter(({ health }) => health !== 'ok'),
      [],
    )
  })
  const { received } = await ping(at(lab, web.name), api.ip4, { 'timeout-ms': 5000 })
  assert.equal(received, 1)
})

/** Who was refused what; equal ones are one entry with a count. */
async function assertDenialsAreAudited(lab: Lab, who: string): Promise<void> {
  const ended = await weft(lab, ['audit', 'ls', '--phase', 'denied', '--who', who, '-o', 'json'])
  assert.equal(ended.code, 0, ended.stderr)
  const entries = JSON.parse(ended.stdout) as { action: string }[]
  const actions = new Set(entries.map(({ action }) => action.split('/').at(-1)))
  assert.ok(actions.has('CreateToken') && actions.has('RevokeHost'), [...actions].join(', '))
}

function pause(milliseconds: number): Promise<false> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds, false))
}
