import assert from 'node:assert/strict'
import test from 'node:test'
import { countCargoTests, formatCounts } from './counts.ts'

test('the results of several cargo test binaries add up', () => {
  const output = `
running 4 tests
test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
`
  assert.equal(formatCounts(countCargoTests(output)), '4 passed, 2 failed, 1 skipped')
})
