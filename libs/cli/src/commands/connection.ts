import type { Connection } from '@weft/sdk'
import type { Command } from 'commander'
import { formatDuration, tableView } from '../output.ts'
import type { Act } from '../program.ts'

export function registerConnection(program: Command, act: Act): void {
  const connection = program.command('connection').description('pairs of endpoints that talk')

  connection
    .command('ls')
    .description('list the connections of hosts: how they are joined, and why')
    .option('--host <host>', 'only those of this host')
    .addHelpText(
      'after',
      '\nExamples:\n  weft connection ls\n  weft connection ls --host alpha -o json\n',
    )
    .action(
      act(async (session, options: { host?: string }) => {
        const weft = await session.weft()
        const rows = await weft.ofHosts(options.host, (host) => host.listConnections())
        return tableView<Connection & { readonly onHost: string }>(
          rows,
          [
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
            { title: 'PROTOCOL', value: (row) => row.protocol },
            { title: 'RULE', value: (row) => row.rule },
            {
              title: 'AGE',
              value: (row) => `${formatDuration(row.ageMs)}${row.stale ? ' (stale)' : ''}`,
            },
            { title: 'IDLE', value: (row) => formatDuration(row.idleMs) },
            { title: 'WHY', value: (row) => row.refused?.message ?? '' },
          ],
          'no connections: nobody has talked yet',
        )
      }),
    )
}
