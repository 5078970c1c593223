import type { Connection } from '@weft/sdk'
import type { Command } from 'commander'
import { formatDuration, tableView } from '../output.ts'
import type { Act } from '../program.ts'

export function registerConnection(program: Command, act: Act): void {
  const connection = program.command('connection').description('pairs of endpoints that talk')

  connection
    .command('ls')
    .description('list the connections of a host: how they are joined, and why')
    .option('--host <host>', 'the host; this one if not given')
    .addHelpText('after', '\nExample:\n  weft connection ls --host alpha\n')
    .action(
      act(async (session, options: { host?: string }) => {
        const rows = await (await session.weft()).host(options.host).listConnections()
        return tableView<Connection>(
          rows,
          [
            { title: 'NETWORK', value: (row) => row.network },
            { title: 'SOURCE', value: (row) => row.source },
            { title: 'TARGET', value: (row) => row.target },
            { title: 'HOST', value: (row) => row.targetHost },
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
