import assert from 'node:assert/strict'
import test from 'node:test'
import { eventually } from '../../support/eventually.ts'
import { hex, strange } from '../../support/frames.ts'
import { sendFrame } from '../../support/probe.ts'
import { BLUE, pairsOf, routedLab, target } from '../support/blue.ts'
import { assertConservation, countersOf } from '../support/counters.ts'
import { at } from '../support/lab.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'

const [web] = BLUE
const BROADCAST = 'ff:ff:ff:ff:ff:ff'
const UNKNOWN_MAC = '02:00:00:77:77:77'

test('at every port, packets in = packets that went somewhere + drops by reason', async () => {
  const lab = await routedLab()
  for (const [source, other] of pairsOf(BLUE)) {
    await using traffic = await Traffic.start(at(lab, source.name), target(lab, other), {
      rate: 5000,
      count: 500,
    })
    await assertNothingLost(lab, await traffic.end())
  }
  // What goes nowhere, and what goes everywhere.
  const place = at(lab, web.name)
  const device: { address: string }[] = JSON.parse(
    await place.mustRun(['ip', '-j', 'link', 'show', 'eth0']),
  )
  const sourceMac = device[0]?.address ?? ''
  await sendFrame(place, 'eth0', strange({ sourceMac, targetMac: UNKNOWN_MAC }, 'to nobody'), 50)
  await sendFrame(place, 'eth0', strange({ sourceMac, targetMac: BROADCAST }, 'to everybody'), 2000)
  await sendFrame(place, 'eth0', hex('too short').padEnd(28, '0'), 5)

  await eventually(() => assertConservation(lab))
  const { drops } = await countersOf(lab, web.host, web.name)
  assert.ok((drops['unknown_destination'] ?? 0n) >= 50n, 'frames to nobody were not counted')
  assert.ok((drops['replicate_budget'] ?? 0n) > 0n, 'broadcasts are not bounded')
})
