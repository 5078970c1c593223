import assert from 'node:assert/strict'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { eventually } from '../../support/eventually.ts'
import { startAsk, startTcpEcho } from '../../support/probe.ts'
import { BLUE, establish, sealedLab } from '../support/blue.ts'
import { weft } from '../support/cli.ts'
import { at, isTorture } from '../support/lab.ts'
import { connectionTo } from '../support/nat.ts'

const [web, , api] = BLUE
const LINK_MTU = 1500
/** Of the network: what is larger is answered whatever the path carries. */
const NETWORK_MTU = 1320
/** Around an inner IP packet on an IPv4 underlay (PROTOCOL.md). */
const AROUND = 94
/** The search ends when it is known this well. */
const GRAIN = 8
const PORT = 7011
const SIZE = 30_000
/** A path that shrinks has to be found out within a few probes; what is generous here is for the machine. */
const FOUND_MS = 30_000
/** RFC 8899, PMTU_RAISE_TIMER: 600 s. */
const RAISE_MS = 660_000

for (const tells of [true, false]) {
  const word = tells ? 'a router that says so' : 'a router that says nothing'
  test(`a path that shrinks in mid-flow behind ${word} costs no TCP connection, and senders are told`, async (t) => {
    const lab = await sealedLab()
    await using made = new AsyncDisposableStack()
    made.defer(async () => {
      await setPath(lab, LINK_MTU)
      // Who was told of less would remember it for ten minutes.
      for (const { name } of BLUE) await at(lab, name).ip('route flush cache')
      for (const { name } of lab.weftHosts) await at(lab, name).ip('route flush cache')
      // They look for more only ten minutes after they found less.
      for (const { host } of [web, api]) await lab.restart(`shuttle@${host}`)
      await eventually(() => establish(lab, web, [api]), FOUND_MS)
      await eventually(() => assertPath(lab, LINK_MTU), FOUND_MS)
    })
    if (!tells) made.use(await hush(lab))
    await establish(lab, web, [api])
    await eventually(() => assertPath(lab, LINK_MTU), FOUND_MS)
    const listen = `${api.ip4}:${PORT}`
    made.use(await startTcpEcho(at(lab, api.name), { listen }))
    const options = { count: 1_000_000, size: SIZE, 'timeout-ms': FOUND_MS }
    const flow = made.use(await startAsk(at(lab, web.name), listen, options))

    for (const mtu of [1400, 1280]) {
      const began = performance.now()
      await setPath(lab, mtu)
      await eventually(() => assertPath(lab, mtu), FOUND_MS)
      t.diagnostic(`${mtu} found after ${Math.round(performance.now() - began)} ms`)
      await assertSendersAreTold(lab)
      const { stdout } = await weft(lab, ['connection', 'ls', '--open'])
      const { pathMtuBytes } = await connectionTo(lab, web.host, api.host)
      assert.match(stdout, new RegExp(`^alpha +beta .* ${pathMtuBytes} `, 'm'))
    }
    if (isTorture) {
      const began = performance.now()
      await setPath(lab, LINK_MTU)
      await eventually(() => assertPath(lab, LINK_MTU), RAISE_MS)
      t.diagnostic(`wide again after ${Math.round((performance.now() - began) / 1000)} s`)
    }

    const { answered, max_ns } = await flow.stop()
    assert.ok(answered > 0)
    t.diagnostic(`${answered} answers, the longest after ${Math.round(Number(max_ns) / 1e6)} ms`)
    // Connections that begin on the narrow path are as good.
    const later = await startAsk(at(lab, web.name), listen, { count: 20, size: SIZE })
    assert.equal((await later.end()).answered, 20)
  })
}

/** Both hosts know what the path between them carries. */
async function assertPath(lab: Lab, mtu: number): Promise<void> {
  for (const [from, to] of [
    [web, api],
    [api, web],
  ] as const) {
    const { pathMtuBytes = 0 } = await connectionTo(lab, from.host, to.host)
    assert.ok(pathMtuBytes <= mtu && pathMtuBytes > mtu - GRAIN, `${from.host}: ${pathMtuBytes}`)
  }
}

/** A sender of packets that are too long for the path now hears how long they may be; they pass. */
async function assertSendersAreTold(lab: Lab): Promise<void> {
  const { pathMtuBytes = 0 } = await connectionTo(lab, web.host, api.host)
  const inner = Math.min(NETWORK_MTU, pathMtuBytes - AROUND)
  const place = at(lab, web.name)
  const pings = async (bytes: number): Promise<number> => {
    const size = String(bytes - 28)
    return (await place.run(['ping', '-c', '1', '-W', '5', '-M', 'do', '-s', size, api.ip4])).code
  }
  await place.ip('route flush cache')
  assert.notEqual(await pings(inner + 1), 0)
  const route = await place.mustRun(['ip', 'route', 'get', api.ip4])
  assert.match(route, new RegExp(`mtu ${inner}\\b`))
  assert.equal(await pings(inner), 0)
}

/** What the router takes onto the subnets of both hosts. */
async function setPath(lab: Lab, mtu: number): Promise<void> {
  await at(lab, 'router').ip(`link set br-one mtu ${mtu}`, `link set br-two mtu ${mtu}`)
}

/** Keeps the router from saying that packets are too long. */
async function hush(lab: Lab): Promise<AsyncDisposable> {
  const router = at(lab, 'router')
  await router.mustRun(['nft', 'add table inet hush'])
  await router.mustRun([
    ...['nft', 'add chain inet hush said { type filter hook output priority 0; }'],
  ])
  await router.mustRun(['nft', 'add rule inet hush said icmp type destination-unreachable drop'])
  return {
    [Symbol.asyncDispose]: async () => {
      await router.mustRun(['nft', 'delete table inet hush'])
    },
  }
}
