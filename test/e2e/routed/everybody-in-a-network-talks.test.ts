import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { ping } from '../../support/probe.ts'
import { BLUE, type Known, pairsOf, routedLab, target } from '../support/blue.ts'
import { at } from '../support/lab.ts'
import { ECHO_PORT, startServers, TLS_PORT, WEB_PORT } from '../support/servers.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'

const [web, , api] = BLUE

describe('every two endpoints of a network', () => {
  const servers = new AsyncDisposableStack()

  before(async () => {
    const lab = await routedLab()
    for (const { name } of BLUE) servers.use(await startServers(at(lab, name)))
  })
  after(() => servers.disposeAsync())

  test('ICMP passes between all pairs, over IPv4 and IPv6', () =>
    forAllPairs(async (source, address) => {
      const { lost } = await ping(source, address, {
        count: 5,
        'interval-us': 2000,
        'timeout-ms': 3000,
      })
      assert.equal(lost, 0)
    }))

  test('curl fetches a page from every other endpoint, plain and by TLS', () =>
    forAllPairs(async (source, address) => {
      const host = address.includes(':') ? `[${address}]` : address
      for (const url of [`http://${host}:${WEB_PORT}/`, `https://${host}:${TLS_PORT}/`]) {
        assert.equal(
          await source.mustRun(['curl', '-sS', '--insecure', '--max-time', '5', url]),
          'woven\n',
        )
      }
    }))

  test('nc gets an echo from every other endpoint', () =>
    forAllPairs(async (source, address) => {
      const script = `echo hello | nc -N -w 5 ${address} ${ECHO_PORT}`
      assert.equal(await source.mustRun(['sh', '-c', script]), 'hello\n')
    }))

  test('bursts of full datagrams, as QUIC sends them, arrive whole between all pairs', async () => {
    const lab = await routedLab()
    for (const [source, other] of pairsOf(BLUE)) {
      for (const family of [4, 6] as const) {
        await using traffic = await Traffic.start(
          at(lab, source.name),
          target(lab, other, family),
          {
            rate: 20_000,
            size: 1232,
            segments: 10,
            count: 1000,
          },
        )
        await assertNothingLost(lab, await traffic.end())
      }
    }
  })

  test('iperf3 runs by `weft lab exec`, as the first screen says', async (t) => {
    const lab = await routedLab()
    await using server = at(lab, api.name).start([
      'iperf3',
      '--server',
      '--one-off',
      '--forceflush',
    ])
    await server.until('listening')
    const { code, stdout } = await lab.run(web.name, ['iperf3', '-c', api.ip4, '-t', '1', '--json'])
    assert.equal(code, 0, stdout)
    const report: { end: { sum_received: { bits_per_second: number } } } = JSON.parse(stdout)
    t.diagnostic(`${(report.end.sum_received.bits_per_second / 1e9).toFixed(1)} Gb/s`)
  })
})

type Run = (source: ReturnType<typeof at>, address: string) => Promise<void>

async function forAllPairs(run: Run): Promise<void> {
  const lab = await routedLab()
  for (const [source, other] of pairsOf(BLUE)) {
    await Promise.all(addressesOf(other).map((address) => run(at(lab, source.name), address)))
  }
}

function addressesOf({ ip4, ip6 }: Known): string[] {
  return [ip4, ip6]
}
