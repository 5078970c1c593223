import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { BusOperator } from '@weft/bus/operator'
import type { TestDomain } from './domain.ts'
import { temporaryFolder } from './machine.ts'
import { startDomainNats, startFakeNats, startNats } from './nats.ts'
import { endOfService } from './service.ts'

/** Who a service is that is started. */
export interface StartingMember {
  readonly domain: TestDomain
  readonly operator: BusOperator
  /** Writes what the service needs of the domain into a folder, and answers the variables that say so. */
  prepare(folder: string): Promise<{ readonly [name: string]: string }>
}

/** What every service must say of a machine that does not let it start. `main` is its program, `listenVariable` says where it listens. */
export function testStartTrouble(
  main: string,
  listenVariable: string,
  member?: StartingMember,
): void {
  test('a nats-server that is too old ends the start with its version and the versions that do', async () => {
    await using folder = await temporaryFolder()
    await using nats = await startFakeNats('2.10.27', member?.domain)

    const { exitCode, lines } = await endOfService(main, {
      ...(await member?.prepare(folder.path)),
      NATS_URL: nats.url,
      [listenVariable]: '127.0.0.1:0',
    })

    assert.equal(exitCode, 7)
    assert.equal(lines.at(-1)?.['code'], 'nats-too-old')
    assert.match(String(lines.at(-1)?.['msg']), /^nats-server 2\.10\.27 at 127\.0\.0\.1:/)
    assert.match(String(lines.at(-1)?.['remedy']), /^run nats-server 2\.14\.0 or later/)
  })

  test('a port that is taken ends the start with its address and the way out', async () => {
    await using folder = await temporaryFolder()
    await using nats = member ? await startDomainNats(member) : await startNats()
    const taken = nats.url.slice('nats://'.length)

    const { exitCode, lines } = await endOfService(main, {
      ...(await member?.prepare(folder.path)),
      NATS_URL: nats.url,
      [listenVariable]: taken,
    })

    assert.equal(exitCode, 7)
    assert.equal(lines.at(-1)?.['code'], 'port-in-use')
    assert.equal(lines.at(-1)?.['msg'], `${taken} is in use by another process`)
    assert.match(String(lines.at(-1)?.['remedy']), /^stop the process that listens there/)
  })
}
