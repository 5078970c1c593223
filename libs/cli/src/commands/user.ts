import { UserNotFoundError } from '@weft/errors'
import type { Grant, User } from '@weft/sdk'
import type { Command } from 'commander'
import { checkName, collect, parseDurationMs, parseGrant } from '../arguments.ts'
import { sentenceView, tableView } from '../output.ts'
import type { Act } from '../program.ts'
import { confirm, secretView } from '../secrets.ts'
import type { Session } from '../session.ts'
import { removedView } from '../views.ts'

export function registerUser(program: Command, act: Act): void {
  const user = program.command('user').description('who may use the control server')

  user
    .command('create <name>')
    .description('add a user, who then logs in by a code')
    .requiredOption(
      '--grant <role[@tenant]>',
      'a role (owner, operator, subscriber, auditor), in one tenant or in all; may be repeated',
      collect(parseGrant),
    )
    .addHelpText(
      'after',
      '\nExample:\n  weft user create ada --grant operator@acme --grant auditor\n',
    )
    .action(
      act(async (session, name: string, options: { grant: Grant[] }) => {
        const weft = await session.weft()
        const created = await weft.users.create({
          name: checkName('user', name),
          grants: options.grant,
        })
        return sentenceView(created, `user ${name} added; for the login: weft user code ${name}`)
      }),
    )

  user
    .command('ls')
    .description('list users with their roles')
    .addHelpText('after', '\nExample:\n  weft user ls\n')
    .action(
      act(async (session) => {
        const rows = await Array.fromAsync((await session.weft()).users.list())
        return tableView<User>(
          rows,
          [
            { title: 'NAME', value: (row) => row.name },
            { title: 'ID', value: (row) => String(row.id) },
            { title: 'LOGGED IN', value: (row) => (row.hasLoggedIn ? 'yes' : 'never') },
            { title: 'GRANTS', value: grantsText },
          ],
          'no users; add one: weft user create NAME --grant ROLE',
        )
      }),
    )

  user
    .command('grant <name> <role[@tenant]...>')
    .description('give a user more roles, or with --replace these and no others')
    .option('--replace', 'take away all others', false)
    .addHelpText(
      'after',
      '\nExamples:\n  weft user grant ada subscriber@blue\n  weft user grant ada auditor --replace\n',
    )
    .action(
      act(async (session, name: string, words: string[], options: { replace: boolean }) => {
        const weft = await session.weft()
        const before = await findUser(session, name)
        const kept = options.replace ? [] : before.grants
        const changed = await weft.users.update({
          name,
          grants: unique([...kept, ...words.map(parseGrant)]),
          expectedRevision: before.revision,
        })
        return sentenceView(changed, `user ${name} has: ${grantsText(changed)}`)
      }),
    )

  user
    .command('rm <name>')
    .description("remove a user and revoke the user's key")
    .option('--yes', 'do not ask', false)
    .addHelpText('after', '\nExample:\n  weft user rm ada --yes\n')
    .action(
      act(async (session, name: string, options: { yes: boolean }) => {
        await confirm(session, `User ${name} loses the key and all roles`, options.yes)
        return removedView('user', name, await (await session.weft()).users.delete(name))
      }),
    )

  user
    .command('code <name>')
    .description('make a one-time code by which a user logs in; it is shown this once')
    .option(
      '--ttl <duration>',
      'how long it is good: 10 minutes if not given, a day at most',
      parseDurationMs,
    )
    .option('--out <file>', 'a new file for the code, - for standard output', '-')
    .addHelpText('after', '\nExample:\n  weft user code ada --out code\n')
    .action(
      act(async (session, name: string, { ttl, out }: { ttl?: number; out: string }) => {
        const weft = await session.weft()
        const { text, expiresAt } = await weft.users.createLoginCode({
          user: name,
          ...(ttl !== undefined && { ttlMs: ttl }),
        })
        const about = `login code of ${name}, good until ${expiresAt.toISOString()}`
        return await secretView(session, out, { text, about, data: { user: name, expiresAt } })
      }),
    )
}

async function findUser(session: Session, name: string): Promise<User> {
  for await (const user of (await session.weft()).users.list()) {
    if (user.name === name) return user
  }
  throw new UserNotFoundError({ user: name })
}

function unique(grants: readonly Grant[]): Grant[] {
  return [...new Map(grants.map((grant) => [grantText(grant), grant])).values()]
}

function grantsText({ grants }: User): string {
  return grants.map(grantText).join(', ')
}

function grantText({ role, tenant }: Grant): string {
  return tenant === undefined ? role : `${role}@${tenant}`
}
