/** Runs the test files that it is given in one process, so that they share a lab, and tells its parent the counts. */
import { runNodeTests } from './node-tests.ts'

const SCENARIO_TIMEOUT_MS = 300_000
const TORTURE_TIMEOUT_MS = 3_600_000

const counts = await runNodeTests({
  files: process.argv.slice(2),
  isolation: 'none',
  concurrency: 1,
  timeoutMs: process.env['WEFT_TORTURE'] === '1' ? TORTURE_TIMEOUT_MS : SCENARIO_TIMEOUT_MS,
  verbose: true,
})
process.send?.(counts)
process.disconnect()
