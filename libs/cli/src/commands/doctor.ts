import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { ExitCode } from '@weft/errors'
import type { Command } from 'commander'
import type { Paint } from '../io.ts'
import { renderTable } from '../output.ts'
import type { Act } from '../program.ts'

/** One thing that this machine has or lacks. */
export interface Check {
  readonly name: string
  readonly present: boolean
  /** Without it nothing works; the others only cost something. */
  readonly required: boolean
  /** What it is for or why it is missing, and the way out. */
  readonly detail: string
}

/** Where the shuttle is: built in this clone, or installed. */
const SHUTTLES = [
  fileURLToPath(new URL('../../../shuttle/target/release/weft-shuttle', import.meta.url)),
  '/usr/libexec/weft/weft-shuttle',
]

export function registerDoctor(program: Command, act: Act): void {
  program
    .command('doctor')
    .description(
      'say feature by feature what this machine has of what a host needs; ends with 7 if it lacks something',
    )
    .option('--shuttle <path>', 'the shuttle that tries them; else the one built or installed here')
    .addHelpText('after', '\nExamples:\n  weft doctor\n  weft doctor -o json\n')
    .action(
      act(async (session, { shuttle }: { readonly shuttle?: string }) => {
        const found = shuttle ?? SHUTTLES.find((path) => existsSync(path))
        const checks = [...machineChecks(), ...shuttleChecks(found)]
        await session.print({ data: checks, text: (paint) => checksText(checks, paint) })
        return checks.some((check) => check.required && !check.present)
          ? ExitCode.Environment
          : ExitCode.Ok
      }),
    )
}

export function checksText(checks: readonly Check[], paint: Paint): string {
  return renderTable(
    checks,
    [
      { title: 'FEATURE', value: (check) => check.name },
      {
        title: 'STATE',
        value: (check) => {
          if (check.present) return paint('green', 'ok')
          return check.required ? paint('red', 'missing') : paint('yellow', 'absent')
        },
      },
      { title: 'DETAIL', value: (check) => check.detail },
    ],
    paint,
  )
}

/** What can be seen without the shuttle. */
function machineChecks(): Check[] {
  const check = (name: string, present: boolean, remedy: string): Check => ({
    name,
    present,
    required: true,
    detail: present ? '' : remedy,
  })
  return [
    check('root', process.getuid?.() === 0, 'run it as root: features can only be tried by root'),
    check(
      'network namespaces',
      existsSync('/proc/self/ns/net'),
      'boot a kernel with CONFIG_NET_NS=y',
    ),
    check('iproute2', answers('ip', ['-Version']), 'install it: apt-get install iproute2'),
    check(
      'util-linux',
      answers('nsenter', ['--version']),
      'install it: apt-get install util-linux',
    ),
  ]
}

/** What the shuttle finds out by trying. */
function shuttleChecks(path: string | undefined): Check[] {
  if (path === undefined) {
    return [{ name: 'shuttle', present: false, required: true, detail: 'build it: npm run setup' }]
  }
  const { stdout, stderr, error } = spawnSync(path, ['--doctor', '--json'], { encoding: 'utf8' })
  try {
    return (JSON.parse(stdout) as { readonly features: Check[] }).features
  } catch {
    const problem = error?.message ?? stderr.trim().split('\n').at(-1) ?? ''
    return [
      {
        name: 'shuttle',
        present: false,
        required: true,
        detail: `${path} does not run: ${problem}`,
      },
    ]
  }
}

function answers(command: string, argv: readonly string[]): boolean {
  try {
    execFileSync(command, argv, { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}
