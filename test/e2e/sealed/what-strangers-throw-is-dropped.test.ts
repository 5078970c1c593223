import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { macToBytes } from '@weft/net'
import { eventually } from '../../support/eventually.ts'
import { udp4 } from '../../support/frames.ts'
import { startAsk, startRecord, startTcpEcho } from '../../support/probe.ts'
import { BLUE, establish, sealedLab, target } from '../support/blue.ts'
import { Arrivals, type Blow, describeBlow, Evil, sum } from '../support/evil.ts'
import { at, scaled } from '../support/lab.ts'
import { PrivateFolder } from '../support/members.ts'
import { SEALED_PORT } from '../support/nat.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'

const [web, , api] = BLUE
/** The host that is attacked. */
const HOST = 'alpha'
const RANDOM = scaled(50_000, 1_000_000)
const FLIPS = scaled(20_000, 200_000)
const RECORDED = scaled(30, 400)
const INDEXES = scaled(5_000, 100_000)
const PORT = 7012
const MEASURED_MS = 1_000
/** Ports of tunnels that prove nothing: VXLAN, Geneve, STT. */
const PLAIN_PORTS = [4789, 6081, 7471]

test('nothing that a stranger throws at a host is delivered or answered, all of it is counted, and flows go on', async (t) => {
  const lab = await sealedLab()
  using folder = new PrivateFolder()
  await using evil = await Evil.make(lab, HOST)
  await establish(lab, web, [api])
  const file = await recordTalk(lab, folder)
  await using arrivals = await Arrivals.watch(lab, namesAt(lab))
  await establish(lab, web, [api])
  assert.ok((await arrivals.count()) > 0, 'what is delivered is not seen')

  const blows: (readonly [what: string, throws: () => Promise<Blow>])[] = [
    ['random bytes', () => evil.throw('random', { count: RANDOM })],
    ['flipped bits', () => evil.throw('flips', { file, count: FLIPS })],
    ['cut', () => evil.throw('cuts', { file })],
    ['wrong receiver', () => evil.throw('index', { file, count: INDEXES })],
    ['repeated', () => evil.throw('again', { file })],
  ]
  for (const [what, throws] of blows) {
    const before = await arrivals.count()
    const blow = await throws()
    t.diagnostic(describeBlow(what, blow))
    assert.equal(blow.answered_bytes, 0, `${what} was answered`)
    assert.equal(await arrivals.count(), before, `${what} was delivered`)
    if (blow.counted !== undefined)
      assert.equal(sum(blow.counted), blow.arrived - blow.dropped, what)
  }
  await assertPlainIsDropped(lab, evil, arrivals, folder)

  await using echo = await startTcpEcho(at(lab, api.name), { listen: `${api.ip4}:${PORT}` })
  const alone = await answersIn(lab, MEASURED_MS)
  await using traffic = await Traffic.start(at(lab, api.name), target(lab, web), { rate: 500 })
  const storm = evil.throw('random', { count: RANDOM, seed: 2, rate: 20_000 })
  const meanwhile = await answersIn(lab, MEASURED_MS)
  t.diagnostic(describeBlow('random bytes under load', await storm))
  t.diagnostic(`requests answered in ${MEASURED_MS} ms: ${alone} alone, ${meanwhile} meanwhile`)
  assert.ok(meanwhile > 0)
  const loss = await traffic.stop()
  assert.equal(loss.doubled, 0)
  t.diagnostic(`${loss.lost} of ${loss.sent} of others lost meanwhile`)
  await echo.stop()
  await using after = await Traffic.start(at(lab, api.name), target(lab, web), {
    rate: 500,
    count: 500,
  })
  await assertNothingLost(lab, await after.end())
})

/** What `api` says to `web`, as it is on the wire before the host of `web`. */
async function recordTalk(lab: Lab, folder: PrivateFolder): Promise<string> {
  const file = folder.write('recorded', '')
  await using tape = await startRecord(at(lab, HOST), {
    ...{ device: 'under0', port: SEALED_PORT, file, count: RECORDED },
  })
  await using talk = at(lab, api.name).start(['ping', '-q', '-i', '0.01', '-s', '300', web.ip4])
  assert.equal((await tape.end()).recorded, RECORDED)
  await talk[Symbol.asyncDispose]()
  await establish(lab, web, [api])
  return file
}

/** Frames for an endpoint in tunnels that prove nothing, with the right number of its network. */
async function assertPlainIsDropped(
  lab: Lab,
  evil: Evil,
  arrivals: Arrivals,
  folder: PrivateFolder,
): Promise<void> {
  const { tenant } = lab.plan
  const { vni } = await lab.client.networks.get({ tenant, network: 'blue' })
  const mac = async (endpoint: string): Promise<string> => {
    const found = await lab.client.endpoints.get({ tenant, network: 'blue', endpoint })
    return [...macToBytes(found.mac)].map((byte) => byte.toString(16).padStart(2, '0')).join(':')
  }
  const ends = { source: api.ip4, target: web.ip4 }
  const macs = { sourceMac: await mac('api'), targetMac: await mac('web') }
  const frame = Buffer.from(udp4({ ...ends, ...macs }, 'plain'), 'hex')
  const shifted = (vni << 8) >>> 0
  const header = (first: number): Buffer => {
    const bytes = Buffer.alloc(8)
    bytes.writeUInt32BE(first, 0)
    bytes.writeUInt32BE(shifted, 4)
    return bytes
  }
  const file = folder.write('plain', '')
  for (const port of PLAIN_PORTS) {
    const datagram = Buffer.concat([header(port === 4789 ? 0x08000000 : 0x00006558), frame])
    const length = Buffer.alloc(4)
    length.writeUInt32LE(datagram.length)
    writeFileSync(file, Buffer.concat([length, datagram]))
    const before = await arrivals.count()
    const drops = await hostDrops(lab)
    const count = 200
    const blow = await evil.throw('again', { file, count, port })
    assert.equal(blow.answered_bytes, 0, `port ${port} answered`)
    assert.equal(await arrivals.count(), before, `port ${port} delivered`)
    // Where nothing of ours listens the kernel throws it away.
    if (port === 4789)
      await eventually(async () => assert.ok((await hostDrops(lab)) - drops >= count))
  }
}

/** The endpoints of the host that is attacked. */
function namesAt(lab: Lab): string[] {
  const endpoints = lab.endpoints().filter(({ host }) => host === HOST)
  return endpoints.map(({ network, name }) => `${network}/${name}`)
}

async function hostDrops(lab: Lab): Promise<number> {
  const { drops } = await lab.status(HOST)
  return Object.values(drops).reduce((total, count) => total + Number(count), 0)
}

/** Requests of `web` at `api` that are answered within a time. */
async function answersIn(lab: Lab, milliseconds: number): Promise<number> {
  await using flow = await startAsk(at(lab, web.name), `${api.ip4}:${PORT}`, {
    ...{ count: 1_000_000, size: 1000, 'timeout-ms': 10_000 },
  })
  await new Promise((resolve) => setTimeout(resolve, milliseconds))
  return (await flow.stop()).answered
}
