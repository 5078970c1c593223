import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatIpAddress, type IpAddress, parseIpAddress } from '@weft/net'
import { candidatesForClients } from './clients.ts'
import type { Seen } from './nat.ts'
import type { Self } from './rows.ts'
import { selfOf } from './samples.ts'

const mapped = { address: address('203.0.113.7'), port: 4500, kind: 'configured' } as const
const seenOutside = { address: address('203.0.113.7'), port: 31_234 }

test('a stranger is sent to what an operator said, then to the own addresses', () => {
  const self = { ...selfOf(), configured: [mapped] }
  assert.deepEqual(texts(self), ['203.0.113.7:4500 configured', '192.0.2.1:61820 own'])
  assert.deepEqual(texts(selfOf()), ['192.0.2.1:61820 own'])
})

test('a host that others see at its own address is reached there', () => {
  const seen = [{ address: address('192.0.2.1'), port: 61_820 }]
  assert.deepEqual(texts(selfOf(), seen), ['192.0.2.1:61820 own'])
})

test('behind a NAT nobody is sent to own addresses, nor to where peers see the host', () => {
  assert.deepEqual(texts(selfOf(), [seenOutside]), [])
})

test('a port that a NAT leads to the host is where it is reached', () => {
  const self = { ...selfOf(), configured: [mapped] }
  const elsewhere = { address: address('198.51.100.9'), port: 1 }
  assert.deepEqual(texts(self, [elsewhere]), ['203.0.113.7:4500 configured'])
})

function texts(self: Self, seen: readonly Seen[] = []): string[] {
  return candidatesForClients(self, seen).map(
    (one) => `${formatIpAddress(one.address)}:${one.port} ${one.kind}`,
  )
}

function address(text: string): IpAddress {
  const parsed = parseIpAddress(text)
  assert(parsed)
  return parsed
}
