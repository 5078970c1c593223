import assert from 'node:assert/strict'
import test from 'node:test'
import { formatNotes, formatTable, judge, median, quantile, unjudged } from './result.ts'

const measured = {
  bench: 'tcp',
  unit: 'Gb/s',
  ours: 18,
  peers: { bridge: 15, veth: 20 },
  samples: 3,
}

test('a figure is held against the peer that the bar names', () => {
  assert.equal(judge(measured, { kind: 'at-least', value: 1.2, versus: 'bridge' }).pass, true)
  assert.equal(judge(measured, { kind: 'at-least', value: 0.93, versus: 'veth' }).pass, false)
  assert.equal(judge(measured, { kind: 'at-most', value: 1, versus: 'veth' }).ratio, 0.9)
  assert.throws(() => judge(measured, { kind: 'at-most', value: 1, versus: 'nobody' }), RangeError)
})

test('a bar without a peer is for the figure itself', () => {
  assert.equal(judge(measured, { kind: 'at-most', value: 17 }).pass, false)
  assert.equal(judge(measured, { kind: 'at-least', value: 18 }).pass, true)
})

test('medians and quantiles do not depend on the order', () => {
  assert.equal(median([3, 1, 2]), 2)
  assert.equal(median([4, 1, 2, 3]), 2.5)
  assert.equal(quantile([5, 1, 4, 2, 3], 0.99), 5)
  assert.equal(quantile([5, 1, 4, 2, 3], 0.5), 3)
  assert.throws(() => median([]), RangeError)
})

test('the table says what failed', () => {
  const table = formatTable([judge(measured, { kind: 'at-least', value: 2, versus: 'bridge' })])
  assert.match(
    table,
    /^tcp\s+18\.0 Gb\/s\s+bridge 15\.0, veth 20\.0\s+1\.20x\s+>= 2x bridge\s+FAIL$/m,
  )
})

test('peers alone are shown without a verdict', () => {
  const alone = { ...measured, ours: null }

  assert.match(formatTable([unjudged(alone)]), /^tcp\s+Gb\/s\s+bridge 15\.0, veth 20\.0$/m)
  assert.throws(() => judge(alone, { kind: 'at-least', value: 1, versus: 'veth' }), RangeError)
})

test('the notes say how many samples there were and what was offered', () => {
  const bar = { kind: 'at-least', value: 1 } as const
  const results = [judge(measured, bar), judge({ ...measured, offered: 'p50 17' }, bar)]

  assert.equal(formatNotes(results), '  tcp: n 3\n  tcp: n 3; p50 17')
})
