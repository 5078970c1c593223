import assert from 'node:assert/strict'
import { test } from 'node:test'
import { PassedRevocations, type RevocationStatement } from './passed-revocations.ts'

function statement(number: number, keys: readonly string[], length = 200): RevocationStatement {
  return { number: BigInt(number), keys, bytes: new Uint8Array(length).fill(number) }
}

function numbers(passed: PassedRevocations): number[] {
  return passed.statements.map(([first]) => first ?? -1)
}

test('a statement is passed on once, and not again for being said of a later state', () => {
  const passed = new PassedRevocations()
  assert.equal(passed.take(statement(5, ['a', 'b'])), true)
  assert.equal(passed.take(statement(5, ['a', 'b'])), false)
  assert.equal(passed.take(statement(9, ['b', 'a'])), false)
  assert.deepEqual(numbers(passed), [5])
})

test('the newest come first, and what they name besides is left out', () => {
  const passed = new PassedRevocations()
  passed.take(statement(5, ['a', 'b']))
  assert.equal(passed.take(statement(7, ['b', 'c'])), true)
  assert.deepEqual(numbers(passed), [7, 5])
  assert.equal(passed.take(statement(8, ['a', 'b', 'd'])), true)
  assert.deepEqual(numbers(passed), [8, 7])
})

test('of an older state is passed on what newer ones leave out', () => {
  const passed = new PassedRevocations()
  passed.take(statement(7, ['b', 'c']))
  assert.equal(passed.take(statement(5, ['a', 'b'])), true)
  assert.deepEqual(numbers(passed), [7, 5])
})

test('what is too long for a frame between hosts is not passed on', () => {
  const passed = new PassedRevocations()
  assert.equal(passed.take(statement(1, ['a'], 1_025)), false)
  assert.equal(passed.take(statement(1, ['a'], 1_024)), true)
  assert.equal(passed.take(statement(2, [])), false)
})

test('no more than eight are kept, the newest', () => {
  const passed = new PassedRevocations()
  for (let number = 1; number <= 20; number++) passed.take(statement(number, [`key ${number}`]))
  assert.deepEqual(numbers(passed), [20, 19, 18, 17, 16, 15, 14, 13])
  assert.equal(passed.take(statement(3, ['key 3'])), false)
})
