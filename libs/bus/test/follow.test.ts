import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Bucket, BucketCopy, WatchBatch, WatchEvent } from '../src/index.ts'
import { follow } from '../src/index.ts'

test('the copy is filled by the snapshot and stays in step', async () => {
  const copy = new Copy()
  const script = new Script([put('a', 1n), put('b', 2n), { kind: 'snapshot-end', revision: 2n }])
  await using _following = await follow(script, copy)
  assert.deepEqual(copy.values, { a: 1n, b: 2n })

  await script.play([put('c', 3n), { kind: 'delete', key: 'a', revision: 4n }])

  assert.deepEqual(copy.values, { b: 2n, c: 3n })
  assert.deepEqual(copy.revisions, [2n, 4n])
})

test('what was deleted while changes were missed is deleted from the copy', async () => {
  const copy = new Copy()
  const script = new Script([put('a', 1n), put('b', 2n), { kind: 'snapshot-end', revision: 2n }])
  await using _following = await follow(script, copy)

  await script.play([{ kind: 'reset', reason: 'missed' }, put('b', 2n)])
  assert.deepEqual(copy.values, { a: 1n, b: 2n })
  await script.play([{ kind: 'snapshot-end', revision: 9n }])

  assert.deepEqual(copy.values, { b: 2n })
  assert.deepEqual(copy.revisions, [2n, 9n])
})

test('what a bucket lost stays in the copy', async () => {
  for (const reason of ['recreated', 'rewound'] as const) {
    const copy = new Copy()
    const script = new Script([put('a', 1n), put('b', 2n), { kind: 'snapshot-end', revision: 2n }])
    await using _following = await follow(script, copy)

    await script.play([{ kind: 'reset', reason }, put('c', 1n)])
    assert.deepEqual(copy.revisions, [2n])
    await script.play([{ kind: 'snapshot-end', revision: 1n }])

    assert.deepEqual(copy.values, { a: 1n, b: 2n, c: 1n })
    assert.deepEqual(copy.resets, [reason])
    assert.deepEqual(copy.revisions, [2n, 1n])
  }
})

test('a value that cannot be read is there for the copy, and not deleted by the next snapshot', async () => {
  const copy = new Copy()
  const script = new Script([put('a', 1n), { kind: 'snapshot-end', revision: 1n }])
  await using _following = await follow(script, copy)

  await script.play([{ kind: 'damaged', key: 'a', revision: 2n }])
  await script.play([
    { kind: 'reset', reason: 'missed' },
    { kind: 'damaged', key: 'a', revision: 2n },
    { kind: 'snapshot-end', revision: 2n },
  ])

  assert.deepEqual(copy.values, { a: 1n })
  assert.deepEqual(copy.damagedKeys, ['a', 'a'])
  assert.deepEqual(copy.revisions, [1n, 2n, 2n])
})

test('a copy that cannot be filled fails with the reason', async () => {
  const copy = new Copy()
  copy.put = () => {
    throw new RangeError('too much')
  }

  await assert.rejects(follow(new Script([put('a', 1n)]), copy), RangeError)
})

/** Remembers what it was told. */
class Copy implements BucketCopy<string> {
  readonly values: { [key: string]: bigint } = {}
  readonly revisions: bigint[] = []
  readonly resets: string[] = []
  readonly damagedKeys: string[] = []

  put({ key, revision }: { key: string; revision: bigint }): void {
    this.values[key] = revision
  }

  delete(key: string): void {
    delete this.values[key]
  }

  damaged(key: string): void {
    this.damagedKeys.push(key)
  }

  keys(): Iterable<string> {
    return Object.keys(this.values)
  }

  reset(reason: string): void {
    this.resets.push(reason)
  }

  caughtUp(revision: bigint): void {
    this.revisions.push(revision)
  }
}

/** A watch that tells what the test wants, since a real one misses changes or loses its bucket only by chance. */
class Script implements Pick<Bucket<string>, 'watch'> {
  #next: PromiseWithResolvers<WatchBatch<string>> = Promise.withResolvers()
  #taken: PromiseWithResolvers<void> = Promise.withResolvers()

  constructor(first: WatchBatch<string>) {
    this.#next.resolve(first)
  }

  /** Resolves when the batch was handled. */
  async play(batch: WatchBatch<string>): Promise<void> {
    this.#taken = Promise.withResolvers()
    this.#next.resolve(batch)
    await this.#taken.promise
  }

  async *watch(_prefix: string, { signal }: { signal: AbortSignal }) {
    const { promise: stopped, resolve: stop } = Promise.withResolvers<undefined>()
    signal.addEventListener('abort', () => stop(undefined))
    for (;;) {
      const batch = await Promise.race([this.#next.promise, stopped])
      if (batch === undefined) return
      this.#next = Promise.withResolvers()
      yield batch
      this.#taken.resolve()
    }
  }
}

function put(key: string, revision: bigint): WatchEvent<string> {
  return { kind: 'put', key, value: '', revision }
}
