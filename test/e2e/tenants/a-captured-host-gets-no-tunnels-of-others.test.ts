import assert from 'node:assert/strict'
import { join } from 'node:path'
import test from 'node:test'
import { PORTS } from '@weft/lab'
import { ROOT } from '../../check/repository.ts'
import { at } from '../support/lab.ts'
import { identityOf, PrivateFolder } from '../support/members.ts'
import { Rogue, tunnelKeysOf } from '../support/rogue.ts'
import { tenantsLab } from '../support/tenants.ts'

const CAPTURED = join(ROOT, 'test/e2e/support/captured-tunnels.ts')
/** It shares networks with alpha, and none with beta. */
const HOST = 'gamma'

test('a host with all its keys reads nothing of those it shares no network with, and cannot have the tunnel key of another', async (t) => {
  const lab = await tenantsLab()
  const [alpha, beta] = [tunnelKeysOf(lab, 'alpha').open, tunnelKeysOf(lab, 'beta').open]
  const { id } = await lab.client.hosts.get('beta')
  const { controlAddress } = lab.plan
  const answer = await at(lab, HOST).mustRun([
    ...[process.execPath, CAPTURED, identityOf(lab, HOST)],
    ...[`${controlAddress}:${PORTS.config}`, `tls://${controlAddress}:${PORTS.nats}`],
    ...[String(id), alpha, beta],
  ])
  const outcomes = JSON.parse(answer) as {
    own: { rows: number; keys: string[] }
    other: { rows: number; keys: string[] }
    claim: string
  }

  assert.ok(outcomes.own.rows > 0, 'it does not read its own rows')
  assert.deepEqual(
    outcomes.own.keys,
    [alpha],
    'its rows have keys of those it shares networks with',
  )
  assert.deepEqual(outcomes.other, { rows: 0, keys: [] })
  assert.equal(outcomes.claim, 'invalid-argument keys.tunnel')
  t.diagnostic(`${outcomes.own.rows} rows of its own, none of beta`)
})

test('a host is not answered by one that it shares no network with, nor under a key that is nobody’s', async () => {
  const lab = await tenantsLab()
  using folder = new PrivateFolder()
  await using made = new AsyncDisposableStack()
  made.defer(async () => {
    await lab.start(`shuttle@${HOST}`)
    await lab.untilReady()
  })
  await lab.stop(`shuttle@${HOST}`, 'SIGKILL')
  const saying = { frame: '00'.repeat(60), vnis: [1], count: 1, rate: 1 }
  const isAnswered = async (to: string, secret?: string): Promise<boolean> => {
    await using rogue = await Rogue.start(lab, HOST, to, saying, folder, secret)
    return (await rogue.end()) !== undefined
  }
  assert.equal(await isAnswered('alpha'), true, 'nobody is ever answered')
  assert.equal(await isAnswered('beta'), false)
  assert.equal(await isAnswered('alpha', '42'.repeat(32)), false)
})
