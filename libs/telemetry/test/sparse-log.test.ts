import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createLogger, SparseLog } from '../src/index.ts'

test('of what comes many times at once there is one line of each kind', () => {
  const lines: string[] = []
  const stream = { write: (line: string) => void lines.push(line) }
  const warnings = new SparseLog(createLogger({ service: 'test', stream }))

  for (let count = 0; count < 100; count++) {
    warnings.warn('report', { hostId: count }, 'a report was refused')
    warnings.warn('renewal', { hostId: count }, 'a renewal was refused')
  }

  const told = lines.map((line) => JSON.parse(line) as Readonly<Record<string, unknown>>)
  assert.deepEqual(
    told.map(({ level, msg, hostId, count }) => [level, msg, hostId, count]),
    [
      ['warn', 'a report was refused', 0, 1],
      ['warn', 'a renewal was refused', 0, 1],
    ],
  )
})
