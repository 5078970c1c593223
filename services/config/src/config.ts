import type { EnvReader } from '@weft/env'

export interface Config {
  readonly listen: readonly string[]
  /** Where EnrolmentService is served, to callers without a certificate. */
  readonly enrolmentListen: readonly string[]
  /** Folder of the authority, which `weft init` makes. */
  readonly authorityFolder: string
  /** Identity folder of this service. */
  readonly identityFolder: string
  /** Folder of this replica's copy of the audit log. */
  readonly auditFolder: string
  /** Revision of the VN database after which writes were lost, and shall be given up. */
  readonly acceptLossAfter: number | undefined
  /** Undefined for where the domain says. */
  readonly natsUrls: readonly string[] | undefined
  /** Names this replica in the controller's lease and in `GetServerInfo`; chosen at random if not given. */
  readonly replicaId: string | undefined
}

export function readConfig(reader: EnvReader): Config {
  return {
    listen: reader.addresses('WEFT_CONFIG_LISTEN', {
      help: 'where ConfigService is served',
      default: ['127.0.0.1:7001'],
    }),
    enrolmentListen: reader.addresses('WEFT_CONFIG_ENROLMENT_LISTEN', {
      help: 'where EnrolmentService is served: hosts join and users log in here',
      default: ['127.0.0.1:7004'],
    }),
    authorityFolder: reader.path('WEFT_CONFIG_AUTHORITY', {
      help: 'folder of the authority, made by weft init (DIR/authority)',
    }),
    identityFolder: reader.path('WEFT_IDENTITY_DIR', {
      help: 'identity folder of this service, made by weft init (DIR/services/config)',
    }),
    auditFolder: reader.path('WEFT_CONFIG_AUDIT_FOLDER', {
      help: 'folder of the audit log: without room in it nothing privileged is done',
    }),
    acceptLossAfter: reader.integer('WEFT_CONFIG_ACCEPT_LOSS_AFTER', {
      help: 'go on with a store from a backup: the revision that it is at, as config says when it refuses to start',
      min: 0,
      optional: true,
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
  }
}
