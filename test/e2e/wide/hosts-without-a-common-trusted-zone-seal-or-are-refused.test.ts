import assert from 'node:assert/strict'
import test from 'node:test'
import { eventually } from '../../support/eventually.ts'
import { hex } from '../../support/frames.ts'
import { ping, startSniffer } from '../../support/probe.ts'
import { at } from '../support/lab.ts'
import { wideLab } from '../support/wide.ts'

test('hosts that share no trusted zone are refused with the reason, and nothing is sent plain', async () => {
  const lab = await wideLab()
  const near = at(lab, 'split/near')
  // The payload of ping's echo requests ends with these bytes.
  const pattern = hex('woven in the open')
  await using sniffer = await startSniffer(at(lab, 'outpost'), { device: 'under0', match: pattern })
  const { code } = await near.run([
    'ping',
    '-c',
    '3',
    '-i',
    '0.2',
    '-W',
    '1',
    '-p',
    pattern.slice(0, 32),
    '10.80.0.13',
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
