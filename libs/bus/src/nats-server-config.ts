import { PAYLOAD_MAX_BYTES } from './checks.ts'
import { buckets } from './subjects.ts'

/** One nats-server of a domain. Paths are absolute, or relative to where the server runs. */
export interface NatsServerOptions {
  /** Of this server; in a cluster each has its own. */
  readonly name: string
  /** `HOST:PORT` for clients. */
  readonly listen: string
  /** Port of its monitoring, on the loopback address only. */
  readonly monitorPort: number
  /** Where its streams are. */
  readonly storeFolder: string
  /** The operator's JWT. */
  readonly operatorFile: string
  /** Public key of the system account. */
  readonly systemAccount: string
  /** Holds `<public key>.jwt` of every account at the start; the server keeps what it is told later here. */
  readonly accountsFolder: string
  readonly tls: TlsFiles
  /** With others; none by default. */
  readonly cluster?: ClusterOptions
  /** What waits for one client that does not read; it is cut off beyond it. `PENDING_MAX_BYTES` by default. */
  readonly pendingMaxBytes?: number
}

/** PEM files of the identity `service/nats`, which also has the names or addresses of the server for its peers. */
export interface TlsFiles {
  /** Leaf and intermediates. */
  readonly chain: string
  readonly key: string
  /** The roots of the domain: who shows a certificate of another one is refused. */
  readonly roots: string
}

export interface ClusterOptions {
  readonly name: string
  /** `HOST:PORT` for the other servers. */
  readonly listen: string
  /** `HOST:PORT` of every server. */
  readonly routes: readonly string[]
  /**
   * SHA-256, in hexadecimal digits, of the SubjectPublicKeyInfo of each server's identity key. A route may say anything in the
   * name of anybody, so to belong to the domain is not enough.
   */
  readonly serverKeys: readonly string[]
}

/** A watch has at most 32 MiB on its way to its reader. */
export const PENDING_MAX_BYTES: number = 64 * 1024 * 1024
/** 10,000 hosts, twice while they connect again, and services. */
const CONNECTIONS_MAX = 25_000
const SUBSCRIPTIONS_MAX = 4096
/** A login carries the permissions of its user in one line; the largest has 4 KB. */
const CONTROL_LINE_MAX_BYTES = 16 * 1024
/** A client that takes nothing for this long is cut off. */
const WRITE_DEADLINE = '5s'
const TLS_TIMEOUT_S = 5

/**
 * The configuration of a nats-server for this domain: operator mode, TLS 1.3 before anything else with certificates on both
 * sides, writes synced before they are acknowledged, everything bounded, and no listener but these.
 */
export function natsServerConfig(options: NatsServerOptions): string {
  const { cluster } = options
  const tls = [
    `cert_file: ${text(options.tls.chain)}`,
    `key_file: ${text(options.tls.key)}`,
    `ca_file: ${text(options.tls.roots)}`,
    'verify: true',
    'min_version: "1.3"',
    `timeout: ${TLS_TIMEOUT_S}`,
  ]
  return `server_name: ${text(options.name)}
listen: ${text(options.listen)}
http: ${text(`127.0.0.1:${options.monitorPort}`)}
operator: ${text(options.operatorFile)}
system_account: ${text(options.systemAccount)}
resolver {
  type: full
  dir: ${text(options.accountsFolder)}
  allow_delete: false
  interval: "1m"
}
tls {
  ${tls.join('\n  ')}
  handshake_first: true
}
jetstream {
  store_dir: ${text(options.storeFolder)}
  sync_interval: always
  # What JetStream itself says is never taken for a question to it.
  strict: true
  max_memory_store: ${storeBytes('memory')}
  max_file_store: ${storeBytes('file')}
}
max_payload: ${PAYLOAD_MAX_BYTES}
max_connections: ${CONNECTIONS_MAX}
max_subscriptions: ${SUBSCRIPTIONS_MAX}
max_pending: ${options.pendingMaxBytes ?? PENDING_MAX_BYTES}
max_control_line: ${CONTROL_LINE_MAX_BYTES}
write_deadline: ${text(WRITE_DEADLINE)}
${cluster ? clusterConfig(cluster, tls) : ''}`
}

function clusterConfig(cluster: ClusterOptions, tls: readonly string[]): string {
  return `cluster {
  name: ${text(cluster.name)}
  listen: ${text(cluster.listen)}
  routes: [${cluster.routes.map((route) => text(`nats-route://${route}`)).join(', ')}]
  compression: disabled
  tls {
    ${tls.join('\n    ')}
    pinned_certs: [${cluster.serverKeys.map(text).join(', ')}]
  }
}
`
}

/** Room for every bucket of this storage and, of those that hosts read, for the copy as well; and as much again. */
function storeBytes(storage: 'file' | 'memory'): number {
  const kept = Object.values(buckets).filter((shape) => shape.storage === storage)
  return kept.reduce((sum, shape) => sum + shape.sizeMaxBytes, 0) * 3
}

function text(value: string): string {
  return JSON.stringify(value)
}
