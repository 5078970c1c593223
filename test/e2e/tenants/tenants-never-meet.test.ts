import assert from 'node:assert/strict'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { formatMacAddress } from '@weft/net'
import { eventually } from '../../support/eventually.ts'
import { udp4 } from '../../support/frames.ts'
import { ping } from '../../support/probe.ts'
import { Arrivals, sealedCounts } from '../support/evil.ts'
import { at, isTorture, scaled } from '../support/lab.ts'
import { comeAndGo, listenFor, sendLabelled } from '../support/labelled.ts'
import { PrivateFolder } from '../support/members.ts'
import { Rogue } from '../support/rogue.ts'
import { tenantsLab } from '../support/tenants.ts'

/** Network `netN` is of `tenantN`: `one` at alpha, `two` at beta, or at gamma in the last two. */
const NETWORKS = [1, 2, 3, 4, 5, 6, 7, 8]
const OF_BETA = 6
const ONE = { ip4: '10.20.0.11', ip6: 'fd20::11' }
const TWO = { ip4: '10.20.0.13', ip6: 'fd20::13' }
const COUNT = 20
/** All pairs are gone through so often, or for so long. */
const ROUNDS = 2
const FULL_MS = 30 * 60_000
const SAMPLES = scaled(5_000, 200_000)
const SAID = 200
const RATE = 2_000
const VNI_MAX = 2 ** 24

test('eight tenants with the same MACs and addresses never meet, whatever comes and goes', async (t) => {
  const lab = await tenantsLab()
  for (const number of NETWORKS) await untilAnswered(lab, number)
  const names = NETWORKS.flatMap((number) => [
    { number, name: `net${number}/one`, other: TWO },
    { number, name: `net${number}/two`, other: ONE },
  ])
  const receivers = await Promise.all(names.map(({ number, name }) => listenFor(lab, name, number)))
  const churn = comeAndGo(lab, [
    ['net1', 'alpha'],
    ['net2', 'beta'],
    ['net7', 'gamma'],
  ])
  let rounds = 0
  const until = performance.now() + FULL_MS
  while (isTorture ? performance.now() < until : rounds < ROUNDS) {
    churn.check()
    for (const { number, name, other } of names) {
      const addresses = [other.ip4, other.ip6]
      await Promise.all(addresses.map((address) => sendLabelled(lab, name, number, address, COUNT)))
    }
    rounds++
  }
  const came = await churn.stop()

  for (const [index, receiver] of receivers.entries()) {
    const { received, foreign } = await receiver.stop()
    const name = names[index]?.name
    assert.equal(foreign, 0, `${name} got packets of another tenant`)
    assert.equal(received, 2 * COUNT * rounds, `${name} misses packets of its own`)
  }
  t.diagnostic(`${rounds} rounds, ${came} endpoints came and went`)
})

test('a captured host that stamps its frames with networks of others reaches none of their endpoints', async (t) => {
  const lab = await tenantsLab()
  using folder = new PrivateFolder()
  for (const number of NETWORKS) await untilAnswered(lab, number)
  const vnis = await Promise.all(NETWORKS.map((number) => vniOf(lab, number)))
  const own = vnis.slice(0, OF_BETA)
  const foreign = vnis.slice(OF_BETA)
  const arrivals = await Arrivals.watch(
    lab,
    NETWORKS.map((number) => `net${number}/one`),
  )
  await using made = new AsyncDisposableStack()
  made.use(arrivals)
  made.defer(async () => {
    await lab.start('shuttle@beta')
    await lab.untilReady()
    await untilAnswered(lab, 1)
  })
  await lab.stop('shuttle@beta', 'SIGKILL')
  const frame = await frameFromTwo(lab, TWO.ip4)
  const say = async (what: string, said: string, stamped: readonly number[], count: number) => {
    const [before, counted] = [await arrivals.count(), await sealedCounts(lab, 'alpha')]
    const drops = await dropsAt(lab)
    await using rogue = await Rogue.start(
      ...([lab, 'beta', 'alpha'] as const),
      { frame: said, vnis: stamped, count, rate: RATE },
      folder,
    )
    const result = await rogue.end()
    assert.equal(result?.sent, count, `${what}: no session`)
    const refused = await sealedCounts(lab, 'alpha')
    const came = (await arrivals.count()) - before
    t.diagnostic(`${what}: ${count} frames, ${came} came`)
    return {
      came,
      refused: refused && difference(refused, counted, 'network_refused'),
      dropped: (await dropsAt(lab)) - drops,
    }
  }

  // What such a host may say is heard, so what follows could be.
  const honest = await say('of a network that it shares', frame, own.slice(0, 1), SAID)
  assert.equal(honest.came, SAID)

  const theirs = await say('of the networks of others', frame, foreign, SAID)
  assert.equal(theirs.came, 0)
  const everywhere = Array.from({ length: SAMPLES }, (_, index) =>
    Math.floor((index * VNI_MAX) / SAMPLES),
  ).filter((vni) => !own.includes(vni))
  const sampled = await say('of any network', frame, everywhere, everywhere.length)
  assert.equal(sampled.came, 0)
  if (theirs.refused !== undefined) {
    assert.equal(theirs.refused, SAID)
    assert.equal(sampled.refused, everywhere.length)
  }

  // In a network of its own, but for an endpoint that is elsewhere.
  const spoofed = await say('as another endpoint', await frameFromTwo(lab, '10.20.0.99'), own, SAID)
  assert.equal(spoofed.came, 0)
  // Others say something of themselves now and then that is dropped for the same reason.
  assert.ok(spoofed.dropped >= SAID, `${spoofed.dropped} of ${SAID} are accounted for`)
})

/** `one` and `two` of a network know the way, both ways. */
async function untilAnswered(lab: Lab, number: number): Promise<void> {
  for (const [name, other] of [
    ['one', TWO],
    ['two', ONE],
  ] as const) {
    for (const address of [other.ip4, other.ip6]) {
      await eventually(async () => {
        const place = at(lab, `net${number}/${name}`)
        const { received } = await ping(place, address, { count: 1, 'timeout-ms': 2000 })
        assert.equal(received, 1, `net${number}: ${name} to ${address}`)
      })
    }
  }
}

async function vniOf(lab: Lab, number: number): Promise<number> {
  const ref = { tenant: `tenant${number}`, network: `net${number}` }
  return (await lab.client.networks.get(ref)).vni
}

/** What `two` says to `one`, in any of the networks: they have the same MACs. */
async function frameFromTwo(lab: Lab, source: string): Promise<string> {
  const mac = async (endpoint: string): Promise<string> => {
    const ref = { tenant: 'tenant1', network: 'net1', endpoint }
    return formatMacAddress((await lab.client.endpoints.get(ref)).mac)
  }
  const macs = { sourceMac: await mac('two'), targetMac: await mac('one') }
  return udp4({ ...macs, source, target: ONE.ip4 }, 'stamped')
}

/** What alpha dropped since its sender had no right to it. */
async function dropsAt(lab: Lab): Promise<number> {
  return Number((await lab.status('alpha')).drops['sender_mismatch'] ?? 0n)
}

function difference(
  after: ReadonlyMap<string, number>,
  before: ReadonlyMap<string, number> | undefined,
  reason: string,
): number {
  return (after.get(reason) ?? 0) - (before?.get(reason) ?? 0)
}
