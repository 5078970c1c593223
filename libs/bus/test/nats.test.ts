import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { RevisionConflictError, UnavailableError, UnknownOutcomeError } from '@weft/errors'
import { createLogger } from '@weft/telemetry'
import {
  eventually,
  freePort,
  startDomainNats,
  type TestDomainNats,
  testDomain,
} from '@weft/testing'
import type { NatsBus } from '../src/connect.ts'
import { type Bucket, type Bus, connectBus } from '../src/index.ts'
import { writeHeaders } from '../src/jetstream.ts'
import { jetStreamApi, keySubject, streamName } from '../src/server-subjects.ts'
import { collect, freshShape, testBus } from './conformance.ts'
import { text } from './text-codec.ts'

const log = createLogger({ service: 'test', level: 'silent' })
const HOUR_MS = 3_600_000

describe('with one server', () => {
  let nats: TestDomainNats
  const buses: Bus[] = []
  before(async () => {
    nats = await startDomainNats()
  })
  after(async () => {
    await Promise.all(buses.map((bus) => bus[Symbol.asyncDispose]()))
    await nats[Symbol.asyncDispose]()
  })

  testBus('the bus over NATS', async () => {
    const bus = await connect(nats)
    buses.push(bus)
    return bus
  })
})

test('a clock that is set back while the server is away does not keep the bus from it', async (t) => {
  await using nats = await startDomainNats()
  await using bus = await connect(nats)
  const rightNow = Date.now
  const { mock } = t.mock.method(Date, 'now', () => rightNow() + HOUR_MS)
  await nats.kill()
  await nats.start()
  await eventually(() => bus.state === 'connected')

  mock.restore()
  await nats.kill()
  await eventually(() => bus.state === 'disconnected')
  await nats.start()

  await eventually(() => bus.state === 'connected')
})

test('a watch goes on after the server was killed and restarted, without a reset', async () => {
  await using nats = await startDomainNats()
  await using bus = await connect(nats)
  const bucket = await bus.openBucket(freshShape('file'), text)
  await bucket.put('a', '1')
  await bucket.put('b', '1')
  await using watch = collect(bucket, '')
  await eventually(() => watch.snapshots === 1)
  await nats.kill()
  await eventually(() => bus.state === 'disconnected')
  await assert.rejects(bucket.put('a', 'x'), UnavailableError)
  await nats.start()
  await eventually(() => bus.state === 'connected')
  await bucket.put('a', '2')
  await bucket.delete('b')
  await eventually(() => watch.last('b')?.kind === 'delete')
  assert.deepEqual(watch.events.slice(3), [
    { kind: 'put', key: 'a', value: '2', revision: 3n },
    { kind: 'delete', key: 'b', revision: 4n },
  ])
})

test('a deletion is told, then forgotten by the store, and its revision still counts', async () => {
  await using nats = await startDomainNats()
  await using bus = await connect(nats)
  const shape = { ...freshShape('file'), deletionTtlMs: 1000 }
  const bucket = await bus.openBucket(shape, text)
  await using watch = collect(bucket, '')
  await eventually(() => watch.snapshots === 1)
  await bucket.put('gone', '1')
  await bucket.delete('gone')
  await eventually(() => watch.last('gone')?.kind === 'delete')
  const { connection } = (bus as NatsBus).host
  await eventually(async () => {
    const reply = await connection.request(jetStreamApi.streamInfo(shape.name))
    return reply.json<{ state: { messages: number } }>().state.messages === 0
  })
  await using later = collect(bucket, '')
  await eventually(() => later.snapshots === 1)
  assert.deepEqual(later.events, [{ kind: 'snapshot-end', revision: 2n }])
  const { revision } = await bucket.put('new', '1', { expectedBucketRevision: 2n })
  assert.equal(revision, 3n)
})

test('what was changed while a watch was cut off is told when it is back, deletions too', async () => {
  await using nats = await startDomainNats()
  await using bus = await connect(nats)
  await using other = await connect(nats)
  const shape = freshShape('file')
  const bucket = await bus.openBucket(shape, text)
  await bucket.put('gone', '1')
  await bucket.put('kept', '1')
  await using watch = collect(bucket, '')
  await eventually(() => watch.snapshots === 1)
  await nats.kill()
  await nats.start()
  // Races with the watch's own return: either way nothing may be missed or told twice.
  const writer = await eventually(() => other.openBucket(shape, text))
  await writer.delete('gone')
  await writer.put('new', '1')
  await eventually(() => watch.last('new')?.kind === 'put')
  assert.deepEqual(
    watch.events.slice(3).map((event) => 'key' in event && `${event.kind} ${event.key}`),
    ['delete gone', 'put new'],
  )
})

test('a bucket that is behind what its reader wrote itself was rewound, whether or not the watch had told it', async () => {
  await using nats = await startDomainNats()
  await using bus = await connect(nats)
  const bucket = await bus.openBucket(freshShape('file'), text)
  await bucket.put('a', '1')
  let known = 0n
  await using watch = collect(bucket, '', () => known)
  await eventually(() => watch.snapshots === 1)
  known = 1n
  await nats.kill()
  await nats.start()
  await eventually(() => bus.state === 'connected')
  await bucket.put('b', '1')
  await eventually(() => watch.last('b')?.kind === 'put')
  assert.equal(watch.snapshots, 1)

  known = 9n
  await nats.kill()
  await nats.start()
  await eventually(() => watch.snapshots === 2)
  assert.deepEqual(watch.events.slice(3), [
    { kind: 'reset', reason: 'rewound' },
    { kind: 'put', key: 'a', value: '1', revision: 1n },
    { kind: 'put', key: 'b', value: '1', revision: 2n },
    { kind: 'snapshot-end', revision: 2n },
  ])
})

test('a bucket in memory that a restart lost is made anew and resets its watches', async () => {
  await using nats = await startDomainNats()
  await using bus = await connect(nats)
  const bucket = await bus.openBucket(freshShape('memory'), text)
  for (const key of ['a', 'b', 'c']) await bucket.put(key, '1')
  await using watch = collect(bucket, '')
  await eventually(() => watch.snapshots === 1)
  await nats.kill()
  await nats.start()
  await eventually(() => watch.snapshots === 2)
  assert.deepEqual(watch.events.slice(4), [
    { kind: 'reset', reason: 'recreated' },
    { kind: 'snapshot-end', revision: 0n },
  ])
  // Low revisions of the new bucket are as good as high ones of the old.
  await bucket.put('a', '2')
  await eventually(() => watch.last('a')?.kind === 'put' && watch.events.length === 7)
  assert.deepEqual(watch.events.at(-1), { kind: 'put', key: 'a', value: '2', revision: 1n })
})

test('a bucket that is deleted under a watch is noticed without a reconnect', async () => {
  await using nats = await startDomainNats()
  await using bus = await connect(nats, { watchHeartbeatMs: 200 })
  const shape = freshShape('file')
  const bucket = await bus.openBucket(shape, text)
  await bucket.put('a', '1')
  await using watch = collect(bucket, '')
  await eventually(() => watch.snapshots === 1)
  await deleteStream(nats, shape.name)
  await eventually(() => watch.snapshots === 2)
  assert.deepEqual(watch.events.slice(2), [
    { kind: 'reset', reason: 'recreated' },
    { kind: 'snapshot-end', revision: 0n },
  ])
})

test('a bucket that is deleted and filled again behind a watch is told whole, not from its old revision', async () => {
  await using nats = await startDomainNats()
  await using bus = await connect(nats, { watchHeartbeatMs: 200 })
  await using other = await connect(nats)
  const shape = freshShape('file')
  const bucket = await bus.openBucket(shape, text)
  for (let index = 0; index < 10; index++) await bucket.put('a', String(index))
  await using watch = collect(bucket, '')
  await eventually(() => watch.snapshots === 1)
  await deleteStream(nats, shape.name)
  const again = await other.openBucket(shape, text)
  await again.put('n0', 'x')
  await again.put('n1', 'x')
  await eventually(() => watch.snapshots === 2)
  await eventually(() => watch.last('n1')?.kind === 'put')
  assert(watch.events.some((event) => event.kind === 'reset' && event.reason === 'recreated'))
  assert.equal(watch.last('n0')?.kind, 'put')
})

test('a write to a bucket that is gone makes the bucket again, and none of its past counts', async () => {
  await using nats = await startDomainNats()
  await using bus = await connect(nats)
  const shape = freshShape('file')
  const bucket = await bus.openBucket(shape, text)
  await bucket.put('a', '1')
  await deleteStream(nats, shape.name)
  await assert.rejects(bucket.put('b', '1', { expectedBucketRevision: 1n }), {
    code: 'revision-conflict',
  })
  assert.equal((await bucket.put('b', '1', { expectedBucketRevision: 0n })).revision, 1n)
})

test('a write that the server cannot answer has an unknown outcome, and is made once if it is repeated', async () => {
  await using nats = await startDomainNats()
  await using bus = await connect(nats)
  const bucket = await bus.openBucket(freshShape('file'), text)
  await bucket.put('a', '1')
  const options = { idempotencyKey: 'once', expectedBucketRevision: 1n }
  const outcome = bucket.put('a', '2', options).then(
    () => 'made',
    (error: unknown) => error,
  )
  await nats.kill()
  const first = await outcome
  assert(first === 'made' || first instanceof UnknownOutcomeError, String(first))
  await nats.start()
  await eventually(() =>
    bucket.put('a', '2', options).catch((error: unknown) => {
      if (error instanceof RevisionConflictError) return 'made before' as const
      throw error
    }),
  )
  assert.equal(await bucket.lastRevision(), 2n, 'it was made exactly once')
  assert.equal((await bucket.get('a'))?.value, '2')
})

test('a bucket that keeps every value loses none by writes, deletions, roll-ups, purges and time', async () => {
  await using nats = await startDomainNats()
  await using bus = await connect(nats)
  const shape = { ...freshShape('file'), keeps: 'every-value' } as const
  const bucket = await bus.openBucket(shape, text)
  await bucket.put('entry.a.1', 'first')
  await bucket.put('entry.a.1', 'overwritten')
  assert.equal((await bucket.get('entry.a.1'))?.value, 'overwritten')
  await assert.rejects(async () => bucket.delete('entry.a.1'), RangeError)
  const { connection } = (bus as NatsBus).host
  const subject = keySubject(shape.name, 'entry.a.1')
  for (const [name, value] of [
    ['Nats-Rollup', 'sub'],
    ['Nats-Rollup', 'all'],
    ['Nats-TTL', '1s'],
  ]) {
    const headers = writeHeaders({ [name ?? '']: value })
    const answer = (await connection.request(subject, 'x', { headers, timeout: 2000 })).json<{
      error?: object
    }>()
    assert(answer.error, `${name} ${value}`)
  }
  for (const call of ['PURGE', 'MSG.DELETE']) {
    const api = `$JS.API.STREAM.${call}.${streamName(shape.name)}`
    const answer = await connection.request(api, call === 'PURGE' ? '' : '{"seq":1}')
    assert(answer.json<{ error?: object }>().error, call)
  }
  const info = await connection.request(jetStreamApi.streamInfo(shape.name))
  assert.equal(info.json<{ state: { messages: number } }>().state.messages, 2)
})

test('connecting waits for a server, gives up in time, and stops by its signal', async () => {
  const servers = [`nats://127.0.0.1:${await freePort()}`]
  const bus = { jwt: 'none', seed: new Uint8Array(), inboxPrefix: '_INBOX.test' }
  const credentials = testDomain().credentials({ kind: 'service', id: 'config' }, { bus })
  await assert.rejects(
    connectBus({ servers, credentials, name: 'test', log, connectTimeoutMs: 50 }),
    UnavailableError,
  )
  const abort = new AbortController()
  const connecting = connectBus({
    servers,
    credentials,
    name: 'test',
    log,
    signal: abort.signal,
  })
  abort.abort()
  await assert.rejects(connecting, { code: 'cancelled' })
})

test('a bucket keeps its name and its values for a client that comes later', async () => {
  await using nats = await startDomainNats()
  const shape = freshShape('file')
  {
    await using bus = await connect(nats)
    await (await bus.openBucket(shape, text)).put('a', '1')
  }
  await nats.kill()
  await nats.start()
  await using bus = await connect(nats)
  const bucket: Bucket<string> = await bus.openBucket(shape, text)
  assert.equal((await bucket.get('a'))?.value, '1')
})

function connect(
  nats: TestDomainNats,
  options: { readonly watchHeartbeatMs?: number } = {},
): Promise<Bus> {
  const credentials = nats.wideCredentials()
  return connectBus({ servers: [nats.url], credentials, name: 'test', log, ...options })
}

async function deleteStream(nats: TestDomainNats, bucket: string): Promise<void> {
  await using bus = await connect(nats)
  await (bus as NatsBus).host.jetStream.deleteStream(bucket)
}
