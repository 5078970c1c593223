// The first program of every `npm run`: brings the machine to where the rest can run, then hands over to it.
// Runs on Node 20 without a package; what it starts runs on the Node 24 that it installed.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { constants } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gatherFacts, SEARCH_PATH } from './probe.mjs'
import { Progress } from './progress.mjs'
import { examine } from './requirements.mjs'
import { setUp } from './steps.mjs'

const EXIT_ENVIRONMENT = 7
const ROOT = join(dirname(fileURLToPath(import.meta.url)), '../..')

/** The menu: what each command starts once everything is in place. */
const ENTRIES = {
  lab: ['libs/cli/src/main.ts', 'lab', 'up'],
  test: ['test/run.ts'],
  torture: ['test/run.ts', '--torture'],
  check: ['test/check.ts'],
  bench: ['test/bench/main.ts'],
}

const [command = 'setup', ...rest] = process.argv.slice(2)
if (command !== 'setup' && !Object.hasOwn(ENTRIES, command)) {
  console.error(
    `error: no command ${command}\ntry: one of ${Object.keys(ENTRIES).join(', ')}, setup`,
  )
  process.exit(2)
}

const startedAt = Date.now()
const { blockers, packages } = examine(command, gatherFacts(ROOT))
if (blockers.length > 0) {
  console.error(
    `error: ${blockers.length === 1 ? 'something is' : `${blockers.length} things are`} missing here\n`,
  )
  for (const { what, remedy } of blockers) console.error(`  ${what}\n    try: ${remedy}`)
  process.exit(EXIT_ENVIRONMENT)
}

const progress = new Progress()
try {
  await setUp({ root: ROOT, packages, progress })
  progress.stop()
} catch (error) {
  progress.stop()
  console.error(`\nerror: set-up failed\n${error.message}`)
  process.exit(EXIT_ENVIRONMENT)
}
if (command === 'setup')
  console.error(
    `set-up: everything is in place (${((Date.now() - startedAt) / 1000).toFixed(1)} s)`,
  )
else handOver(ENTRIES[command], rest)

/** Runs the command in the foreground and ends as it ended. */
function handOver([entry, ...words], argv) {
  const node = join(ROOT, 'node_modules/.bin/node')
  if (!existsSync(join(ROOT, entry))) throw new Error(`${entry} is not in this clone`)
  const child = spawn(node, [join(ROOT, entry), ...words, ...argv], {
    stdio: 'inherit',
    env: {
      ...process.env,
      PATH: [join(ROOT, 'node_modules/.bin'), ...SEARCH_PATH].join(delimiter),
    },
  })
  // The child decides what a signal means. A terminal sends Ctrl-C to both of them, so that one is not passed on.
  process.on('SIGINT', () => process.stdin.isTTY || child.kill('SIGINT'))
  for (const signal of ['SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  child.on('exit', (code, signal) => {
    process.exitCode = code ?? 128 + (constants.signals[signal] ?? 0)
  })
}
