import type { EnvReader } from '@weft/env'

export interface Config {
  readonly listen: readonly string[]
  /** Identity folder of this service. */
  readonly identityFolder: string
  /** Undefined for where the domain says. */
  readonly natsUrls: readonly string[] | undefined
  /** Names this replica in what it publishes; chosen at random if not given. */
  readonly replicaId: string | undefined
  /** How long a decision may be used when nobody can be asked. */
  readonly horizonMs: number
}

export function readConfig(reader: EnvReader): Config {
  return {
    listen: reader.addresses('WEFT_ROUTING_POLICY_LISTEN', {
      help: 'where RoutingService is served',
      default: ['127.0.0.1:7003'],
    }),
    identityFolder: reader.path('WEFT_IDENTITY_DIR', {
      help: 'identity folder of this service, made by weft init (DIR/services/routing-policy)',
    }),
    natsUrls: reader.urls('NATS_URL', {
      help: 'servers of the message bus; where the domain says if not set',
      schemes: ['nats', 'tls'],
      optional: true,
    }),
    replicaId: reader.text('WEFT_REPLICA_ID', {
      help: 'name of this replica: letters, digits, - and _; random if not set',
      optional: true,
    }),
    horizonMs: reader.durationMs('WEFT_ROUTING_POLICY_HORIZON', {
      help: 'how long a decision may be used when nobody can be asked',
      default: 24 * 3600 * 1000,
    }),
  }
}
