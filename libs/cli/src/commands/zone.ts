import type { Zone } from '@weft/sdk'
import type { Command } from 'commander'
import { checkName, collectLabels } from '../arguments.ts'
import { fieldsView, sentenceView, tableView } from '../output.ts'
import type { Act } from '../program.ts'
import { labelText, removedView, storedFields } from '../views.ts'

export function registerZone(program: Command, act: Act): void {
  const zone = program.command('zone').description('underlays in which hosts reach each other')

  zone
    .command('create <name>')
    .description('add a zone')
    .option('--trusted', 'nobody else is on it: links between hosts inside may be plain', false)
    .option('--label <key=value>', 'a label; may be repeated', collectLabels)
    .addHelpText('after', '\nExample:\n  weft zone create rack-7 --trusted\n')
    .action(
      act(
        async (
          session,
          name: string,
          options: { trusted: boolean; label?: Record<string, string> },
        ) => {
          const weft = await session.weft()
          const { trusted, label } = options
          const created = await weft.zones.create({
            name: checkName('zone', name),
            trusted,
            labels: label ?? {},
          })
          return sentenceView(created, `${trusted ? 'trusted ' : ''}zone ${created.name} created`)
        },
      ),
    )

  zone
    .command('ls')
    .description('list zones')
    .addHelpText('after', '\nExample:\n  weft zone ls\n')
    .action(
      act(async (session) => {
        const rows = await Array.fromAsync((await session.weft()).zones.list())
        return tableView<Zone>(
          rows,
          [
            { title: 'NAME', value: (row) => row.name },
            { title: 'ID', value: (row) => String(row.id) },
            { title: 'TRUSTED', value: (row) => (row.trusted ? 'yes' : 'no') },
            { title: 'LABELS', value: (row) => labelText(row.labels) },
          ],
          'no zones; add one: weft zone create NAME',
        )
      }),
    )

  zone
    .command('show <name>')
    .description('show a zone')
    .addHelpText('after', '\nExample:\n  weft zone show rack-7\n')
    .action(
      act(async (session, name: string) => {
        const found = await (await session.weft()).zones.get(name)
        return fieldsView(found, [
          ...storedFields(found),
          ['trusted', found.trusted ? 'yes' : 'no'],
        ])
      }),
    )

  zone
    .command('set <name>')
    .description('change whether a zone is trusted')
    .requiredOption('--trusted <yes|no>', 'whether links inside may be plain')
    .addHelpText('after', '\nExample:\n  weft zone set rack-7 --trusted no\n')
    .action(
      act(async (session, name: string, options: { trusted: string }, command: Command) => {
        if (!['yes', 'no'].includes(options.trusted))
          command.error("error: --trusted is 'yes' or 'no'")
        const trusted = options.trusted === 'yes'
        const changed = await (await session.weft()).zones.update({ name, trusted })
        return sentenceView(changed, `zone ${name} is ${trusted ? 'trusted' : 'not trusted'} now`)
      }),
    )

  zone
    .command('rm <name>')
    .description('remove a zone in which no host has an address')
    .addHelpText('after', '\nExample:\n  weft zone rm rack-7\n')
    .action(
      act(async (session, name: string) =>
        removedView('zone', name, await (await session.weft()).zones.delete(name)),
      ),
    )
}
