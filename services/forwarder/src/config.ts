import { hostname } from 'node:os'
import type { Address, EnvReader } from '@weft/env'

export interface Config {
  /** Id of this host in the VN database; undefined to look it up by name. */
  readonly hostId: number | undefined
  readonly hostName: string
  readonly stateFolder: string
  readonly shuttle: Address
  readonly listen: readonly Address[]
  /** File mode of the sockets of the host API. */
  readonly socketMode: number
  /** Group id of the sockets of the host API; undefined for the process's own. */
  readonly socketGroup: number | undefined
  readonly natsServers: readonly string[]
  readonly configAddress: Address
  readonly resolverAddress: Address
  readonly policyAddress: Address
}

export function readConfig(env: EnvReader): Config {
  return {
    hostId: env.integer('WEFT_FORWARDER_HOST_ID', {
      help: 'id of this host in the VN database; looked up by name if not set',
      optional: true,
      min: 1,
      max: 0xffff_ffff,
    }),
    hostName: env.text('WEFT_FORWARDER_HOST', {
      help: 'name of this host in the VN database',
      default: hostname(),
    }),
    stateFolder: env.path('WEFT_FORWARDER_STATE_DIR', {
      help: 'folder for what this host knows and has attached',
      default: '/var/lib/weft/forwarder',
    }),
    shuttle: env.address('WEFT_FORWARDER_SHUTTLE', {
      help: 'where the shuttle listens',
      default: 'unix:/run/weft/shuttle.sock',
    }),
    listen: env.addresses('WEFT_FORWARDER_LISTEN', {
      help: 'where the host API listens',
      default: ['unix:/run/weft/host.sock'],
    }),
    socketMode: parseMode(
      env.oneOf('WEFT_FORWARDER_SOCKET_MODE', ['0600', '0660', '0666'], {
        help: 'file mode of the host API socket',
        default: '0660',
      }),
    ),
    socketGroup: env.integer('WEFT_FORWARDER_SOCKET_GROUP', {
      help: 'group id of the host API socket; the group of the process if not set',
      optional: true,
      max: 0xffff_fffe,
    }),
    natsServers: env.urls('NATS_URL', {
      schemes: ['nats', 'tls'],
      help: 'servers of the message bus',
      default: ['nats://127.0.0.1:4222'],
    }),
    configAddress: env.address('WEFT_FORWARDER_CONFIG', {
      help: 'where config is served',
      default: '127.0.0.1:7001',
    }),
    resolverAddress: env.address('WEFT_FORWARDER_RESOLVER', {
      help: 'where location-resolver is served',
      default: '127.0.0.1:7002',
    }),
    policyAddress: env.address('WEFT_FORWARDER_POLICY', {
      help: 'where routing-policy is served',
      default: '127.0.0.1:7003',
    }),
  }
}

function parseMode(text: string): number {
  return Number.parseInt(text, 8)
}
