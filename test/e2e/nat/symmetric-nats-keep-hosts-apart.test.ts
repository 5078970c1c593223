import assert from 'node:assert/strict'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { eventually } from '../../support/eventually.ts'
import { weft } from '../support/cli.ts'
import {
  AT_HOME,
  connectionTo,
  DEADLINE_MS,
  natLab,
  OUTSIDE,
  untilAnswered,
} from '../support/nat.ts'

const [web, api] = AT_HOME

test('hosts behind two NATs that give every peer another port do not meet, are told why, and reach everybody else', async () => {
  const lab = await natLab()
  await untilAnswered(lab, web, api)
  await using cleanUp = new AsyncDisposableStack()
  cleanUp.defer(async () => {
    await beginAnew(lab)
    await untilAnswered(lab, web, api)
  })
  await beginAnew(lab, 'symmetric')

  for (const home of AT_HOME) for (const known of OUTSIDE) await untilAnswered(lab, home, known)
  const why =
    /unreachable directly \(symmetric-nat\): both hosts are behind NATs, .* a relay will be the way out, and there are none yet/
  await eventually(async () => {
    const { code, stdout } = await weft(lab, ['ping', web.name, api.name, '-c', '1'])
    assert.notEqual(code, 0)
    assert.match(stdout, why)
  }, DEADLINE_MS)
  await eventually(async () => {
    const { state, reason } = await connectionTo(lab, web.host, api.host)
    assert.deepEqual([state, reason], ['unreachable', 'symmetric-nat'])
    const { stdout } = await weft(lab, ['connection', 'ls', '--open'])
    assert.match(stdout, new RegExp(`^${web.host} to ${api.host}: ${why.source}`, 'm'))
  }, DEADLINE_MS)

  for (const home of AT_HOME) for (const known of OUTSIDE) await untilAnswered(lab, home, known)
})

/** Both NATs forget everything and map so from then on, and so do the hosts behind them. */
async function beginAnew(lab: Lab, mapping?: 'symmetric'): Promise<void> {
  for (const { host, underlay } of AT_HOME) {
    await lab.stop(`shuttle@${host}`, 'SIGKILL')
    await lab.restartNat(underlay, mapping)
  }
  for (const { host } of AT_HOME) await lab.start(`shuttle@${host}`)
  await lab.untilReady()
}
