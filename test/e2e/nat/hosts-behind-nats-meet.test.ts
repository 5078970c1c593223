import assert from 'node:assert/strict'
import test from 'node:test'
import { formatIpAddress } from '@weft/net'
import { eventually } from '../../support/eventually.ts'
import { weft } from '../support/cli.ts'
import { at, isTorture } from '../support/lab.ts'
import {
  AT_HOME,
  connectionTo,
  DEADLINE_MS,
  natLab,
  OUTSIDE,
  outsideOf,
  SEALED_PORT,
  untilAnswered,
} from '../support/nat.ts'

const [web, api] = AT_HOME
const [edge] = OUTSIDE
/** Longer than a NAT of Linux remembers UDP that was answered (120 s) and a session lives (180 s). */
const IDLE_MS = 200_000

test('two hosts behind a NAT each talk directly', async (t) => {
  const lab = await natLab()
  const began = performance.now()
  await untilAnswered(lab, web, api)
  await untilAnswered(lab, api, web)
  t.diagnostic(`both ways after ${Math.round(performance.now() - began)} ms`)

  const { stdout } = await weft(lab, ['connection', 'ls', '--open'])

  for (const [from, to] of [
    [web, api],
    [api, web],
  ] as const) {
    const place = `${outsideOf(lab, to.underlay)}:${SEALED_PORT}`.replaceAll('.', '\\.')
    assert.match(stdout, new RegExp(`^${from.host} +${to.host} +sealed +open +${place} `, 'm'))
  }
})

test('each host knows how others see it, and tells the control server', async () => {
  const lab = await natLab()
  await untilAnswered(lab, web, edge)
  for (const { host, underlay } of AT_HOME) {
    const place = `${outsideOf(lab, underlay)}:${SEALED_PORT}`.replaceAll('.', '\\.')
    await eventually(async () => {
      const { stdout } = await weft(lab, ['host', 'show', host])
      assert.match(stdout, new RegExp(`^seen at +${place}$`, 'm'))
    }, DEADLINE_MS)
  }
})

test('no NAT lets anything in that its host did not ask for', async () => {
  const lab = await natLab()
  const inside = lab.plan.hosts.find(({ name }) => name === web.host)?.underlayAddresses ?? []
  const addresses = inside.map(({ address }) => formatIpAddress(address))
  for (const address of [...addresses, outsideOf(lab, web.underlay)]) {
    const { code } = await at(lab, edge.host).run(['ping', '-c', '1', '-W', '1', address])
    assert.notEqual(code, 0, address)
  }
})

test('a host behind a NAT is reached by whoever begins, though nobody has talked for longer than NATs remember', {
  skip: isTorture ? false : 'it waits for minutes: npm run torture -- hosts-behind-nats',
}, async () => {
  const lab = await natLab()
  await untilAnswered(lab, web, api)
  await new Promise((resolve) => setTimeout(resolve, IDLE_MS))

  await untilAnswered(lab, api, web)
  await untilAnswered(lab, edge, web)
  assert.equal((await connectionTo(lab, 'gamma', 'alpha')).state, 'open')
})
