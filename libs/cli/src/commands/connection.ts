import { setTimeout as sleep } from 'node:timers/promises'
import type { Connection, OpenConnection } from '@weft/sdk'
import type { Command } from 'commander'
import { wholeNumber } from '../arguments.ts'
import { type Column, formatDuration, renderTable, type View } from '../output.ts'
import type { Act } from '../program.ts'
import type { Session } from '../session.ts'
import { byteText, openText, rateText, socketText, whyApart } from '../views.ts'

interface ListOptions {
  readonly host?: string
  readonly open: boolean
  readonly watch: boolean
  readonly times?: number
}

type OnHost<T> = T & { readonly onHost: string }
/** A pair of endpoints with the connection between their hosts that it takes. */
type Pair = OnHost<Connection> & { readonly open: OpenConnection | undefined }

/** How often a watch looks again; hosts know no more than that. */
const WATCH_MS = 1_000
/** Cursor to the top left, and everything below it gone (ECMA-48, CUP and ED). */
const CLEAR = '\u001b[H\u001b[J'

export function registerConnection(program: Command, act: Act): void {
  const connection = program
    .command('connection')
    .description('pairs of endpoints that talk, and the connections between hosts that carry them')

  connection
    .command('ls')
    .description(
      'list the connections of hosts: how endpoints are joined and why, and how hosts are',
    )
    .option('--host <host>', 'only those of this host')
    .option('--open', 'only the open connections to other hosts and WireGuard clients', false)
    .option('--watch', 'again every second', false)
    .option('--times <count>', 'end a watch after so many', wholeNumber('times', 1, 1_000_000))
    .addHelpText(
      'after',
      '\nExamples:\n  weft connection ls\n  weft connection ls --host alpha -o json\n  weft connection ls --open --watch\n',
    )
    .action(
      act(async (session, options: ListOptions) => {
        if (!options.watch) return await viewOf(session, options)
        for (let left = options.times ?? Infinity; left > 0; left--) {
          const view = await viewOf(session, options)
          if (session.io.isTerminal && session.options.output === 'table') {
            session.io.stdout(CLEAR)
          }
          await session.print(view)
          if (left > 1) await sleep(WATCH_MS)
        }
        return undefined
      }),
    )
}

async function viewOf(session: Session, { host, open }: ListOptions): Promise<View> {
  const weft = await session.weft()
  const between = await weft.ofHosts(host, (one) => one.listOpenConnections())
  if (open) return { data: between, text: (paint) => openTable(between, paint) }
  const connections = await weft.ofHosts(host, (one) => one.listConnections())
  const pairs = connections.map((pair) => ({
    ...pair,
    open: between.find(
      (one) =>
        one.onHost === pair.onHost &&
        one.client === undefined &&
        one.host === pair.targetHost &&
        one.carrier === pair.carrier,
    ),
  }))
  return {
    data: pairs,
    text: (paint) =>
      pairs.length === 0
        ? `${NOBODY_TALKS}${between.length === 0 ? '' : `\n${openTable(between, paint)}`}`
        : `${renderTable(pairs, PAIRS, paint)}${between.length === 0 ? '' : `\n${openTable(between, paint)}`}`,
  }
}

const NOBODY_TALKS = 'no connections: nobody has talked yet\n'

function openTable(
  connections: readonly OnHost<OpenConnection>[],
  paint: Parameters<View['text']>[0],
): string {
  if (connections.length === 0)
    return 'no connections to other hosts or clients: no network is shared with one\n'
  const now = Date.now()
  const columns: readonly Column<OnHost<OpenConnection>>[] = [
    { title: 'ON', value: (row) => row.onHost },
    { title: 'TO', value: otherEnd },
    { title: 'CARRIER', value: (row) => row.carrier },
    {
      title: 'STATE',
      value: (row) => (row.state === 'unreachable' ? paint('red', openText(row)) : openText(row)),
    },
    { title: 'ENDPOINT', value: ({ endpoint }) => (endpoint ? socketText(endpoint) : '-') },
    { title: 'RTT', value: ({ rttUs }) => microsecondText(rttUs) },
    { title: 'JITTER', value: ({ jitterUs }) => microsecondText(jitterUs) },
    { title: 'LOSS', value: ({ lossPpm }) => rateText(lossPpm) },
    { title: 'PATH MTU', value: ({ pathMtuBytes }) => String(pathMtuBytes ?? '-') },
    { title: 'SENT', value: ({ sentBytes }) => byteText(sentBytes) },
    { title: 'RECEIVED', value: ({ receivedBytes }) => byteText(receivedBytes) },
    {
      title: 'AGE',
      value: ({ openSince }) => (openSince ? formatDuration(now - openSince.getTime()) : '-'),
    },
    { title: 'CIPHER', value: ({ cipher }) => cipher ?? '-' },
    { title: 'OFFLOADS', value: ({ offloads }) => offloads.join(' ') || '-' },
  ]
  const apart = connections.flatMap((row) => {
    const why = whyApart(row)
    return why === undefined ? [] : [`${row.onHost} to ${otherEnd(row)}: ${why}\n`]
  })
  return renderTable(connections, columns, paint) + apart.join('')
}

/** The other host, or the endpoint of a client. */
function otherEnd({ host, client }: OpenConnection): string {
  return client === undefined ? host : `${client.network}/${client.endpoint} (wireguard)`
}

function microsecondText(microseconds: number | undefined): string {
  return microseconds === undefined ? '-' : `${(microseconds / 1000).toFixed(2)} ms`
}

const PAIRS: readonly Column<Pair>[] = [
  { title: 'ON', value: (row) => row.onHost },
  { title: 'NETWORK', value: (row) => row.network },
  { title: 'SOURCE', value: (row) => row.source },
  { title: 'TARGET', value: (row) => row.target },
  { title: 'TARGET HOST', value: (row) => row.targetHost },
  {
    title: 'MECHANISM',
    value: (row) => (row.refused === undefined ? row.mechanism : 'refused'),
  },
  { title: 'CARRIER', value: (row) => row.carrier },
  { title: 'STATE', value: ({ open }) => (open ? openText(open) : '') },
  { title: 'PROTOCOL', value: (row) => row.protocol },
  { title: 'RULE', value: (row) => row.rule },
  {
    title: 'AGE',
    value: (row) => `${formatDuration(row.ageMs)}${row.stale ? ' (stale)' : ''}`,
  },
  { title: 'IDLE', value: (row) => formatDuration(row.idleMs) },
  { title: 'WHY', value: (row) => row.refused?.message ?? '' },
]
