import { spawn } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { performance } from 'node:perf_hooks'
import { ROOT } from './repository.ts'

/** A check is a command that succeeds, or a function that finds nothing. */
export type Check = {
  readonly name: string
  /** What it verifies, as a line of the report. */
  readonly what: string
  /** Checks of one lane never run at the same time: they would wait for each other's lock. */
  readonly lane?: string
} & (
  | { readonly command: readonly string[]; readonly cwd?: string }
  | { readonly find: () => readonly string[] }
)

interface Outcome {
  readonly check: Check
  readonly passed: boolean
  readonly output: string
}

/** Runs checks side by side and reports them; true when all passed. */
export async function runChecks(checks: readonly Check[]): Promise<boolean> {
  const waiting = [...checks]
  const busyLanes = new Set<string>()
  const outcomes: Outcome[] = []
  const startedAt = performance.now()

  const work = async (): Promise<void> => {
    for (;;) {
      const at = waiting.findIndex(({ lane }) => lane === undefined || !busyLanes.has(lane))
      const [check] = at < 0 ? [] : waiting.splice(at, 1)
      if (check === undefined) return
      if (check.lane !== undefined) busyLanes.add(check.lane)
      outcomes.push(await runCheck(check))
      if (check.lane !== undefined) busyLanes.delete(check.lane)
    }
  }
  await Promise.all(Array.from({ length: Math.max(2, availableParallelism()) }, work))
  // A worker that met only busy lanes has ended; what they left is done here.
  await work()

  const failed = outcomes.filter((outcome) => !outcome.passed)
  for (const { check, output } of failed) {
    console.log(`\n--- ${check.name}: ${check.what}\n${output.trimEnd()}`)
  }
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1)
  const summary = failed.length === 0 ? 'all passed' : `${failed.length} failed`
  console.log(`\n${outcomes.length} checks, ${summary}, ${seconds} s`)
  return failed.length === 0
}

async function runCheck(check: Check): Promise<Outcome> {
  const startedAt = performance.now()
  const { passed, output } =
    'find' in check ? runFinder(check.find) : await runCommand(check.command, check.cwd ?? ROOT)
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1)
  console.log(`${passed ? 'ok  ' : 'FAIL'}  ${check.name.padEnd(15)} ${check.what} (${seconds} s)`)
  return { check, passed, output }
}

function runFinder(find: () => readonly string[]): Omit<Outcome, 'check'> {
  const findings = find()
  return { passed: findings.length === 0, output: findings.join('\n') }
}

function runCommand(command: readonly string[], cwd: string): Promise<Omit<Outcome, 'check'>> {
  const [program = '', ...words] = command
  return new Promise((resolve) => {
    const child = spawn(program, words, { cwd, stdio: ['ignore', 'pipe', 'pipe'] })
    const chunks: Buffer[] = []
    child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk))
    child.stderr.on('data', (chunk: Buffer) => chunks.push(chunk))
    child.on('error', (error) => resolve({ passed: false, output: error.message }))
    child.on('close', (code) =>
      resolve({ passed: code === 0, output: Buffer.concat(chunks).toString('utf8') }),
    )
  })
}
