import assert from 'node:assert/strict'
import test from 'node:test'
import { BLUE, routedLab } from '../support/blue.ts'
import { Guest, provideGuestParts } from '../support/guest.ts'
import { at } from '../support/lab.ts'
import { startServers, WEB_PORT } from '../support/servers.ts'
import { attachTap } from '../support/tap.ts'
import { socketAddress } from '../support/traffic.ts'

const [web, , api] = BLUE
const IP4 = '10.20.9.3'
const IP6 = 'fd20::9:3'
const MTU = 1320
/** Headers of IP and ICMP. */
const HEADERS = { 4: 28, 6: 48 } as const
/** Bits of virtio-net (Virtual I/O Device 1.2, 5.1.3): checksums and IPv4 and IPv6 segments left to the other side, both ways. */
const OFFLOADS = [0, 1, 7, 8, 11, 12]

test('a guest of QEMU talks with containers at its own host and at others', async (t) => {
  const parts = await provideGuestParts()
  if ('missing' in parts) return t.skip(parts.missing)
  const lab = await routedLab()
  await using made = new AsyncDisposableStack()
  const mac = await attachTap(lab, made, {
    host: 'beta',
    device: 'guest1',
    endpoint: 'qemu',
    addresses: [IP4, IP6],
    withOffloads: true,
  })
  const guest = made.use(
    await Guest.start(at(lab, 'beta'), parts, {
      device: 'guest1',
      mac,
      ip4: `${IP4}/16`,
      ip6: `${IP6}/64`,
      mtu: MTU,
    }),
  )
  const features = await guest.mustRun('cat /sys/class/net/eth0/device/features')
  for (const bit of OFFLOADS) assert.equal(features[bit], '1', `virtio feature ${bit}: ${features}`)
  const digest = await guest.mustRun('sha256sum </srv/bytes')

  for (const { name, ip4, ip6 } of [web, api]) {
    const place = at(lab, name)
    made.use(await startServers(place))
    for (const [family, own, other] of [
      [4, IP4, ip4],
      [6, IP6, ip6],
    ] as const) {
      for (const size of [56, MTU - HEADERS[family]]) {
        const words = `ping -c 3 -i 0.1 -W 5 -s ${size}`
        const into = await place.mustRun([...words.split(' '), '-M', 'do', own])
        assert.match(into, / 0% packet loss/, `${name} to ${own}`)
        const out = await guest.mustRun(`${words} ${other}`)
        assert.match(out, / 0% packet loss/, `guest to ${other}`)
      }
      const url = `http://${socketAddress(own, 80)}`
      const line = `curl -sS ${url}/bytes | curl -sS -H Expect: --data-binary @- ${url}/cgi-bin/digest`
      const returned = await place.mustRun(['sh', '-c', line])
      assert.equal(returned.trim(), digest, `bytes of the guest, to ${name} and back to ${own}`)
      const target = `http://${socketAddress(other, WEB_PORT)}/digest`
      const posted = await guest.mustRun(`wget -q -O - --post-file=/srv/bytes ${target}`)
      assert.equal(`${posted}  -`, digest, `bytes of the guest, sent to ${other}`)
    }
  }
})
