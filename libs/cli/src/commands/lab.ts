import { spawn } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { InvalidArgumentError } from '@weft/errors'
import type { Lab } from '@weft/lab'
import type { Command } from 'commander'
import { DEFAULT_LAB, LabScreen, summaryText } from '../lab-screen.ts'
import { sentenceView, tableView } from '../output.ts'
import type { Act } from '../program.ts'
import type { Session } from '../session.ts'

const REDRAW_MS = 1000
const NAME_HELP = 'labs of different names run side by side'

interface UpOptions {
  readonly topology: string
  readonly detach: boolean
  readonly name: string
}

export function registerLab(program: Command, act: Act): void {
  const lab = program
    .command('lab')
    .description('hosts and containers of one machine, for trying and testing')

  lab
    .command('up')
    .description('start a lab; it is removed at the end, or stays with --detach')
    .option('-t, --topology <topology>', 'routed, pair, nat, or a file', 'routed')
    .option('-d, --detach', 'leave it running', false)
    .option('--name <name>', NAME_HELP, DEFAULT_LAB)
    .addHelpText('after', '\nExamples:\n  weft lab up\n  weft lab up --topology pair --detach\n')
    .action(
      act(async (session, options: UpOptions) => {
        await up(session, options)
        return undefined
      }),
    )

  lab
    .command('down')
    .description('remove a lab, also what a crash left behind')
    .option('--name <name>', NAME_HELP, DEFAULT_LAB)
    .addHelpText('after', '\nExample:\n  weft lab down\n')
    .action(
      act(async (_session, options: { name: string }) => {
        const { removeLab } = await import('@weft/lab')
        const removed = await removeLab(options.name)
        return sentenceView(
          { removed },
          removed ? `lab ${options.name} removed` : `there was no lab ${options.name}`,
        )
      }),
    )

  lab
    .command('status')
    .description('say what runs, where, as whom and with how much memory')
    .option('--name <name>', NAME_HELP, DEFAULT_LAB)
    .addHelpText('after', '\nExample:\n  weft lab status\n')
    .action(
      act(async (_session, options: { name: string }) => {
        const { openLab } = await import('@weft/lab')
        const opened = openLab(options.name)
        const rows = opened.processes().map(({ name, uid, ref, metricsListen, logFile }) => ({
          name,
          pid: ref?.pid,
          uid,
          residentBytes: ref === undefined ? undefined : opened.residentBytes(name),
          metricsListen,
          logFile,
        }))
        return tableView(
          rows,
          [
            { title: 'PROCESS', value: (row) => row.name },
            { title: 'PID', value: (row) => String(row.pid ?? 'has ended') },
            { title: 'UID', value: (row) => String(row.uid) },
            { title: 'MEMORY', value: (row) => mebibytes(row.residentBytes) },
            { title: 'METRICS', value: (row) => row.metricsListen ?? '' },
            { title: 'LOG', value: (row) => row.logFile },
          ],
          'nothing runs',
        )
      }),
    )

  lab
    .command('exec <place> <command...>')
    .description(
      'run a command at a host, at NETWORK/ENDPOINT, or at an endpoint; ends as the command ends',
    )
    .option('--name <name>', NAME_HELP, DEFAULT_LAB)
    .passThroughOptions()
    .addHelpText(
      'after',
      "\nAn endpoint that several networks have is that of the topology's first network.\n\nExamples:\n  weft lab exec web -- ping -c 3 10.20.0.13\n  weft lab exec red/web -- bash\n  weft lab exec alpha -- ip address\n",
    )
    .action(
      act(async (_session, place: string, command: string[], options: { name: string }) => {
        const { openLab } = await import('@weft/lab')
        return await execAt(openLab(options.name), place, command)
      }),
    )
}

async function up(session: Session, { topology, detach, name }: UpOptions): Promise<void> {
  const { io } = session
  if (session.options.output !== 'table') {
    throw new InvalidArgumentError({
      field: 'output',
      problem: 'starting a lab prints text',
      remedy: 'ask for JSON afterwards: weft lab status -o json',
    })
  }
  const stop = new AbortController()
  const onSignal = (): void => stop.abort()
  for (const signal of STOP_SIGNALS) process.on(signal, onSignal)
  try {
    const { startLab } = await import('@weft/lab')
    const startedAt = Date.now()
    const lab = await startLab({
      topology,
      name,
      signal: stop.signal,
      onProgress: (what) => io.stderr(`  ${session.paint('dim', what)}\n`),
    })
    io.stdout(summaryText(lab, Date.now() - startedAt, detach, session.paint))
    if (detach) {
      lab.detach()
      await lab.client[Symbol.asyncDispose]()
      return
    }
    await using _removed = lab
    await watch(session, lab, stop.signal)
    io.stderr(`  ${session.paint('dim', 'removing everything')}\n`)
  } catch (error) {
    // Stopped while it was starting: it is removed already, and that is what was asked for.
    if (!stop.signal.aborted) throw error
  } finally {
    for (const signal of STOP_SIGNALS) process.off(signal, onSignal)
  }
}

const STOP_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/** Shows the lab until it is stopped. Without a terminal there is nothing to redraw. */
async function watch(session: Session, lab: Lab, signal: AbortSignal): Promise<void> {
  const screen = new LabScreen(lab, session)
  while (!signal.aborted) {
    if (session.io.isTerminal) await screen.draw()
    await sleep(REDRAW_MS, undefined, { signal }).catch(() => undefined)
  }
}

/** The command shares the terminal; signals that are not the terminal's own are passed on. */
async function execAt(lab: Lab, place: string, argv: readonly string[]): Promise<number> {
  const { exitCodeOf, requireRoot } = await import('@weft/lab')
  requireRoot('a command inside a lab')
  // `ip netns exec` also shows the namespace's own /sys; `env` ends with 126 and 127 as a shell would.
  const child = spawn('ip', ['netns', 'exec', lab.namespaceOf(place), 'env', ...argv], {
    stdio: 'inherit',
  })
  const ignore = (): void => {}
  const pass = (signal: NodeJS.Signals): void => void child.kill(signal)
  process.on('SIGINT', ignore).on('SIGQUIT', ignore).on('SIGTERM', pass).on('SIGHUP', pass)
  try {
    return await new Promise<number>((resolve, reject) => {
      child.on('error', reject)
      child.on('exit', (code, signal) => resolve(exitCodeOf(code, signal)))
    })
  } finally {
    process.off('SIGINT', ignore).off('SIGQUIT', ignore).off('SIGTERM', pass).off('SIGHUP', pass)
  }
}

function mebibytes(bytes: number | undefined): string {
  return bytes === undefined ? '' : `${(bytes / 1024 ** 2).toFixed(0)} MiB`
}
