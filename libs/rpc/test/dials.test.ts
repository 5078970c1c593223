import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { UnavailableError } from '@weft/errors'
import { eventually, startFullListener } from '@weft/testing'
import { Dials } from '../src/dials.ts'
import { connect } from '../src/index.ts'
import { CONNECT_MAX_MS } from '../src/limits.ts'
import { Echo } from './echo.ts'
import { clientSecurity, serveEcho } from './site.ts'

/** Beyond every limit of a connection: a call that hangs with its socket ends otherwise than one that does not. */
const PATIENCE_MS = 60_000

test('a server that no packet reaches is given up and asked anew, by one socket at a time', async () => {
  await using listener = await startFullListener()
  const client = connect(`127.0.0.1:${listener.port}`, Echo, {
    security: clientSecurity,
    timeoutMs: PATIENCE_MS,
  })
  const givenUp = (error: unknown): boolean =>
    error instanceof UnavailableError && /no TCP connection in time/.test(error.message)

  await assert.rejects(client.one('first'), givenUp)
  await eventually(async () => (await listener.connecting()) === 1)
  await assert.rejects(client.one('second'), givenUp)

  assert.ok((await listener.connecting()) <= 1)
  await client[Symbol.asyncDispose]()
  await eventually(async () => (await listener.connecting()) === 0)
})

test('a server is found by its name as well', async () => {
  await using echo = await serveEcho({})
  const port = echo.address.slice(echo.address.lastIndexOf(':') + 1)
  await using client = connect(`localhost:${port}`, Echo, { security: clientSecurity })

  assert.equal(await client.one('x'), 'one x')
})

test('of several replicas the next one is called when the one before has ended', async () => {
  await using ended = await serveEcho({})
  await using next = await serveEcho({})
  await using client = connect(`${ended.address},${next.address}`, Echo, {
    security: clientSecurity,
  })
  assert.equal(await client.one('x'), 'one x')

  await ended[Symbol.asyncDispose]()

  assert.equal(await client.one('y'), 'one y')
})

test('a socket is given up at the end of its time', (t) => {
  const dials = new Dials()
  mockTimers(t)
  const first = dials.begin()
  const second = dials.begin()

  t.mock.timers.tick(CONNECT_MAX_MS / 2 - 1)
  assert.deepEqual([first.aborted, second.aborted], [false, false])
  t.mock.timers.tick(CONNECT_MAX_MS / 2 + 1)

  assert.deepEqual([first.aborted, second.aborted], [true, true])
})

test('a connection lives on beyond the time that it had to come about, and the next one has its own', (t) => {
  const dials = new Dials()
  mockTimers(t)
  const connected = dials.begin()
  dials.succeeded()
  const next = dials.begin()

  t.mock.timers.tick(CONNECT_MAX_MS)

  assert.deepEqual([connected.aborted, next.aborted], [false, true])
})

function mockTimers(t: TestContext): void {
  t.mock.timers.enable({ apis: ['setTimeout'] })
}
