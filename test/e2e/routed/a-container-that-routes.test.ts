import assert from 'node:assert/strict'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { formatIpAddress, type Prefix } from '@weft/net'
import { NewPlace } from '../../support/place.ts'
import { ping } from '../../support/probe.ts'
import { routedLab } from '../support/blue.ts'
import { PREFIX, prefix } from '../support/lab.ts'
import { startServers, WEB_PORT } from '../support/servers.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'

const [LEFT, RIGHT] = ['10.41.0.0/24', '10.42.0.0/24']

test('a container routes between two networks, super-packets included', async () => {
  const lab = await routedLab()
  await using made = new AsyncDisposableStack()
  for (const [network, text] of [
    ['left', LEFT],
    ['right', RIGHT],
  ] as const) {
    await lab.client.networks.create({ tenant: lab.plan.tenant, network, prefixes: [prefix(text)] })
    made.defer(async () => {
      await lab.client.networks.delete({ tenant: lab.plan.tenant, network })
    })
  }
  // The one that routes is on beta, the others on alpha and gamma: every packet crosses two hosts twice.
  const left = made.use(await NewPlace.make(`${PREFIX}-left`))
  const right = made.use(await NewPlace.make(`${PREFIX}-right`))
  const router = made.use(await NewPlace.make(`${PREFIX}-routes`))
  const attach = attacher(lab, made)
  const leftEnd = await attach('alpha', 'left', 'end', left, 'eth0', [])
  const rightEnd = await attach('gamma', 'right', 'end', right, 'eth0', [])
  const leftGate = await attach('beta', 'left', 'gate', router, 'eth0', [prefix(RIGHT)])
  const rightGate = await attach('beta', 'right', 'gate', router, 'eth1', [prefix(LEFT)])
  await router.mustRun(['sysctl', '-qw', 'net.ipv4.ip_forward=1'])
  await left.ip(`route add ${RIGHT} via ${leftGate}`)
  await right.ip(`route add ${LEFT} via ${rightGate}`)
  made.use(await startServers(right))

  const { lost } = await ping(left, rightEnd, { count: 10, 'timeout-ms': 3000 })
  assert.equal(lost, 0)
  const url = `http://${rightEnd}:${WEB_PORT}/bytes/20000000`
  const size = await left.mustRun([
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
    left,
    { place: right, address: rightEnd },
    {
      rate: 10_000,
      size: 1200,
      segments: 20,
      count: 5000,
    },
  )
  await assertNothingLost(lab, await traffic.end())
  await using back = await Traffic.start(
    right,
    { place: left, address: leftEnd },
    { rate: 5000, count: 2000 },
  )
  await assertNothingLost(lab, await back.end())
})

test("a container that may not route does not: its neighbour's packets are dropped as foreign", async () => {
  const lab = await routedLab()
  const { code } = await lab.run('blue/web', [
    'ping',
    '-c',
    '1',
    '-W',
    '1',
    '-I',
    '10.20.0.11',
    '10.20.0.13',
  ])
  assert.equal(code, 0)
  await lab.run('blue/web', ['ip', 'address', 'add', '10.41.0.9/32', 'dev', 'eth0'])
  try {
    const spoofed = await lab.run('blue/web', [
      'ping',
      '-c',
      '1',
      '-W',
      '1',
      '-I',
      '10.41.0.9',
      '10.20.0.13',
    ])
    assert.notEqual(spoofed.code, 0)
  } finally {
    await lab.run('blue/web', ['ip', 'address', 'delete', '10.41.0.9/32', 'dev', 'eth0'])
  }
})

/** Returns a function that attaches an endpoint and tells its IPv4 address; what it attached is undone in reverse order. */
function attacher(lab: Lab, made: AsyncDisposableStack) {
  return async (
    host: string,
    network: string,
    endpoint: string,
    place: NewPlace,
    device: string,
    allow: readonly Prefix[],
  ): Promise<string> => {
    const ref = { tenant: lab.plan.tenant, network, endpoint }
    const { addresses } = await lab.client.endpoints.create({ ...ref, allow })
    made.defer(async () => {
      await lab.client.endpoints.delete(ref)
    })
    await lab.client.host(host).attach(ref, { kind: 'netns', path: place.path, device })
    made.defer(async () => {
      await lab.client.host(host).detach(ref)
    })
    const [address] = addresses
    if (address === undefined) throw new Error(`${network}/${endpoint} has no address`)
    return formatIpAddress(address)
  }
}
