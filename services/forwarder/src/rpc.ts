import {
  type ErrorInfo,
  InvalidArgumentError,
  NotEnrolledError,
  PortNotFoundError,
} from '@weft/errors'
import { ipToBytes, macToBytes } from '@weft/net'
import { Cipher, Mechanism } from '@weft/proto/weftline/common/v1/common.ts'
import {
  type AttachPortRequest,
  type CacheStatus as CacheStatusMessage,
  type Connection,
  type Dependency as DependencyMessage,
  ForwarderServiceService,
  Health,
  type HostConnection,
  HostConnection as HostConnectionMessage,
  type Port as PortMessage,
  PortState,
  type SealingStatus,
  type WatchOpenConnectionsResponse,
} from '@weft/proto/weftline/forwarder/v1/forwarder.ts'
import {
  type Counters,
  type Flow,
  FlowAction,
  type Port as ShuttlePort,
} from '@weft/proto/weftline/shuttle/v1/shuttle.ts'
import { GUARDED_BY_SOCKET, type Handlers, type Implementation, implement } from '@weft/rpc'
import manifest from '../package.json' with { type: 'json' }
import { accessTo, clientFrom, presentHostKey } from './clients.ts'
import { deviceToMessage } from './decode.ts'
import type { Dependency } from './dependency.ts'
import type { Action, Answer } from './domain/answers.ts'
import type { BreakerStatus } from './domain/breaker.ts'
import type { CacheStatus } from './domain/cache-status.ts'
import { connectionKey, countByState } from './domain/open-connections.ts'
import type { Attachment, EndpointName, Port } from './domain/ports.ts'
import { connectionsOf, type Host } from './host.ts'
import { pause } from './loop.ts'

const DEVICE_DEFAULT = 'eth0'
/** A device name has at most 15 bytes (IFNAMSIZ, linux/if.h), and no slash or white space. */
const DEVICE_NAME = /^[^\s/]{1,15}$/
const PATH_MAX_BYTES = 4_095
/** How often a watch looks for what has changed. */
const WATCH_MS = 1_000
/** Connections of some 250 bytes in one message: 128 KiB. */
const WATCH_CHUNK = 512
const PING_COUNT_MAX = 1_000_000
/** Bytes of an ICMP echo's payload that fit into the largest IP packet. */
const PING_PAYLOAD_MAX_BYTES = 65_507

/** The host API. */
export function hostApi(host: Host): Implementation {
  const handlers: Handlers<ForwarderServiceService> = {
    async attachPort(request) {
      const name = endpointName(request)
      const attachment = attachmentFrom(host, request)
      const { port, created } = await host.desk.attach(name, attachment, request.idempotencyKey)
      const found = await shuttlePorts(host)
      return {
        port: portMessage(host, port, found.get(port.endpoint.id)),
        created,
        wireguard: attachment.kind === 'wireguard' ? accessTo(host, port.network) : undefined,
      }
    },

    async detachPort(request) {
      return await host.desk.detach(endpointName(request))
    },

    async listPorts() {
      const found = await shuttlePorts(host)
      host.desk.noteLost([...found.values()])
      const ports = [...host.ports].map((port) =>
        portMessage(host, port, found.get(port.endpoint.id)),
      )
      return { ports }
    },

    async listConnections() {
      const flows = await host.dataPlane.listFlows()
      const now = Date.now()
      const connections = flows.flatMap(({ flow, idleMs }) =>
        flow ? [connectionMessage(host, flow, idleMs, now)] : [],
      )
      return { connections }
    },

    async listOpenConnections() {
      return { connections: namedConnections(host) }
    },

    async *watchOpenConnections(_request, { signal }) {
      const told = new Map<string, { bytes: Buffer; connection: HostConnection }>()
      for (let isFirst = true; !signal.aborted; isFirst = false) {
        const { changed, gone } = differences(namedConnections(host), told)
        if (isFirst || changed.length + gone.length > 0) yield* chunks(changed, gone)
        await pause(WATCH_MS, signal)
      }
    },

    async getStatus() {
      const info = await host.dataPlane.refreshInfo().catch(() => host.dataPlane.info)
      const now = Date.now()
      const { horizonMs } = host.rows
      return {
        hostId: host.hostId,
        host: host.rows.self?.name ?? host.hostName,
        version: manifest.version,
        dependencies: host.dependencies.map((dependency) => dependencyMessage(dependency, now)),
        tableRevision: host.rows.revisions.config,
        tableAgeMs: age(host.standing.tableAgeMs(now)),
        fromDisk: host.standing.isFromDisk,
        resolutions: cacheMessage(host.resolutions.status(now)),
        decisions: cacheMessage(host.decisions.status(now)),
        underlayDevices: (info?.underlayDevices ?? []).map(
          ({ name, addresses, mtuBytes, encapsulation, decapsulation, reason }) => ({
            name,
            addresses,
            mtuBytes,
            encapsulation,
            decapsulation,
            reason,
          }),
        ),
        ...host.table.sizes,
        ports: host.ports.size,
        flows: info?.flowCount ?? 0,
        kernel: info?.kernel ?? '',
        shuttleVersion: info?.version ?? '',
        hostDrops: info?.hostDrops ?? {},
        horizonUnixMs: BigInt(horizonMs ?? 0),
        horizonLeftMs: age(horizonMs === undefined ? 0 : horizonMs - host.rightsNowMs()),
        sealing: sealingMessage(host),
        openConnections: Object.fromEntries(countByState(connectionsOf(host))),
      }
    },

    async *ping(request, { signal }) {
      const { tenant, network, source, ...probe } = request
      const port = host.ports.find({ tenant, network, endpoint: source })
      if (!port) throw new PortNotFoundError({ endpoint: source, host: host.hostName })
      if (port.attachment.kind === 'wireguard') {
        const problem = `${source} is a WireGuard client, and nothing can be sent from it here`
        const remedy = 'ping from the client itself, or from another endpoint to it'
        throw new InvalidArgumentError({ field: 'source', problem, remedy })
      }
      inRange('count', probe.count, 1, PING_COUNT_MAX)
      inRange('payload_bytes', probe.payloadBytes, 0, PING_PAYLOAD_MAX_BYTES)
      if (probe.targetAddress.length !== 4 && probe.targetAddress.length !== 16) {
        throw new InvalidArgumentError({ field: 'target_address', problem: 'is not 4 or 16 bytes' })
      }
      yield* host.dataPlane.ping({ sourceEndpointId: port.endpoint.id, ...probe }, signal)
    },
  }
  return implement(ForwarderServiceService, handlers, GUARDED_BY_SOCKET)
}

/** The host API of a host that has not joined: all that it says is how to. `folder`: where its identity would be. */
export function hostApiBeforeJoin(folder: string): Implementation {
  const refuse = async (): Promise<never> => {
    throw new NotEnrolledError({ folder, who: 'host' })
  }
  const handlers: Handlers<ForwarderServiceService> = {
    attachPort: refuse,
    detachPort: refuse,
    listPorts: refuse,
    listConnections: refuse,
    listOpenConnections: refuse,
    watchOpenConnections: () => ({ [Symbol.asyncIterator]: () => ({ next: refuse }) }),
    getStatus: refuse,
    ping: () => ({ [Symbol.asyncIterator]: () => ({ next: refuse }) }),
  }
  return implement(ForwarderServiceService, handlers, GUARDED_BY_SOCKET)
}

function namedConnections(host: Host): HostConnection[] {
  return connectionsOf(host).map((connection) => ({
    host: connection.endpointId === 0 ? host.table.hostNameOf(connection.hostId) : '',
    connection,
    client: clientName(host, connection.endpointId),
  }))
}

/** Undefined for what is no client. */
function clientName(host: Host, endpointId: number): EndpointName | undefined {
  const port = host.ports.get(endpointId)
  if (!port) return undefined
  const { endpoint, network } = port
  return { tenant: network.tenant, network: network.name, endpoint: endpoint.name }
}

/** What is other now than it was told; notes it as told. */
function differences(
  present: readonly HostConnection[],
  told: Map<string, { bytes: Buffer; connection: HostConnection }>,
): { changed: HostConnection[]; gone: HostConnection[] } {
  const keys = new Set<string>()
  const changed = present.filter((connection) => {
    const key = connection.connection ? connectionKey(connection.connection) : ''
    const bytes = Buffer.from(HostConnectionMessage.encode(connection).finish())
    keys.add(key)
    if (told.get(key)?.bytes.equals(bytes)) return false
    told.set(key, { bytes, connection })
    return true
  })
  const gone = [...told].filter(([key]) => !keys.has(key)).map(([, { connection }]) => connection)
  for (const key of told.keys()) if (!keys.has(key)) told.delete(key)
  return { changed, gone }
}

/** Of at most `WATCH_CHUNK` connections each; the last one is marked. */
function* chunks(
  changed: readonly HostConnection[],
  gone: readonly HostConnection[],
): Generator<WatchOpenConnectionsResponse, void, undefined> {
  const steps = Math.max(1, Math.ceil(Math.max(changed.length, gone.length) / WATCH_CHUNK))
  for (let step = 0; step < steps; step++) {
    const from = step * WATCH_CHUNK
    yield {
      connections: changed.slice(from, from + WATCH_CHUNK),
      gone: gone.slice(from, from + WATCH_CHUNK),
      snapshotComplete: step === steps - 1,
    }
  }
}

function sealingMessage({
  sealing: { state, states },
  dataPlane: { info },
}: Host): SealingStatus | undefined {
  if (!state) return undefined
  const counted = state.kind === 'on' ? info?.sealed : undefined
  const said = state.kind === 'on' ? state.said : undefined
  return {
    available: state.kind === 'on',
    problem: state.kind === 'on' ? '' : state.problem,
    listenPort: said?.listenPort ?? 0,
    cipher: said?.cipher ?? Cipher.CIPHER_UNSPECIFIED,
    speeds: said?.speeds ?? [],
    // As they are now: the kernel may have refused one since the transport was started.
    offloads: counted?.offloads ?? said?.offloads ?? [],
    keyLogged: said?.keyLogged ?? false,
    observed: [...states.observed],
    drops: counted?.drops ?? {},
    fallbacks: counted?.fallbacks ?? {},
    refusals: counted?.refusals ?? {},
  }
}

function endpointName({ tenant, network, endpoint }: EndpointName): EndpointName {
  for (const [field, value] of Object.entries({ tenant, network, endpoint })) {
    if (value === '') throw new InvalidArgumentError({ field, problem: 'is empty' })
  }
  return { tenant, network, endpoint }
}

function attachmentFrom(host: Host, { attachment }: AttachPortRequest): Attachment {
  switch (attachment?.$case) {
    case 'netns': {
      const { path, device, keepRoutes } = attachment.value
      if (
        !path.startsWith('/') ||
        path.includes('\0') ||
        Buffer.byteLength(path) > PATH_MAX_BYTES
      ) {
        throw new InvalidArgumentError({ field: 'netns.path', problem: 'is not an absolute path' })
      }
      return {
        kind: 'netns',
        path,
        device: deviceName('netns.device', device || DEVICE_DEFAULT),
        keepRoutes,
      }
    }
    case 'tap':
      return { kind: 'tap', device: deviceName('tap.device', attachment.value.device) }
    case 'wireguard':
      return clientFrom(host, attachment.value)
    default:
      throw new InvalidArgumentError({
        field: 'attachment',
        problem: 'names neither a network namespace nor a TAP device nor a WireGuard client',
      })
  }
}

function deviceName(field: string, device: string): string {
  if (!DEVICE_NAME.test(device) || device === '.' || device === '..') {
    const problem = 'is not the name of a network device: 1 to 15 characters without slash or space'
    throw new InvalidArgumentError({ field, problem })
  }
  return device
}

function inRange(field: string, value: number, min: number, max: number): void {
  if (value >= min && value <= max) return
  throw new InvalidArgumentError({ field, problem: `is ${value}, outside ${min} to ${max}` })
}

/** The shuttle's ports by endpoint; none while it does not answer: what is attached is known without it. */
async function shuttlePorts(host: Host): Promise<ReadonlyMap<number, ShuttlePort>> {
  const ports = await host.dataPlane.listPorts().catch(() => [])
  return new Map(ports.map((port) => [port.endpointId, port]))
}

function portMessage(host: Host, port: Port, found: ShuttlePort | undefined): PortMessage {
  const { endpoint, network } = port
  const isLost = found?.lost ?? host.desk.isLost(endpoint.id)
  return {
    endpointId: endpoint.id,
    tenant: network.tenant,
    network: network.name,
    endpoint: endpoint.name,
    attachment: attachedMessage(host, port),
    hostDevice: found?.hostDevice ?? '',
    mac: macToBytes(endpoint.mac),
    addresses: endpoint.addresses.map(ipToBytes),
    mtuBytes: network.mtuBytes,
    state: isLost ? PortState.PORT_STATE_LOST : PortState.PORT_STATE_UP,
    attachedAtUnixMs: BigInt(port.attachedAtUnixMs),
    counters: countersMessage(found?.counters ?? NOTHING_COUNTED),
  }
}

/** What joins a port to the host; of a client also how it is, and never its preshared key. */
function attachedMessage(host: Host, { attachment, endpoint }: Port): PortMessage['attachment'] {
  if (attachment.kind !== 'wireguard') return deviceToMessage(attachment)
  const { publicKey, presharedKey, hostKey } = attachment
  return {
    $case: 'wireguard',
    value: {
      publicKey: Buffer.from(publicKey, 'hex'),
      hasPresharedKey: presharedKey !== '',
      isVoid: hostKey !== (presentHostKey(host) ?? hostKey),
      connection: host.sealing.states.client(endpoint.id),
    },
  }
}

/** Of a port that the shuttle does not know, because its namespace or device is gone. */
const NOTHING_COUNTED: Counters = {
  receivedPackets: 0n,
  receivedBytes: 0n,
  sentPackets: 0n,
  sentBytes: 0n,
  verdicts: {},
  drops: {},
}

function countersMessage(counters: Counters): Counters {
  const { receivedPackets, receivedBytes, sentPackets, sentBytes, verdicts, drops } = counters
  return { receivedPackets, receivedBytes, sentPackets, sentBytes, verdicts, drops }
}

/** The flow is what is in force; the answer, where it is known, says why. */
function connectionMessage(host: Host, flow: Flow, idleMs: bigint, nowMs: number): Connection {
  const { sourceEndpointId, targetEndpointId } = flow
  const answer = host.connections.get(sourceEndpointId, targetEndpointId)
  const source = host.table.endpoint(sourceEndpointId)
  const target = host.table.endpoint(targetEndpointId)
  const network = source && host.table.network(source.networkId)
  const targetHostId =
    flow.action === FlowAction.FLOW_ACTION_SAME_HOST
      ? host.hostId
      : flow.targetHostId || (target?.hostId ?? 0)
  return {
    tenant: network?.tenant ?? '',
    network: network?.name ?? '',
    sourceEndpointId,
    source: source?.name ?? '',
    targetEndpointId,
    target: target?.name ?? '',
    mechanism: mechanismOf(flow),
    carrier: flow.carrier,
    targetHost: host.table.hostNameOf(targetHostId),
    protocol: answer?.protocol ?? '',
    rule: answer?.rule ?? '',
    ageMs: answer ? age(nowMs - answer.givenAtMs) : 0n,
    horizonMs: BigInt(answer?.horizonMs ?? 0),
    idleMs,
    stale: isStale(host, answer),
    refused: refusalOf(answer?.action),
  }
}

/** Given by somebody who still answers, or not. */
function isStale(host: Host, answer: Answer | undefined): boolean {
  return !answer || answer.isStale || !host.standing.isConfirmed
}

function refusalOf(action: Action | undefined): Connection['refused'] {
  return action?.kind === 'refused' ? errorMessage(action.error) : undefined
}

function errorMessage({ code, message, facts, remedy }: ErrorInfo): Connection['refused'] {
  return { code, message, facts: { ...facts }, remedy }
}

function mechanismOf({ action }: Flow): Mechanism {
  switch (action) {
    case FlowAction.FLOW_ACTION_SAME_HOST:
      return Mechanism.MECHANISM_SAME_HOST
    case FlowAction.FLOW_ACTION_DIRECT:
      return Mechanism.MECHANISM_DIRECT
    default:
      return Mechanism.MECHANISM_UNSPECIFIED
  }
}

function dependencyMessage(dependency: Dependency, nowMs: number): DependencyMessage {
  const { health, ageMs, error } = dependency.status(nowMs)
  const { name, address } = dependency
  return { name, address, health: healthMessage(health), ageMs: age(ageMs), error }
}

function healthMessage(health: BreakerStatus['health']): Health {
  switch (health) {
    case 'ok':
      return Health.HEALTH_OK
    case 'stale':
      return Health.HEALTH_STALE
    case 'unknown':
      return Health.HEALTH_UNKNOWN
  }
}

function cacheMessage(status: CacheStatus): CacheStatusMessage {
  return {
    entries: status.entries,
    revision: status.revision,
    oldestAgeMs: age(status.oldestAgeMs),
    horizonMs: BigInt(status.horizonMs),
    hits: BigInt(status.hits),
    misses: BigInt(status.misses),
    staleAnswers: BigInt(status.staleAnswers),
  }
}

/** An age in milliseconds; none is negative, though the clock may have been set back. */
function age(ms: number): bigint {
  return BigInt(Math.max(0, Math.round(ms)))
}
