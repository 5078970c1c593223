import type { EnvReader } from '@weft/env'

export interface Config {
  readonly listen: readonly string[]
  readonly natsUrls: readonly string[]
  /** Names this replica in the controller's lease and in `GetServerInfo`; chosen at random if not given. */
  readonly replicaId: string | undefined
}

export function readConfig(reader: EnvReader): Config {
  return {
    listen: reader.addresses('WEFT_CONFIG_LISTEN', {
      help: 'where ConfigService is served',
      default: ['127.0.0.1:7001'],
    }),
    natsUrls: reader.urls('NATS_URL', {
      help: 'servers of the message bus',
      schemes: ['nats', 'tls'],
      default: ['nats://127.0.0.1:4222'],
    }),
    replicaId: reader.text('WEFT_REPLICA_ID', {
      help: 'name of this replica: letters, digits, - and _; random if not set',
      optional: true,
    }),
  }
}
