import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { LEAP_MAX_MS, RightsClock } from './rights-clock.ts'

const HOUR = 3_600_000
const YEAR = 365 * 24 * HOUR
const START = 50 * YEAR

test('a clock that goes right is followed', () => {
  const clock = new RightsClock(START, START + HOUR, 0)

  assert.equal(clock.at(START + 2 * HOUR, HOUR), START + 2 * HOUR)
})

test('a clock that is set back extends nothing: time goes on', () => {
  const clock = new RightsClock(START, START, 0)
  clock.at(START + 10 * HOUR, 10 * HOUR)

  for (const back of [HOUR, 10 * YEAR]) {
    assert.equal(clock.at(START - back, 11 * HOUR), START + 11 * HOUR)
  }
})

test('a clock that was set back while nothing ran is not before what is on disk', () => {
  const clock = new RightsClock(START, START - 10 * YEAR, 0)

  assert.equal(clock.at(START - 10 * YEAR, HOUR), START + HOUR)
})

test('a clock that leaps ahead by years is not believed, and goes on when it is right again', () => {
  const clock = new RightsClock(START, START, 0)

  assert.equal(clock.at(START + 10 * YEAR, HOUR / 12), START + HOUR / 12)
  assert.equal(clock.at(START + HOUR, HOUR), START + HOUR)
})

test('a machine that slept finds its rights over', () => {
  const clock = new RightsClock(START, START, 0)

  assert.equal(clock.at(START + 200 * HOUR, 200 * HOUR), START + 200 * HOUR)
})

test('a machine that was off for long finds its rights over', () => {
  const clock = new RightsClock(START, START + 200 * HOUR, 0)

  assert.equal(clock.at(START + 201 * HOUR, HOUR), START + 201 * HOUR)
})

test('a machine that starts with a clock ten years ahead is healed when the clock is', () => {
  const clock = new RightsClock(START, START + 10 * YEAR, 0)
  assert.equal(clock.at(START + 10 * YEAR, 1), START + 10 * YEAR)

  assert.equal(clock.at(START + HOUR, HOUR / 2), START + HOUR)
  assert.equal(clock.floorMs, START + HOUR)
})

test('what the control plane signed lifts a clock that is behind', () => {
  const clock = new RightsClock(START, START - YEAR, 0)

  clock.noteSigned(START + 20 * HOUR)

  assert.equal(clock.at(START - YEAR, HOUR), START + 21 * HOUR)
})

test('whatever the wall clock does, the floor never falls behind the time that has passed', () => {
  const step = fc.record({
    passedMs: fc.integer({ min: 0, max: 100 * HOUR }),
    skewMs: fc.integer({ min: -20 * YEAR, max: 20 * YEAR }),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const clock = new RightsClock(START, START, 0)
      let uptimeMs = 0
      for (const { passedMs, skewMs } of steps) {
        uptimeMs += passedMs
        const now = clock.at(START + uptimeMs + skewMs, uptimeMs)
        assert(now >= START + uptimeMs)
        assert(now <= START + uptimeMs + LEAP_MAX_MS * steps.length)
        assert(clock.floorMs >= START + uptimeMs)
      }
    }),
  )
})
