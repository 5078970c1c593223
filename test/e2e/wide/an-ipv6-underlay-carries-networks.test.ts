import assert from 'node:assert/strict'
import test from 'node:test'
import { ping } from '../../support/probe.ts'
import { at } from '../support/lab.ts'
import { startServers, WEB_PORT } from '../support/servers.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'
import { wideLab } from '../support/wide.ts'

test('two hosts whose underlay has IPv6 alone carry a network, super-packets included', async (t) => {
  const lab = await wideLab()
  const [one, two] = [at(lab, 'sixth/one'), at(lab, 'sixth/two')]
  await using made = new AsyncDisposableStack()
  made.use(await startServers(two))
  for (const address of ['10.60.0.12', 'fd60::12']) {
    const { lost } = await ping(one, address, { count: 10, 'timeout-ms': 3000 })
    assert.equal(lost, 0)
    await using traffic = await Traffic.start(
      one,
      { place: two, address },
      {
        rate: 10_000,
        size: 1200,
        segments: 10,
        count: 5000,
      },
    )
    await assertNothingLost(lab, await traffic.end())
  }
  const url = `http://10.60.0.12:${WEB_PORT}/bytes/20000000`
  const size = await one.mustRun([
    'curl',
    '-sS',
    '--max-time',
    '20',
    '-o',
    '/dev/null',
    '-w',
    '%{size_download}',
    url,
  ])
  assert.equal(size, '20000000')
  const [device] = (await lab.status('delta')).underlayDevices
  t.diagnostic(`${device?.encapsulation} and ${device?.decapsulation}: ${device?.reason}`)
})
