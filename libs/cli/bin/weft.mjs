#!/usr/bin/env node
// Starts the command on the Node that set-up installed, whatever Node runs this file.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import module from 'node:module'
import { constants } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const NODE_MAJOR_MIN = 24
const EXIT_ENVIRONMENT = 7
const root = join(dirname(fileURLToPath(import.meta.url)), '../../..')

if (Number(process.versions.node.split('.')[0]) >= NODE_MAJOR_MIN) {
  // Types are erased and code is compiled once, not at every start.
  module.enableCompileCache(join(root, '.tools/compile-cache'))
  await import('../src/main.ts')
} else {
  const node = join(root, 'node_modules/.bin/node')
  if (existsSync(node)) startOn(node)
  else {
    console.error(
      `error: weft needs Node >= ${NODE_MAJOR_MIN}, and this is ${process.version}\ntry: npm run setup`,
    )
    process.exitCode = EXIT_ENVIRONMENT
  }
}

function startOn(node) {
  const argv = [fileURLToPath(import.meta.url), ...process.argv.slice(2)]
  const child = spawn(node, argv, { stdio: 'inherit' })
  // A terminal sends Ctrl-C to both of them; the child decides what it means.
  process.on('SIGINT', () => process.stdin.isTTY || child.kill('SIGINT'))
  for (const signal of ['SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  child.on('exit', (code, signal) => {
    process.exitCode = code ?? 128 + (constants.signals[signal] ?? 0)
  })
}
