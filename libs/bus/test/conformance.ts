import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import {
  AddressTakenError,
  DeadlineExceededError,
  LimitReachedError,
  MessageTooLargeError,
  RevisionConflictError,
  UnavailableError,
} from '@weft/errors'
import { eventually } from '@weft/testing'
import {
  type BucketShape,
  type Bus,
  buckets,
  type Codec,
  events,
  type WatchEvent,
  type WatchedBucket,
} from '../src/index.ts'
import { text } from './text-codec.ts'

/** What every bus must do, whatever carries it. `connect` makes one more client of the same bus. */
export function testBus(name: string, connect: () => Promise<Bus>): void {
  describe(name, () => {
    const texts = { request: text, reply: text }

    test('a published message reaches every subscriber, and one of each queue', async () => {
      await using bus = await connect()
      const got: string[] = []
      await using _all = bus.subscribe(events.endpointMoved.pattern(), text, (message) => {
        got.push(`all ${message}`)
      })
      for (const member of ['a', 'b']) {
        bus.subscribe(
          events.endpointMoved.pattern({ sender: 's' }),
          text,
          (message) => {
            got.push(`queue ${message} ${member}`)
          },
          { queue: 'q' },
        )
      }
      // A server answers a request only after it has taken the subscriptions before it.
      await probe(bus)
      bus.publish(events.endpointMoved.subject('s', 1), text, 'x')
      bus.publish(events.endpointMoved.subject('other', 1), text, 'y')
      await eventually(() => got.length >= 3)
      const of = (start: string): number => got.filter((one) => one.startsWith(start)).length
      assert.deepEqual([of('all x'), of('all y'), of('queue x'), of('queue y')], [1, 1, 1, 0])
    })

    test('the server answers a ping, until the bus is closed', async () => {
      const bus = await connect()
      await bus.ping({ timeoutMs: 5_000 })
      await bus[Symbol.asyncDispose]()
      await assert.rejects(bus.ping(), UnavailableError)
    })

    test('a request is answered, with the subject that was asked', async () => {
      await using bus = await connect()
      await using _responder = bus.respond(
        events.hostRenewed.pattern({ sender: 'answers' }),
        texts,
        async (message, { subject }) => `${message} on ${events.hostRenewed.parse(subject)?.id}`,
      )
      await probe(bus)
      const answer = await bus.request(events.hostRenewed.subject('answers', 7), texts, 'hello')
      assert.equal(answer, 'hello on 7')
    })

    test('an error of a responder reaches the caller as the same class', async () => {
      await using bus = await connect()
      await using _responder = bus.respond(
        events.hostRenewed.pattern({ sender: 'fails' }),
        texts,
        () => {
          throw new AddressTakenError({ address: '10.0.0.5', network: 'blue', holder: 'web' })
        },
      )
      await probe(bus)
      await assert.rejects(
        bus.request(events.hostRenewed.subject('fails', 7), texts, ''),
        (error) => {
          assert(error instanceof AddressTakenError)
          assert.equal(error.facts['holder'], 'web')
          return true
        },
      )
    })

    test('a request that nobody hears fails as unavailable, one that is not answered by its deadline', async () => {
      await using bus = await connect()
      await assert.rejects(
        bus.request(events.hostRenewed.subject('nobody', 1), texts, ''),
        UnavailableError,
      )
      const never = Promise.withResolvers<string>()
      await using _silent = bus.respond(
        events.hostRenewed.pattern({ sender: 'silent' }),
        texts,
        () => never.promise,
      )
      await probe(bus)
      await assert.rejects(
        bus.request(events.hostRenewed.subject('silent', 1), texts, '', { timeoutMs: 50 }),
        DeadlineExceededError,
      )
      never.resolve('')
    })

    test('an oversized message is refused before it is sent', async () => {
      await using bus = await connect()
      const large = 'x'.repeat(256 * 1024 + 1)
      assert.throws(
        () => bus.publish(events.hostRenewed.subject(1, 1), text, large),
        MessageTooLargeError,
      )
      const bucket = await bus.openBucket(freshShape(), text)
      await assert.rejects(async () => bucket.put('a', 'x'.repeat(64 * 1024 + 1)), {
        code: 'message-too-large',
      })
    })

    test('a value is read back with the revision of its write, until it is deleted', async () => {
      await using bus = await connect()
      const bucket = await bus.openBucket(freshShape(), text)
      assert.equal(await bucket.lastRevision(), 0n)
      assert.equal(await bucket.get('a.b'), undefined)
      const { revision } = await bucket.put('a.b', 'one')
      assert.equal(revision, 1n)
      assert.deepEqual(await bucket.get('a.b'), { key: 'a.b', value: 'one', revision: 1n })
      assert.deepEqual(await bucket.delete('a.b'), { revision: 2n, isDuplicate: false })
      assert.equal(await bucket.get('a.b'), undefined)
      assert.equal(await bucket.lastRevision(), 2n)
    })

    test('a write that expects the revision of the whole bucket is refused after any other write', async () => {
      await using bus = await connect()
      const bucket = await bus.openBucket(freshShape(), text)
      await bucket.put('a', '1', { expectedBucketRevision: 0n })
      await bucket.put('b', '1', { expectedBucketRevision: 1n })
      await assert.rejects(bucket.put('a', '2', { expectedBucketRevision: 1n }), (error) => {
        assert(error instanceof RevisionConflictError)
        assert.equal(error.facts['expected'], '1')
        assert.equal(error.facts['actual'], '2')
        return true
      })
      await assert.rejects(
        bucket.put('c', '1', { expectedBucketRevision: 0n }),
        RevisionConflictError,
      )
      assert.equal(await bucket.lastRevision(), 2n, 'a refused write takes no revision')
    })

    test('of many writers that expect the same revision exactly one succeeds', async () => {
      await using bus = await connect()
      const shape = freshShape()
      const clients = await Promise.all(
        Array.from({ length: 4 }, async () => (await connect()).openBucket(shape, text)),
      )
      const bucket = await bus.openBucket(shape, text)
      const outcomes = await Promise.allSettled(
        Array.from({ length: 20 }, (_, index) => {
          const client = clients[index % clients.length] ?? bucket
          return client.put(`k${index}`, 'x', { expectedBucketRevision: 0n })
        }),
      )
      assert.equal(outcomes.filter(({ status }) => status === 'fulfilled').length, 1)
      assert.equal(await bucket.lastRevision(), 1n)
    })

    test('a write that expects the revision of its key is refused after a write to that key only', async () => {
      await using bus = await connect()
      const bucket = await bus.openBucket(freshShape(), text)
      await bucket.put('a', '1', { expectedKeyRevision: 0n })
      await bucket.put('b', '1')
      await assert.rejects(bucket.put('a', 'x', { expectedKeyRevision: 0n }), RevisionConflictError)
      await bucket.put('a', '2', { expectedKeyRevision: 1n })
      await assert.rejects(bucket.delete('a', { expectedKeyRevision: 1n }), RevisionConflictError)
      await bucket.delete('a', { expectedKeyRevision: 3n })
      const { revision } = await bucket.put('a', '3', { expectedKeyRevision: 0n })
      assert.equal(revision, 5n, 'a deleted key is as good as none')
    })

    test('a write with a known idempotency key is not made again, and what it expects comes first', async () => {
      await using bus = await connect()
      const bucket = await bus.openBucket(freshShape(), text)
      const idempotencyKey = 'k1'
      assert.deepEqual(await bucket.put('a', '1', { idempotencyKey, expectedBucketRevision: 0n }), {
        revision: 1n,
        isDuplicate: false,
      })
      await bucket.put('b', '1')
      assert.deepEqual(await bucket.put('a', '1', { idempotencyKey }), {
        revision: 1n,
        isDuplicate: true,
      })
      await assert.rejects(
        bucket.put('a', '1', { idempotencyKey, expectedBucketRevision: 0n }),
        RevisionConflictError,
      )
      assert.equal(await bucket.lastRevision(), 2n)
    })

    test('a full bucket refuses what is more', async () => {
      await using bus = await connect()
      const bucket = await bus.openBucket({ ...freshShape(), sizeMaxBytes: 4096 }, text)
      await assert.rejects(async () => {
        for (let index = 0; index < 10; index++) await bucket.put(`k${index}`, 'x'.repeat(1000))
      }, LimitReachedError)
    })

    test('a watch tells what is there, ends the snapshot, then tells changes in order', async () => {
      await using bus = await connect()
      const bucket = await bus.openBucket(freshShape(), text)
      await bucket.put('host.1.a', '1')
      await bucket.put('host.1.b', '1')
      await bucket.put('host.10.a', 'of another host')
      await bucket.delete('host.1.b')
      await using watch = collect(bucket, 'host.1')
      await eventually(() => watch.snapshots === 1)
      await bucket.put('host.1.c', '2')
      await bucket.put('host.10.c', 'of another host')
      await bucket.delete('host.1.a')
      await eventually(() => watch.events.length === 4)
      assert.deepEqual(watch.events, [
        { kind: 'put', key: 'host.1.a', value: '1', revision: 1n },
        { kind: 'snapshot-end', revision: 4n },
        { kind: 'put', key: 'host.1.c', value: '2', revision: 5n },
        { kind: 'delete', key: 'host.1.a', revision: 7n },
      ])
    })

    test('a watch of an empty prefix ends its snapshot at once', async () => {
      await using bus = await connect()
      const bucket = await bus.openBucket(freshShape(), text)
      await using watch = collect(bucket, 'nothing.here')
      await eventually(() => watch.snapshots === 1)
      assert.deepEqual(watch.events, [{ kind: 'snapshot-end', revision: 0n }])
    })

    test('a watch that is aborted while it begins ends', { timeout: 20_000 }, async () => {
      await using bus = await connect()
      const bucket = await bus.openBucket(freshShape(), text)
      for (let turns = 0; turns < 50; turns++) {
        await using _watch = collect(bucket, '')
        for (let turn = 0; turn < turns; turn++) await new Promise(setImmediate)
      }
    })

    test('a burst of 5,000 changes arrives whole, in order and in batches', async () => {
      await using bus = await connect()
      const bucket = await bus.openBucket(freshShape(), text)
      await using watch = collect(bucket, '')
      await eventually(() => watch.snapshots === 1)
      const count = 5000
      await Promise.all(Array.from({ length: count }, (_, index) => bucket.put(`k.${index}`, 'x')))
      await eventually(() => watch.events.length === count + 1)
      const revisions = watch.events.slice(1).map((event) => 'revision' in event && event.revision)
      assert.deepEqual(
        revisions,
        Array.from({ length: count }, (_, index) => BigInt(index + 1)),
      )
      assert(watch.batchCount < count / 2, `${watch.batchCount} batches`)
      await using later = collect(bucket, 'k')
      await eventually(() => later.snapshots === 1)
      assert.equal(later.events.length, count + 1)
    })

    test('a reader that is slow gets everything', async () => {
      await using bus = await connect()
      const bucket = await bus.openBucket(freshShape(), text)
      const count = 3000
      const value = 'x'.repeat(1000)
      await Promise.all(Array.from({ length: count }, (_, index) => bucket.put(`k${index}`, value)))
      const abort = new AbortController()
      let puts = 0
      for await (const batch of bucket.watch('', { signal: abort.signal })) {
        puts += batch.filter(({ kind }) => kind === 'put').length
        await delay(20)
        if (batch.some(({ kind }) => kind === 'snapshot-end')) abort.abort()
      }
      assert.equal(puts, count)
    })

    test('who may only watch is told the same, and never asks for more', async () => {
      await using bus = await connect()
      const shape = freshShape()
      const bucket = await bus.openBucket(shape, text)
      await bucket.put('host.1.a', '1')
      const watched = await bus.openBucket(shape, text, { access: 'watch' })
      assert(!('put' in watched) && !('get' in watched))
      await using watch = collect(watched, 'host.1')
      await eventually(() => watch.snapshots === 1)
      await bucket.put('host.1.b', '2')
      await bucket.delete('host.1.a')
      await eventually(() => watch.events.length === 4)
      assert.deepEqual(watch.events, [
        { kind: 'put', key: 'host.1.a', value: '1', revision: 1n },
        { kind: 'snapshot-end', revision: 1n },
        { kind: 'put', key: 'host.1.b', value: '2', revision: 2n },
        { kind: 'delete', key: 'host.1.a', revision: 3n },
      ])
    })

    test('nothing is deleted from a bucket that keeps every value', async () => {
      await using bus = await connect()
      const bucket = await bus.openBucket({ ...freshShape(), keeps: 'every-value' }, text)
      await bucket.put('a', '1')
      await assert.rejects(async () => bucket.delete('a'), RangeError)
      assert.equal((await bucket.get('a'))?.value, '1')
    })

    test('a value that cannot be read is told as damaged, and the watch goes on', async () => {
      await using bus = await connect()
      const shape = freshShape()
      const bucket = await bus.openBucket(shape, text)
      await bucket.put('a', 'good')
      await bucket.put('b', 'damaged')
      await using watch = collect(await bus.openBucket(shape, picky), '')
      await eventually(() => watch.snapshots === 1)
      await bucket.put('a', 'damaged')
      await bucket.put('b', 'good')
      await eventually(() => watch.last('b')?.kind === 'put')
      assert.deepEqual(
        watch.events.map((event) => ('key' in event ? `${event.kind} ${event.key}` : event.kind)),
        ['put a', 'damaged b', 'snapshot-end', 'damaged a', 'put b'],
      )
    })

    test('an aborted watch ends without an error', async () => {
      await using bus = await connect()
      const bucket = await bus.openBucket(freshShape(), text)
      const abort = new AbortController()
      const ended = (async () => {
        for await (const _batch of bucket.watch('', { signal: abort.signal })) abort.abort()
      })()
      await ended
    })

    test('a closed bus refuses work and says so', async () => {
      const bus = await connect()
      const states: string[] = []
      bus.onStateChange((state) => states.push(state))
      await bus[Symbol.asyncDispose]()
      assert.equal(bus.state, 'closed')
      assert.deepEqual(states, ['closed'])
      assert.throws(() => bus.publish(events.hostRenewed.subject(1, 1), text, ''), UnavailableError)
      await assert.rejects(bus.openBucket(freshShape(), text), UnavailableError)
    })
  })
}

/** Reads everything but one word. */
const picky: Codec<string> = {
  encode: (message) => text.encode(message),
  decode(bytes) {
    const message = text.decode(bytes)
    if (message === 'damaged') throw new RangeError('this makes no sense')
    return message
  },
}

/** A bucket that no other test has. */
export function freshShape(storage: BucketShape['storage'] = 'memory'): BucketShape {
  return { ...buckets.hosts, storage, name: randomUUID(), sizeMaxBytes: 64 * 1024 * 1024 }
}

export interface Collected extends AsyncDisposable {
  readonly events: WatchEvent<string>[]
  readonly batchCount: number
  readonly snapshots: number
  /** The last put or deletion of a key. */
  last(key: string): WatchEvent<string> | undefined
}

/** Watches in the background. */
export function collect(
  bucket: WatchedBucket<string>,
  prefix: string,
  known?: () => bigint,
): Collected {
  const abort = new AbortController()
  const found: WatchEvent<string>[] = []
  let batchCount = 0
  const ended = (async () => {
    for await (const batch of bucket.watch(prefix, { signal: abort.signal, known })) {
      batchCount++
      found.push(...batch)
    }
  })()
  return {
    events: found,
    get batchCount() {
      return batchCount
    },
    get snapshots() {
      return found.filter(({ kind }) => kind === 'snapshot-end').length
    },
    last: (key) => found.findLast((event) => 'key' in event && event.key === key),
    async [Symbol.asyncDispose]() {
      abort.abort()
      await ended
    },
  }
}

/** Resolves when the server has taken everything that was sent before. */
async function probe(bus: Bus): Promise<void> {
  const subject = events.rulesChanged.subject('probe', 1)
  await assert.rejects(bus.request(subject, { request: text, reply: text }, ''), UnavailableError)
}
