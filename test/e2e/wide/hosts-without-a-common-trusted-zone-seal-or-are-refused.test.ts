import assert from 'node:assert/strict'
import test from 'node:test'
import { eventually } from '../../support/eventually.ts'
import { hex } from '../../support/frames.ts'
import { ping, startSniffer } from '../../support/probe.ts'
import { at } from '../support/lab.ts'
import { wideLab } from '../support/wide.ts'

/** What ping repeats in its payload: it takes 16 bytes. */
const PATTERN = hex('woven in the ope')

test('hosts that share no trusted zone seal what they say to each other', async () => {
  const lab = await wideLab()
  await using sniffer = await startSniffer(at(lab, 'island'), { device: 'under0', match: PATTERN })
  await using inside = await startSniffer(at(lab, 'split/near'), { device: 'eth0', match: PATTERN })
  await at(lab, 'split/near').mustRun([
    ...['ping', '-c', '3', '-i', '0.2', '-W', '5', '-p', PATTERN, '10.80.0.14'],
  ])
  assert.ok((await inside.stop()).matched >= 3)
  assert.equal((await sniffer.stop()).matched, 0)
})

test('a host that does not seal is refused with the reason, and nothing is sent plain', async () => {
  const lab = await wideLab()
  const near = at(lab, 'split/near')
  await using sniffer = await startSniffer(at(lab, 'outpost'), { device: 'under0', match: PATTERN })
  const { code } = await near.run([
    ...['ping', '-c', '3', '-i', '0.2', '-W', '1', '-p', PATTERN, '10.80.0.13'],
  ])
  assert.notEqual(code, 0, 'the target answered')
  assert.equal((await sniffer.stop()).matched, 0)

  const refusal = await eventually(async () => {
    const connections = await lab.client.host('alpha').listConnections()
    const found = connections.find(({ source, target }) => source === 'near' && target === 'remote')
    assert.ok(found?.refused !== undefined, 'the connection is not listed as refused')
    return found.refused
  })
  assert.equal(refusal.code, 'no-common-trusted-zone')
  assert.match(refusal.message, /alpha/)
  assert.match(refusal.message, /outpost/)
  assert.notEqual(refusal.remedy, '')

  // Inside the zone the same network works.
  const { lost } = await ping(near, '10.80.0.12', { count: 3, 'timeout-ms': 3000 })
  assert.equal(lost, 0)
})
