import { fork, spawn } from 'node:child_process'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ROOT, trackedFiles } from '../check/repository.ts'
import { addCounts, type Counts, countCargoTests, NOTHING } from './counts.ts'
import { runNodeTests } from './node-tests.ts'

export interface Tier {
  readonly name: string
  readonly what: string
  readonly run: () => Promise<Counts>
}

const UNIT_TIMEOUT_MS = 120_000
const GROUP = join(dirname(fileURLToPath(import.meta.url)), 'group.ts')

const E2E = 'test/e2e/'
const DOCKER = 'test/docker/'

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
    run: () => runCargoTests(['--test', '*']),
  },
  {
    name: 'lab',
    what: 'scenarios between hosts, with everything real',
    run: () => runScenarios([], {}),
  },
  {
    name: 'docker',
    what: 'services in containers',
    run: () =>
      runGroup(
        testFiles((path) => path.startsWith(DOCKER)),
        {},
      ),
  },
]

/** The scenarios in full, those whose file name contains one of `names`. */
export function tortureTier(names: readonly string[]): Tier {
  return {
    name: 'torture',
    what: names.length === 0 ? 'all scenarios in full' : `in full: ${names.join(', ')}`,
    run: () => runScenarios(names, { WEFT_TORTURE: '1' }),
  }
}

/** Scenarios of one folder share a lab and a process. */
async function runScenarios(
  names: readonly string[],
  environment: Record<string, string>,
): Promise<Counts> {
  const files = testFiles(
    (path) =>
      path.startsWith(E2E) &&
      (names.length === 0 || names.some((name) => basename(path).includes(name))),
  )
  let counts = NOTHING
  for (const folder of new Set(files.map((path) => dirname(path)))) {
    console.log(`-- ${basename(folder)}`)
    const group = files.filter((path) => dirname(path) === folder)
    counts = addCounts(counts, await runGroup(group, environment))
  }
  return counts
}

function runGroup(files: readonly string[], environment: Record<string, string>): Promise<Counts> {
  if (files.length === 0) return Promise.resolve(NOTHING)
  return new Promise((resolve) => {
    let counts: Counts | undefined
    const child = fork(GROUP, files, { cwd: ROOT, env: { ...process.env, ...environment } })
    child.on('message', (message) => {
      counts = message as Counts
    })
    child.on('exit', (code, signal) => {
      if (counts === undefined) console.log(`FAIL  the group ended early: ${signal ?? code}`)
      resolve(counts ?? { ...NOTHING, failed: 1 })
    })
  })
}

/** Prints what cargo prints; a build that fails counts as one failure. */
function runCargoTests(targets: readonly string[]): Promise<Counts> {
  const words = ['test', '--workspace', '--locked', '--no-fail-fast', ...targets]
  return new Promise((resolve) => {
    const child = spawn('cargo', words, {
      cwd: join(ROOT, 'libs/shuttle'),
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

function testFiles(wanted: (path: string) => boolean): string[] {
  return trackedFiles(['.test.ts']).filter(wanted).toSorted()
}
