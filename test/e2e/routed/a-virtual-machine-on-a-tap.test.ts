import assert from 'node:assert/strict'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { NewPlace } from '../../support/place.ts'
import { ping, startTapBridge } from '../../support/probe.ts'
import { BLUE, routedLab, target } from '../support/blue.ts'
import { at, PREFIX } from '../support/lab.ts'
import { startServers, WEB_PORT } from '../support/servers.ts'
import { attachTap } from '../support/tap.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'

const [web, , api] = BLUE
const MTU = 1320

/** A guest is a namespace with a kernel of its own device; a program carries its frames to the TAP, as a hypervisor does. */
for (const [withOffloads, ip4, ip6] of [
  [true, '10.20.9.1', 'fd20::9:1'],
  [false, '10.20.9.2', 'fd20::9:2'],
] as const) {
  const how = withOffloads ? 'with offloads, as QEMU uses it' : 'frame by frame'
  test(`a virtual machine talks through a TAP ${how}`, async () => {
    const lab = await routedLab()
    await using made = new AsyncDisposableStack()
    const guest = await startGuest(lab, made, { withOffloads, ip4, ip6 })
    made.use(await startServers(guest))
    for (const { name } of [web, api]) {
      const place = at(lab, name)
      for (const address of [ip4, ip6]) {
        const { lost } = await ping(place, address, { count: 5, 'timeout-ms': 3000 })
        assert.equal(lost, 0, `${name} to ${address}`)
      }
      const url = `http://${ip4}:${WEB_PORT}/bytes/5000000`
      const size = await place.mustRun([
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
      assert.equal(size, '5000000')
      await using into = await Traffic.start(
        place,
        { place: guest, address: ip4 },
        {
          rate: 5000,
          size: 1200,
          segments: 10,
          count: 1000,
        },
      )
      await assertNothingLost(lab, await into.end())
    }
    for (const other of [web, api]) {
      const { lost } = await ping(guest, other.ip4, { count: 5, 'timeout-ms': 3000 })
      assert.equal(lost, 0, `guest to ${other.name}`)
      await using out = await Traffic.start(guest, target(lab, other, 6), {
        rate: 5000,
        size: 1200,
        count: 1000,
      })
      await assertNothingLost(lab, await out.end())
    }
  })
}

interface GuestOptions {
  readonly withOffloads: boolean
  readonly ip4: string
  readonly ip6: string
}

async function startGuest(
  lab: Lab,
  made: AsyncDisposableStack,
  { withOffloads, ip4, ip6 }: GuestOptions,
): Promise<NewPlace> {
  const host = at(lab, 'beta')
  const guest = made.use(await NewPlace.make(`${PREFIX}-guest`))
  const mac = await attachTap(lab, made, {
    host: 'beta',
    device: 'guest0',
    endpoint: 'guest',
    addresses: [ip4, ip6],
    withOffloads,
  })
  made.use(
    await startTapBridge(host, {
      outer: 'guest0',
      netns: guest.path,
      inner: 'eth0',
      'vnet-hdr': withOffloads,
    }),
  )
  await guest.ip(
    `link set eth0 address ${mac} mtu ${MTU}`,
    `address add ${ip4}/16 dev eth0`,
    `address add ${ip6}/64 dev eth0 nodad`,
    'link set eth0 up',
  )
  return guest
}
