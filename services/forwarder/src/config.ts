import { HOST_IDENTITY_DEFAULT } from '@weft/domain'
import type { Address, EnvReader } from '@weft/env'
import { Offload } from '@weft/proto/weftline/common/v1/common.ts'
import type { SealingSwitches } from './sealing.ts'

export interface Config {
  /** Who this host is, as `weft join` wrote it down. */
  readonly identityFolder: string
  readonly stateFolder: string
  readonly shuttle: Address
  readonly listen: readonly Address[]
  /** File mode of the sockets of the host API. */
  readonly socketMode: number
  /** Group id of the sockets of the host API; undefined for the process's own. */
  readonly socketGroup: number | undefined
  /** Where the control plane is; undefined for where the domain says. */
  readonly natsServers: readonly string[] | undefined
  readonly configAddress: Address | undefined
  readonly resolverAddress: Address | undefined
  readonly policyAddress: Address | undefined
  readonly sealing: SealingSwitches
}

export function readConfig(env: EnvReader): Config {
  return {
    identityFolder: env.path('WEFT_IDENTITY_DIR', {
      help: 'folder with the identity of this host, see weft join',
      default: HOST_IDENTITY_DEFAULT,
    }),
    stateFolder: env.path('WEFT_FORWARDER_STATE_DIR', {
      help: 'folder for what this host knows and has attached',
      default: '/var/lib/weft/forwarder',
    }),
    shuttle: env.socket('WEFT_FORWARDER_SHUTTLE', {
      help: 'where the shuttle listens',
      default: 'unix:/run/weft/shuttle.sock',
    }),
    listen: env.sockets('WEFT_FORWARDER_LISTEN', {
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
      help: 'servers of the message bus; where the domain says if not set',
      optional: true,
    }),
    configAddress: env.address('WEFT_FORWARDER_CONFIG', {
      help: 'where config is served; where the domain says if not set',
      optional: true,
    }),
    resolverAddress: env.address('WEFT_FORWARDER_RESOLVER', {
      help: 'where location-resolver is served; where the domain says if not set',
      optional: true,
    }),
    policyAddress: env.address('WEFT_FORWARDER_POLICY', {
      help: 'where routing-policy is served; where the domain says if not set',
      optional: true,
    }),
    sealing: readSealing(env),
  }
}

function readSealing(env: EnvReader): SealingSwitches {
  const keyLogPath = env.path('WEFT_FORWARDER_SEALED_KEY_LOG', {
    help: 'file to which the shuttle writes the keys of sealed connections, for Wireshark: whoever reads it reads all traffic and can pass for this host',
    optional: true,
  })
  const offloadsOff = OFFLOADS.filter(
    ([name, , what]) =>
      !env.boolean(`WEFT_FORWARDER_SEALED_${name}`, {
        help: `kill switch of the sealed transport: ${what}`,
        default: true,
      }),
  ).map(([, offload]) => offload)
  const isAesUsed = env.boolean('WEFT_FORWARDER_SEALED_AES', {
    help: 'kill switch of the sealed transport: AES-256-GCM between hosts that find it faster',
    default: true,
  })
  return { keyLogPath: keyLogPath ?? '', offloadsOff, chacha20Only: !isAesUsed }
}

const OFFLOADS = [
  ['UDP_GSO', Offload.OFFLOAD_UDP_GSO, 'UDP_SEGMENT on its socket'],
  ['UDP_GRO', Offload.OFFLOAD_UDP_GRO, 'UDP_GRO on its socket'],
  ['TAP_GSO', Offload.OFFLOAD_TAP_GSO, 'frames of many segments at its TAP device'],
  [
    'EQUAL_TAIL',
    Offload.OFFLOAD_EQUAL_TAIL,
    'batches whose last datagram is as long as the others',
  ],
] as const

function parseMode(text: string): number {
  return Number.parseInt(text, 8)
}
