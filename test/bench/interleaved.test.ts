import assert from 'node:assert/strict'
import test from 'node:test'
import { interleaved, mediansOf } from './interleaved.ts'

/** Contenders that give 1, 2, 3… in the order in which they are measured, and that order. */
function inOrder(...names: string[]) {
  const order: string[] = []
  const contenders = names.map((name) => ({ name, measure: async () => order.push(name) }))
  return { order, contenders }
}

test('each round begins with another contender, and all are in each', async () => {
  const { order, contenders } = inOrder('a', 'b', 'c')

  const samples = await interleaved(contenders, { runs: 4, signal: new AbortController().signal })

  assert.equal(order.join(''), 'abcbcacababc')
  assert.deepEqual(samples, { a: [1, 6, 8, 10], b: [2, 4, 9, 11], c: [3, 5, 7, 12] })
  assert.deepEqual(
    mediansOf(samples, (value) => -value),
    { a: -7, b: -6.5, c: -6 },
  )
})

test('a comparison that is ended measures nothing more', async () => {
  const { order, contenders } = inOrder('a', 'b')
  const ended = new AbortController()
  contenders.push({
    name: 'c',
    measure: async () => order.push('c') + Number(ended.abort('enough')),
  })

  await assert.rejects(interleaved(contenders, { runs: 2, signal: ended.signal }), /enough/)

  assert.equal(order.join(''), 'abc')
})
