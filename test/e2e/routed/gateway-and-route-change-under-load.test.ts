import assert from 'node:assert/strict'
import test from 'node:test'
import { eventually } from '../../support/eventually.ts'
import { ping } from '../../support/probe.ts'
import { BLUE, routedLab, target } from '../support/blue.ts'
import { at } from '../support/lab.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'

const [web, , api] = BLUE

test('traffic follows the gateway to another MAC and the host to another route', async (t) => {
  const lab = await routedLab()
  const router = at(lab, 'router')
  const alpha = at(lab, 'alpha')
  await using load = await Traffic.start(at(lab, web.name), target(lab, api), {
    rate: 5000,
    flows: 4,
  })

  // The router announces its new MAC, as one that takes over from another does.
  await router.mustRun(['sysctl', '-qw', 'net.ipv4.conf.br-one.arp_notify=1'])
  await router.ip('link set br-one address 02:00:5e:00:01:01')
  await assertSteady()

  // Another gateway on the same subnet, and the route moves to it.
  await router.ip('address add 172.31.1.2/24 dev br-one')
  await alpha.ip('route replace default via 172.31.1.2')
  await assertSteady()
  await alpha.ip('route replace default via 172.31.1.1')
  await router.ip('address delete 172.31.1.2/24 dev br-one')
  await assertSteady()

  const { sent, lost } = await load.stop()
  t.diagnostic(`${lost} of ${sent} packets lost while the network below changed`)
  assert.ok(sent > 0)

  async function assertSteady(): Promise<void> {
    await eventually(async () => {
      const { lost } = await ping(at(lab, web.name), api.ip4, { count: 20, 'timeout-ms': 200 })
      assert.equal(lost, 0)
    })
    await using traffic = await Traffic.start(
      at(lab, web.name),
      target(lab, api),
      { rate: 5000, flows: 4, count: 5000 },
      5301,
    )
    await assertNothingLost(lab, await traffic.end())
  }
})
