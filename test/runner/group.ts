/**
 * Runs the test files that it is given in one process, so that they share a lab, and tells its parent how far it is and the
 * counts. Arguments: the longest that a scenario may take, in milliseconds, and the files.
 */
import { runNodeTests } from './node-tests.ts'
import type { GroupMessage } from './supervise.ts'

const [scenarioMs, ...files] = process.argv.slice(2)

const counts = await runNodeTests({
  files,
  isolation: 'none',
  concurrency: 1,
  timeoutMs: Number(scenarioMs),
  verbose: true,
  onProgress: (running) => tell({ kind: 'progress', running }),
})
tell({ kind: 'counts', counts })
process.disconnect()

function tell(message: GroupMessage): void {
  process.send?.(message)
}
