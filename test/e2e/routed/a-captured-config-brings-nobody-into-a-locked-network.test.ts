import assert from 'node:assert/strict'
import { join } from 'node:path'
import test from 'node:test'
import { type Lab, PORTS } from '@weft/lab'
import { ROOT } from '../../check/repository.ts'
import { eventually } from '../../support/eventually.ts'
import { establish, RED, routedLab } from '../support/blue.ts'
import { at } from '../support/lab.ts'

const CAPTURED = join(ROOT, 'test/e2e/support/captured-config.ts')
const CONFIGS = ['config', 'config-2', 'config-3']
const TIMEOUT_MS = 30_000
/** Far above all that the lab ever makes. */
const FIRST_ID = 2_000_000_000

test('who has config and its keys puts an endpoint into an open network, and none into a locked one', async () => {
  const lab = await routedLab()
  const before = await endpointsOf(lab)
  const blue = await lab.client.networks.get({ tenant: 'lab', network: 'blue' })
  const red = await lab.client.networks.get({ tenant: 'vault', network: 'red' })
  const alpha = await lab.client.hosts.get('alpha')
  const gamma = await lab.client.hosts.get('gamma')
  // The real ones would write over it what is right.
  for (const name of CONFIGS) await lab.stop(name)
  try {
    const networks = [red.id, blue.id].map(String)
    const ids = [alpha.id, gamma.id, FIRST_ID].map(String)
    const made = await at(lab, 'control').mustRun(
      [process.execPath, CAPTURED, ...stolen(lab), ...ids, ...networks],
      TIMEOUT_MS,
    )
    assert.deepEqual(JSON.parse(made), [FIRST_ID, FIRST_ID + 1])

    // That of blue was written last: when it is there, that of red has been judged.
    await eventually(async () => assert.equal(await endpointsOf(lab), before + 1))
    const [web, api] = RED
    await establish(lab, web, [api])
    assert.equal(await endpointsOf(lab), before + 1)
  } finally {
    for (const name of CONFIGS) await lab.start(name)
    await lab.untilReady()
    // Hosts are content with any of them; scenarios after this one ask the first.
    await eventually(() => lab.client.networks.get({ tenant: 'lab', network: 'blue' }))
  }
  await eventually(async () => assert.equal(await endpointsOf(lab), before))
})

/** Endpoints in the tables of alpha's data plane. */
async function endpointsOf(lab: Lab): Promise<number> {
  return (await lab.status('alpha')).endpoints
}

function stolen({ plan }: Lab): string[] {
  const { folder, controlAddress } = plan
  return [
    `${folder}/domain/services/config`,
    `${folder}/domain/authority/directory.key`,
    `tls://${controlAddress}:${PORTS.nats}`,
  ]
}
