import { spawn } from 'node:child_process'
import { basename, dirname, join } from 'node:path'
import { removeLab } from '@weft/lab'
import { MissingPeerError, PROGRAMS } from '../bench/peer-programs.ts'
import { ROOT, trackedFiles } from '../check/repository.ts'
import { wireguardGoProgram } from '../support/wireguard-go.ts'
import { addCounts, type Counts, countCargoTests, NOTHING } from './counts.ts'
import { fuzzTargets, runFuzzers } from './fuzz.ts'
import { runNodeTests } from './node-tests.ts'
import { runGroup as superviseGroup } from './supervise.ts'

export interface Tier {
  readonly name: string
  readonly what: string
  readonly run: () => Promise<Counts>
}

const UNIT_TIMEOUT_MS = 120_000
const SCENARIO_TIMEOUT_MS = 300_000
const TORTURE_TIMEOUT_MS = 3_600_000
/** A scenario that took too long has been told so by then, and its lab may be removed. */
const SILENCE_MORE_MS = 60_000
/** Files are read and labs are removed between scenarios. */
const BETWEEN_MS = 120_000
const E2E = 'test/e2e/'
const DOCKER = 'test/docker/'
/** Files that feed parsers with what was mutated and with anything at all. */
const PARSERS = 'parsers.test.ts'
/** Test of cargo with peers by others; those of its tests that are ignored take half an hour. */
const INTEROP = 'wireguard_go'
/** Cases of each parser in full, where WEFT_FUZZ_RUNS says no other number: some 20 minutes. */
const FUZZ_RUNS = '20000'
/** How long each target is fuzzed, where WEFT_FUZZ_SECONDS says no other time. */
const FUZZ_SECONDS = 20
const TORTURE_FUZZ_SECONDS = 300
/** Worlds of the session engine, where WEFT_TUNNEL_SEEDS says no other number. */
const SEEDS = '10000'

export const TIERS: readonly Tier[] = [
  {
    name: 'unit',
    what: 'every package by itself, the services on a real nats-server',
    run: async () =>
      addCounts(
        await runNodeTests({
          files: testFiles((path) => !path.startsWith(E2E) && !path.startsWith(DOCKER)),
          isolation: 'process',
          concurrency: 2,
          timeoutMs: UNIT_TIMEOUT_MS,
          verbose: false,
        }),
        await runCargoTests(['--lib', '--bins']),
      ),
  },
  {
    name: 'kernel',
    what: 'eBPF programs and the shuttle in the running kernel',
    run: async () =>
      runCargoTests(['--test', '*'], {
        WEFT_TUNNEL_SEEDS: process.env['WEFT_TUNNEL_SEEDS'] ?? SEEDS,
        ...(await peers()),
      }),
  },
  {
    name: 'fuzz',
    what: 'the parsers and the session engine of the shuttle, with whatever bytes',
    run: () => runFuzzers(fuzzTargets(), fuzzSeconds(FUZZ_SECONDS)),
  },
  {
    name: 'lab',
    what: 'scenarios between hosts, with everything real',
    run: () => runScenarios([], false),
  },
  {
    name: 'docker',
    what: 'services in containers',
    run: () =>
      runGroup(
        testFiles((path) => path.startsWith(DOCKER)),
        false,
      ),
  },
]

/** The scenarios in full, the parsers with many cases, and the long tests with peers: files whose name contains one of `names`. */
export function tortureTier(names: readonly string[]): Tier {
  return {
    name: 'torture',
    what: names.length === 0 ? 'all scenarios and parsers in full' : `in full: ${names.join(', ')}`,
    run: async () =>
      [
        await runParsers(names),
        await runFuzzers(
          fuzzTargets().filter((target) => isMeant(`fuzz-${target}`, names)),
          fuzzSeconds(TORTURE_FUZZ_SECONDS),
        ),
        await runScenarios(names, true),
        await runInteropInFull(names),
      ].reduce(addCounts),
  }
}

async function runInteropInFull(names: readonly string[]): Promise<Counts> {
  if (!isMeant(INTEROP, names)) return NOTHING
  return await runCargoTests(['--test', INTEROP, '--', '--ignored', '--nocapture'], await peers())
}

/** Where tests find programs of others; without one they are skipped, with the reason. */
async function peers(): Promise<{ readonly [name: string]: string }> {
  try {
    const program = await wireguardGoProgram()
    return { WEFT_WIREGUARD_GO: program.argv(PROGRAMS)[0] ?? '' }
  } catch (error) {
    if (!(error instanceof MissingPeerError)) throw error
    console.log(`skip  ${INTEROP}: ${error.message}`)
    return {}
  }
}

function fuzzSeconds(otherwise: number): number {
  const text = process.env['WEFT_FUZZ_SECONDS']
  if (text === undefined) return otherwise
  // To a fuzzer 0 is forever.
  if (!/^[1-9]\d{0,5}$/.test(text))
    throw new Error(`WEFT_FUZZ_SECONDS is ${text}; give a number of seconds, 1 or more`)
  return Number(text)
}

async function runParsers(names: readonly string[]): Promise<Counts> {
  process.env['WEFT_FUZZ_RUNS'] ??= FUZZ_RUNS
  return await runNodeTests({
    files: testFiles((path) => basename(path) === PARSERS && isMeant(path, names)),
    isolation: 'process',
    concurrency: 2,
    timeoutMs: TORTURE_TIMEOUT_MS,
    verbose: false,
  })
}

/** Scenarios of one folder share a lab and a process. */
async function runScenarios(names: readonly string[], isTorture: boolean): Promise<Counts> {
  const files = testFiles((path) => path.startsWith(E2E) && isMeant(path, names))
  let counts = NOTHING
  for (const folder of new Set(files.map((path) => dirname(path)))) {
    console.log(`-- ${basename(folder)}`)
    const group = files.filter((path) => dirname(path) === folder)
    counts = addCounts(counts, await runGroup(group, isTorture))
  }
  return counts
}

async function runGroup(files: readonly string[], isTorture: boolean): Promise<Counts> {
  const scenarioMs = isTorture ? TORTURE_TIMEOUT_MS : SCENARIO_TIMEOUT_MS
  return await superviseGroup({
    files,
    cwd: ROOT,
    environment: isTorture ? { WEFT_TORTURE: '1' } : {},
    scenarioMs,
    silenceMs: scenarioMs + SILENCE_MORE_MS,
    betweenMs: BETWEEN_MS,
    onKilled: removeLabOf,
  })
}

/** Removes the lab of a group that can do so no more: its name is `PREFIX` of test/e2e/support/lab.ts. */
async function removeLabOf(pid: number): Promise<void> {
  await removeLab(`t${pid}`)
}

/** Prints what cargo prints; a build that fails counts as one failure. */
function runCargoTests(
  targets: readonly string[],
  environment: { readonly [name: string]: string } = {},
): Promise<Counts> {
  const words = ['test', '--workspace', '--locked', '--no-fail-fast', ...targets]
  return new Promise((resolve) => {
    const child = spawn('cargo', words, {
      cwd: join(ROOT, 'libs/shuttle'),
      env: { ...process.env, ...environment },
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const chunks: Buffer[] = []
    child.stdout.on('data', (chunk: Buffer) => {
      chunks.push(chunk)
      process.stdout.write(chunk)
    })
    child.on('error', (error) => {
      console.log(`FAIL  cargo: ${error.message}`)
      resolve({ ...NOTHING, failed: 1 })
    })
    child.on('close', (code) => {
      const counts = countCargoTests(Buffer.concat(chunks).toString('utf8'))
      resolve(code !== 0 && counts.failed === 0 ? { ...counts, failed: 1 } : counts)
    })
  })
}

function isMeant(path: string, names: readonly string[]): boolean {
  return names.length === 0 || names.some((name) => basename(path).includes(name))
}

function testFiles(wanted: (path: string) => boolean): string[] {
  return trackedFiles(['.test.ts']).filter(wanted).toSorted()
}
