import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { createLogger } from '@weft/telemetry'
import { eventually, startDomainNats, type TestDomainNats } from '@weft/testing'
import { type Bus, connectBus, events } from '../src/index.ts'
import type { BusPrincipal } from '../src/policy.ts'
import { RawClient } from './raw-client.ts'
import { text } from './text-codec.ts'

const log = createLogger({ service: 'test', level: 'silent' })
const PENDING_MAX_BYTES = 1024 * 1024

describe('a host that misbehaves', () => {
  const stack = new AsyncDisposableStack()
  let nats: TestDomainNats
  let resolver: Bus
  let policy: Bus
  let neighbour: Bus

  before(async () => {
    nats = stack.use(await startDomainNats({ pendingMaxBytes: PENDING_MAX_BYTES }))
    const service = (name: 'location-resolver' | 'routing-policy'): Promise<Bus> =>
      connect({ kind: 'service', name, replica: '1' })
    resolver = stack.use(await service('location-resolver'))
    policy = stack.use(await service('routing-policy'))
    neighbour = stack.use(await connect({ kind: 'host', id: 5 }))
    stack.use(
      resolver.respond(events.endpointReported.pattern(), texts, (message) => `took ${message}`),
    )
    await resolver.ping()
  })
  after(() => stack.disposeAsync())
  // Whatever it did: others go on.
  const texts = { request: text, reply: text }
  const neighbourIsServed = (): Promise<string> =>
    eventually(() => neighbour.request(events.endpointReported.subject(5, 1), texts, 'mine'))

  test('hears nothing of what it asks for without a right', async () => {
    await using host = await misbehaving()
    for (const pattern of ['>', '*', '_INBOX.>', '$KV.hosts.>', 'weft.>', '_R_.>']) {
      assert(await host.isRefused(`SUB ${pattern} 1\r\n`), pattern)
      assert(await host.isRefused(`SUB ${pattern} workers 2\r\n`), pattern)
    }
    assert.equal(await neighbourIsServed(), 'took mine')
    assert.deepEqual(host.messages, [])
  })

  test('floods its subject, and others are still served', async () => {
    await using host = await misbehaving()
    const report = `PUB ${events.endpointReported.subject(7, 1)} 100\r\n${'x'.repeat(100)}\r\n`
    const burst = report.repeat(1000)
    for (let count = 0; count < 50; count++) {
      host.write(burst)
      if (count % 10 === 0) assert.equal(await neighbourIsServed(), 'took mine')
    }
    await host.settled()
    assert.equal(await neighbourIsServed(), 'took mine')
  })

  test('says a message of 100 MB, and is cut off before it is taken', async () => {
    await using host = await misbehaving()
    const sizeBytes = 100 * 1024 * 1024
    host.write(`PUB ${events.endpointReported.subject(7, 1)} ${sizeBytes}\r\n`)
    await host.closed
    assert.deepEqual(host.errors, ['Maximum Payload Violation'])
    assert.equal(await neighbourIsServed(), 'took mine')
  })

  test('says a message that is larger than hosts need', async () => {
    await using host = await misbehaving()
    const sizeBytes = 64 * 1024 + 1
    const payload = 'x'.repeat(sizeBytes)
    host.write(`PUB ${events.endpointReported.subject(7, 1)} ${sizeBytes}\r\n${payload}\r\n`)
    await host.closed
    assert.deepEqual(host.errors, ['Maximum Payload Violation'])
  })

  test('opens 10,000 subscriptions, and gets 64', async () => {
    await using host = await misbehaving()
    const wanted = Array.from(
      { length: 10_000 },
      (_, index) => `SUB _INBOX.host.7.${index} ${index}`,
    )
    host.write(`${wanted.join('\r\n')}\r\n`)
    await host.settled()
    const refused = host.errors.filter((error) => /maximum subscriptions exceeded/i.test(error))
    assert(refused.length > 0)
    assert((await subscriptionsOf(7)) <= 64)
    assert.equal(await neighbourIsServed(), 'took mine')
  })

  test('never reads, and is cut off while its neighbour hears everything', async () => {
    const host = await misbehaving()
    host.write(`SUB ${events.rulesChanged.pattern()} 1\r\n`)
    await host.settled()
    host.socket.pause()
    const count = 200
    let heard = 0
    await using _listening = neighbour.subscribe(events.rulesChanged.pattern(), text, () => {
      heard++
    })
    await neighbour.ping()
    const large = 'x'.repeat(200_000)
    for (let index = 1; index <= count; index++) {
      policy.publish(events.rulesChanged.subject('routing-policy-1', index), text, large)
      // The neighbour reads; it is given the time to.
      await policy.ping()
      await eventually(() => heard === index)
    }
    await eventually(async () => (await connectionsOf(7)) === 0)
    host.socket.destroy()
    assert.equal(heard, count)
  })

  test('talks nonsense, and is cut off', async () => {
    for (const nonsense of [
      randomBytes(64 * 1024),
      `PUB ${'x'.repeat(64 * 1024)}`,
      'CONNECT {'.padEnd(64 * 1024, '{'),
      'PUB a -1\r\n\r\n',
      'HPUB a 100 1\r\n\r\n',
      'RMSG $G a 1\r\nx\r\n',
    ]) {
      const host = await misbehaving()
      host.write(nonsense)
      await host.closed
    }
    assert.equal(await neighbourIsServed(), 'took mine')
  })

  function misbehaving(): Promise<RawClient> {
    return RawClient.as(nats.url, nats.credentials({ kind: 'host', id: 7 }))
  }

  function connect(principal: BusPrincipal): Promise<Bus> {
    const credentials = nats.credentials(principal)
    return connectBus({ servers: [nats.url], credentials, name: principal.kind, log })
  }

  async function subscriptionsOf(hostId: number): Promise<number> {
    const all = await connections(hostId)
    return Math.max(0, ...all.map(({ subscriptions }) => subscriptions))
  }

  async function connectionsOf(hostId: number): Promise<number> {
    return (await connections(hostId)).length
  }

  async function connections(hostId: number): Promise<readonly { subscriptions: number }[]> {
    const answer = await fetch(`${nats.monitorUrl}/connz?auth=true`)
    const { connections: all } = (await answer.json()) as {
      connections: readonly { readonly name_tag: string; readonly subscriptions: number }[]
    }
    return all.filter(({ name_tag }) => name_tag === `host ${hostId}`)
  }
})
