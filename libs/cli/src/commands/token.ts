import type { Token } from '@weft/sdk'
import type { Command } from 'commander'
import { checkName, collect, collectLabels, parseDurationMs, wholeNumber } from '../arguments.ts'
import { sentenceView, tableView } from '../output.ts'
import type { Act } from '../program.ts'
import { secretView } from '../secrets.ts'
import { labelText } from '../views.ts'

interface CreateOptions {
  readonly ttl?: number
  readonly tenant?: string[]
  readonly zone?: string
  readonly label?: Record<string, string>
  readonly hostName?: string
  readonly out: string
}

export function registerToken(program: Command, act: Act): void {
  const token = program.command('token').description('tokens by which hosts join the domain')

  token
    .command('create')
    .description('make a token by which one host may join; it is shown this once')
    .option(
      '--ttl <duration>',
      'how long it is good: an hour if not given, a day at most',
      parseDurationMs,
    )
    .option(
      '--tenant <tenant>',
      'tenant whose endpoints the host may carry; may be repeated; all if not given',
      collect((text: string) => checkName('tenant', text)),
    )
    .option(
      '--zone <zone>',
      "zone of the host's addresses; only by this does it join a trusted one",
    )
    .option('--label <key=value>', 'a label of the host; may be repeated', collectLabels)
    .option('--host-name <name>', 'the only name that the host may take')
    .option('--out <file>', 'a new file for the token, - for standard output', '-')
    .addHelpText(
      'after',
      '\nExamples:\n  weft token create --zone rack-7 --out token\n  weft token create --ttl 10m --tenant acme --host-name alpha | ssh alpha weft join --token-file - ...\n',
    )
    .action(
      act(async (session, options: CreateOptions) => {
        const weft = await session.weft()
        const { ttl, zone, label, hostName, out } = options
        const created = await weft.tokens.create({
          ...(ttl !== undefined && { ttlMs: ttl }),
          ...(zone !== undefined && { zone: checkName('zone', zone) }),
          ...(hostName !== undefined && { hostName: checkName('host', hostName) }),
          tenants: options.tenant ?? [],
          labels: label ?? {},
        })
        const about = `token ${created.token.id}, good for one host until ${created.token.expiresAt.toISOString()}`
        return await secretView(session, out, { text: created.text, about, data: created.token })
      }),
    )

  token
    .command('ls')
    .description('list tokens and login codes')
    .addHelpText('after', '\nExample:\n  weft token ls\n')
    .action(
      act(async (session) => {
        const rows = await Array.fromAsync((await session.weft()).tokens.list())
        return tableView<Token>(
          rows,
          [
            { title: 'ID', value: (row) => String(row.id) },
            { title: 'FOR', value: (row) => (row.purpose === 'join' ? 'a host' : 'a login') },
            { title: 'STATE', value: stateOf },
            { title: 'EXPIRES', value: (row) => row.expiresAt.toISOString() },
            { title: 'ZONE', value: (row) => row.zone ?? '-' },
            { title: 'TENANTS', value: (row) => row.tenants.join(', ') || 'all' },
            { title: 'LABELS', value: (row) => labelText(row.hostLabels) },
          ],
          'no tokens; make one: weft token create',
        )
      }),
    )

  token
    .command('revoke <id>')
    .description('make a token void')
    .addHelpText('after', '\nExample:\n  weft token revoke 17\n')
    .action(
      act(async (session, text: string) => {
        const id = wholeNumber('id', 1, 0xffff_ffff)(text)
        const revoked = await (await session.weft()).tokens.revoke(id)
        return sentenceView(
          { revoked },
          revoked ? `token ${id} is void now` : `there was no token ${id}`,
        )
      }),
    )
}

function stateOf(token: Token): string {
  if (token.usedBy !== undefined) return `used by ${token.usedBy}`
  return token.expiresAt.getTime() <= Date.now() ? 'expired' : 'unused'
}
