import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { afterEach, beforeEach, type TestContext } from 'node:test'
import { formatCounts } from './counts.ts'
import { type GroupOptions, runGroup } from './supervise.ts'

/** Nothing takes that long unless it hangs. */
const LONG_MS = 60_000
/** For what is meant to hang. */
const SHORT_MS = 300
/** In which a process that does not hang begins its first test, however busy the machine is. */
const LONGER_MS = 10_000

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'weft-test-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

test('what its files did is counted', async (t) => {
  const { counts, printed, killed } = await runFile(
    t,
    `test('good', () => {})
     test('bad', () => assert.fail('because'))
     test('not here', { skip: 'no reason' }, () => {})`,
  )
  assert.equal(formatCounts(counts), '1 passed, 1 failed, 1 skipped')
  assert.doesNotMatch(printed, /the group/)
  assert.deepEqual(killed, [])
})

test('a scenario that never lets go of its process is a failure that names it', async (t) => {
  const { counts, printed, killed } = await runFile(
    t,
    `test('spins', () => { for (;;); })
     test('never', () => {})`,
    { silenceMs: SHORT_MS },
  )
  assert.equal(formatCounts(counts), '0 passed, 1 failed, 0 skipped')
  assert.match(printed, /FAIL {2}the group hangs in scenario\.ts: spins: it said nothing/)
  assert.equal(killed.length, 1)
})

test('a scenario that takes too long fails, and the next one runs', async (t) => {
  const { counts, killed } = await runFile(
    t,
    `test('waits', () => new Promise((resolve) => { setTimeout(resolve, ${LONG_MS}).unref() }))
     test('good', () => { setTimeout(() => {}, 10) })`,
    { scenarioMs: 1000 },
  )
  assert.equal(formatCounts(counts), '1 passed, 1 failed, 0 skipped')
  assert.deepEqual(killed, [])
})

test('a group that keeps something open after its last scenario is a failure that names it', async (t) => {
  const { counts, printed, killed } = await runFile(
    t,
    `test('leaves a timer', () => { setInterval(() => {}, 1000) })`,
    { betweenMs: LONGER_MS },
  )
  assert.equal(formatCounts(counts), '0 passed, 1 failed, 0 skipped')
  assert.match(printed, /FAIL {2}the group hangs after scenario\.ts: leaves a timer: it said/)
  assert.equal(killed.length, 1)
})

test('a group that dies is a failure that says where and how', async (t) => {
  const { counts, printed, killed } = await runFile(
    t,
    `test('dies', () => { process.kill(process.pid, 'SIGKILL') })`,
  )
  assert.equal(formatCounts(counts), '0 passed, 1 failed, 0 skipped')
  assert.match(printed, /FAIL {2}the group ended early in scenario\.ts: dies: SIGKILL/)
  assert.deepEqual(killed, [])
})

test('a group that hangs while its files are read is a failure', async (t) => {
  const { counts, printed } = await runFile(t, `for (;;);`, { betweenMs: SHORT_MS })
  assert.equal(formatCounts(counts), '0 passed, 1 failed, 0 skipped')
  assert.match(printed, /hangs before the first scenario/)
})

/** Runs a group of one file, and tells what was printed and who was killed. */
async function runFile(
  t: TestContext,
  source: string,
  limits: Partial<GroupOptions> = {},
): Promise<{
  readonly counts: Awaited<ReturnType<typeof runGroup>>
  readonly printed: string
  readonly killed: readonly number[]
}> {
  const imports = `import assert from 'node:assert/strict'\nimport test from 'node:test'\n`
  writeFileSync(join(folder, 'scenario.ts'), imports + source)
  const killed: number[] = []
  const lines: string[] = []
  const log = t.mock.method(console, 'log', (line: string) => void lines.push(line))
  const counts = await runGroup({
    files: [join(folder, 'scenario.ts')],
    cwd: folder,
    environment: {},
    scenarioMs: LONG_MS,
    silenceMs: LONG_MS,
    betweenMs: LONG_MS,
    output: 'ignore',
    onKilled: async (pid) => void killed.push(pid),
    ...limits,
  })
  log.mock.restore()
  return { counts, printed: lines.join('\n'), killed }
}
