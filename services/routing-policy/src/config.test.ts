import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readEnv } from '@weft/env'
import { InvalidConfigError } from '@weft/errors'
import { readConfig } from './config.ts'

test('who the service is has to be said, for the default place is that of a host', () => {
  assert.throws(
    () => readEnv({}, readConfig),
    (error) =>
      error instanceof InvalidConfigError && /WEFT_IDENTITY_DIR is not set/.test(error.message),
  )
  const { identityFolder } = readEnv({ WEFT_IDENTITY_DIR: '/etc/weft/identity' }, readConfig)
  assert.equal(identityFolder, '/etc/weft/identity')
})
