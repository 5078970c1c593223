import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readEnv } from '@weft/env'
import { InvalidConfigError } from '@weft/errors'
import { readConfig } from './config.ts'

const folders = {
  WEFT_CONFIG_AUTHORITY: '/etc/weft/authority',
  WEFT_IDENTITY_DIR: '/etc/weft/config',
  WEFT_CONFIG_AUDIT_FOLDER: '/var/lib/weft/audit',
}

test('with nothing but its folders the service listens on loopback, and connects where the domain says', () => {
  assert.deepEqual(readEnv(folders, readConfig), {
    listen: ['127.0.0.1:7001'],
    enrolmentListen: ['127.0.0.1:7004'],
    authorityFolder: '/etc/weft/authority',
    identityFolder: '/etc/weft/config',
    auditFolder: '/var/lib/weft/audit',
    acceptLossAfter: undefined,
    natsUrls: undefined,
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
      /NATS_URL/.test(error.message) &&
      /WEFT_CONFIG_AUTHORITY is not set/.test(error.message) &&
      /WEFT_IDENTITY_DIR is not set/.test(error.message),
  )
})
