// The edge of the process: arguments in, exit code out.
import { InvalidArgumentError } from '@weft/errors'
import { runCli } from './program.ts'

process.exitCode = await runCli(process.argv.slice(2), {
  stdout: (text) => process.stdout.write(text),
  stderr: (text) => process.stderr.write(text),
  env: process.env,
  isTerminal: process.stdout.isTTY,
  isErrorTerminal: process.stderr.isTTY,
  columns: process.stdout.columns ?? 80,
  isInputTerminal: process.stdin.isTTY,
  readInput,
  ask,
})

async function readInput(maxBytes: number): Promise<string> {
  const parts: Buffer[] = []
  let length = 0
  for await (const part of process.stdin) {
    parts.push(part)
    length += part.length
    if (length > maxBytes) {
      const problem = `there are more than ${maxBytes} bytes`
      const remedy = 'give what was asked for, and nothing else'
      throw new InvalidArgumentError({ field: 'standard input', problem, remedy })
    }
  }
  return Buffer.concat(parts).toString('utf8')
}

async function ask(question: string): Promise<string> {
  const { createInterface } = await import('node:readline/promises')
  const lines = createInterface({ input: process.stdin, output: process.stderr })
  try {
    return await lines.question(question)
  } finally {
    lines.close()
  }
}
