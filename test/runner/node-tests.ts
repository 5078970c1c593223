import { basename } from 'node:path'
import { type EventData, run } from 'node:test'
import { inspect } from 'node:util'
import { type Counts, NOTHING } from './counts.ts'

export interface NodeTestOptions {
  readonly files: readonly string[]
  /** `none` runs all files in this process, one after the other, so that they can share a lab. */
  readonly isolation: 'process' | 'none'
  readonly concurrency: number
  /** Longest that one test may take. */
  readonly timeoutMs: number
  /** Whether to print each test, or only each file. */
  readonly verbose: boolean
  /** Told the name of the test that begins, and undefined when one of a file ends; of tests that run one after the other. */
  readonly onProgress?: (running: string | undefined) => void
}

/** Tests of a file and those of a suite or of a table in it. */
const NESTING_SHOWN = 1

/** Runs test files with node:test, prints their progress, and what failed in full. */
export async function runNodeTests(options: NodeTestOptions): Promise<Counts> {
  const { files, isolation, concurrency, timeoutMs, verbose, onProgress } = options
  if (files.length === 0) return NOTHING
  let counts = NOTHING
  const stream = run({
    files: [...files],
    isolation,
    timeout: timeoutMs,
    ...(isolation === 'process' ? { concurrency } : {}),
  })
  if (onProgress !== undefined) {
    stream.on('test:dequeue', ({ name, file }) => onProgress(nameOf(name, file)))
    stream.on('test:complete', ({ name, file, nesting }) =>
      onProgress(nesting === 0 ? undefined : nameOf(name, file)),
    )
  }
  stream.on('test:pass', (event) => {
    if (verbose && event.nesting <= NESTING_SHOWN && event.details.type !== 'suite')
      printPass(event)
    if (event.skip !== undefined && event.skip !== false) printSkip(event)
  })
  stream.on('test:fail', printFailure)
  stream.on('test:diagnostic', (event) => {
    if (verbose && !isSummaryLine(event.message)) console.log(`      ${event.message}`)
  })
  stream.on('test:stderr', (event) => process.stderr.write(event.message))
  stream.on('test:summary', ({ file, counts: sums, duration_ms: milliseconds, success }) => {
    if (file === undefined) {
      counts = {
        passed: sums.passed,
        failed: sums.tests - sums.passed - sums.skipped - sums.todo,
        skipped: sums.skipped,
      }
    } else if (!verbose) {
      const mark = success ? 'ok  ' : 'FAIL'
      console.log(`${mark}  ${shorten(file)}: ${sums.passed} passed (${seconds(milliseconds)})`)
    }
  })
  for await (const _ of stream);
  return counts
}

type Passed = EventData.TestPass
type Failed = EventData.TestFail

function printPass(event: Passed): void {
  if (event.skip === undefined || event.skip === false) {
    console.log(
      `ok    ${'  '.repeat(event.nesting)}${event.name} (${seconds(event.details.duration_ms)})`,
    )
  }
}

function printSkip(event: Passed): void {
  const reason = typeof event.skip === 'string' ? event.skip : 'without a reason'
  console.log(`skip  ${event.name}: ${reason}`)
}

/** A parent fails because its subtests did; those have been printed. */
function printFailure(event: Failed): void {
  const { error } = event.details
  if ('failureType' in error && error.failureType === 'subtestsFailed') return
  const place = event.file === undefined ? '' : `\n      ${shorten(event.file)}:${event.line}`
  console.log(`FAIL  ${event.name} (${seconds(event.details.duration_ms)})${place}`)
  for (const reason of reasonsOf(error.cause ?? error)) {
    console.log(indent(inspect(reason, { depth: 4 })))
  }
}

/** `inspect` does not show of what a SuppressedError consists: what went wrong first, and what then could not be cleaned up. */
function reasonsOf(error: unknown): unknown[] {
  if (!(error instanceof SuppressedError)) return [error]
  return [...reasonsOf(error.suppressed), ...reasonsOf(error.error)]
}

/** node:test repeats its counts as diagnostics at the end. */
function isSummaryLine(message: string): boolean {
  return /^(?:tests|suites|pass|fail|cancelled|skipped|todo|duration_ms) /.test(message)
}

function nameOf(name: string, file: string | undefined): string {
  return file === undefined ? name : `${basename(file)}: ${name}`
}

function seconds(milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(1)} s`
}

function shorten(path: string): string {
  return path.replace(`${process.cwd()}/`, '')
}

function indent(text: string): string {
  return text.replaceAll(/^/gm, '      ')
}
