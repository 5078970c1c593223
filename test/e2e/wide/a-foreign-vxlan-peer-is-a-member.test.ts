import assert from 'node:assert/strict'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { formatIpAddress, formatMacAddress } from '@weft/net'
import type { Place } from '../../support/place.ts'
import { ping } from '../../support/probe.ts'
import { at } from '../support/lab.ts'
import { startServers, WEB_PORT } from '../support/servers.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'
import { wideLab } from '../support/wide.ts'

const OURS = { ip4: '10.70.0.11', ip6: 'fd70::11' }
const THEIRS = { ip4: '10.70.0.12', ip6: 'fd70::12' }
const VXLAN_PORT = 4789
const MTU = 1320

test('a machine with nothing but a kernel VXLAN device talks with our endpoints', async () => {
  const lab = await wideLab()
  await using made = new AsyncDisposableStack()
  const theirs = await configureStranger(lab)
  made.defer(() => theirs.ip('link delete vx0'))
  const ours = at(lab, 'mixed/ours')
  made.use(await startServers(theirs))
  made.use(await startServers(ours))
  const ways = [
    { from: ours, to: theirs, target: THEIRS },
    { from: theirs, to: ours, target: OURS },
  ]
  for (const { from, to, target } of ways) {
    for (const address of [target.ip4, target.ip6]) {
      const { lost } = await ping(from, address, { count: 10, 'timeout-ms': 3000 })
      assert.equal(lost, 0, address)
    }
    const url = `http://${target.ip4}:${WEB_PORT}/bytes/20000000`
    const size = await from.mustRun([
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
    await using traffic = await Traffic.start(
      from,
      { place: to, address: target.ip4 },
      {
        rate: 10_000,
        size: 1200,
        segments: 10,
        count: 5000,
      },
    )
    await assertNothingLost(lab, await traffic.end())
  }
})

/** What the operator of that machine does: a VXLAN device that sends to our host, with the endpoint's MAC and addresses. */
async function configureStranger(lab: Lab): Promise<Place> {
  const { tenant } = lab.plan
  const { vni } = await lab.client.networks.get({ tenant, network: 'mixed' })
  const { mac } = await lab.client.endpoints.get({ tenant, network: 'mixed', endpoint: 'theirs' })
  const [alpha] = (await lab.client.hosts.get('alpha')).addresses
  const [stranger] = (await lab.client.hosts.get('stranger')).addresses
  if (alpha === undefined || stranger === undefined) throw new Error('a host without addresses')
  const place = at(lab, 'stranger')
  await place.ip(
    `link add vx0 address ${formatMacAddress(mac)} mtu ${MTU} type vxlan id ${vni} dstport ${VXLAN_PORT} local ${formatIpAddress(stranger.address)} remote ${formatIpAddress(alpha.address)}`,
    `address add ${THEIRS.ip4}/16 dev vx0`,
    `address add ${THEIRS.ip6}/64 dev vx0 nodad`,
    'link set vx0 up',
  )
  return place
}
