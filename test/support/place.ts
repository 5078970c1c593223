import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'

/** How a program ended, with what it said. */
export interface Ended {
  /** 128 and more for one that a signal ended. */
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

const TIMEOUT_MS = 30_000

/** Runs a program to its end; it does not throw for how that was. After `timeoutMs` it is killed. */
export function run(argv: readonly string[], timeoutMs: number = TIMEOUT_MS): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = start(argv)
    const killer = setTimeout(() => child.kill('SIGKILL'), timeoutMs)
    let stdout = ''
    let stderr = ''
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
    })
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      stderr += text
    })
    child.on('error', reject)
    child.on('close', (code) => {
      clearTimeout(killer)
      resolve({ code: code ?? 128, stdout, stderr })
    })
  })
}

/** Runs a program that has to succeed and returns what it wrote. */
export async function mustRun(argv: readonly string[], timeoutMs?: number): Promise<string> {
  const { code, stdout, stderr } = await run(argv, timeoutMs)
  if (code !== 0) throw new Error(`${argv.join(' ')} ended with ${code}: ${stderr || stdout}`)
  return stdout
}

/** A program that runs until it is stopped, and lets it write `ready` as a line first. */
export class Running implements AsyncDisposable {
  readonly #child: ChildProcess
  readonly #lines: string[] = []
  readonly #ended: Promise<void>
  #stderr = ''

  constructor(argv: readonly string[]) {
    this.#child = start(argv)
    const { stdout, stderr } = this.#child
    if (stdout === null || stderr === null) throw new Error('a program without pipes')
    stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr += text
    })
    createInterface({ input: stdout }).on('line', (line) => this.#lines.push(line))
    this.#ended = new Promise((resolve) => {
      this.#child.on('error', () => resolve())
      this.#child.on('close', () => resolve())
    })
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  /** Waits until it has written a line that contains `text`, and returns the first one. */
  async until(text: string, timeoutMs: number = TIMEOUT_MS): Promise<string> {
    const giveUpAt = Date.now() + timeoutMs
    while (true) {
      const hasEnded = this.#child.exitCode !== null || this.#child.signalCode !== null
      // What it wrote last may be on its way still.
      if (hasEnded) await this.#ended
      const said = this.#lines.find((line) => line.includes(text))
      if (said !== undefined) return said
      if (hasEnded || Date.now() > giveUpAt) {
        throw new Error(`${this.#child.spawnargs.join(' ')} did not say ${text}: ${this.#stderr}`)
      }
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  }

  /** Waits for its end by itself and returns the lines that it wrote. */
  async end(): Promise<readonly string[]> {
    await this.#ended
    if (this.#child.exitCode !== 0) {
      throw new Error(`${this.#child.spawnargs.join(' ')} failed: ${this.#stderr}`)
    }
    return this.#lines
  }

  /** Asks it to end, and returns the lines that it wrote. */
  stop(): Promise<readonly string[]> {
    this.#child.kill('SIGTERM')
    return this.end()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#ended
  }
}

/** A network namespace of this machine, in which programs run. */
export class Place {
  readonly namespace: string

  constructor(namespace: string) {
    this.namespace = namespace
  }

  get path(): string {
    return `/run/netns/${this.namespace}`
  }

  inside(argv: readonly string[]): string[] {
    return ['nsenter', `--net=${this.path}`, ...argv]
  }

  run(argv: readonly string[], timeoutMs?: number): Promise<Ended> {
    return run(this.inside(argv), timeoutMs)
  }

  mustRun(argv: readonly string[], timeoutMs?: number): Promise<string> {
    return mustRun(this.inside(argv), timeoutMs)
  }

  start(argv: readonly string[]): Running {
    return new Running(this.inside(argv))
  }

  /** Runs lines of the `ip` command, in one process. */
  async ip(...lines: string[]): Promise<void> {
    for (const line of lines) await mustRun(['ip', '-n', this.namespace, ...line.split(' ')])
  }
}

/** A namespace that is made for one test and removed with it. */
export class NewPlace extends Place implements AsyncDisposable {
  static async make(namespace: string): Promise<NewPlace> {
    await mustRun(['ip', 'netns', 'add', namespace])
    const place = new NewPlace(namespace)
    await place.ip('link set lo up')
    return place
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await run(['ip', 'netns', 'delete', this.namespace])
  }
}

function start(argv: readonly string[]): ChildProcess {
  const [command = '', ...words] = argv
  return spawn(command, words, { stdio: ['ignore', 'pipe', 'pipe'] })
}
