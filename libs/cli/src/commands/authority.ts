import { Argument, type Command } from 'commander'
import { fieldsView, sentenceView } from '../output.ts'
import type { Act } from '../program.ts'

interface Folders {
  readonly root: string
  readonly authority: string
  readonly identity: string
}

/** Those of `@weft/identity`, which is not loaded for this. */
const SERVICES = ['config', 'location-resolver', 'routing-policy', 'nats'] as const
type Service = (typeof SERVICES)[number]

export function registerAuthority(program: Command, act: Act): void {
  const authority = program
    .command('authority')
    .description('the authority of the domain, which config runs')

  authority
    .command('show')
    .description('say whose authority this is, and when it ends')
    .requiredOption('--authority <folder>', 'folder authority of weft init')
    .addHelpText('after', '\nExample:\n  weft authority show --authority lab.example/authority\n')
    .action(
      act(async (_session, { authority: folder }: Folders) => {
        const [{ readAuthority }, { fingerprintOf }] = await Promise.all([
          import('@weft/domain/authority'),
          import('@weft/identity'),
        ])
        const { issuer, root, domain } = await readAuthority(folder)
        const { notAfter } = issuer
        const fingerprint = fingerprintOf(root)
        return fieldsView({ domain: domain.domain, fingerprint, notAfter }, [
          ['domain', domain.domain],
          ['fingerprint', fingerprint],
          ['ends', `${notAfter.toISOString()}${notAfter <= new Date() ? ', which is over' : ''}`],
        ])
      }),
    )

  authority
    .command('renew')
    .description('give the authority a new key and 30 days, with the root of the domain')
    .requiredOption('--root <folder>', 'folder root of weft init; nothing is written into it')
    .requiredOption('--authority <folder>', 'folder authority of weft init, as config has it')
    .addHelpText(
      'after',
      '\nA config that runs takes it over at once, without a restart, and warns from 10 days before the end on. Certificates of the former one count until they end. With several replicas, each has to be given the same folder: renew one, and copy intermediate.key and intermediate.pem to the others.\n\nExample:\n  weft authority renew --root /media/root --authority /etc/weft/authority\n',
    )
    .action(
      act(async (_session, { root, authority: folder }: Folders) => {
        const { renewAuthority } = await import('@weft/domain/authority')
        const renewed = await renewAuthority({
          rootFolder: root,
          authorityFolder: folder,
          now: new Date(),
        })
        const { domain, notAfter } = renewed
        return sentenceView(
          renewed,
          `the authority of ${domain} is good until ${notAfter.toISOString()}; config takes it over by itself`,
        )
      }),
    )

  authority
    .command('issue')
    .description(
      'give new certificates by hand, to a service that was off for over a week or to a user',
    )
    .addArgument(new Argument('<whom>', 'a service, or user').choices([...SERVICES, 'user']))
    .requiredOption('--authority <folder>', 'folder authority of weft init')
    .requiredOption('--identity <folder>', 'identity folder of the service or user; its keys stay')
    .addHelpText(
      'after',
      '\nServices renew their certificates by themselves. Only nats cannot any more once all of its certificates have ended: config, which issues them, is reached by nats. A user who was away for more than 30 days logs in with a new code (weft user code), which the only owner of a domain can have of nobody. The folder of the authority has to be good: weft authority renew.\n\nExamples:\n  weft authority issue nats --authority lab.example/authority --identity lab.example/services/nats\n  weft authority issue user --authority lab.example/authority --identity lab.example/owner\n',
    )
    .action(
      act(async (_session, name: Service | 'user', { authority: folder, identity }: Folders) => {
        const { issueService, issueUser } = await import('@weft/domain/authority')
        if (name === 'user') {
          const issued = await issueUser({
            authorityFolder: folder,
            identityFolder: identity,
            now: new Date(),
          })
          const { userId, notAfter } = issued
          return sentenceView(
            issued,
            `user ${userId} has a certificate until ${notAfter.toISOString()}; before that, make a code (weft user code) and log in with it`,
          )
        }
        const { notAfter } = await issueService({
          name,
          authorityFolder: folder,
          identityFolder: identity,
          now: new Date(),
        })
        const then = name === 'nats' ? '; weft certificate keep gives them to nats-server' : ''
        return sentenceView(
          { service: name, notAfter },
          `service ${name} has certificates until ${notAfter.toISOString()}${then}`,
        )
      }),
    )
}
