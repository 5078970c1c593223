import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sourceOf } from './source.ts'

test('an IPv4 address is its own source, mapped into IPv6 as well', () => {
  assert.equal(sourceOf('192.0.2.7'), '192.0.2.7')
  assert.equal(sourceOf('::ffff:192.0.2.7'), '192.0.2.7')
  assert.equal(sourceOf('::ffff:c000:207'), '192.0.2.7')
})

test('all addresses of an IPv6 /64 are one source, those beside it are not', () => {
  assert.equal(sourceOf('2001:db8:1:2::7'), '2001:db8:1:2::/64')
  assert.equal(sourceOf('2001:db8:1:2:ffff:ffff:ffff:ffff'), '2001:db8:1:2::/64')
  assert.equal(sourceOf('2001:db8:1:3::7'), '2001:db8:1:3::/64')
  assert.equal(sourceOf('fe80::1%eth0'), 'fe80::/64')
})

test('what is no address stands for itself', () => {
  assert.equal(sourceOf('unix'), 'unix')
})
