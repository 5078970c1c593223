import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { AddressSlots } from './address-slots.ts'

test('the lowest free slot is the lowest that a plain search finds, whatever was taken and freed', () => {
  const step = fc.record({ take: fc.boolean(), slot: fc.integer({ min: 0, max: 2_200 }) })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 400 }), fc.boolean(), (steps, isDense) => {
      const slots = new AddressSlots(2_201n)
      const taken = new Set<number>()
      if (isDense) {
        for (let slot = 0; slot < 2_100; slot++) {
          slots.take(BigInt(slot))
          taken.add(slot)
        }
      }
      for (const { take, slot } of steps) {
        if (take) slots.take(BigInt(slot))
        else slots.free(BigInt(slot))
        if (take) taken.add(slot)
        else taken.delete(slot)
      }
      let lowest = 0
      while (taken.has(lowest)) lowest++
      assert.equal(slots.lowestFree(), BigInt(lowest))
      assert.equal(slots.taken, taken.size)
    }),
  )
})

test('slots run out when all are taken, and one that is freed is given again', () => {
  const slots = new AddressSlots(1_500n)
  for (let slot = 0n; slot < 1_500n; slot++) {
    assert.equal(slots.lowestFree(), slot)
    slots.take(slot)
  }
  assert.equal(slots.lowestFree(), undefined)
  slots.free(1_200n)
  assert.equal(slots.lowestFree(), 1_200n)
})

test('a slot at the far end of an IPv6 prefix does not disturb the lowest ones', () => {
  const slots = new AddressSlots(2n ** 64n - 2n)
  slots.take(2n ** 63n)
  slots.take(0n)
  assert.equal(slots.lowestFree(), 1n)
})
