import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createLogger } from '@weft/telemetry'
import { eventually, startDomainNats, type TestDomainNats } from '@weft/testing'
import type { NatsBus } from '../src/connect.ts'
import { type Bucket, type BucketShape, type Bus, buckets, connectBus } from '../src/index.ts'
import type { BusPrincipal } from '../src/policy.ts'
import { remoteReading } from '../src/server-subjects.ts'
import { collect } from './conformance.ts'
import { text } from './text-codec.ts'

/* A service follows a bucket of another one, which is in another account of the bus. */

const log = createLogger({ service: 'test', level: 'silent' })
const config: BusPrincipal = { kind: 'service', name: 'config', replica: '1' }
const resolver: BusPrincipal = { kind: 'service', name: 'location-resolver', replica: '1' }

test('the reader is told what was there, and then every change', async () => {
  await using site = await openSite()
  const { records, remote } = site
  await records.put('tenant.1', 'acme')
  await records.put('tenant.2', 'gone')
  await records.delete('tenant.2')
  await using watch = collect(remote, '')
  await eventually(() => watch.snapshots === 1)
  await records.put('tenant.1', 'renamed')
  await records.delete('tenant.1')
  await eventually(() => watch.last('tenant.1')?.kind === 'delete')
  assert.deepEqual(watch.events, [
    { kind: 'put', key: 'tenant.1', value: 'acme', revision: 1n },
    { kind: 'snapshot-end', revision: 3n },
    { kind: 'put', key: 'tenant.1', value: 'renamed', revision: 4n },
    { kind: 'delete', key: 'tenant.1', revision: 5n },
  ])
  assert.equal(await remote.lastRevision(), 5n)
})

test('of a prefix only what is below it is told', async () => {
  await using site = await openSite()
  const { records, remote } = site
  await records.put('host.1', 'a')
  await records.put('hosts.1', 'b')
  await using watch = collect(remote, 'host')
  await eventually(() => watch.snapshots === 1)
  await records.put('user.1', 'c')
  await records.put('host.2', 'd')
  await eventually(() => watch.last('host.2'))
  const keys = watch.events.flatMap((event) => ('key' in event ? [event.key] : []))
  assert.deepEqual(keys, ['host.1', 'host.2'])
})

test('a bucket that its service has not made yet is empty, and is heard of once it has', async () => {
  await using nats = await startDomainNats()
  await using reader = await connect(nats, resolver)
  const remote = await reader.openBucket(buckets.config, text, { access: 'remote' })
  await using watch = collect(remote, '')
  await eventually(() => watch.snapshots === 1)
  assert.equal(await remote.lastRevision(), 0n)
  await using writer = await connect(nats, config)
  await (await writer.openBucket(buckets.config, text)).put('tenant.1', 'acme')
  await eventually(() => watch.last('tenant.1'))
  assert.deepEqual(watch.events, [
    { kind: 'snapshot-end', revision: 0n },
    { kind: 'put', key: 'tenant.1', value: 'acme', revision: 1n },
  ])
})

test('12,000 changes, some made while the snapshot is told, come whole and in order', async () => {
  await using site = await openSite({ storage: 'memory' })
  const { records, remote } = site
  const count = 3000
  await putAll(records, count, 'before')
  await using watch = collect(remote, '')
  await putAll(records, count, 'during')
  await eventually(() => watch.snapshots === 1)
  await putAll(records, count, 'after')
  await inWaves(count, (index) => records.delete(`endpoint.${index}`))
  await eventually(() => watch.last(`endpoint.${count - 1}`)?.kind === 'delete')
  await eventually(() => lastRevisionOf(watch.events) === BigInt(count * 4))
  const gone = new Set(
    watch.events.flatMap((event) => (event.kind === 'delete' ? [event.key] : [])),
  )
  assert.equal(gone.size, count)
  const revisions = watch.events.flatMap((event) => ('key' in event ? [event.revision] : []))
  assert(
    revisions.every((revision, index) => index === 0 || revision > (revisions[index - 1] ?? 0n)),
  )
  assert.equal(watch.snapshots, 1)
})

test('a watch that is aborted while it begins ends', { timeout: 20_000 }, async () => {
  await using site = await openSite()
  for (let turns = 0; turns < 50; turns++) {
    await using _watch = collect(site.remote, '')
    for (let turn = 0; turn < turns; turn++) await new Promise(setImmediate)
  }
})

test('a message that is lost on its way is read from the store, at the next one or after a heartbeat', async () => {
  await using site = await openSite({ watchHeartbeatMs: 200 })
  const { records, remote, reader } = site
  const lose = losing(reader)
  await using watch = collect(remote, '')
  await eventually(() => watch.snapshots === 1)
  lose.next = 1
  await records.put('tenant.1', 'lost')
  await records.put('tenant.2', 'heard')
  await eventually(() => watch.last('tenant.2'))
  lose.next = 1
  await records.put('tenant.3', 'lost')
  await eventually(() => watch.last('tenant.3'))
  assert.equal(lose.lost, 2)
  assert.deepEqual(
    watch.events.map((event) => ('key' in event ? `${event.kind} ${event.key}` : event.kind)),
    ['snapshot-end', 'put tenant.1', 'put tenant.2', 'put tenant.3'],
  )
})

test('after the server was killed and restarted the reader goes on, without a reset', async () => {
  await using site = await openSite()
  const { nats, records, remote } = site
  await records.put('tenant.1', 'acme')
  await using watch = collect(remote, '')
  await eventually(() => watch.snapshots === 1)
  await nats.kill()
  await nats.start()
  await eventually(() => records.put('tenant.2', 'after'))
  await eventually(() => watch.last('tenant.2'))
  assert.deepEqual(
    watch.events.map(({ kind }) => kind),
    ['put', 'snapshot-end', 'put'],
  )
})

test('a bucket that was lost and is filled again is told whole, after a reset', async () => {
  await using site = await openSite({ watchHeartbeatMs: 200 })
  const { nats, records, remote } = site
  for (let index = 0; index < 10; index++) await records.put('tenant.1', String(index))
  await using watch = collect(remote, '')
  await eventually(() => watch.snapshots === 1)
  await deleteStream(nats)
  await eventually(() => records.put('tenant.2', 'again'))
  await eventually(() => watch.last('tenant.2'))
  assert(watch.events.some((event) => event.kind === 'reset' && event.reason === 'recreated'))
  assert.deepEqual(watch.events.at(-1), { kind: 'snapshot-end', revision: 1n })
})

test('what the store has forgotten still counts for the revision that was reached', async () => {
  await using nats = await startDomainNats()
  await using writer = await connect(nats, config)
  const shape = { ...buckets.config, deletionTtlMs: 1000 }
  const records = await writer.openBucket(shape, text)
  await records.put('tenant.1', 'acme')
  await records.delete('tenant.1')
  const { jetStream } = (writer as NatsBus).host
  await eventually(async () => {
    const { state } = await jetStream.streamInfo('config')
    return (state as unknown as { messages: number }).messages === 0
  })
  await using reader = await connect(nats, resolver)
  const remote = await reader.openBucket(shape, text, { access: 'remote' })
  await using watch = collect(remote, '')
  await eventually(() => watch.snapshots === 1)
  assert.deepEqual(watch.events, [{ kind: 'snapshot-end', revision: 2n }])
})

interface Site extends AsyncDisposable {
  readonly nats: TestDomainNats
  readonly records: Bucket<string>
  readonly reader: Bus
  readonly remote: Pick<Bucket<string>, 'name' | 'watch' | 'lastRevision'>
}

/** The VN database with its writer, and a reader of another service. */
async function openSite(
  options: { readonly watchHeartbeatMs?: number; readonly storage?: 'memory' } = {},
): Promise<Site> {
  await using opening = new AsyncDisposableStack()
  const nats = opening.use(await startDomainNats())
  const writer = opening.use(await connect(nats, config))
  const reader = opening.use(await connect(nats, resolver, options))
  const shape: BucketShape = { ...buckets.config, storage: options.storage ?? 'file' }
  const records = await writer.openBucket(shape, text)
  const remote = await reader.openBucket(shape, text, { access: 'remote' })
  const opened = opening.move()
  return { nats, records, reader, remote, [Symbol.asyncDispose]: () => opened.disposeAsync() }
}

function connect(
  nats: TestDomainNats,
  principal: BusPrincipal,
  options: { readonly watchHeartbeatMs?: number } = {},
): Promise<Bus> {
  const credentials = nats.credentials(principal)
  return connectBus({ servers: [nats.url], credentials, name: 'test', log, ...options })
}

/** Loses messages of the bucket that reach a client, as a connection that is too slow does. */
function losing(bus: Bus): { next: number; lost: number } {
  const state = { next: 0, lost: 0 }
  const { connection } = (bus as NatsBus).host
  const subscribe = connection.subscribe.bind(connection)
  connection.subscribe = (subject, options = {}) => {
    const { callback } = options
    if (subject !== remoteReading.stored('config', '>') || !callback) {
      return subscribe(subject, options)
    }
    return subscribe(subject, {
      ...options,
      callback: (error, message) => {
        if (state.next === 0) return callback(error, message)
        state.next--
        state.lost++
      },
    })
  }
  return state
}

async function putAll(bucket: Bucket<string>, count: number, value: string): Promise<void> {
  await inWaves(count, (index) => bucket.put(`endpoint.${index}`, value.repeat(20)))
}

/** Some at once, as config writes them. */
async function inWaves(count: number, write: (index: number) => Promise<unknown>): Promise<void> {
  const wave = 250
  for (let from = 0; from < count; from += wave) {
    await Promise.all(Array.from({ length: wave }, (_, index) => write(from + index)))
  }
}

function lastRevisionOf(events: readonly { readonly kind: string }[]): bigint {
  const last = events.at(-1)
  return last && 'revision' in last ? (last.revision as bigint) : 0n
}

async function deleteStream(nats: TestDomainNats): Promise<void> {
  const credentials = nats.wideCredentials('control')
  await using bus = await connectBus({ servers: [nats.url], credentials, name: 'test', log })
  await (bus as NatsBus).host.jetStream.deleteStream('config')
}
