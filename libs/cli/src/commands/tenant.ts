import type { Tenant } from '@weft/sdk'
import type { Command } from 'commander'
import { checkName, collectLabels } from '../arguments.ts'
import { sentenceView, tableView } from '../output.ts'
import type { Act } from '../program.ts'
import { labelText, removedView } from '../views.ts'
import { registerTenantLock, tenantView } from './tenant-lock.ts'

export function registerTenant(program: Command, act: Act): void {
  const tenant = program.command('tenant').description('owners of networks')

  tenant
    .command('create <name>')
    .description('add a tenant')
    .option('--label <key=value>', 'a label; may be repeated', collectLabels)
    .addHelpText('after', '\nExample:\n  weft tenant create acme --label contract=42\n')
    .action(
      act(async (session, name: string, options: { label?: Record<string, string> }) => {
        const weft = await session.weft()
        const created = await weft.tenants.create({
          name: checkName('tenant', name),
          labels: options.label ?? {},
        })
        return sentenceView(created, `tenant ${created.name} created`)
      }),
    )

  tenant
    .command('ls')
    .description('list tenants')
    .addHelpText('after', '\nExample:\n  weft tenant ls -o json\n')
    .action(
      act(async (session) => {
        const rows = await Array.fromAsync((await session.weft()).tenants.list())
        return tableView<Tenant>(
          rows,
          [
            { title: 'NAME', value: (row) => row.name },
            { title: 'ID', value: (row) => String(row.id) },
            { title: 'LABELS', value: (row) => labelText(row.labels) },
          ],
          'no tenants; add one: weft tenant create NAME',
        )
      }),
    )

  tenant
    .command('show <name>')
    .description('show a tenant, and what its key has signed if it is locked')
    .addHelpText('after', '\nExample:\n  weft tenant show acme\n')
    .action(
      act(async (session, name: string) => {
        return await tenantView(session, name)
      }),
    )

  registerTenantLock(tenant, act)

  tenant
    .command('rm <name>')
    .description('remove a tenant that has no networks')
    .addHelpText('after', '\nExample:\n  weft tenant rm acme\n')
    .action(
      act(async (session, name: string) =>
        removedView('tenant', name, await (await session.weft()).tenants.delete(name)),
      ),
    )
}
