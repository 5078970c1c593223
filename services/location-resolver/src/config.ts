import type { EnvReader } from '@weft/env'

export interface Config {
  readonly listen: readonly string[]
  /** Identity folder of this service. */
  readonly identityFolder: string
  /** Undefined for where the domain says. */
  readonly natsUrls: readonly string[] | undefined
  /** Names this replica in what it publishes; chosen at random if not given. */
  readonly replicaId: string | undefined
  /** How long an answer may be used when nobody can be asked. */
  readonly horizonMs: number
  /** How long a report or a question waits for this replica to catch up with what it refers to. */
  readonly catchUpMs: number
}

export function readConfig(reader: EnvReader): Config {
  return {
    listen: reader.addresses('WEFT_LOCATION_RESOLVER_LISTEN', {
      help: 'where LocationService is served',
      default: ['127.0.0.1:7002'],
    }),
    identityFolder: reader.path('WEFT_IDENTITY_DIR', {
      help: 'identity folder of this service, made by weft init (DIR/services/location-resolver)',
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
    horizonMs: reader.durationMs('WEFT_LOCATION_RESOLVER_HORIZON', {
      help: 'how long an answer may be used when nobody can be asked',
      default: 24 * 3600 * 1000,
    }),
    catchUpMs: reader.durationMs('WEFT_LOCATION_RESOLVER_CATCH_UP', {
      help: 'how long a report or a question waits for this replica to catch up with what it refers to',
      default: 1000,
    }),
  }
}
