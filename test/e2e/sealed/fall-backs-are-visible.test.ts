import assert from 'node:assert/strict'
import { chmodSync } from 'node:fs'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { formatIpAddress } from '@weft/net'
import { eventually } from '../../support/eventually.ts'
import { sealedLab } from '../support/blue.ts'
import { weft } from '../support/cli.ts'
import { at } from '../support/lab.ts'
import { PrivateFolder } from '../support/members.ts'

const HOST = 'alpha'
const FORWARDER = `forwarder@${HOST}`

test('an offload that is switched off is seen in weft status, and nothing else is', async () => {
  const lab = await sealedLab()
  assert.doesNotMatch(await shown(lab, ['status']), /without /)
  using folder = new PrivateFolder()
  const program = folder.write(
    'node',
    `#!/bin/sh
export WEFT_FORWARDER_SEALED_UDP_GSO=false
exec ${lab.plan.folder}/bin/node "$@"
`,
  )
  chmodSync(program, 0o755)
  await lab.restart(FORWARDER, 'SIGTERM', { program })
  try {
    await eventually(async () => {
      assert.match(await shown(lab, ['status']), /sealing +reduced +without udp-gso \(off\)/)
    })
    assert.match(await shown(lab, ['host', 'show', HOST]), /without udp-gso \(off\)/)
  } finally {
    await lab.restart(FORWARDER, 'SIGTERM')
  }
  await eventually(async () => assert.doesNotMatch(await shown(lab, ['status']), /without /))
})

test('what a stranger sends to the sealed port is dropped and counted by reason', async () => {
  const lab = await sealedLab()
  const before = await lab.status(HOST)
  const port = before.sealing?.listenPort
  const plan = lab.plan.hosts.find(({ name }) => name === HOST)
  const own = plan?.underlayAddresses.find(({ address }) => address.family === 4)?.address
  assert(port !== undefined && own !== undefined)
  const address = formatIpAddress(own)
  // Neither a message of the protocol, nor of a session, nor by somebody who knows the host's key.
  const script = `
    const socket = require('node:dgram').createSocket('udp4')
    const data = Buffer.concat([Buffer.of(4, 0, 0, 0, 9, 9, 9, 9), Buffer.alloc(40)])
    const initiation = Buffer.concat([Buffer.of(1, 0, 0, 0), Buffer.alloc(144)])
    const all = [Buffer.from('what is this'), data, initiation]
    let left = all.length
    for (const bytes of all) socket.send(bytes, ${port}, '${address}', () => --left || socket.close())
  `
  await at(lab, 'gamma').mustRun([process.execPath, '-e', script])
  await eventually(async () => {
    const { sealing } = await lab.status(HOST)
    for (const reason of ['message_unknown', 'index_unknown']) {
      assert.ok((sealing?.drops[reason] ?? 0n) > (before.sealing?.drops[reason] ?? 0n), reason)
    }
    const refused = (before.sealing?.refusals['wrong_mac'] ?? 0n) + 1n
    assert.equal(sealing?.refusals['wrong_mac'], refused)
  })
  assert.match(await shown(lab, ['host', 'show', HOST]), /dropped: .*message_unknown \d+/)
  assert.match(await shown(lab, ['host', 'show', HOST]), /refused: .*wrong_mac \d+/)
})

async function shown(lab: Lab, argv: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await weft(lab, argv)
  assert.equal(code, 0, stderr)
  return stdout
}
