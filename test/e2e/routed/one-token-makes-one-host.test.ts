import assert from 'node:assert/strict'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { ROOT } from '../../check/repository.ts'
import { eventually } from '../../support/eventually.ts'
import { routedLab } from '../support/blue.ts'
import { at, scaled } from '../support/lab.ts'
import { enrolmentOf, fingerprintOfLab, PrivateFolder } from '../support/members.ts'

const CROWD = join(ROOT, 'test/e2e/support/crowd.ts')
const REPLICAS = 3
/** T11 of the threat model: 200 parallel joins with one token, a hundred times. */
const JOINERS = scaled(30, 200)
const ROUNDS = scaled(2, 100)

test('of many that join with one token at three replicas one wins, though NATS dies meanwhile', async (t) => {
  const lab = await routedLab()
  const before = await namesOf(lab)
  for (let round = 0; round < ROUNDS; round++) {
    using folder = new PrivateFolder()
    const { token, text } = await eventually(() => lab.client.tokens.create({}))
    const identities = join(folder.path, 'identities')
    mkdirSync(identities, { mode: 0o700 })
    const replicas = Array.from({ length: REPLICAS }, (_, index) => enrolmentOf(lab, index))
    await using crowd = at(lab, 'control').start([
      ...[process.execPath, CROWD, String(JOINERS), fingerprintOfLab(lab)],
      ...[folder.write('token', text), identities, ...replicas],
    ])
    await crowd.until('ready')
    // The first of them have their answer, and others are on the way.
    await new Promise((resolve) => setTimeout(resolve, Math.random() * JOINERS * 10))
    await lab.restart('nats', 'SIGKILL')

    const outcomes = JSON.parse((await crowd.end()).at(-1) ?? '') as Record<string, number>

    const joined = (await namesOf(lab)).filter((name) => !before.includes(name))
    assert.equal(joined.length, 1, JSON.stringify(outcomes))
    const { id } = await lab.client.hosts.get(joined[0] ?? '')
    assert.deepEqual(outcomes, { [`host ${id}`]: 1, 'token-refused used': JOINERS - 1 })
    const record = (await Array.fromAsync(lab.client.tokens.list())).find(
      (one) => one.id === token.id,
    )
    assert.equal(record?.usedBy, joined[0])
    // Nothing is done that cannot be recorded, and the streams of NATS come back after NATS.
    await eventually(() => lab.client.hosts.delete(joined[0] ?? ''))
  }
  t.diagnostic(`${ROUNDS} rounds of ${JOINERS}`)
  await lab.untilReady()
  const { token } = await eventually(() => lab.client.tokens.create({}))
  await lab.client.tokens.revoke(token.id)
})

async function namesOf(lab: Lab): Promise<string[]> {
  return (await Array.fromAsync(lab.client.hosts.list())).map(({ name }) => name).toSorted()
}
