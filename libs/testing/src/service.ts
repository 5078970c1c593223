import { spawn } from 'node:child_process'
import { once } from 'node:events'

/** How a service ended, and the lines that it logged. */
export interface EndedService {
  readonly exitCode: number | null
  readonly lines: readonly { readonly [fact: string]: unknown }[]
}

/** Runs a service that cannot start until it ends by itself: `main` is its program, `env` all that it is told. */
export async function endOfService(
  main: string,
  env: { readonly [name: string]: string },
): Promise<EndedService> {
  const child = spawn(process.execPath, [main], { env, stdio: ['ignore', 'pipe', 'inherit'] })
  let log = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    log += text
  })
  try {
    await once(child, 'close')
  } finally {
    child.kill('SIGKILL')
  }
  const lines = log.split('\n').filter((line) => line !== '')
  return { exitCode: child.exitCode, lines: lines.map((line) => JSON.parse(line)) }
}
