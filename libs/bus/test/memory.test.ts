import assert from 'node:assert/strict'
import { test } from 'node:test'
import { UnavailableError } from '@weft/errors'
import { eventually } from '@weft/testing'
import { memoryBus } from '../src/index.ts'
import { collect, freshShape, testBus } from './conformance.ts'
import { text } from './text-codec.ts'

const hub = memoryBus()

testBus('the bus in memory', async () => hub.connect())

test('a bucket that is lost resets its watches, and writes that expect its past are refused', async () => {
  const bus = memoryBus()
  const shape = freshShape()
  const bucket = await bus.connect().openBucket(shape, text)
  await bucket.put('a', '1')
  await using watch = collect(bucket, '')
  await eventually(() => watch.snapshots === 1)
  bus.dropBucket(shape.name)
  await eventually(() => watch.snapshots === 2)
  assert.deepEqual(watch.events.slice(2), [
    { kind: 'reset', reason: 'recreated' },
    { kind: 'snapshot-end', revision: 0n },
  ])
  await assert.rejects(bucket.put('a', '2', { expectedBucketRevision: 1n }), {
    code: 'revision-conflict',
  })
})

test('a bus that cannot be reached refuses, and its watches go on when it is back', async () => {
  const bus = memoryBus()
  const client = bus.connect()
  const bucket = await client.openBucket(freshShape(), text)
  await using watch = collect(bucket, '')
  await eventually(() => watch.snapshots === 1)
  bus.setReachable(false)
  assert.equal(client.state, 'disconnected')
  await assert.rejects(bucket.put('a', '1'), UnavailableError)
  bus.setReachable(true)
  await bucket.put('a', '1')
  await eventually(() => watch.last('a')?.kind === 'put')
})

test('who may only watch is told after each interruption that something was missed, and everything', async () => {
  const bus = memoryBus()
  const client = bus.connect()
  const shape = freshShape()
  const bucket = await client.openBucket(shape, text)
  await bucket.put('a', '1')
  await using watch = collect(await client.openBucket(shape, text, { access: 'watch' }), '')
  await eventually(() => watch.snapshots === 1)
  bus.setReachable(false)
  bus.setReachable(true)
  await eventually(() => watch.snapshots === 2)
  assert.deepEqual(watch.events.slice(2), [
    { kind: 'reset', reason: 'missed' },
    { kind: 'put', key: 'a', value: '1', revision: 1n },
    { kind: 'snapshot-end', revision: 1n },
  ])
})
