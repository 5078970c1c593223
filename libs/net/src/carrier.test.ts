import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { carrierBetween, type LinkEnd, type UnderlayAddress } from './carrier.ts'
import { formatIpAddress, parseIpAddress } from './ip.ts'

const PLAIN = 'outside-trusted-zones' as const

describe('the carrier between two hosts', () => {
  test('is vxlan inside a trusted zone, over IPv4 if both have it', () => {
    const a = [at('fd00::1', 1), at('10.0.1.1', 1)]
    const b = [at('fd00::2', 1), at('10.0.2.1', 1)]
    assert.deepEqual(chosen(a, b), ['vxlan', '10.0.1.1', '10.0.2.1'])
    assert.deepEqual(chosen(a, b.slice(0, 1)), ['vxlan', 'fd00::1', 'fd00::2'])
  })

  test('takes the lowest of several common zones, and a host’s first address in it', () => {
    const a = [at('10.2.0.1', 2), at('10.1.0.9', 1), at('10.1.0.1', 1)]
    const b = [at('10.1.0.2', 1), at('10.2.0.2', 2)]
    assert.deepEqual(chosen(a, b), ['vxlan', '10.1.0.9', '10.1.0.2'])
  })

  test('is refused without a common trusted zone, never plain', () => {
    assert.deepEqual(chosen([at('10.0.0.1', 1)], [at('10.0.0.2', 2)]), ['no-common-trusted-zone'])
    const untrusted = [at('10.0.0.1', 1, false)]
    assert.deepEqual(chosen(untrusted, [at('10.0.0.2', 1)]), ['no-common-trusted-zone'])
    assert.deepEqual(chosen([], []), ['no-common-trusted-zone'])
  })

  test('is refused when the common zone has no common family', () => {
    assert.deepEqual(chosen([at('10.0.0.1', 1)], [at('fd00::2', 1)]), ['no-common-family'])
  })

  test('is refused when the network demands encryption and one of them cannot seal', () => {
    const [a, b] = [[at('10.0.0.1', 1)], [at('10.0.0.2', 1)]]
    const refused = { carrier: 'refused', reason: 'encryption-required' }
    assert.deepEqual(carrierBetween(plain(a), plain(b), 'required'), refused)
    assert.deepEqual(carrierBetween(sealing(a), plain(b), 'required'), refused)
    assert.deepEqual(carrierBetween(plain(a), sealing(b), 'required'), refused)
  })

  test('is sealed when the network demands encryption, in a trusted zone as well', () => {
    const choice = carrierBetween(
      sealing([at('10.0.0.1', 1)]),
      sealing([at('10.0.0.2', 1)]),
      'required',
    )
    assert.deepEqual(choice, { carrier: 'sealed' })
  })

  test('is sealed where no trusted zone joins two hosts that can seal, and vxlan where one does', () => {
    const a = sealing([at('10.0.0.1', 1)])
    for (const apart of [[at('10.0.0.2', 2)], [at('10.0.0.2', 1, false)], [at('fd00::2', 1)], []]) {
      assert.deepEqual(carrierBetween(a, sealing(apart), PLAIN), { carrier: 'sealed' })
    }
    assert.equal(carrierBetween(a, sealing([at('10.0.0.2', 1)]), PLAIN).carrier, 'vxlan')
  })

  test('is the same seen from both ends, and plain only within one trusted zone', () => {
    const address = fc
      .record({
        text: fc.constantFrom('10.0.0.1', '10.0.0.2', 'fd00::1', 'fd00::2'),
        zoneId: fc.integer({ min: 1, max: 3 }),
        trusted: fc.boolean(),
      })
      .map(({ text, zoneId, trusted }) => at(text, zoneId, trusted))
    const encryption = fc.constantFrom('required' as const, PLAIN)
    const ends = fc.tuple(fc.boolean(), fc.boolean())
    fc.assert(
      fc.property(fc.array(address), fc.array(address), encryption, ends, (a, b, demand, seal) => {
        const [one, other] = [
          { addresses: a, canSeal: seal[0] },
          { addresses: b, canSeal: seal[1] },
        ]
        const there = carrierBetween(one, other, demand)
        const back = carrierBetween(other, one, demand)
        if (there.carrier !== 'vxlan' || back.carrier !== 'vxlan') {
          assert.deepEqual(there, back)
          assert.equal(there.carrier === 'sealed', seal[0] && seal[1])
          return
        }
        assert.equal(demand, PLAIN)
        assert.deepEqual([there.local, there.remote], [back.remote, back.local])
        const zones = (list: readonly UnderlayAddress[], found: unknown): number[] =>
          list.filter((one) => one.trusted && one.address === found).map(({ zoneId }) => zoneId)
        assert(zones(a, there.local).some((zone) => zones(b, there.remote).includes(zone)))
      }),
    )
  })
})

function at(text: string, zoneId: number, trusted = true): UnderlayAddress {
  const address = parseIpAddress(text)
  assert(address)
  return { address, zoneId, trusted }
}

function chosen(a: readonly UnderlayAddress[], b: readonly UnderlayAddress[]): string[] {
  const choice = carrierBetween(plain(a), plain(b), PLAIN)
  assert.notEqual(choice.carrier, 'sealed')
  return choice.carrier === 'vxlan'
    ? [choice.carrier, formatIpAddress(choice.local), formatIpAddress(choice.remote)]
    : [choice.carrier === 'refused' ? choice.reason : choice.carrier]
}

function plain(addresses: readonly UnderlayAddress[]): LinkEnd {
  return { addresses, canSeal: false }
}

function sealing(addresses: readonly UnderlayAddress[]): LinkEnd {
  return { addresses, canSeal: true }
}
