import assert from 'node:assert/strict'
import { test } from 'node:test'
import { asWeftError, OverloadedError, StatementRefusedError } from '@weft/errors'
import { Admission } from '../src/admission.ts'

test('whoever names a key without having it has no turn any more, and keeps nobody out', async () => {
  const admission = new Admission()
  let turns = 0
  const forge = (address: string, named: string) =>
    admission
      .run(
        address,
        () => ({ named }),
        async () => {
          turns++
          throw new StatementRefusedError({ reason: 'bad-signature', purpose: 'renewal' })
        },
      )
      .catch(asWeftError)

  const errors = []
  for (let count = 0; count < 40; count++) errors.push(await forge('192.0.2.1:40000', 'host/7'))

  assert.equal(turns, 20)
  assert(errors.at(-1) instanceof OverloadedError)
  const served = (address: string, named: string | undefined) =>
    admission.run(
      address,
      () => ({ named }),
      async () => 'served',
    )
  // Behind the same address: another member, and who knows a secret; and from elsewhere whose key it is.
  assert.equal(await served('192.0.2.1:40001', 'host/8'), 'served')
  assert.equal(await served('192.0.2.1:40002', undefined), 'served')
  assert.equal(await served('192.0.2.2:40000', 'host/7'), 'served')
})
