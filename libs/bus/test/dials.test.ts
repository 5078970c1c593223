import assert from 'node:assert/strict'
import { test } from 'node:test'
import { UnavailableError } from '@weft/errors'
import { createLogger } from '@weft/telemetry'
import { startFullListener, testDomain } from '@weft/testing'
import { connectBus } from '../src/index.ts'

/** Some three tries, each of which is given up after 2 s. */
const CONNECT_TIMEOUT_MS = 5000

/** Nobody is ever asked to log in here. */
const nobody = { jwt: '', seed: Buffer.alloc(0), inboxPrefix: '_INBOX.test' }

test('a server that no packet reaches is asked anew by one socket at a time, and none is left at the end', async () => {
  await using listener = await startFullListener()
  const credentials = testDomain().credentials({ kind: 'service', id: 'config' })
  let most = 0
  let before = 0
  const look = async (): Promise<void> => {
    const now = await listener.connecting()
    // In two looks: the socket that is being closed may stand beside its successor for a moment.
    most = Math.max(most, Math.min(before, now))
    before = now
  }
  const looking = setInterval(() => void look(), 50)

  await assert.rejects(
    connectBus({
      servers: [`tls://127.0.0.1:${listener.port}`],
      credentials,
      login: nobody,
      name: 'test',
      log: createLogger({ service: 'test', level: 'silent' }),
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
    }),
    UnavailableError,
  )
  clearInterval(looking)

  assert.equal(most, 1)
  assert.equal(await listener.connecting(), 0)
})
