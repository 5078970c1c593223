import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readEnv } from '@weft/env'
import { InvalidConfigError } from '@weft/errors'
import { readConfig } from './config.ts'

test('without any variable the service listens and connects on loopback', () => {
  assert.deepEqual(readEnv({}, readConfig), {
    listen: ['127.0.0.1:7001'],
    natsUrls: ['nats://127.0.0.1:4222'],
    replicaId: undefined,
  })
})

test('all mistakes are reported at once', () => {
  const environment = { WEFT_CONFIG_LISTEN: 'everywhere', NATS_URL: 'http://nats' }
  assert.throws(
    () => readEnv(environment, readConfig),
    (error) =>
      error instanceof InvalidConfigError &&
      /WEFT_CONFIG_LISTEN/.test(error.message) &&
      /NATS_URL/.test(error.message),
  )
})
