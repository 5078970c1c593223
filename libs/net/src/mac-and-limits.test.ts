import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { isVni, nameProblem } from './limits.ts'
import {
  formatMacAddress,
  isStationMac,
  localMac,
  type MacAddress,
  macFromBytes,
  macOfAddress,
  macToBytes,
  parseMacAddress,
} from './mac.ts'

describe('a MAC address', () => {
  test('survives text and bytes', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 48 - 1 }), (value) => {
        const mac = value as MacAddress
        assert.equal(parseMacAddress(formatMacAddress(mac)), mac)
        assert.equal(macFromBytes(macToBytes(mac)), mac)
      }),
    )
    assert.equal(formatMacAddress(0xb as MacAddress), '00:00:00:00:00:0b')
    assert.equal(parseMacAddress('02-AB-cd-00-00-01'), 0x02abcd000001)
  })

  test('is refused in every broken form', () => {
    for (const text of [
      '',
      '02:00:00:00:00',
      '02:00:00:00:00:0',
      '02:00-00:00:00:00',
      '020000000000',
      '02:00:00:00:00:gg',
      '02:00:00:00:00:00:00',
    ]) {
      assert.equal(parseMacAddress(text), undefined, text)
    }
    assert.equal(macFromBytes(new Uint8Array(5)), undefined)
  })

  test('made locally is a local station, whatever the random bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 6, maxLength: 6 }), (random) => {
        const mac = localMac(random)
        assert(isStationMac(mac))
        assert.equal((macToBytes(mac)[0] ?? 0) & 0x02, 0x02)
        assert.deepEqual([...macToBytes(mac).subarray(1)], [...random.subarray(1)])
      }),
    )
    assert.throws(() => localMac(new Uint8Array(5)), RangeError)
  })

  test('that goes with an address is a local station, and as different as the addresses', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 0xffff_ffff }), (bits) => {
        const mac = macOfAddress({ family: 4, value: BigInt(bits) })
        assert(isStationMac(mac))
        assert.equal(macToBytes(mac).readUInt32BE(2), bits)
        assert.equal(macToBytes(mac).readUInt16BE(0), 0x0257)
      }),
    )
  })

  test('of a group or of nobody is no station', () => {
    for (const text of [
      'ff:ff:ff:ff:ff:ff',
      '01:00:5e:00:00:01',
      '33:33:00:00:00:01',
      '00:00:00:00:00:00',
    ]) {
      const mac = parseMacAddress(text)
      assert(mac !== undefined)
      assert(!isStationMac(mac), text)
    }
  })
})

test('a name is a lower-case DNS label, and what is wrong with others is said', () => {
  for (const name of ['a', 'web', 'web-1', '1a', 'x'.repeat(63)]) {
    assert.equal(nameProblem(name), undefined, name)
  }
  const problems = [
    ['', /empty/],
    ['x'.repeat(64), /64 characters, at most 63/],
    ['Web', /"W"/],
    ['a_b', /"_"/],
    ['a.b', /"\."/],
    ['a b', /" "/],
    ['é', /"é"/],
    ['😀', /"😀"/],
    ['-a', /hyphen/],
    ['a-', /hyphen/],
  ] as const
  for (const [name, problem] of problems) assert.match(nameProblem(name) ?? '', problem, name)
})

test('a VNI has 24 bits and is not zero', () => {
  for (const vni of [1, 2 ** 24 - 1]) assert(isVni(vni))
  for (const vni of [0, -1, 2 ** 24, 1.5, Number.NaN]) assert(!isVni(vni))
})
