import assert from 'node:assert/strict'
import { readFileSync, statSync } from 'node:fs'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { formatIpAddress } from '@weft/net'
import { eventually } from '../../support/eventually.ts'
import { ping } from '../../support/probe.ts'
import { BLUE, establish, sealedLab } from '../support/blue.ts'
import { weft } from '../support/cli.ts'
import { at, scaled } from '../support/lab.ts'
import { takeInAgain } from '../support/members.ts'

const REVOKED = 'gamma'
const INFORMED = 'alpha'
const CUT = 'beta'
const PASSED = /a host passed on that keys are void/
const [web, , api, edge] = BLUE

test('a host that nothing of the control plane reaches hears by its tunnels who is revoked', async (t) => {
  const lab = await sealedLab()
  for (let round = 0; round < scaled(1, 10); round++) {
    await establish(lab, web, [api])
    await establish(lab, edge, [api])
    const logStart = statSync(lab.logFile(`forwarder@${CUT}`)).size
    const passed = () =>
      PASSED.test(
        readFileSync(lab.logFile(`forwarder@${CUT}`))
          .subarray(logStart)
          .toString(),
      )
    const cut = await cutOff(lab)
    try {
      await eventually(async () => assert.equal((await lab.status(CUT)).fromDisk, false))
      assert.ok(await hasPeer(lab, CUT), 'they were to talk before')
      const revoking = weft(lab, [
        ...['host', 'revoke', REVOKED],
        ...['--reason', 'stolen', '--yes'],
      ])
      const [informedAt, droppedAt] = await Promise.all([dropped(lab, INFORMED), dropped(lab, CUT)])
      const { code, stderr } = await revoking
      assert.equal(code, 0, stderr)
      t.diagnostic(`dropped ${droppedAt - informedAt} ms after the host that the bus told`)
      await eventually(async () => assert.ok(passed(), 'something else told it'))
      const { received } = await ping(at(lab, edge.name), api.ip4, { 'timeout-ms': 500 })
      assert.equal(received, 0, 'a frame of the revoked host arrived')
      // It finds out late itself.
      await eventually(async () => {
        const { dependencies } = await lab.status(CUT)
        const answering = dependencies.filter(({ health }) => health === 'ok')
        assert.deepEqual(
          answering.map(({ name }) => name),
          ['shuttle'],
        )
      })
    } finally {
      await cut[Symbol.asyncDispose]()
      await takeInAgain(lab, REVOKED)
    }
    await eventually(async () => {
      const { received } = await ping(at(lab, edge.name), api.ip4, { count: 1, 'timeout-ms': 500 })
      assert.equal(received, 1, 'it is no host as before under new keys')
    })
  }
})

test('a host hears of it in the next session with somebody who knows', async (t) => {
  const lab = await sealedLab()
  await establish(lab, web, [api])
  await establish(lab, edge, [api])
  const cut = await cutOff(lab)
  // Nobody can tell it anything.
  const gap = await apart(lab, INFORMED)
  // The revoked host may hear of it, and would pass it on too.
  await using _ = await apart(lab, REVOKED)
  try {
    const { code, stderr } = await weft(lab, [
      ...['host', 'revoke', REVOKED],
      ...['--reason', 'stolen', '--yes'],
    ])
    assert.equal(code, 0, stderr)
    await new Promise((resolve) => setTimeout(resolve, 2_000))
    assert.ok(await hasPeer(lab, CUT), 'nobody could tell it')
    await lab.restart(`shuttle@${INFORMED}`, 'SIGKILL')
    const healedAt = Date.now()
    await gap[Symbol.asyncDispose]()
    await eventually(async () => {
      await ping(at(lab, web.name), api.ip4, { count: 1, 'timeout-ms': 200 })
      assert.equal(await hasPeer(lab, CUT), false)
    })
    t.diagnostic(`dropped ${Date.now() - healedAt} ms after it met one who knows`)
  } finally {
    await gap[Symbol.asyncDispose]()
    await cut[Symbol.asyncDispose]()
    await takeInAgain(lab, REVOKED)
  }
})

/** Whether the tables of a host have the revoked one. */
async function hasPeer(lab: Lab, at: string): Promise<boolean> {
  const connections = await lab.client.host(at).listOpenConnections()
  return connections.some(({ host, carrier }) => host === REVOKED && carrier === 'sealed')
}

/** When the host has dropped the revoked one. */
async function dropped(lab: Lab, host: string): Promise<number> {
  await eventually(async () => assert.equal(await hasPeer(lab, host), false))
  return Date.now()
}

/** Takes the host's wire out of the management network's switch: nothing tells it, packets are just gone. */
async function cutOff(lab: Lab): Promise<AsyncDisposable> {
  const control = at(lab, 'control')
  await control.ip(`link set m-${CUT} nomaster`)
  return {
    [Symbol.asyncDispose]: () => control.ip(`link set m-${CUT} master mgmt0`),
  }
}

/** Nothing goes from a host to the one that is cut off. */
async function apart(lab: Lab, from: string): Promise<AsyncDisposable> {
  const host = at(lab, from)
  const plan = lab.plan.hosts.find(({ name }) => name === CUT)
  const addresses = plan?.underlayAddresses.map(({ address }) => formatIpAddress(address)) ?? []
  const change = async (what: string) => {
    for (const address of addresses) await host.ip(`route ${what} blackhole ${address}`)
  }
  await change('add')
  let isApart = true
  return {
    async [Symbol.asyncDispose]() {
      if (isApart) await change('del')
      isApart = false
    },
  }
}
