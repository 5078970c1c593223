import { randomUUID } from 'node:crypto'
import { ipToBytes } from '@weft/net'
import { Mechanism } from '@weft/proto/weftline/common/v1/common.ts'
import {
  type AttachPortRequest,
  type CacheStatus as CacheStatusMessage,
  type Connection as ConnectionMessage,
  type EndpointName,
  ForwarderServiceService,
  Health,
  type HostConnection,
  type Port as PortMessage,
  PortState,
  type WireguardAccess as WireguardAccessMessage,
} from '@weft/proto/weftline/forwarder/v1/forwarder.ts'
import { type Client, connect } from '@weft/rpc'
import { decodeAddress, decodeMac, decodePrefix, present } from './decode.ts'
import {
  CARRIER_WORDS,
  decodeCandidate,
  decodeOpenConnection,
  decodeSealing,
} from './open-connections.ts'
import type {
  Attachment,
  CacheStatus,
  Connection,
  Detached,
  EndpointRef,
  HostStatus,
  OpenConnection,
  PingOptions,
  PingReply,
  Port,
  WireguardAccess,
} from './types.ts'

/** The API of one host: what is attached there, what it talks to, how it is. */
export class HostClient implements AsyncDisposable {
  readonly target: string
  readonly #rpc: Client<typeof ForwarderServiceService>

  /** @param target `unix:/PATH` of the host API */
  constructor(target: string) {
    this.target = target
    this.#rpc = connect(target, ForwarderServiceService, {
      security: { kind: 'socket-mode' },
    })
  }

  /**
   * Assigns an endpoint to the host and joins a namespace, a TAP device or a WireGuard client to it. `created` is false for a
   * repeated call; `access` is what a client has to know.
   */
  async attach(
    ref: EndpointRef,
    attachment: Attachment,
    signal?: AbortSignal,
  ): Promise<{ port: Port; created: boolean; access: WireguardAccess | undefined }> {
    const request = {
      idempotencyKey: randomUUID(),
      tenant: ref.tenant,
      network: ref.network,
      endpoint: ref.endpoint,
      attachment: encodeAttachment(attachment),
    }
    const { port, created, wireguard } = await this.#rpc.attachPort(request, signal && { signal })
    return {
      port: decodePort(present(port, 'port')),
      created,
      access: wireguard && decodeAccess(wireguard),
    }
  }

  /** Undoes `attach`. */
  async detach(ref: EndpointRef): Promise<Detached> {
    const { tenant, network, endpoint } = ref
    const request = { idempotencyKey: randomUUID(), tenant, network, endpoint }
    return await this.#rpc.detachPort(request)
  }

  async listPorts(): Promise<Port[]> {
    return (await this.#rpc.listPorts({})).ports.map(decodePort)
  }

  async listConnections(): Promise<Connection[]> {
    return (await this.#rpc.listConnections({})).connections.map(decodeConnection)
  }

  /** The connections of the host to others, by each carrier. */
  async listOpenConnections(): Promise<OpenConnection[]> {
    const { connections } = await this.#rpc.listOpenConnections({})
    return connections.map(decodeHostConnection)
  }

  /** The same, again and again: at first all, then all again whenever one has changed, at most once a second. */
  async *watchOpenConnections(
    signal?: AbortSignal,
  ): AsyncGenerator<OpenConnection[], void, undefined> {
    const known = new Map<string, OpenConnection>()
    for await (const said of this.#rpc.watchOpenConnections({}, signal && { signal })) {
      for (const gone of said.gone) known.delete(keyOf(decodeHostConnection(gone)))
      for (const changed of said.connections) {
        const decoded = decodeHostConnection(changed)
        known.set(keyOf(decoded), decoded)
      }
      if (said.snapshotComplete) yield [...known.values()].sort((a, b) => a.hostId - b.hostId)
    }
  }

  async status(): Promise<HostStatus> {
    const answer = await this.#rpc.getStatus({})
    return {
      hostId: answer.hostId,
      host: answer.host,
      version: answer.version,
      shuttleVersion: answer.shuttleVersion,
      kernel: answer.kernel,
      dependencies: answer.dependencies.map(({ name, address, health, ageMs, error }) => ({
        name,
        address,
        health: HEALTH_WORDS[health] ?? 'unknown',
        ageMs: Number(ageMs),
        error,
      })),
      tableRevision: answer.tableRevision,
      tableAgeMs: Number(answer.tableAgeMs),
      fromDisk: answer.fromDisk,
      resolutions: decodeCache(answer.resolutions),
      decisions: decodeCache(answer.decisions),
      underlayDevices: answer.underlayDevices.map((device) => ({
        name: device.name,
        addresses: device.addresses.map(decodeAddress),
        mtuBytes: device.mtuBytes,
        encapsulation: device.encapsulation,
        decapsulation: device.decapsulation,
        reason: device.reason,
      })),
      networks: answer.networks,
      endpoints: answer.endpoints,
      peers: answer.peers,
      ports: answer.ports,
      flows: answer.flows,
      drops: answer.hostDrops,
      sealing: decodeSealing(answer.sealing),
      openConnections: answer.openConnections,
    }
  }

  /** Sends echo requests from an endpoint of this host and yields each outcome as it comes. */
  async *ping(options: PingOptions): AsyncGenerator<PingReply, void, undefined> {
    const { signal, target, ...request } = options
    const replies = this.#rpc.ping(
      { ...request, targetAddress: ipToBytes(target) },
      signal && { signal },
    )
    for await (const { sequence, outcome } of replies) {
      if (outcome?.$case === 'rttNs') yield { sequence, outcome: 'answered', rttNs: outcome.value }
      else if (outcome?.$case === 'unreachable') {
        yield { sequence, outcome: 'unreachable', problem: outcome.value }
      } else yield { sequence, outcome: 'timed-out' }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#rpc[Symbol.asyncDispose]()
  }
}

const HEALTH_WORDS: { readonly [health: number]: 'ok' | 'stale' } = {
  [Health.HEALTH_OK]: 'ok',
  [Health.HEALTH_STALE]: 'stale',
}
const STATE_WORDS: { readonly [state: number]: 'up' | 'lost' } = {
  [PortState.PORT_STATE_UP]: 'up',
  [PortState.PORT_STATE_LOST]: 'lost',
}
const MECHANISM_WORDS: { readonly [mechanism: number]: Connection['mechanism'] } = {
  [Mechanism.MECHANISM_SAME_HOST]: 'same-host',
  [Mechanism.MECHANISM_DIRECT]: 'direct',
  [Mechanism.MECHANISM_RELAYED]: 'relayed',
}

function keyOf({ hostId, carrier, client }: OpenConnection): string {
  const endpoint = client && `${client.tenant}/${client.network}/${client.endpoint}`
  return `${hostId} ${carrier} ${endpoint}`
}

function decodeHostConnection({ host, connection, client }: HostConnection): OpenConnection {
  return decodeOpenConnection(host, connection, client && endpointRef(client))
}

function endpointRef({ tenant, network, endpoint }: EndpointName): EndpointRef {
  return { tenant, network, endpoint }
}

function encodeAttachment(attachment: Attachment): NonNullable<AttachPortRequest['attachment']> {
  switch (attachment.kind) {
    case 'netns': {
      const { path, device = '', keepRoutes = false } = attachment
      return { $case: 'netns', value: { path, device, keepRoutes } }
    }
    case 'tap':
      return { $case: 'tap', value: { device: attachment.device } }
    case 'wireguard': {
      const { publicKey, presharedKey = '', isReachable = false } = attachment
      const value = {
        publicKey: Buffer.from(publicKey, 'base64'),
        presharedKey: Buffer.from(presharedKey, 'base64'),
        needsCandidate: !isReachable,
      }
      return { $case: 'wireguard', value }
    }
  }
}

function decodeAttachment(message: PortMessage['attachment']): Port['attachment'] {
  const attachment = present(message, 'attachment')
  switch (attachment.$case) {
    case 'netns': {
      const { path, device, keepRoutes } = attachment.value
      return { kind: 'netns', path, device, keepRoutes }
    }
    case 'tap':
      return { kind: 'tap', device: attachment.value.device }
    case 'wireguard': {
      const { publicKey, hasPresharedKey, isVoid, connection } = attachment.value
      return {
        kind: 'wireguard',
        publicKey: publicKey.toString('base64'),
        hasPresharedKey,
        isVoid,
        connection: connection && decodeOpenConnection('', connection),
      }
    }
  }
}

function decodeAccess(access: WireguardAccessMessage): WireguardAccess {
  return {
    hostPublicKey: access.hostPublicKey.toString('base64'),
    candidates: access.candidates.map(decodeCandidate),
    prefixes: access.prefixes.map(decodePrefix),
    mtuBytes: access.mtuBytes,
  }
}

function decodePort(port: PortMessage): Port {
  const counters = present(port.counters, 'counters')
  return {
    endpointId: port.endpointId,
    tenant: port.tenant,
    network: port.network,
    endpoint: port.endpoint,
    attachment: decodeAttachment(port.attachment),
    hostDevice: port.hostDevice,
    mac: decodeMac(port.mac),
    addresses: port.addresses.map(decodeAddress),
    mtuBytes: port.mtuBytes,
    state: STATE_WORDS[port.state] ?? 'unknown',
    attachedAt: new Date(Number(port.attachedAtUnixMs)),
    counters: {
      receivedPackets: counters.receivedPackets,
      receivedBytes: counters.receivedBytes,
      sentPackets: counters.sentPackets,
      sentBytes: counters.sentBytes,
      verdicts: counters.verdicts,
      drops: counters.drops,
    },
  }
}

function decodeConnection(connection: ConnectionMessage): Connection {
  const { refused } = connection
  return {
    tenant: connection.tenant,
    network: connection.network,
    source: connection.source,
    target: connection.target,
    targetHost: connection.targetHost,
    mechanism: MECHANISM_WORDS[connection.mechanism] ?? 'unknown',
    carrier: CARRIER_WORDS[connection.carrier] ?? 'unknown',
    protocol: connection.protocol,
    rule: connection.rule,
    ageMs: Number(connection.ageMs),
    horizonMs: Number(connection.horizonMs),
    idleMs: Number(connection.idleMs),
    stale: connection.stale,
    refused: refused && { code: refused.code, message: refused.message, remedy: refused.remedy },
  }
}

function decodeCache(message: CacheStatusMessage | undefined): CacheStatus {
  const cache = present(message, 'cache status')
  return {
    entries: cache.entries,
    revision: cache.revision,
    oldestAgeMs: Number(cache.oldestAgeMs),
    horizonMs: Number(cache.horizonMs),
    hits: cache.hits,
    misses: cache.misses,
    staleAnswers: cache.staleAnswers,
  }
}
