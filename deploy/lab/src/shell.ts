import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import { InternalError } from '@weft/errors'

/** How a program ended, with what it said. */
export interface Outcome {
  /** 128 and the signal's number for one that a signal ended. */
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export interface RunOptions {
  readonly input?: string
  readonly env?: NodeJS.ProcessEnv
  readonly signal?: AbortSignal
  /** After which it is killed. */
  readonly timeoutMs?: number
}

/** Runs a program to its end. Never throws for how it ended; throws if it cannot be started. */
export function run(argv: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const [command = '', ...words] = argv
  return new Promise((resolve, reject) => {
    const child = spawn(command, words, {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: options.env ?? process.env,
      ...(options.signal && { signal: options.signal }),
      ...(options.timeoutMs !== undefined && { timeout: options.timeoutMs }),
      killSignal: 'SIGKILL',
    })
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text
    })
    // A program that does not read its input closes the pipe early: that is its right.
    child.stdin.on('error', () => {})
    child.stdin.end(options.input ?? '')
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ code: exitCodeOf(code, signal), stdout, stderr }))
  })
}

/** Runs a program that has to succeed. */
export async function mustRun(argv: readonly string[], options?: RunOptions): Promise<string> {
  const { code, stdout, stderr } = await run(argv, options)
  if (code !== 0) throw new InternalError(`${argv.join(' ')} ended with ${code}: ${stderr.trim()}`)
  return stdout
}

/** Runs lines of the `ip` command, all in one process, in a namespace or in the machine's own. */
export async function ip(lines: readonly string[], namespace?: string): Promise<void> {
  if (lines.length === 0) return
  const where = namespace === undefined ? [] : ['-n', namespace]
  await mustRun(['ip', ...where, '-batch', '-'], { input: `${lines.join('\n')}\n` })
}

/** What a shell reports: the code, or 128 and the number of the signal. */
export function exitCodeOf(code: number | null, signal: NodeJS.Signals | null): number {
  return signal === null ? (code ?? 1) : 128 + constants.signals[signal]
}

/** Words that run what follows in a namespace. */
export function inNamespace(namespace: string): string[] {
  return ['nsenter', `--net=/run/netns/${namespace}`]
}
