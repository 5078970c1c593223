import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Attempts, SOURCES_MAX } from './attempts.ts'

test('a source that fails again and again is served more and more slowly, others as before', () => {
  const attempts = new Attempts()
  for (let count = 0; count < 20; count++) {
    assert.equal(attempts.waitMs('192.0.2.1:4000', 0), 0)
    attempts.failed(`192.0.2.1:${count}`, 0)
  }
  assert.equal(attempts.waitMs('192.0.2.1:4000', 0), 3_000)
  assert.equal(attempts.waitMs('192.0.2.1:4000', 2_000), 1_000)
  assert.equal(attempts.waitMs('192.0.2.1:4000', 3_000), 0)
  assert.equal(attempts.waitMs('192.0.2.2:4000', 0), 0)
})

test('who makes no mistakes is never slowed down', () => {
  assert.equal(new Attempts().waitMs('192.0.2.1:1', 0), 0)
})

test('all addresses of an IPv6 /64 are one source', () => {
  const attempts = new Attempts()
  for (let count = 0; count < 20; count++) attempts.failed(`[2001:db8::${count}]:4000`, 0)
  assert.ok(attempts.waitMs('[2001:db8:0:0:ffff::1]:1', 0) > 0)
  assert.equal(attempts.waitMs('[2001:db8:0:1::1]:1', 0), 0)
})

test('the number of sources that are remembered is bounded', () => {
  const attempts = new Attempts()
  for (let count = 0; count < SOURCES_MAX + 10; count++) attempts.failed(`host-${count}:1`, count)
  assert.equal(attempts.size, SOURCES_MAX)
})
