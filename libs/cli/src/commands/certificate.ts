import { InvalidArgumentError } from '@weft/errors'
import type { Command } from 'commander'
import type { Act } from '../program.ts'

interface KeepOptions {
  readonly identity: string
  readonly tls: string
  readonly pidFile?: string
}

export function registerCertificate(program: Command, act: Act): void {
  const certificate = program
    .command('certificate')
    .description('certificates of programs that are not ours')

  certificate
    .command('keep')
    .description(
      "keep nats-server's certificate valid: runs beside it, as the same user, until told to end",
    )
    .requiredOption('--identity <folder>', 'identity folder of the service nats')
    .requiredOption('--tls <folder>', 'where nats-server reads chain.pem, key.pem and roots.pem')
    .option('--pid-file <file>', 'what nats-server --pid writes; it is told to read what is new')
    .addHelpText(
      'after',
      '\nCertificates last a day, are renewed at half life, and reach more than a week while config is away. Connections stay open.\n\nExample:\n  nats-server -c nats.conf --pid nats.pid &\n  weft certificate keep --identity services/nats --tls nats/tls --pid-file nats/nats.pid\n',
    )
    .action(
      act(async (session, { identity, tls, pidFile }: KeepOptions) => {
        const [{ openCredentials }, { keepTlsFiles }, { createLogger }] = await Promise.all([
          import('@weft/domain'),
          import('@weft/domain/tls-files'),
          import('@weft/telemetry'),
        ])
        const stream = { write: session.io.stdout }
        const log = createLogger({ service: 'nats-certificate', stream })
        await using credentials = await openCredentials({ folder: identity, log })
        const { kind, id } = credentials.identity
        if (kind !== 'service' || id !== 'nats') {
          throw new InvalidArgumentError({
            field: '--identity',
            problem: `it is that of ${kind} ${id}, and nobody on the bus believes a server with it`,
            remedy: 'name the folder services/nats of weft init',
          })
        }
        const stop = new AbortController()
        const onSignal = (): void => stop.abort()
        for (const signal of STOP_SIGNALS) process.on(signal, onSignal)
        try {
          await keepTlsFiles({ credentials, folder: tls, pidFile, log, signal: stop.signal })
        } finally {
          for (const signal of STOP_SIGNALS) process.off(signal, onSignal)
        }
      }),
    )
}

const STOP_SIGNALS = ['SIGINT', 'SIGTERM'] as const
