import assert from 'node:assert/strict'
import { test } from 'node:test'
import { NatsTooOldError } from '@weft/errors'
import { createLogger } from '@weft/telemetry'
import { startFakeNats } from '@weft/testing'
import { connectBus, isNewEnough } from '../src/connect.ts'

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
  await using nats = await startFakeNats('2.10.27')
  const log = createLogger({ service: 'test', level: 'silent' })
  await assert.rejects(connectBus({ servers: [nats.url], name: 'test', log }), (error) => {
    assert(error instanceof NatsTooOldError)
    assert.equal(error.facts['version'], '2.10.27')
    return true
  })
})
