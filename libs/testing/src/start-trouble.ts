import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startFakeNats, startNats } from './nats.ts'
import { endOfService } from './service.ts'

/** What every service must say of a machine that does not let it start. `main` is its program, `listenVariable` says where it listens. */
export function testStartTrouble(main: string, listenVariable: string): void {
  test('a nats-server that is too old ends the start with its version and the versions that do', async () => {
    await using nats = await startFakeNats('2.10.27')

    const { exitCode, lines } = await endOfService(main, {
      NATS_URL: nats.url,
      [listenVariable]: '127.0.0.1:0',
    })

    assert.equal(exitCode, 7)
    assert.equal(lines.at(-1)?.['code'], 'nats-too-old')
    assert.match(String(lines.at(-1)?.['msg']), /^nats-server 2\.10\.27 at 127\.0\.0\.1:/)
    assert.match(String(lines.at(-1)?.['remedy']), /^run nats-server 2\.14\.0 or later/)
  })

  test('a port that is taken ends the start with its address and the way out', async () => {
    await using nats = await startNats()
    const taken = nats.url.slice('nats://'.length)

    const { exitCode, lines } = await endOfService(main, {
      NATS_URL: nats.url,
      [listenVariable]: taken,
    })

    assert.equal(exitCode, 7)
    assert.equal(lines.at(-1)?.['code'], 'port-in-use')
    assert.equal(lines.at(-1)?.['msg'], `${taken} is in use by another process`)
    assert.match(String(lines.at(-1)?.['remedy']), /^stop the process that listens there/)
  })
}
