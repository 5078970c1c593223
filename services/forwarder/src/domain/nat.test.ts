import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseIpAddress } from '@weft/net'
import { natOf, natsPart, type Seen } from './nat.ts'

test('a host that is seen where it is has no NAT before it', () => {
  assert.equal(natOf([address('192.0.2.2')], []), 'none')
  assert.equal(natOf([address('192.0.2.2')], [seen('192.0.2.2', 500)]), 'none')
})

test('a NAT that shows two ports of one address gives every peer another one', () => {
  const own = [address('192.168.1.2')]
  assert.equal(natOf(own, [seen('192.0.2.2', 500)]), 'stable')
  assert.equal(natOf(own, [seen('192.0.2.2', 500), seen('192.0.2.3', 600)]), 'stable')
  assert.equal(natOf(own, [seen('192.0.2.2', 500), seen('192.0.2.2', 600)]), 'symmetric')
})

test('two hosts cannot meet if both are behind NATs and one of them gives every peer another port', () => {
  assert.equal(natsPart('symmetric', 'symmetric'), true)
  assert.equal(natsPart('stable', 'symmetric'), true)
  assert.equal(natsPart('symmetric', 'stable'), true)
  assert.equal(natsPart('stable', 'stable'), false)
  assert.equal(natsPart('symmetric', 'none'), false)
  assert.equal(natsPart('none', 'symmetric'), false)
})

function seen(text: string, port: number): Seen {
  return { address: address(text), port }
}

function address(text: string): Seen['address'] {
  const parsed = parseIpAddress(text)
  assert(parsed)
  return parsed
}
