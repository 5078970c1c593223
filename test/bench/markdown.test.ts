import assert from 'node:assert/strict'
import test from 'node:test'
import { formatMarkdown } from './markdown.ts'
import { judge, unjudged } from './result.ts'

const MACHINE = {
  processor: 'AMD EPYC',
  cores: 2,
  memoryGib: 24,
  tcp: 'cubic',
  kernel: '6.18.44',
  node: 'v24.21.0',
  commit: 'dc90ad4',
  date: '2026-11-21',
  load: 0.3,
}
const MEASURED = {
  bench: 'tcp',
  unit: 'Gb/s',
  ours: 18.04,
  peers: { bridge: 15, slow: 1_234_567 },
  samples: 3,
}

test('a run is a table of the README, with the machine before it and the peers behind it', () => {
  const passed = judge(MEASURED, { kind: 'at-least', value: 1.2, versus: 'bridge' })
  const missed = judge(MEASURED, { kind: 'at-most', value: 2 })
  const peersAbout = { bridge: "the kernel's" }
  const results = [{ ...passed, peersAbout }, { ...missed, peersAbout }, unjudged(MEASURED)]

  assert.deepEqual(formatMarkdown({ machine: MACHINE, results }).split('\n'), [
    '2-core AMD EPYC, 24 GiB, Linux 6.18.44 (TCP: cubic), commit dc90ad4, 2026-11-21, load 0.3 before:',
    '',
    '| bench | ours | peers, same run | ratio | bar |  |',
    '|---|---|---|---|---|---|',
    '| tcp | 18 Gb/s | bridge 15, slow 1,234,567 | 1.20x | ≥ 1.2x bridge | pass |',
    '| tcp | 18 Gb/s | bridge 15, slow 1,234,567 |  | ≤ 2 Gb/s | **missed** |',
    '| tcp | 18 Gb/s | bridge 15, slow 1,234,567 |  |  |  |',
    '',
    "- bridge: the kernel's",
  ])
})
