import assert from 'node:assert/strict'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { formatIpAddress } from '@weft/net'
import { eventually } from '../../support/eventually.ts'
import {
  AT_HOME,
  connectionTo,
  natLab,
  OUTSIDE,
  outsideOf,
  SEALED_PORT,
  untilAnswered,
} from '../support/nat.ts'

const [web] = AT_HOME

test('an endpoint-independent NAT shows the same port to everybody, the other kinds another one to each', async () => {
  const lab = await natLab()
  await using cleanUp = new AsyncDisposableStack()
  cleanUp.defer(() => lab.restartNat(web.underlay))

  for (const kind of ['address-dependent', 'symmetric'] as const) {
    await lab.restartNat(web.underlay, kind)
    await eventually(async () => {
      const [one, other] = await portsSeen(lab)
      assert.notEqual(one, SEALED_PORT)
      assert.notEqual(other, SEALED_PORT)
      assert.notEqual(one, other, kind)
    })
  }
  await lab.restartNat(web.underlay, 'endpoint-independent')
  await eventually(async () => {
    assert.deepEqual(await portsSeen(lab), [SEALED_PORT, SEALED_PORT])
  })
})

/** The ports from which two hosts outside have heard a host behind a NAT last. */
async function portsSeen(lab: Lab): Promise<number[]> {
  const ports: number[] = []
  for (const outside of OUTSIDE) {
    await untilAnswered(lab, web, outside)
    const { endpoint } = await connectionTo(lab, outside.host, web.host)
    assert.ok(endpoint)
    assert.equal(formatIpAddress(endpoint.address), outsideOf(lab, web.underlay))
    ports.push(endpoint.port)
  }
  return ports
}
