import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createLogger } from '@weft/telemetry'
import { SUBSCRIPTION_PENDING_MAX_BYTES } from './bus.ts'
import { HandlerQueue } from './handler-queue.ts'

const log = createLogger({ service: 'test', level: 'silent' })

test('handlers run some at once, in order, and all of them before it is settled', async () => {
  const running = new Set<number>()
  let runningMax = 0
  const started: number[] = []
  const queue = new HandlerQueue<number>(
    'p',
    async (message) => {
      started.push(message)
      running.add(message)
      runningMax = Math.max(runningMax, running.size)
      await new Promise(setImmediate)
      running.delete(message)
      if (message === 3) throw new Error('does not stop the others')
    },
    { concurrency: 2 },
    log,
  )
  for (let message = 0; message < 10; message++) queue.push(message, 1)
  await queue.settled()
  assert.deepEqual(started, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
  assert.equal(runningMax, 2)
  assert.equal(running.size, 0)
})

test('what exceeds the bound is dropped, and told once the backlog is gone', async () => {
  const handled: number[] = []
  let overflows = 0
  const gate = Promise.withResolvers<void>()
  const queue = new HandlerQueue<number>(
    'p',
    async (message) => {
      await gate.promise
      handled.push(message)
    },
    {
      concurrency: 1,
      onOverflow: () => {
        overflows++
        assert.deepEqual(handled, [0, 1, 2])
      },
    },
    log,
  )
  for (let message = 0; message < 6; message++) {
    queue.push(message, SUBSCRIPTION_PENDING_MAX_BYTES / 2)
  }
  gate.resolve()
  await queue.settled()
  assert.equal(overflows, 1)
  queue.push(6, 1)
  await queue.settled()
  assert.deepEqual(handled, [0, 1, 2, 6])
})
