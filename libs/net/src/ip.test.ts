import assert from 'node:assert/strict'
import { isIPv4, isIPv6 } from 'node:net'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import {
  addressKey,
  formatIpAddress,
  type IpAddress,
  ipFromBytes,
  ipToBytes,
  isUnicastAddress,
  parseIpAddress,
  sameAddress,
} from './ip.ts'

const addresses = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n ** 32n - 1n }).map((value): IpAddress => ({ family: 4, value })),
  fc.bigInt({ min: 0n, max: 2n ** 128n - 1n }).map((value): IpAddress => ({ family: 6, value })),
  // Few groups set, so that runs of zeros of every length and place occur.
  fc.array(fc.constantFrom(0n, 0n, 0n, 1n, 0xffffn), { minLength: 8, maxLength: 8 }).map(
    (groups): IpAddress => ({
      family: 6,
      value: groups.reduce<bigint>((sum, group) => (sum << 16n) | group, 0n),
    }),
  ),
)

describe('an IP address', () => {
  test('survives text and bytes', () => {
    fc.assert(
      fc.property(addresses, (address) => {
        assert.deepEqual(parseIpAddress(formatIpAddress(address)), address)
        assert.deepEqual(ipFromBytes(ipToBytes(address)), address)
      }),
    )
  })

  test('is written as RFC 5952 has it', () => {
    const texts = [
      ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
      ['2001:0db8::0001', '2001:db8::1'],
      ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
      ['2001:DB8::1', '2001:db8::1'],
      ['0:0:0:0:0:0:0:0', '::'],
      ['1:0:0:0:0:0:0:0', '1::'],
      ['0:0:0:0:0:0:0:1', '::1'],
      ['::ffff:10.1.2.3', '::ffff:10.1.2.3'],
      ['64:ff9b::10.1.2.3', '64:ff9b::a01:203'],
      ['10.20.0.1', '10.20.0.1'],
    ] as const
    for (const [text, expected] of texts) {
      const address = parseIpAddress(text)
      assert(address, text)
      assert.equal(formatIpAddress(address), expected)
    }
  })

  test('is refused in every broken form', () => {
    const broken = `|1.2.3|1.2.3.4.5|256.1.1.1|01.2.3.4|1.2.3.4 |-1.2.3.4|1.2.3.0x4|:|:::|1::2::3|1:2:3:4:5:6:7
      |1:2:3:4:5:6:7:8:9|1:2:3:4:5:6:7::8|12345::|g::|fe80::1%eth0|1.2.3.4::|::1.2.3|::1.2.3.4:5|:1::|1::2:`
    for (const text of broken.split('|').map((one) => one.replace(/^\n +/, ''))) {
      assert.equal(parseIpAddress(text), undefined, JSON.stringify(text))
    }
  })

  test('parses exactly what the platform takes for an address', () => {
    const characters = fc.string({
      unit: fc.constantFrom(...'0123456789af:.'.split('')),
      maxLength: 20,
    })
    fc.assert(
      fc.property(characters, (text) => {
        assert.equal(parseIpAddress(text) !== undefined, isIPv4(text) || isIPv6(text), text)
      }),
      { numRuns: 5000 },
    )
  })

  test('is read from 4 or 16 bytes only, wherever they lie', () => {
    const packet = Uint8Array.from([9, 9, 10, 20, 0, 1, 9])
    assert.deepEqual(ipFromBytes(packet.subarray(2, 6)), { family: 4, value: 0x0a140001n })
    for (const length of [0, 3, 5, 6, 15, 17]) {
      assert.equal(ipFromBytes(new Uint8Array(length)), undefined)
    }
  })

  test('has a key of its own in both families', () => {
    fc.assert(
      fc.property(addresses, addresses, (a, b) => {
        assert.equal(addressKey(a) === addressKey(b), sameAddress(a, b))
      }),
    )
  })

  test('names one machine or does not', () => {
    for (const text of ['10.0.0.1', 'fd20::1', '223.255.255.255']) {
      assert(isUnicastAddress(known(text)), text)
    }
    for (const text of [
      '0.1.2.3',
      '127.0.0.1',
      '224.0.0.1',
      '255.255.255.255',
      '::',
      '::1',
      'ff02::1',
    ]) {
      assert(!isUnicastAddress(known(text)), text)
    }
  })
})

function known(text: string): IpAddress {
  const address = parseIpAddress(text)
  assert(address, text)
  return address
}
