import { InvalidArgumentError } from '@weft/errors'
import type { Command } from 'commander'
import { fieldsView, sentenceView, tableView } from '../output.ts'
import type { Act } from '../program.ts'

interface Row {
  readonly name: string
  readonly current: boolean
  readonly control: string | undefined
  readonly tenant: string | undefined
  readonly identity: string | undefined
}

export function registerContext(program: Command, act: Act): void {
  const context = program
    .command('context')
    .description('which domain is meant, and who you are there')

  context
    .command('ls')
    .description('list your contexts')
    .addHelpText('after', '\nExample:\n  weft context ls\n')
    .action(
      act(async ({ io }) => {
        const { readContexts } = await import('@weft/sdk')
        const { current, contexts } = readContexts(io.env)
        const rows = Object.entries(contexts).map(
          ([name, { control, tenant, identity }]): Row => ({
            name,
            current: name === current,
            control,
            tenant,
            identity,
          }),
        )
        return tableView<Row>(
          rows,
          [
            { title: '', value: (row) => (row.current ? '*' : '') },
            { title: 'NAME', value: (row) => row.name },
            { title: 'CONTROL', value: (row) => row.control ?? '-' },
            { title: 'TENANT', value: (row) => row.tenant ?? 'default' },
            { title: 'IDENTITY', value: (row) => row.identity ?? '-' },
          ],
          'no contexts; get one: weft login. A running lab is used without one.',
        )
      }),
    )

  context
    .command('use <name>')
    .description('make a context the current one, or with lab none, so that a running lab is meant')
    .option('--set-tenant <tenant>', 'tenant that is meant in it where none is named')
    .addHelpText(
      'after',
      '\nExamples:\n  weft context use lab.example --set-tenant acme\n  weft context use lab\n',
    )
    .action(
      act(async ({ io }, name: string, options: { setTenant?: string }) => {
        const { LAB_CONTEXT, readContexts, writeContexts } = await import('@weft/sdk')
        const { contexts } = readContexts(io.env)
        const entry = Object.hasOwn(contexts, name) ? contexts[name] : undefined
        if (entry === undefined && name !== LAB_CONTEXT) throw unknownContext(name)
        const { setTenant } = options
        const changed = entry && { ...entry, ...(setTenant !== undefined && { tenant: setTenant }) }
        writeContexts(io.env, {
          current: entry === undefined ? undefined : name,
          contexts: changed === undefined ? contexts : { ...contexts, [name]: changed },
        })
        return sentenceView({ current: name }, `context ${name} is the current one`)
      }),
    )

  context
    .command('show')
    .description('show what is meant when nothing is said')
    .addHelpText('after', '\nExample:\n  weft context show\n')
    .action(
      act(async (session) => {
        const found = await session.context()
        const { name, control, tenant, identity, hosts } = found
        const own = await whoIs(identity)
        return fieldsView({ ...found, ...own }, [
          ['name', name ?? ''],
          ['control', control ?? ''],
          ['tenant', tenant],
          ['identity', identity ?? ''],
          ['who', own.who ?? ''],
          ['fingerprint', own.fingerprint ?? ''],
          ['hosts', Object.keys(hosts).join(', ')],
        ])
      }),
    )

  context
    .command('rm <name>')
    .description('forget a context; its identity stays in its folder')
    .addHelpText('after', '\nExample:\n  weft context rm lab.example\n')
    .action(
      act(async ({ io }, name: string) => {
        const { readContexts, writeContexts } = await import('@weft/sdk')
        const { current, contexts } = readContexts(io.env)
        if (!Object.hasOwn(contexts, name)) throw unknownContext(name)
        const { [name]: _, ...rest } = contexts
        writeContexts(io.env, { current: current === name ? undefined : current, contexts: rest })
        return sentenceView({ removed: name }, `context ${name} is forgotten`)
      }),
    )
}

/** The URI of who an identity folder says, and the fingerprint of the domain's root; neither where it says nothing. */
async function whoIs(
  folder: string | undefined,
): Promise<{ readonly who?: string; readonly fingerprint?: string }> {
  if (folder === undefined) return {}
  const [{ readIdentity }, { fingerprintOf, formatIdentity }] = await Promise.all([
    import('@weft/domain'),
    import('@weft/identity'),
  ])
  const stored = await readIdentity(folder)
  if (stored === undefined) return {}
  return { who: formatIdentity(stored.identity), fingerprint: fingerprintOf(stored.root) }
}

function unknownContext(name: string): InvalidArgumentError {
  return new InvalidArgumentError({
    field: 'context',
    problem: `there is no context ${name}`,
    remedy: 'list them with: weft context ls',
  })
}
