import assert from 'node:assert/strict'
import { test } from 'node:test'
import { OverloadedError } from '@weft/errors'
import { ChangeFeed, WATCHERS_PER_CALLER_MAX } from './change-feed.ts'

const blue = 1
const red = 2
const acme = 900

test('a slow watcher takes every endpoint once, however often it was touched', async () => {
  const feed = new ChangeFeed()
  const watcher = feed.watch(0, 'user/7', new AbortController().signal)

  for (const endpointId of [11, 12, 11, 11]) feed.touch(endpointId, blue, acme)

  assert.deepEqual(
    await watcher.take(),
    new Map([
      [11, acme],
      [12, acme],
    ]),
  )
})

test('a watcher of one network hears nothing of another', async () => {
  const feed = new ChangeFeed()
  const watcher = feed.watch(blue, 'user/7', new AbortController().signal)

  feed.touch(21, red, acme)
  feed.touch(11, blue, acme)

  assert.deepEqual(await watcher.take(), new Map([[11, acme]]))
})

test('whose an endpoint was is known of the touch before, when it is gone', async () => {
  const feed = new ChangeFeed()
  const watcher = feed.watch(0, 'user/7', new AbortController().signal)

  feed.touch(11, blue, acme)
  feed.touch(11, blue, undefined)

  assert.deepEqual(await watcher.take(), new Map([[11, acme]]))
})

test('a watcher that waits is woken by a touch', async () => {
  const feed = new ChangeFeed()
  const taken = feed.watch(0, 'user/7', new AbortController().signal).take()

  feed.touch(11, blue, acme)

  assert.deepEqual(await taken, new Map([[11, acme]]))
})

test('an aborted watcher takes nothing more and makes room for another', async () => {
  const feed = new ChangeFeed()
  const stop = new AbortController()
  const watchers = Array.from({ length: 1024 }, (_, index) =>
    feed.watch(0, `user/${index}`, stop.signal),
  )
  assert.throws(() => feed.watch(0, 'user/9999', stop.signal), OverloadedError)
  const taken = watchers[0]?.take()

  stop.abort()

  assert.equal(await taken, undefined)
  feed.watch(0, 'user/7', new AbortController().signal)
})

test('a watcher that waits is woken to judge its rights again, with nothing touched', async () => {
  const feed = new ChangeFeed()
  const watcher = feed.watch(blue, 'user/7', new AbortController().signal)
  const taken = watcher.take()

  feed.stir()

  assert.deepEqual(await taken, new Map())
})

test('a caller who watches too often is refused, alone, until a watch ends', () => {
  const feed = new ChangeFeed()
  const stops = Array.from({ length: WATCHERS_PER_CALLER_MAX }, () => new AbortController())
  for (const { signal } of stops) feed.watch(0, 'user/7', signal)
  const { signal } = new AbortController()

  assert.throws(() => feed.watch(0, 'user/7', signal), OverloadedError)

  feed.watch(0, 'user/8', signal)
  stops[3]?.abort()
  feed.watch(0, 'user/7', signal)
  assert.throws(() => feed.watch(0, 'user/7', signal), OverloadedError)
})
