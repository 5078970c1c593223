import { asWeftError, ExitCode } from '@weft/errors'
import type { HostStatus, ServerInfo } from '@weft/sdk'
import type { Command } from 'commander'
import type { Paint } from '../io.ts'
import { formatDuration, renderTable } from '../output.ts'
import type { Act } from '../program.ts'
import type { Session } from '../session.ts'
import { connectionCountText, fallbackTexts, sealingCaveats, tableText } from './host.ts'

/** What answered, or why it did not. */
type Answer<T> = { readonly value: T } | { readonly problem: string }

interface Line {
  readonly what: string
  readonly health: string
  readonly detail: string
}

export function registerStatus(program: Command, act: Act): void {
  program
    .command('status')
    .description(
      'say what answers, what is stale and how old it is; ends with 5 if nothing answers',
    )
    .addHelpText('after', '\nExamples:\n  weft status\n  weft status -o json\n')
    .action(
      act(async (session) => {
        const context = await session.context()
        const weft = await session.weft()
        const names: (string | undefined)[] = Object.keys(context.hosts)
        if (
          names.length === 0 &&
          (context.localHost !== undefined || context.control === undefined)
        ) {
          names.push(undefined)
        }
        const [control, ...hosts] = await Promise.all([
          answerOf(() => weft.serverInfo()),
          ...names.map((name) => answerOf(() => weft.host(name).status())),
        ])
        const named = hosts.map((answer, index) => ({ name: names[index] ?? 'this host', answer }))
        await printStatus(session, control, named)
        const answered = [control, ...hosts].some((answer) => 'value' in answer)
        return answered ? ExitCode.Ok : ExitCode.Unavailable
      }),
    )
}

async function printStatus(
  session: Session,
  control: Answer<ServerInfo>,
  hosts: readonly { name: string; answer: Answer<HostStatus> }[],
): Promise<void> {
  const data = {
    control: plainAnswer(control),
    hosts: Object.fromEntries(hosts.map(({ name, answer }) => [name, plainAnswer(answer)])),
  }
  const lines = [
    controlLine(control),
    ...hosts.flatMap(({ name, answer }) => hostLines(name, answer)),
  ]
  await session.print({ data, text: (paint) => statusText(lines, paint) })
}

function statusText(lines: readonly Line[], paint: Paint): string {
  return renderTable(
    lines,
    [
      { title: 'WHAT', value: (line) => line.what },
      {
        title: 'HEALTH',
        value: (line) => paint(line.health === 'ok' ? 'green' : 'red', line.health),
      },
      { title: 'DETAIL', value: (line) => line.detail },
    ],
    paint,
  )
}

function controlLine(answer: Answer<ServerInfo>): Line {
  if ('problem' in answer) return { what: 'control', health: 'gone', detail: answer.problem }
  const { replicaId, revision, isController, busServer, busConnected } = answer.value
  const role = isController ? ', writes the host rows' : ''
  return {
    what: 'control',
    health: busConnected ? 'ok' : 'stale',
    detail: `replica ${replicaId} at revision ${revision}${role}; bus ${busServer}${busConnected ? '' : ' does not answer'}`,
  }
}

function hostLines(name: string, answer: Answer<HostStatus>): Line[] {
  if ('problem' in answer) return [{ what: name, health: 'gone', detail: answer.problem }]
  const status = answer.value
  const stale = status.dependencies.filter((dependency) => dependency.health !== 'ok')
  const counts = connectionCountText(status)
  const summary = {
    what: name,
    health: stale.length === 0 && !status.fromDisk ? 'ok' : 'stale',
    detail: `${status.ports} ports, ${status.flows} flows${counts && `, connections: ${counts}`}; tables of ${tableText(status)}`,
  }
  const details = stale.map((dependency) => ({
    what: `  ${dependency.name}`,
    health: dependency.health,
    detail: `no answer from ${dependency.address} for ${formatDuration(dependency.ageMs)}${dependency.error && `: ${dependency.error}`}`,
  }))
  return [summary, ...sealingLines(status), ...details]
}

/** What is amiss with the sealed transport of a host, and what it falls back to. */
function sealingLines({ sealing }: HostStatus): Line[] {
  if (sealing === undefined) return []
  const what = '  sealing'
  if (!sealing.available) {
    const detail = `${sealing.problem}; nothing is sent plain instead`
    return [{ what, health: 'gone', detail }]
  }
  const caveats = sealingCaveats(sealing)
  const details = [...caveats, ...fallbackTexts(sealing)]
  if (details.length === 0) return []
  // What went another way now and then is no reason for concern.
  const health = caveats.length === 0 ? 'ok' : sealing.keyLogged ? 'unsafe' : 'reduced'
  return [{ what, health, detail: details.join('; ') }]
}

async function answerOf<T>(ask: () => Promise<T>): Promise<Answer<T>> {
  try {
    return { value: await ask() }
  } catch (error) {
    return { problem: asWeftError(error).message }
  }
}

function plainAnswer<T>(answer: Answer<T>): unknown {
  return 'value' in answer ? answer.value : answer
}
