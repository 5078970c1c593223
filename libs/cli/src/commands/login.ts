import { randomBytes } from 'node:crypto'
import { rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { InvalidArgumentError } from '@weft/errors'
import type { Command } from 'commander'
import { sentenceView } from '../output.ts'
import type { Act } from '../program.ts'
import { warnOfClock } from '../report.ts'
import { readSecret } from '../secrets.ts'

interface LoginOptions {
  readonly control: string
  readonly fingerprint: string
  readonly codeFile: string
  readonly as?: string
}

export function registerLogin(program: Command, act: Act): void {
  program
    .command('login')
    .description('get a certificate for a one-time code, and a context that uses it')
    .requiredOption('--control <host:port>', 'where config takes in new members')
    .requiredOption('--fingerprint <sha256>', "fingerprint of the domain's root, of weft init")
    .requiredOption('--code-file <file>', 'file that holds the code, - for standard input')
    .option('--as <name>', 'name of the context; that of the domain if not given')
    .addHelpText(
      'after',
      '\nThe key is made here, and its private part stays here. The context becomes the current one.\n\nExample:\n  weft login --control control.example:7004 --fingerprint sha256:... --code-file code\n',
    )
    .action(
      act(async (session, options: LoginOptions) => {
        const { io } = session
        const code = await readSecret(session, '--code-file', options.codeFile)
        const { configPath, readContexts, writeContexts } = await import('@weft/sdk')
        const before = readContexts(io.env)
        // A folder of its own for each login: the former identity is good until this one is there.
        const folder = configPath(io.env, 'identities', randomBytes(8).toString('hex'))
        if (folder === undefined) {
          const remedy = 'set HOME or XDG_CONFIG_HOME'
          throw new InvalidArgumentError({ field: 'HOME', problem: 'it is not set', remedy })
        }
        const { loginUser } = await import('@weft/domain/enrolment')
        const { control, fingerprint } = options
        const { identity, name, places, clockWrong } = await loginUser({
          control,
          fingerprint,
          code,
          folder,
        })
        const context = options.as ?? identity.domain
        const former = before.contexts[context]
        const [config = control] = places.config
        writeContexts(io.env, {
          current: context,
          contexts: {
            ...before.contexts,
            [context]: { ...former, control: config, identity: folder },
          },
        })
        const own = dirname(folder)
        if (former?.identity !== undefined && dirname(former.identity) === own) {
          await rm(former.identity, { recursive: true, force: true })
        }
        if (clockWrong) warnOfClock(session, clockWrong)
        return sentenceView(
          { user: name, domain: identity.domain, context, identity: folder },
          `you are user ${name} of ${identity.domain}; context ${context} is the current one`,
        )
      }),
    )
}
