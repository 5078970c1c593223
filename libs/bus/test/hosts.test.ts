import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { createLogger } from '@weft/telemetry'
import { eventually, startDomainNats, type TestDomainNats } from '@weft/testing'
import type { NatsBus } from '../src/connect.ts'
import { type Bucket, type Bus, buckets, connectBus, hostRowKey, keepMirror } from '../src/index.ts'
import type { BusPrincipal } from '../src/policy.ts'
import { collect } from './conformance.ts'
import { text } from './text-codec.ts'

const log = createLogger({ service: 'test', level: 'silent' })
const config: BusPrincipal = { kind: 'service', name: 'config', replica: '1' }

describe('what a host reads', () => {
  let nats: TestDomainNats
  let control: Bus
  let rows: Bucket<string>
  const stack = new AsyncDisposableStack()
  before(async () => {
    nats = stack.use(await startDomainNats())
    control = stack.use(await connect(nats, config))
    const hostsAdmin = stack.use(await connect(nats, { kind: 'hosts-admin' }))
    rows = await control.openBucket(buckets.hosts, text)
    stack.use(keepMirror({ control, hostsAdmin, shape: buckets.hosts, log }))
  })
  after(() => stack.disposeAsync())

  test('a host watches its own rows and hears of every change', async () => {
    await using bus = await connect(nats, { kind: 'host', id: 7 })
    const own = await bus.openBucket(buckets.hosts, text, { access: 'watch' })
    await rows.put(hostRowKey(7, 'network', 1), 'blue')
    await rows.put(hostRowKey(7, 'self', 7), 'me')
    await rows.put(hostRowKey(70, 'self', 70), 'another')
    await using watch = collect(own, 'host.7')
    await eventually(() => watch.last('host.7.self.7'))
    await rows.put(hostRowKey(70, 'network', 1), 'another')
    await rows.put(hostRowKey(7, 'network', 1), 'green')
    await rows.delete(hostRowKey(7, 'self', 7))
    await eventually(() => watch.last('host.7.self.7')?.kind === 'delete')
    assert.deepEqual(watch.last('host.7.network.1'), {
      kind: 'put',
      key: 'host.7.network.1',
      value: 'green',
      revision: 5n,
    })
    assert(watch.events.every((event) => !('key' in event) || event.key.startsWith('host.7.')))
  })

  test('a watch of another host, or of all, is never set up', async () => {
    await using bus = await connect(nats, { kind: 'host', id: 8 })
    const own = await bus.openBucket(buckets.hosts, text, { access: 'watch' })
    for (const prefix of ['host.7', 'host', '']) {
      await using watch = collect(own, prefix)
      await delay(300)
      assert.deepEqual(watch.events, [], prefix)
    }
  })

  test('a burst of 5,000 changes reaches the host whole', async () => {
    await using bus = await connect(nats, { kind: 'host', id: 9 })
    const own = await bus.openBucket(buckets.hosts, text, { access: 'watch' })
    await using watch = collect(own, 'host.9')
    await eventually(() => watch.snapshots === 1)
    const value = 'x'.repeat(4000)
    const count = 5000
    await Promise.all(
      Array.from({ length: count }, (_, index) => rows.put(hostRowKey(9, 'peer', index), value)),
    )
    await eventually(() => watch.events.length === count + 1)
  })

  test('a host may neither make nor ask after a bucket', async () => {
    await using bus = await connect(nats, { kind: 'host', id: 10 })
    await assert.rejects(bus.openBucket(buckets.hosts, text), { code: 'unavailable' })
  })
})

test('after an interruption a host is told that it missed something, and all its rows', async () => {
  await using nats = await startDomainNats()
  await using control = await connect(nats, config)
  await using hostsAdmin = await connect(nats, { kind: 'hosts-admin' })
  const rows = await control.openBucket(buckets.hosts, text)
  await rows.put(hostRowKey(7, 'self', 7), '1')
  await using _mirror = keepMirror({ control, hostsAdmin, shape: buckets.hosts, log })
  await using bus = await connect(nats, { kind: 'host', id: 7 })
  const own = await bus.openBucket(buckets.hosts, text, { access: 'watch' })
  await using watch = collect(own, 'host.7')
  await eventually(() => watch.last('host.7.self.7'))
  await (bus as NatsBus).host.connection.reconnect()
  await eventually(() => watch.events.length >= 5 || undefined)
  assert.deepEqual(watch.events.slice(-3), [
    { kind: 'reset', reason: 'missed' },
    { kind: 'put', key: 'host.7.self.7', value: '1', revision: 1n },
    { kind: 'snapshot-end', revision: 1n },
  ])
})

test('the copy for hosts follows its bucket when that is lost and made anew, whatever its revisions', async () => {
  await using nats = await startDomainNats()
  await using control = await connect(nats, config)
  await using hostsAdmin = await connect(nats, { kind: 'hosts-admin' })
  const rows = await control.openBucket(buckets.hosts, text)
  for (let index = 0; index < 10; index++) await rows.put(hostRowKey(7, 'peer', index), '1')
  await using _mirror = keepMirror({ control, hostsAdmin, shape: buckets.hosts, log })
  await using bus = await connect(nats, { kind: 'host', id: 7 }, { watchHeartbeatMs: 200 })
  const own = await bus.openBucket(buckets.hosts, text, { access: 'watch' })
  await using watch = collect(own, 'host.7')
  await eventually(() => watch.last('host.7.peer.9'))

  await using wide = await connectBus({
    servers: [nats.url],
    credentials: nats.wideCredentials(),
    name: 'test',
    log,
  })
  await (wide as NatsBus).host.jetStream.deleteStream('hosts')
  await eventually(() => rows.put(hostRowKey(7, 'self', 7), 'again'))

  await eventually(() => watch.last('host.7.self.7'))
  assert(watch.events.some((event) => event.kind === 'reset' && event.reason === 'missed'))
})

test('the copy for hosts comes back after a server that lost both was restarted', async () => {
  await using nats = await startDomainNats()
  await using control = await connect(nats, config)
  await using hostsAdmin = await connect(nats, { kind: 'hosts-admin' })
  const rows = await control.openBucket(buckets.hosts, text)
  await rows.put(hostRowKey(7, 'self', 7), '1')
  await using _mirror = keepMirror({ control, hostsAdmin, shape: buckets.hosts, log })
  await using bus = await connect(nats, { kind: 'host', id: 7 })
  const own = await bus.openBucket(buckets.hosts, text, { access: 'watch' })
  await using watch = collect(own, 'host.7')
  await eventually(() => watch.last('host.7.self.7'))
  await nats.kill()
  await nats.start()
  await eventually(() => rows.put(hostRowKey(7, 'peer', 1), 'after'))
  await eventually(() => watch.last('host.7.peer.1'))
})

function connect(
  nats: TestDomainNats,
  principal: BusPrincipal,
  options: { readonly watchHeartbeatMs?: number } = {},
): Promise<Bus> {
  const credentials = nats.credentials(principal)
  return connectBus({ servers: [nats.url], credentials, name: principal.kind, log, ...options })
}
