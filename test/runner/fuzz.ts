/** Fuzzing: every target of libs/shuttle/fuzz for a while, by cargo-fuzz. */
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { ROOT, trackedFiles } from '../check/repository.ts'
import { type Ended, run } from '../support/place.ts'
import { type Counts, NOTHING } from './counts.ts'

const CARGO_FUZZ_VERSION = '0.13.2'
/** Deleted, it is made anew. */
const TOOLS = join(ROOT, '.tools/cargo-fuzz')
const FUZZ = 'libs/shuttle/fuzz'
const PROGRAMS = `${FUZZ}/fuzzers/targets/`
const BUILD_TIMEOUT_MS = 1_800_000
/** For reading the corpus, before its time begins to count. */
const MORE_MS = 300_000
/** Longest that one input may take. */
const INPUT_SECONDS = 60
const LINES_SHOWN = 60
/** Of a panic: where, what, and the two sides of a comparison. */
const REASON_LINES = 4
/**
 * The instruments are options that the stable compiler keeps for this variable. Debug information is left out, since it is a
 * gigabyte: names and places of panics are there without it.
 */
const ENVIRONMENT = ['RUSTC_BOOTSTRAP=1', 'RUSTFLAGS=-Cdebuginfo=0 -Cstrip=debuginfo']

/** The names of all targets. */
export function fuzzTargets(): string[] {
  return trackedFiles(['.rs'])
    .filter((path) => path.startsWith(PROGRAMS))
    .map((path) => basename(path, '.rs'))
}

/**
 * Fuzzes each target for so many seconds, as many at a time as there are processors. One that fails is one failure, with the
 * command that repeats it.
 */
export async function runFuzzers(targets: readonly string[], seconds: number): Promise<Counts> {
  if (targets.length === 0) return NOTHING
  const built = (await install()) ?? (await build())
  if (built !== undefined) {
    console.log(`FAIL  the fuzzers cannot be built\n${tail(built)}`)
    return { ...NOTHING, failed: 1 }
  }
  const waiting = [...targets]
  let counts = NOTHING
  const work = async (): Promise<void> => {
    for (let target = waiting.shift(); target !== undefined; target = waiting.shift()) {
      const isGood = await fuzz(target, seconds)
      counts = isGood
        ? { ...counts, passed: counts.passed + 1 }
        : { ...counts, failed: counts.failed + 1 }
    }
  }
  await Promise.all(Array.from({ length: availableParallelism() }, work))
  return counts
}

/** @returns how it failed */
async function install(): Promise<Ended | undefined> {
  const program = join(TOOLS, 'bin/cargo-fuzz')
  if (existsSync(program)) {
    const { stdout } = await run([program, '--version'])
    if (stdout.trim().endsWith(` ${CARGO_FUZZ_VERSION}`)) return undefined
  }
  const words = ['--version', CARGO_FUZZ_VERSION, '--locked', '--force', '--root', TOOLS]
  return failure(await run(['cargo', 'install', 'cargo-fuzz', ...words], BUILD_TIMEOUT_MS))
}

/** @returns how it failed */
async function build(): Promise<Ended | undefined> {
  return failure(await run(cargoFuzz('build'), BUILD_TIMEOUT_MS))
}

function failure(ended: Ended): Ended | undefined {
  return ended.code === 0 ? undefined : ended
}

/** What it finds is put into a folder of its own: the corpus in the tree stays as it is. */
async function fuzz(target: string, seconds: number): Promise<boolean> {
  const found = await mkdtemp(join(tmpdir(), `weft-fuzz-${target}-`))
  const startedAt = performance.now()
  const limits = [`-max_total_time=${seconds}`, `-timeout=${INPUT_SECONDS}`]
  const folders = [found, join(ROOT, FUZZ, 'corpus', target)]
  const ended = await run(
    [...cargoFuzz('run'), target, ...folders, '--', ...limits],
    seconds * 1000 + MORE_MS,
  )
  await rm(found, { recursive: true })
  const took = `${((performance.now() - startedAt) / 1000).toFixed(1)} s`
  const inputs = countInputs(ended.stderr)
  const isGood = ended.code === 0 && inputs !== undefined
  if (isGood) console.log(`ok    ${target}: ${inputs.toLocaleString('en')} inputs (${took})`)
  else console.log(`FAIL  ${target} (${took})\n${explain(target, ended)}`)
  return isGood
}

/** How many inputs a fuzzer tried, by its last word; undefined where it did not come to its end. */
export function countInputs(output: string): number | undefined {
  const done = /^Done (\d+) runs in \d+ second/m.exec(output)
  return done === null ? undefined : Number(done[1])
}

/** What went wrong, and how to see it again; all that was said where there is no input to blame. */
export function explain(target: string, ended: Ended): string {
  const lines = ended.stderr.split('\n')
  const first = lines.findIndex((line) => /panicked at |ERROR: /.test(line))
  const input = /^artifact_prefix=.*; Test unit written to (\S+)$/m.exec(ended.stderr)?.[1]
  if (first < 0 || input === undefined) return tail(ended)
  return [
    ...lines.slice(first, first + REASON_LINES).map((line) => `      ${line}`),
    `      input: ${input}`,
    `      repeat: cp ${input} ${FUZZ}/corpus/${target}/ && (cd libs/shuttle && cargo test -p weft-fuzz)`,
  ].join('\n')
}

function cargoFuzz(command: string): string[] {
  const program = join(TOOLS, 'bin/cargo-fuzz')
  return ['env', ...ENVIRONMENT, program, command, '--fuzz-dir', join(ROOT, FUZZ, 'fuzzers')]
}

function tail({ stdout, stderr }: Ended): string {
  return `${stdout}${stderr}`.trimEnd().split('\n').slice(-LINES_SHOWN).join('\n')
}
