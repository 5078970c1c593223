import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { NameIndex } from './name-index.ts'

const name = fc.stringMatching(/^[a-z0-9-]{1,3}$/)

test('ids come in the order of their names, also when names come and go after the first page', () => {
  const step = fc.record({ add: fc.boolean(), name, id: fc.integer({ min: 1, max: 9 }) })
  fc.assert(
    fc.property(fc.array(step), fc.array(step), name, (before, later, from) => {
      const index = new NameIndex()
      const plain = new Map<string, number>()
      const run = (steps: typeof before) => {
        for (const { add, name, id } of steps) {
          if (add) index.set(name, id)
          else index.delete(name, id)
          if (add) plain.set(name, id)
          else if (plain.get(name) === id) plain.delete(name)
        }
      }
      run(before)
      assert.equal([...index.idsFrom('')].length, plain.size)
      run(later)
      const expected = [...plain]
        .filter(([key]) => key >= from)
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([, id]) => id)
      assert.deepEqual([...index.idsFrom(from)], expected)
    }),
  )
})
