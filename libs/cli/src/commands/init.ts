import type { Command } from 'commander'
import { collect } from '../arguments.ts'
import type { View } from '../output.ts'
import type { Act } from '../program.ts'

interface InitOptions {
  readonly domain: string
  readonly out: string
  readonly config: string[]
  readonly enrolment: string[]
  readonly resolver: string[]
  readonly policy: string[]
  readonly bus: string[]
}

export function registerInit(program: Command, act: Act): void {
  const address = collect((text) => text)
  program
    .command('init')
    .description('make a domain: its root, its authority, and an identity for each service')
    .requiredOption('--domain <name>', 'name of the domain, for example lab.example')
    .requiredOption('--out <folder>', 'a folder that is not there yet')
    .option('--config <host:port>', 'where config serves; may be repeated', address)
    .option(
      '--enrolment <host:port>',
      'where config takes in new members; may be repeated',
      address,
    )
    .option('--resolver <host:port>', 'where location-resolver serves; may be repeated', address)
    .option('--policy <host:port>', 'where routing-policy serves; may be repeated', address)
    .option('--bus <url>', 'where nats-server serves; may be repeated', address)
    .addHelpText(
      'after',
      '\nWhat is not given is on this machine, at the ports that services have by default.\n\nExample:\n  weft init --domain lab.example --out lab.example --bus nats://bus.lab.example:4222\n',
    )
    .action(
      act(async (_session, options: InitOptions) => {
        const { createDomain } = await import('@weft/domain/create')
        const created = await createDomain({
          name: options.domain,
          places: {
            config: options.config ?? ['127.0.0.1:7001'],
            enrolment: options.enrolment ?? ['127.0.0.1:7004'],
            locationResolver: options.resolver ?? ['127.0.0.1:7002'],
            routingPolicy: options.policy ?? ['127.0.0.1:7003'],
            bus: options.bus ?? ['nats://127.0.0.1:4222'],
          },
          out: options.out,
          now: new Date(),
        })
        const { fingerprint, folder, authorityEndsAt } = created
        const enrolment = options.enrolment?.[0] ?? '127.0.0.1:7004'
        return {
          data: { domain: options.domain, folder, fingerprint, authorityEndsAt },
          text: () => nextSteps(options.domain, folder, fingerprint, enrolment),
        } satisfies View
      }),
    )
}

function nextSteps(domain: string, folder: string, fingerprint: string, enrolment: string): string {
  return `domain ${domain} is in ${folder}
fingerprint ${fingerprint}

Everybody who joins or logs in checks the fingerprint: it is no secret, but has to come to them unchanged.

Next:
  1. Move ${folder}/root to where no machine of the network reads it. Who has it is the domain.
  2. Run nats-server with ${folder}/nats (nats-server -c nats.conf --pid nats.pid, in that folder),
     and beside it weft certificate keep with ${folder}/services/nats.
  3. Give config ${folder}/authority (WEFT_CONFIG_AUTHORITY), and each service its folder of
     ${folder}/services (WEFT_IDENTITY_DIR). Remove them here.
  4. Keep ${folder}/owner: it is you. Use it: WEFT_IDENTITY=${folder}/owner
  5. weft token create --out token
     and on each new host:
     weft join --control ${enrolment} --fingerprint ${fingerprint} --token-file token --address ADDRESS
`
}
