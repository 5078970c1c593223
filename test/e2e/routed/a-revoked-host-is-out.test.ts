import assert from 'node:assert/strict'
import { join } from 'node:path'
import test from 'node:test'
import { type Lab, PORTS } from '@weft/lab'
import { ROOT } from '../../check/repository.ts'
import { eventually } from '../../support/eventually.ts'
import { ping, startSniffer } from '../../support/probe.ts'
import { BLUE, establish, type Known, routedLab, target } from '../support/blue.ts'
import { weft } from '../support/cli.ts'
import { assertConservation, countersOf } from '../support/counters.ts'
import { at, scaled } from '../support/lab.ts'
import { enrolmentOf, PrivateFolder, stealIdentity, takeInAgain } from '../support/members.ts'
import { assertNothingLost, type Loss, Traffic } from '../support/traffic.ts'

const HOST = 'gamma'
const [web, , api, edge] = BLUE
const RATE = 500
const FRAMES = 400
/** Source of every packet of `web`, as it stands in the frame. */
const WEB_ADDRESS = '0a14000b'

const THIEF = join(ROOT, 'test/e2e/support/thief.ts')

test('a revoked host gets no frame, none of its own arrives, and all others go on', async (t) => {
  const lab = await routedLab()
  await using others = await Traffic.start(at(lab, web.name), target(lab, api), {
    rate: RATE,
    flows: 2,
  })
  for (let round = 0; round < scaled(1, 10); round++) {
    using folder = new PrivateFolder()
    const stolen = await stealIdentity(lab, HOST, folder)
    await establish(lab, web, [api, edge])
    assert.ok((await sent(lab, web, edge)).onWire >= FRAMES, 'the sniffer misses frames')
    try {
      const revokedAt = Date.now()
      const { code, stderr } = await weft(lab, [
        ...['host', 'revoke', HOST],
        ...['--reason', 'stolen', '--yes'],
      ])
      assert.equal(code, 0, stderr)
      await eventually(async () => assert.equal((await sent(lab, web, edge, 1)).onWire, 0))
      t.diagnostic(`nothing is sent to it ${Date.now() - revokedAt} ms after the command was given`)

      const out = await sent(lab, web, edge)
      assert.equal(out.onWire, 0, 'frames for the revoked host were put on the wire')
      assert.equal(out.loss.received, 0)

      // The shuttle of the revoked host runs on and knows its flows, as if somebody had taken the whole machine.
      const before = await droppedSoFar(lab)
      const { loss } = await sent(lab, edge, web)
      assert.equal(loss.received, 0, 'frames of the revoked host arrived')
      const dropped = (await droppedSoFar(lab)) - before
      assert.ok(dropped >= loss.sent, `${loss.sent} frames, of which ${dropped} are accounted for`)
      await assertConservation(lab)

      assert.deepEqual(await whatAThiefGets(lab, stolen, folder), {
        read: 'certificate-refused',
        renew: 'certificate-refused',
        prove: 'host-revoked',
        join: 'host-revoked',
        bus: 'unauthenticated',
      })
      await eventually(async () => assertCutOff(lab))
    } finally {
      await takeInAgain(lab, HOST)
    }
    await eventually(async () => {
      const { received } = await ping(at(lab, web.name), edge.ip4, { count: 1 })
      assert.equal(received, 1, 'it is no host as before under new keys')
    })
  }
  await assertNothingLost(lab, await others.stop())
})

/** Numbered datagrams, and how many of them reached the wire of the revoked host. */
async function sent(
  lab: Lab,
  source: Known,
  other: Known,
  count: number = FRAMES,
): Promise<{ readonly loss: Loss; readonly onWire: number }> {
  await using wire = await startSniffer(at(lab, HOST), { device: 'under0', match: WEB_ADDRESS })
  await using traffic = await Traffic.start(
    at(lab, source.name),
    target(lab, other),
    { rate: RATE, count },
    5320,
  )
  const loss = await traffic.end()
  assert.equal(loss.sent, count)
  return { loss, onWire: (await wire.stop()).matched }
}

/** At alpha from an address that is no host's, or by the revoked host itself, which lost its ways. */
async function droppedSoFar(lab: Lab): Promise<bigint> {
  const { drops } = await countersOf(lab, HOST, edge.name)
  const own = Object.values(drops).reduce((sum, count) => sum + count, 0n)
  return own + ((await lab.status('alpha')).drops['sender_unknown'] ?? 0n)
}

/** With all keys of the revoked host, from its place, and with a token that is good. */
async function whatAThiefGets(
  lab: Lab,
  stolen: string,
  folder: PrivateFolder,
): Promise<Readonly<Record<string, string>>> {
  const { token, text } = await lab.client.tokens.create({})
  const { controlAddress } = lab.plan
  try {
    const answer = await at(lab, HOST).mustRun([
      ...[process.execPath, THIEF, stolen],
      ...[`${controlAddress}:${PORTS.config}`, enrolmentOf(lab)],
      ...[`tls://${controlAddress}:${PORTS.nats}`, folder.write('token', text)],
    ])
    return JSON.parse(answer) as Record<string, string>
  } finally {
    await lab.client.tokens.revoke(token.id)
  }
}

/** Nothing of the control plane talks to the forwarder any more. */
async function assertCutOff(lab: Lab): Promise<void> {
  const { dependencies } = await lab.status(HOST)
  const answering = dependencies.filter(({ health }) => health === 'ok').map(({ name }) => name)
  assert.deepEqual(answering, ['shuttle'])
}
