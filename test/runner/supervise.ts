import { type ChildProcess, fork } from 'node:child_process'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Counts, NOTHING } from './counts.ts'

/** What a group tells whoever started it. */
export type GroupMessage =
  | { readonly kind: 'progress'; readonly running: string | undefined }
  | { readonly kind: 'counts'; readonly counts: Counts }

export interface GroupOptions {
  /** Paths from `cwd` or absolute. */
  readonly files: readonly string[]
  readonly cwd: string
  /** Over that of this process. */
  readonly environment: { readonly [name: string]: string }
  /** Longest that one scenario may take. */
  readonly scenarioMs: number
  /** Longest that a scenario may say nothing: more than `scenarioMs`, which ends only what lets others run. */
  readonly silenceMs: number
  /** Longest that the group may say nothing before, between and after scenarios. */
  readonly betweenMs: number
  /** Where what it prints goes; to where this process prints by default. */
  readonly output?: 'inherit' | 'ignore'
  /** Called with its process number after a group was killed, to remove what it could not. */
  readonly onKilled: (pid: number) => Promise<void>
}

const GROUP = join(dirname(fileURLToPath(import.meta.url)), 'group.ts')

/**
 * Runs test files in one process of their own, so that they share a lab. One that hangs, dies or does not end is one failure more,
 * which names the scenario.
 */
export async function runGroup(options: GroupOptions): Promise<Counts> {
  const { files, cwd, environment, scenarioMs, silenceMs, betweenMs, onKilled } = options
  if (files.length === 0) return NOTHING
  const output = options.output ?? 'inherit'
  const child = fork(GROUP, [String(scenarioMs), ...files], {
    cwd,
    env: { ...process.env, ...environment },
    // Options of our own, such as a time limit for tests, are not for its tests.
    execArgv: [],
    stdio: ['ignore', output, output, 'ipc'],
  })
  let counts: Counts | undefined
  let place = 'before the first scenario'
  const watchdog = new Watchdog(child)
  watchdog.restart(betweenMs)
  child.on('message', (message: GroupMessage) => {
    if (message.kind === 'counts') {
      counts = message.counts
    } else if (message.running === undefined) {
      place = place.replace(/^in /, 'after ')
      watchdog.restart(betweenMs)
    } else {
      place = `in ${message.running}`
      watchdog.restart(silenceMs)
    }
  })
  const ending = await endOf(child)
  watchdog.stop()
  const { silentMs } = watchdog
  if (silentMs === undefined && counts !== undefined) return counts
  if (silentMs === undefined) console.log(`FAIL  the group ended early ${place}: ${ending}`)
  else console.log(`FAIL  the group hangs ${place}: it said nothing for ${silentMs / 1000} s`)
  if (silentMs !== undefined && child.pid !== undefined) await onKilled(child.pid)
  return { ...(counts ?? NOTHING), failed: (counts?.failed ?? 0) + 1 }
}

/** Kills a process that was not heard of for a while. */
class Watchdog {
  readonly #child: ChildProcess
  #timer: NodeJS.Timeout | undefined
  #silentMs: number | undefined

  constructor(child: ChildProcess) {
    this.#child = child
  }

  /** How long it had waited when it killed the process. */
  get silentMs(): number | undefined {
    return this.#silentMs
  }

  restart(patienceMs: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.#silentMs = patienceMs
      this.#child.kill('SIGKILL')
    }, patienceMs)
  }

  stop(): void {
    clearTimeout(this.#timer)
  }
}

/** What ended a process, in words. */
function endOf(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.on('error', (error) => resolve(error.message))
    child.on('exit', (code, signal) => resolve(signal ?? `exit code ${code}`))
  })
}
