import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import test from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Lab } from '@weft/lab'
import { formatIpAddress } from '@weft/net'
import { eventually } from '../../support/eventually.ts'
import { type Probe, startRecord, type ThrowKind } from '../../support/probe.ts'
import { BLUE, establish, sealedLab, target } from '../support/blue.ts'
import { describeBlow, Evil } from '../support/evil.ts'
import { at, scaled } from '../support/lab.ts'
import { PrivateFolder } from '../support/members.ts'
import { connectionTo, SEALED_PORT } from '../support/nat.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'

const [web, , api] = BLUE
/** The host to which everything is said again. */
const HOST = 'alpha'
const RATE = 500
const RECORDED = scaled(1_000, 10_000)
const LATER_MS = scaled(2_000, 10_000)
/** New keys are due 120 s after the last ones. */
const NEW_KEYS_MS = 150_000
const INITIATION = 1
const INITIATION_BYTES = 148
const NEW_KEYS = 'under new keys'
/** With the headers of IPv4 and UDP. */
const RESPONSE_PACKET_BYTES = 20 + 8 + 92

test('whatever of a flow is said again, whenever and in whatever order, comes once and moves nobody', async (t) => {
  const lab = await sealedLab()
  using folder = new PrivateFolder()
  await using evil = await Evil.make(lab, HOST)
  await establish(lab, web, [api])
  // From the other host to the attacked one, and on while everything is said again.
  await using traffic = await Traffic.start(at(lab, api.name), target(lab, web), {
    rate: RATE,
    flows: 4,
  })
  const file = folder.write('recorded', '')
  await using tape = await startTape(lab, file, RECORDED)
  assert.equal((await tape.end()).recorded, RECORDED)

  const again = async (what: string, kind: ThrowKind): Promise<void> => {
    const blow = await evil.throw(kind, { file, rate: 20_000 })
    t.diagnostic(describeBlow(what, blow))
    assert.equal(blow.sent, RECORDED)
    assert.equal(blow.answered_bytes, 0, what)
    if (blow.counted === undefined) return
    // Answers to initiations may be among what was recorded; sessions of before are kept for a while.
    const reasons = ['replayed', 'unknown_index', ...(what === NEW_KEYS ? ['index_unknown'] : [])]
    const counted = reasons.map((name) => blow.counted?.get(name) ?? 0)
    assert.equal(
      counted.reduce((all, some) => all + some, 0),
      blow.arrived - blow.dropped,
      what,
    )
  }
  await again('at once', 'again')
  await again('in the other order', 'reversed')
  await sleep(LATER_MS)
  await again(`after ${LATER_MS} ms`, 'again')
  if (scaled(0, 1) === 1) {
    const { lastHandshake } = await connectionTo(lab, HOST, api.host)
    await eventually(async () => {
      const now = await connectionTo(lab, HOST, api.host)
      assert.notDeepEqual(now.lastHandshake, lastHandshake)
    }, NEW_KEYS_MS)
    await again('while the keys before are there still', 'again')
  }
  assert.notEqual(await placeOf(lab), evil.address)
  await assertNothingLost(lab, await traffic.stop())

  // The other host begins anew, under other keys.
  await lab.restart(`shuttle@${api.host}`)
  await eventually(() => establish(lab, api, [web]))
  await using later = await Traffic.start(at(lab, api.name), target(lab, web), { rate: RATE })
  await again(NEW_KEYS, 'again')
  await assertNothingLost(lab, await later.stop())
})

test('an initiation that is said again is not answered, and moves nobody after its receiver began anew', async (t) => {
  const lab = await sealedLab()
  using folder = new PrivateFolder()
  await using evil = await Evil.make(lab, HOST)
  await establish(lab, web, [api])
  const file = folder.write('initiation', '')
  await using tape = await startTape(lab, file)
  // Who was killed begins with an initiation to those that it knew.
  await lab.restart(`shuttle@${api.host}`)
  await eventually(() => establish(lab, api, [web]))
  await tape.stop()
  const initiations = split(readFileSync(file)).filter(
    (datagram) => datagram.length === INITIATION_BYTES && datagram[0] === INITIATION,
  )
  assert.ok(initiations.length > 0, 'no initiation was recorded')
  writeFileSync(file, Buffer.concat(initiations.map(withLength)))

  let answered = 0
  const repeat = async (what: string): Promise<void> => {
    const blow = await evil.throw('again', { file, count: 20, rate: 1000 })
    t.diagnostic(describeBlow(what, blow))
    answered += blow.answered
    // What an answer is worth ends with the first message in its session, which nobody can make.
    assert.ok(blow.answered_bytes <= blow.answered * RESPONSE_PACKET_BYTES, 'no mere response')
    assert.notEqual(await placeOf(lab), evil.address)
    await establish(lab, api, [web])
  }
  await repeat('at once')
  assert.equal(answered, 0)
  // Which stamps it saw is not on disk: as in every WireGuard, each old initiation may be answered once.
  await lab.restart(`shuttle@${HOST}`)
  await eventually(() => establish(lab, web, [api]))
  await repeat('after its receiver began anew')
  await repeat('and once more')
  assert.ok(answered <= initiations.length, `${answered} answers to ${initiations.length}`)
  const before = answered
  await repeat('and again')
  assert.equal(answered, before, 'an initiation was answered twice')
})

/** Where the attacked host sends what is for the other one. */
async function placeOf(lab: Lab): Promise<string> {
  const { endpoint } = await connectionTo(lab, HOST, api.host)
  return endpoint === undefined ? '' : formatIpAddress(endpoint.address)
}

function startTape(
  lab: Lab,
  file: string,
  count?: number,
): Promise<Probe<{ readonly recorded: number }>> {
  return startRecord(at(lab, HOST), {
    ...{ device: 'under0', port: SEALED_PORT, file },
    ...(count !== undefined && { count }),
  })
}

/** The datagrams of a recording, each of which has its length in front. */
function split(recording: Buffer): Buffer[] {
  const datagrams: Buffer[] = []
  for (let offset = 0; offset < recording.length; ) {
    const end = offset + 4 + recording.readUInt32LE(offset)
    datagrams.push(recording.subarray(offset + 4, end))
    offset = end
  }
  return datagrams
}

function withLength(datagram: Buffer): Buffer {
  const length = Buffer.alloc(4)
  length.writeUInt32LE(datagram.length)
  return Buffer.concat([length, datagram])
}
