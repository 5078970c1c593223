import assert from 'node:assert/strict'
import test from 'node:test'
import { WeftError } from '@weft/errors'
import type { Lab } from '@weft/lab'
import { connect, type Weft } from '@weft/sdk'
import { eventually } from '../../support/eventually.ts'
import { ping } from '../../support/probe.ts'
import { BLUE, establish, routedLab, target } from '../support/blue.ts'
import { at, scaled } from '../support/lab.ts'
import { SmallDisk } from '../support/small-disk.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'

const [web, db, api, edge] = BLUE
const HEALTH_URL = 'http://127.0.0.1:8222/healthz'
const ROUNDS = scaled(1, 10)
/** What a writer hears who cannot be served: nothing was written, or nobody knows. */
const REFUSALS = ['audit-unavailable', 'unavailable', 'unknown-outcome', 'deadline-exceeded']
/** Of these a write may have been made. */
const UNCLEAR = ['unknown-outcome', 'deadline-exceeded']

test('NATS on a full disk acknowledges nothing that it loses, and packets and reads go on', async (t) => {
  const lab = await routedLab()
  await establish(lab, web, [api])
  await using traffic = await Traffic.start(at(lab, web.name), target(lab, api), {
    rate: 1000,
    flows: 2,
  })
  const before = await tenantsOf(lab.client)
  await lab.stop('nats', 'SIGTERM')
  const disk = await SmallDisk.mount(`${lab.plan.folder}/control/nats/store`)
  await lab.start('nats')
  const kept: string[] = []
  const unclear: string[] = []
  try {
    await lab.untilReady()
    for (let round = 0; round < ROUNDS; round++) {
      await eventually(() => write(lab.client, `early-${round}`))
      kept.push(`early-${round}`)

      await disk.fill()
      let isRefused = false
      for (let index = 0; !isRefused; index++) {
        assert.ok(index < 1000, 'a disk without space takes everything')
        const name = `full-${round}-${index}`
        const code = await outcomeOf(lab.client, name)
        isRefused = code !== 'done'
        if (!isRefused) kept.push(name)
        else if (UNCLEAR.includes(code)) unclear.push(name)
        assert.ok(!isRefused || REFUSALS.includes(code), code)
      }
      assert.deepEqual(missing(await tenantsOf(lab.client), [...before, ...kept]), [])
      const { received } = await ping(at(lab, db.name), edge.ip6, { 'timeout-ms': 10_000 })
      assert.equal(received, 1, 'a new flow')
      // By this a supervisor knows that it has to be started again: a stream that could not write never does any more.
      const { stdout } = await at(lab, 'control').run(['curl', '--silent', HEALTH_URL])
      assert.match(stdout, /"unavailable"/)

      disk.free()
      const freedAt = Date.now()
      await lab.restart('nats', 'SIGTERM')
      await eventually(() => write(lab.client, `late-${round}`))
      kept.push(`late-${round}`)
      t.diagnostic(`wrote ${Date.now() - freedAt} ms after there was space again`)
    }
  } finally {
    await lab.stop('nats', 'SIGTERM')
    await disk.remove()
    await lab.start('nats')
    await lab.untilReady()
  }
  await assertNothingLost(lab, await traffic.stop())
  const after = await tenantsOf(lab.client)
  assert.deepEqual(missing(after, [...before, ...kept]), [], 'what was acknowledged is gone')
  assert.deepEqual(
    missing([...before, ...kept, ...unclear], after),
    [],
    'what was refused is there',
  )
  await removeTenants(lab, [...kept, ...unclear])
})

test('a replica of config that cannot write its audit changes nothing until it can, and the others go on', async (t) => {
  const lab = await routedLab()
  await using other = connect({ context: lab.contextOfReplica(1) })
  const kept: string[] = []
  await lab.stop('config', 'SIGTERM')
  const disk = await SmallDisk.mount(`${lab.plan.folder}/control/config/audit`)
  await lab.start('config')
  try {
    await eventually(() => write(lab.client, 'early'))
    kept.push('early')
    for (const [what, take, give] of [
      ['full', () => disk.fill(), async () => disk.free()],
      ['sealed', () => disk.seal(), () => disk.unseal()],
    ] as const) {
      await take()
      try {
        await eventually(async () => {
          const name = `${what}-${kept.length}`
          const code = await outcomeOf(lab.client, name)
          if (code === 'done') kept.push(name)
          assert.equal(code, 'audit-unavailable')
        })
        assert.deepEqual(missing(await tenantsOf(lab.client), kept), [])
        const elsewhere = `elsewhere-${what}`
        await write(other, elsewhere)
        kept.push(elsewhere)
      } finally {
        await give()
      }
      const givenAt = Date.now()
      await eventually(() => write(lab.client, `late-${what}`))
      kept.push(`late-${what}`)
      t.diagnostic(`${what}: wrote ${Date.now() - givenAt} ms after it could`)
    }
  } finally {
    await lab.stop('config', 'SIGTERM')
    await disk.remove()
    await lab.start('config')
    await eventually(async () => assert.equal((await lab.client.serverInfo()).busConnected, true))
  }
  assert.deepEqual(missing(await tenantsOf(lab.client), kept), [])
  await removeTenants(lab, kept)
})

/** Long enough that a block of the disk is full soon. */
const LABELS = Object.fromEntries(
  Array.from({ length: 8 }, (_, index) => [`label-${index}`, 'x'.repeat(60)]),
)

async function write(client: Weft, name: string): Promise<void> {
  await client.tenants.create({ name, labels: LABELS }).catch((error: unknown) => {
    // An attempt before this one, whose answer nobody got.
    if (!(error instanceof WeftError && error.code === 'tenant-exists')) throw error
  })
}

async function outcomeOf(client: Weft, name: string): Promise<string> {
  try {
    await client.tenants.create({ name, labels: LABELS })
    return 'done'
  } catch (error) {
    assert.ok(error instanceof WeftError, String(error))
    assert.notEqual(error.remedy, '')
    return error.code
  }
}

async function tenantsOf(client: Weft): Promise<string[]> {
  return (await Array.fromAsync(client.tenants.list())).map(({ name }) => name)
}

async function removeTenants(lab: Lab, names: readonly string[]): Promise<void> {
  for (const name of names) await lab.client.tenants.delete(name)
}

/** Those of `wanted` that are not there. */
function missing(there: readonly string[], wanted: readonly string[]): string[] {
  return wanted.filter((name) => !there.includes(name))
}
