import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { formatIpAddress, parseIpAddress } from './ip.ts'
import {
  addressCount,
  addressesOf,
  assignableRange,
  canonical,
  contains,
  containsPrefix,
  formatPrefix,
  gatewayAddress,
  isAssignable,
  isCanonical,
  overlaps,
  type Prefix,
  parsePrefix,
  prefixFromBytes,
} from './prefix.ts'

// Small, so that they often overlap: 10.0.0.0/24 and longer.
const smallPrefixes = fc
  .record({ last: fc.bigInt({ min: 0n, max: 255n }), lengthBits: fc.integer({ min: 24, max: 32 }) })
  .map(({ last, lengthBits }) =>
    canonical({ address: { family: 4, value: (10n << 24n) | last }, lengthBits }),
  )

describe('a prefix', () => {
  test('survives text, also with host bits', () => {
    for (const text of [
      '10.20.0.0/16',
      '10.20.0.1/16',
      '0.0.0.0/0',
      'fd20::/64',
      '::/0',
      '1::1/128',
    ]) {
      assert.equal(formatPrefix(prefix(text)), text)
    }
  })

  test('is refused in every broken form', () => {
    for (const text of [
      '',
      '/',
      '10.0.0.0',
      '10.0.0.0/',
      '10.0.0.0/33',
      '10.0.0.0/08',
      '10.0.0/8',
      'fd::/129',
      '10.0.0.0/-1',
      '10.0.0.0/8/8',
      '10.0.0.0/1e1',
    ]) {
      assert.equal(parsePrefix(text), undefined, text)
    }
    assert.equal(prefixFromBytes(Buffer.alloc(4), 33), undefined)
    assert.equal(prefixFromBytes(Buffer.alloc(5), 8), undefined)
    assert.equal(prefixFromBytes(Buffer.alloc(16), 64.5), undefined)
  })

  test('is canonical when no host bit is set', () => {
    assert(isCanonical(prefix('10.20.0.0/16')))
    assert(!isCanonical(prefix('10.20.0.1/16')))
    assert.equal(formatPrefix(canonical(prefix('fd20::1/64'))), 'fd20::/64')
  })

  test('contains and overlaps as its list of addresses says', () => {
    fc.assert(
      fc.property(smallPrefixes, smallPrefixes, (a, b) => {
        const inA = new Set([...addressesOf(a)].map(({ value }) => value))
        const ofB = [...addressesOf(b)]
        assert.equal(BigInt(ofB.length), addressCount(b))
        const shared = ofB.filter(({ value }) => inA.has(value))
        assert.equal(overlaps(a, b), shared.length > 0)
        assert.equal(containsPrefix(a, b), shared.length === ofB.length)
        for (const address of ofB) assert.equal(contains(a, address), inA.has(address.value))
      }),
    )
  })

  test('never contains an address of the other family', () => {
    const address = parseIpAddress('::a00:1')
    assert(address)
    assert(!contains(prefix('10.0.0.0/8'), address))
    assert(!overlaps(prefix('0.0.0.0/0'), prefix('::/0')))
  })

  test('keeps its first address, and gives the others but the subnet and the broadcast', () => {
    const v4 = prefix('10.0.0.0/29')
    const given = [...addressesOf(v4)].filter((address) => isAssignable(v4, address))
    assert.deepEqual(
      given.map(formatIpAddress),
      [2, 3, 4, 5, 6].map((last) => `10.0.0.${last}`),
    )
    const gateway = gatewayAddress(v4)
    assert(gateway)
    assert.equal(formatIpAddress(gateway), '10.0.0.1')
    const v6 = prefix('fd20::/125')
    const givenV6 = [...addressesOf(v6)].filter((address) => isAssignable(v6, address))
    assert.deepEqual(
      givenV6.map(formatIpAddress),
      [2, 3, 4, 5, 6, 7].map((last) => `fd20::${last}`),
    )
  })

  test('that is too small keeps and gives nothing', () => {
    for (const text of ['10.0.0.0/31', '10.0.0.0/32', 'fd20::/127', 'fd20::/128']) {
      assert.equal(gatewayAddress(prefix(text)), undefined)
      assert.equal(assignableRange(prefix(text)), undefined)
    }
    assert.deepEqual(assignableRange(prefix('10.0.0.0/30')), {
      first: 0x0a000002n,
      last: 0x0a000002n,
    })
  })
})

function prefix(text: string): Prefix {
  const parsed = parsePrefix(text)
  assert(parsed, text)
  return parsed
}
