import assert from 'node:assert/strict'
import test from 'node:test'
import { ping } from '../../support/probe.ts'
import { BLUE, sealedLab } from '../support/blue.ts'
import { Guest, provideGuestParts } from '../support/guest.ts'
import { at, scaled } from '../support/lab.ts'
import { startServers, WEB_PORT } from '../support/servers.ts'
import { attachClient, detachClient } from '../support/wireguard.ts'

const [web, , api] = BLUE
const NAME = 'blue/laptop'
const HOST = 'beta'
const IP4 = '10.20.9.5'
const IP6 = 'fd20::9:5'
const MTU = 1320
const BYTES = scaled(300_000, 4_000_000)
/** Headers of IP and ICMP. */
const HEADERS = { 4: 28, 6: 48 } as const
/** A machine on underlay `one`, behind the router for its host. */
const DEVICE = 'u-guest'
const MAC = '02:00:00:00:09:05'
const UNDERLAY = { ip4: '172.31.1.80/24', ip6: 'fd00:31:1::80/64', mtu: 1500 } as const
const GATEWAY = '172.31.1.1'

test('the WireGuard of a guest’s kernel is a member, by the file that wg-quick takes', async (t) => {
  const parts = await provideGuestParts()
  if ('missing' in parts) return t.skip(parts.missing)
  const lab = await sealedLab()
  await using made = new AsyncDisposableStack()
  const router = at(lab, 'router')
  await router.ip(`tuntap add dev ${DEVICE} mode tap vnet_hdr`)
  made.defer(() => router.ip(`link delete ${DEVICE}`))
  await router.ip(`link set ${DEVICE} master br-one`, `link set ${DEVICE} up`)
  const words = ['--preshared-key']
  const file = await attachClient(lab, made, {
    name: NAME,
    host: HOST,
    addresses: [IP4, IP6],
    words,
  })
  const guest = made.use(
    await Guest.start(router, parts, { device: DEVICE, mac: MAC, ...UNDERLAY }),
  )
  await guest.mustRun(`ip route add default via ${GATEWAY}`)
  await guest.mustRun('ip link add wg0 type wireguard')
  // What wg-quick itself takes out of its files before it hands them to `wg`.
  const settings = file.text.replaceAll(/^(?:Address|MTU) = .*\n/gm, '')
  const encoded = Buffer.from(settings).toString('base64')
  await guest.mustRun(`echo ${encoded} | base64 -d >/wg.conf && wg setconf wg0 /wg.conf`)
  for (const address of file.interface.get('Address')?.split(', ') ?? []) {
    await guest.mustRun(`ip address add ${address} dev wg0`)
  }
  await guest.mustRun(`ip link set wg0 mtu ${file.interface.get('MTU')} up`)

  for (const { name, ip4, ip6 } of [web, api]) {
    for (const [family, own, other] of [
      [4, IP4, ip4],
      [6, IP6, ip6],
    ] as const) {
      for (const size of [56, MTU - HEADERS[family]]) {
        const line = `ping -c 3 -W 5 -i 0.1 -s ${size}`
        const out = await guest.mustRun(`${line} ${other}`)
        assert.match(out, / 0% packet loss/, `guest to ${other}`)
        const into = await at(lab, name).mustRun([...line.split(' '), '-M', 'do', own])
        assert.match(into, / 0% packet loss/, `${name} to ${own}`)
      }
    }
  }
  const place = at(lab, web.name)
  made.use(await startServers(place))
  // Its processor is emulated: of its bytes a few.
  await guest.mustRun(`head -c ${BYTES} </srv/bytes >/srv/some`)
  const digest = await guest.mustRun('sha256sum </srv/some')
  const fetched = await place.mustRun(['sh', '-c', `curl -sS http://${IP4}/some | sha256sum`])
  assert.equal(fetched.trim(), digest, 'fetched from the guest')
  const target = `http://${web.ip4}:${WEB_PORT}/digest`
  const posted = await guest.mustRun(`wget -q -O - --post-file=/srv/some ${target}`)
  assert.equal(`${posted}  -`, digest, 'sent by the guest')
  t.diagnostic((await guest.mustRun('wg show wg0 transfer')).replace(/^\S+\s+/, 'transfer '))

  await detachClient(lab, NAME, HOST)

  const { received } = await ping(place, IP4, { count: 3, 'timeout-ms': 500 })
  assert.equal(received, 0)
  await assert.rejects(guest.mustRun(`ping -c 2 -W 1 ${web.ip4}`))
})
