import assert from 'node:assert/strict'
import { test } from 'node:test'
import { NatsTooOldError } from '@weft/errors'
import { createLogger } from '@weft/telemetry'
import { startFakeNats, testDomain } from '@weft/testing'
import { connectBus, isNewEnough } from '../src/connect.ts'
import { newBusKeys } from '../src/operator.ts'

test('servers with the known holes are too old', () => {
  for (const version of [
    '2.12.7',
    '2.12.15',
    '2.14.0',
    '2.14.5',
    '2.15.1',
    '2.15.0-RC.1',
    '3.0.0',
  ]) {
    assert(isNewEnough(version), version)
  }
  const old = '|2|2.9.10|2.10.27|2.12.6|2.12.7-RC.1|2.13.0|2.13.9|2.14.0-preview.1|1.14.0'
  for (const version of old.split('|')) assert(!isNewEnough(version), version)
})

test('a server that is too old is refused with its version', async () => {
  const domain = testDomain()
  const { seed } = newBusKeys('user')
  const bus = { jwt: 'unread', seed, inboxPrefix: '_INBOX.test' }
  const credentials = domain.credentials({ kind: 'service', id: 'config' }, { bus })
  await using nats = await startFakeNats('2.10.27', domain)
  const log = createLogger({ service: 'test', level: 'silent' })
  const connecting = connectBus({ servers: [nats.url], credentials, name: 'test', log })
  await assert.rejects(connecting, (error) => {
    assert(error instanceof NatsTooOldError)
    assert.equal(error.facts['version'], '2.10.27')
    return true
  })
})
