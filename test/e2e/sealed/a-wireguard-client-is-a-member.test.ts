import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { generateTunnelKey, privateBytesOf, publicKeyOf } from '@weft/identity'
import type { Lab } from '@weft/lab'
import { MissingPeerError } from '../../bench/peer-programs.ts'
import { eventually } from '../../support/eventually.ts'
import type { Place } from '../../support/place.ts'
import { ping } from '../../support/probe.ts'
import { BLUE, RED, sealedLab } from '../support/blue.ts'
import { weft } from '../support/cli.ts'
import { assertConservation, countersOf, dropsBetween } from '../support/counters.ts'
import { at } from '../support/lab.ts'
import { startServers, WEB_PORT } from '../support/servers.ts'
import { socketAddress, Traffic } from '../support/traffic.ts'
import {
  attachAgain,
  attachClient,
  CLIENT_DEVICE,
  type ClientFile,
  detachClient,
  WireguardGo,
} from '../support/wireguard.ts'

const [web, db, api, edge] = BLUE
const NAME = 'blue/phone'
const ECHOES = 40
const IP4 = '10.20.9.4'
const IP6 = 'fd20::9:4'
const HOST = 'alpha'
const HOST_ADDRESS = '172.31.1.11'
/** Far from the host: one hop more than to the host's own underlay. */
const UNDERLAY = 'two'
/** Payloads of echo requests: with their headers from next to nothing to more than the MTU, which goes in fragments. */
const SIZES = [0, 1, 15, 16, 17, 500, 1000, 1271, 1272, 1291, 1292, 1293, 1400]
const UDP_SIZES = [32, 600, 1292, 1400]
const UDP_PORT = 5400

describe('a stock WireGuard client', () => {
  const keys = ownKeys()
  const words = ['--public-key', keys.publicKey, '--preshared-key']
  const end = new AsyncDisposableStack()
  let lab: Lab
  /** Undefined where there can be none. */
  let client: WireguardGo | undefined
  let missing = ''
  let file: ClientFile

  before(async () => {
    lab = await sealedLab()
    try {
      client = end.use(await WireguardGo.start(lab, UNDERLAY, 60))
    } catch (error) {
      if (!(error instanceof MissingPeerError)) throw error
      missing = error.message
      return
    }
    const options = { name: NAME, host: HOST, addresses: [IP4, IP6], words }
    file = await attachClient(lab, end, options)
    assertFile(file)
    await client.use(file, keys.privateKey)
    await answered(client.place, web.ip4)
  })
  after(() => end.disposeAsync())

  test('a client talks with everybody in its network, at its host and at others, whoever begins', async (t) => {
    if (client === undefined) return t.skip(missing)
    const { place } = client

    for (const { name, ip4, ip6 } of [web, api, edge]) {
      for (const [own, other] of [
        [IP4, ip4],
        [IP6, ip6],
      ] as const) {
        await answered(at(lab, name), own)
        await answered(place, other)
      }
    }
    for (const other of [web, api]) {
      await assertSizes(place, other.ip4)
      await assertSizes(at(lab, other.name), IP4)
    }
    await assertConservation(lab)
  })

  test('bytes of a client arrive as they were, both ways, by TCP and UDP', async (t) => {
    if (client === undefined) return t.skip(missing)
    const { place } = client
    await using made = new AsyncDisposableStack()
    made.use(await startServers(place))

    for (const { name, ip4, ip6 } of [web, api]) {
      const there = at(lab, name)
      made.use(await startServers(there))
      for (const [own, other] of [
        [IP4, ip4],
        [IP6, ip6],
      ] as const) {
        await assertSameBytes(place, other)
        await assertSameBytes(there, own)
      }
      const directions = [
        [place, { place: there, address: ip4 }],
        [there, { place, address: IP4 }],
      ] as const
      const runs = directions.flatMap(([from, to]) =>
        UDP_SIZES.map(async (size, index) => {
          const traffic = await Traffic.start(
            from,
            to,
            { rate: 200, count: 50, size },
            UDP_PORT + index,
          )
          await using _traffic = traffic
          const { sent, lost, doubled } = await traffic.end()
          assert.deepEqual([sent, lost, doubled], [50, 0, 0], `${size} bytes, ${name}`)
        }),
      )
      await Promise.all(runs)
    }
  })

  test('a packet of a client over the MTU of the network is answered with that MTU', async (t) => {
    if (client === undefined) return t.skip(missing)
    const { place } = client
    await using made = new AsyncDisposableStack()
    // A user may set anything.
    await place.ip(`link set ${CLIENT_DEVICE} mtu 1420`)
    made.defer(() => place.ip(`link set ${CLIENT_DEVICE} mtu 1320`))

    for (const { ip4, ip6 } of [web, api]) {
      for (const other of [ip4, ip6]) {
        const words = `ping -c 1 -W 2 -M do -s 1360 ${other}`
        const { stdout, stderr } = await place.run(words.split(' '))
        assert.match(stdout + stderr, /mtu ?[=:] ?1320/, other)
      }
    }
  })

  test('a client that moves to another address is found there', async (t) => {
    if (client === undefined) return t.skip(missing)
    const { place } = client

    await client.move(61)
    await answered(place, api.ip4)

    await answered(at(lab, web.name), IP4)
    await answered(at(lab, api.name), IP4)
    await eventually(async () => {
      const { stdout } = await weft(lab, ['port', 'ls', '--host', HOST])
      assert.match(stdout, /phone +up +wireguard \S+, open at 172\.31\.2\.61:\d+, last handshake/)
    })
  })

  test('what a client sends from another address than its own is dropped and counted at its port', async (t) => {
    if (client === undefined) return t.skip(missing)
    const { place } = client
    await using made = new AsyncDisposableStack()
    const before = await countersOf(lab, HOST, NAME)
    const stolen = [
      `${db.ip4}/32 dev ${CLIENT_DEVICE}`,
      `${db.ip6}/128 dev ${CLIENT_DEVICE} nodad`,
    ] as const
    await place.ip(...stolen.map((words) => `address add ${words}`))
    made.defer(() => place.ip(...stolen.map((words) => `address delete ${words}`)))

    for (const [source, other] of [
      [db.ip4, api.ip4],
      [db.ip6, api.ip6],
    ] as const) {
      const words = `ping -c 3 -i 0.1 -W 1 -I ${source} ${other}`
      const { stdout } = await place.run(words.split(' '))
      assert.match(stdout, / 0 received/)
    }

    await eventually(async () => {
      const after = await countersOf(lab, HOST, NAME)
      assert.equal(dropsBetween(before, after, 'source_ip4'), 3)
      assert.equal(dropsBetween(before, after, 'source_ip6'), 3)
    })
    await answered(place, api.ip4)
  })

  test('a client that is detached is cut off at once, and comes back when it is attached again', async (t) => {
    if (client === undefined) return t.skip(missing)
    const { place } = client

    await detachClient(lab, NAME, HOST)

    assert.equal((await ping(place, api.ip4, { count: 5, 'timeout-ms': 300 })).received, 0)
    assert.equal((await ping(at(lab, api.name), IP4, { count: 5, 'timeout-ms': 300 })).received, 0)
    const { stdout } = await weft(lab, ['connection', 'ls', '--open', '--host', HOST])
    assert.doesNotMatch(stdout, /phone/)
    // It begins anew, and nobody answers its handshakes.
    await client.use(file, keys.privateKey)
    assert.equal((await ping(place, api.ip4, { count: 3, 'timeout-ms': 300 })).received, 0)
    assert.equal(await client.told('last_handshake_time_sec'), '0')

    file = await attachAgain(lab, { name: NAME, host: HOST, words })
    await client.use(file, keys.privateKey)
    await answered(place, api.ip4)
    await answered(at(lab, api.name), IP4)
  })

  test('a client goes on after its host’s forwarder and shuttle were killed', async (t) => {
    if (client === undefined) return t.skip(missing)
    const { place } = client

    for (const process of [`forwarder@${HOST}`, `shuttle@${HOST}`]) {
      await lab.restart(process, 'SIGKILL')
      const killedAt = performance.now()
      await answered(place, api.ip4)
      t.diagnostic(
        `after ${process}: answered after ${(performance.now() - killedAt).toFixed(0)} ms`,
      )
      await answered(at(lab, web.name), IP4)
      await answered(at(lab, api.name), IP4)
    }
  })

  test('clients of two networks with the same addresses never meet', async (t) => {
    if (client === undefined) return t.skip(missing)
    await using made = new AsyncDisposableStack()
    const red = made.use(await WireguardGo.start(lab, 'three', 70))
    await red.use(
      await attachClient(lab, made, { name: 'red/phone', host: 'beta', addresses: [IP4, IP6] }),
    )
    const [redWeb] = RED

    await answered(red.place, redWeb.ip4)
    const sentTo = async () =>
      await Promise.all(
        [web, redWeb].map(async ({ name }) => (await countersOf(lab, HOST, name)).sentPackets),
      )
    const [blueBefore = 0n, redBefore = 0n] = await sentTo()
    const { received } = await ping(red.place, redWeb.ip4, { count: ECHOES, 'interval-us': 10_000 })
    assert.equal(received, ECHOES)
    await eventually(async () => {
      const [toBlue = 0n, toRed = 0n] = await sentTo()
      assert.ok(toRed - redBefore >= ECHOES)
      // It may hear something of its own network meanwhile.
      assert.ok(toBlue - blueBefore < ECHOES / 2)
    })
    // It is in network blue alone.
    assert.equal((await ping(red.place, edge.ip4, { count: 3, 'timeout-ms': 500 })).received, 0)
    await answered(client.place, edge.ip4)
  })
})

function assertFile({ interface: own, peer }: ClientFile): void {
  assert.equal(own.get('Address'), `${IP4}/16, ${IP6}/64`)
  assert.equal(own.get('MTU'), '1320')
  assert.equal(peer.get('Endpoint'), `${HOST_ADDRESS}:61820`)
}

async function answered(from: Place, to: string): Promise<void> {
  await eventually(async () => {
    const { received } = await ping(from, to, { count: 1, 'timeout-ms': 300 })
    assert.equal(received, 1, `${from.namespace} to ${to}`)
  })
}

async function assertSizes(from: Place, to: string): Promise<void> {
  for (const size of SIZES) {
    const { code, stdout } = await from.run(['ping', '-c', '1', '-W', '5', '-s', String(size), to])
    assert.equal(code, 0, `${size} bytes from ${from.namespace} to ${to}: ${stdout}`)
  }
}

/** Sends bytes to the server of another place, which tells what came. */
async function assertSameBytes(from: Place, to: string): Promise<void> {
  const url = `http://${socketAddress(to, WEB_PORT)}/digest`
  const post = `curl -sS -H Expect: --data-binary @- ${url}`
  const script = `b=$(mktemp); head -c 4000000 /dev/urandom >$b; sha256sum <$b; ${post} <$b; rm $b`
  const [own = '', other] = (await from.mustRun(['sh', '-ec', script])).split('\n')
  assert.equal(other, own.replace(/ .*/, ''), `from ${from.namespace} to ${to}`)
}

/** Keys that the client makes itself. */
function ownKeys(): { readonly privateKey: string; readonly publicKey: string } {
  const key = generateTunnelKey()
  return {
    privateKey: privateBytesOf(key).toString('base64'),
    publicKey: publicKeyOf(key).toString('base64'),
  }
}
