import { InternalError, toWire, UnimplementedError } from '@weft/errors'
import {
  CARRIER_SEALED,
  type Candidate,
  type CandidateKind,
  type IpAddress,
  ipFromBytes,
  ipToBytes,
  isPort,
  isUnicastAddress,
  type LinkEncryption,
  type MacAddress,
  macFromBytes,
  macToBytes,
  type Prefix,
  prefixFromBytes,
  SEALED_PORT_DEFAULT,
} from '@weft/net'
import type {
  Candidate as CandidateMessage,
  Prefix as PrefixMessage,
} from '@weft/proto/weftline/common/v1/common.ts'
import {
  CandidateKind as CandidateKindMessage,
  Carrier,
  Mechanism,
} from '@weft/proto/weftline/common/v1/common.ts'
import {
  Encryption,
  type Endpoint as EndpointRecord,
  HostKind,
  type Network as NetworkRecord,
} from '@weft/proto/weftline/config/v1/records.ts'
import type {
  HostRow,
  PeerAddress as PeerAddressMessage,
} from '@weft/proto/weftline/config/v1/rows.ts'
import type { Resolution as ResolutionMessage } from '@weft/proto/weftline/location/v1/location.ts'
import { type Decision as DecisionMessage, Fact } from '@weft/proto/weftline/routing/v1/routing.ts'
import {
  type AttachPortRequest,
  type Flow,
  FlowAction,
  type TableChange as TableChangeMessage,
  type Endpoint as TableEndpoint,
  type Network as TableNetwork,
  type Peer as TablePeer,
} from '@weft/proto/weftline/shuttle/v1/shuttle.ts'
import type { Action, Answer } from './domain/answers.ts'
import type { Decision, FactName } from './domain/decision-cache.ts'
import type { Attachment, DeviceAttachment } from './domain/ports.ts'
import type { Resolution } from './domain/resolution-cache.ts'
import type { Endpoint, Network, PeerAddress, Row } from './domain/rows.ts'
import {
  type NetworkEntry,
  networkEntry,
  type PeerEntry,
  type TableChange,
} from './domain/switch-table.ts'

/** What a row says; undefined for a row of a kind that this version does not know, and for what tenants sign (`statementFrom`). */
export function rowFromMessage(message: HostRow): Row | undefined {
  switch (message.row?.$case) {
    case undefined:
    case 'statement':
      return undefined
    case 'network': {
      const { network, tenantName } = message.row.value
      return network && { kind: 'network', value: networkFromRecord(network, tenantName) }
    }
    case 'endpoint': {
      const { endpointId, locationHostId, ...rest } = message.row.value
      const value = endpointFrom({ ...rest, id: endpointId, hostId: locationHostId })
      return { kind: 'endpoint', value }
    }
    case 'peer': {
      const { hostId, name, kind, addresses, identityKey, tunnelKey } = message.row.value
      const value = {
        hostId,
        name,
        isForeign: kind === HostKind.HOST_KIND_VXLAN_PEER,
        addresses: addresses.map(peerAddress),
        identityKey: identityKey.toString('hex'),
        tunnelKey: tunnelKey.toString('hex'),
      }
      return { kind: 'peer', value }
    }
    case 'self': {
      const { name, addresses, capabilities, sealedPort, configured } = message.row.value
      const value = {
        name,
        addresses: addresses.map(peerAddress),
        canSeal: capabilities.includes(CARRIER_SEALED),
        sealedPort: isPort(sealedPort) ? sealedPort : SEALED_PORT_DEFAULT,
        configured: configured.flatMap(candidateFrom),
      }
      return { kind: 'self', value }
    }
  }
}

export function networkFromRecord(record: NetworkRecord, tenant: string): Network {
  return {
    id: record.id,
    tenant,
    name: record.name,
    vni: record.vni,
    prefixes: record.prefixes.map(prefixFrom),
    mtuBytes: record.mtuBytes,
    encryption: encryptionFrom(record.encryption),
  }
}

export function networkToRecord(network: Network): NetworkRecord {
  return {
    id: network.id,
    tenantId: 0,
    name: network.name,
    vni: network.vni,
    prefixes: network.prefixes.map(prefixToMessage),
    mtuBytes: network.mtuBytes,
    encryption:
      network.encryption === 'required'
        ? Encryption.ENCRYPTION_REQUIRED
        : Encryption.ENCRYPTION_OUTSIDE_TRUSTED_ZONES,
    meta: undefined,
  }
}

export function endpointFromRecord(record: EndpointRecord): Endpoint {
  return endpointFrom({ ...record, epoch: 0n })
}

export function endpointToRecord(endpoint: Endpoint): EndpointRecord {
  return {
    id: endpoint.id,
    networkId: endpoint.networkId,
    name: endpoint.name,
    mac: macToBytes(endpoint.mac),
    addresses: endpoint.addresses.map(ipToBytes),
    allowedPrefixes: endpoint.allowedPrefixes.map(prefixToMessage),
    hostId: endpoint.hostId,
    meta: undefined,
  }
}

/** What location-resolver said of a pair. A mechanism that this version cannot make is an error. */
export function resolutionFrom(message: ResolutionMessage): Resolution {
  const { outcome } = message
  if (outcome?.$case === 'error') return { kind: 'error', error: outcome.value }
  const connection = outcome?.value
  const mechanism = connection && mechanismFrom(connection.mechanism)
  const carrier = connection && carrierFrom(connection.carrier)
  if (!connection || !mechanism || !carrier) {
    const what = `mechanism ${connection?.mechanism ?? 0} with carrier ${connection?.carrier ?? 0}`
    return { kind: 'error', error: toWire(new UnimplementedError({ what })) }
  }
  const { targetHostId, targetEpoch } = connection
  return { kind: 'joined', mechanism, carrier, targetHostId, targetEpoch }
}

const factNames: ReadonlyMap<number, FactName> = new Map([
  [Fact.FACT_NETWORK, 'network'],
  [Fact.FACT_SOURCE, 'source'],
  [Fact.FACT_TARGET, 'target'],
  [Fact.FACT_IP_PROTOCOL, 'ipProtocol'],
  [Fact.FACT_SOURCE_PORT, 'sourcePort'],
  [Fact.FACT_TARGET_PORT, 'targetPort'],
])

/** What routing-policy said. A fact that this version does not know makes it hold for this very connection alone. */
export function decisionFrom(message: DecisionMessage): Decision {
  const names = message.dependsOn.map((fact) => factNames.get(fact))
  const isKnown = names.every((name) => name !== undefined)
  return {
    protocol: message.protocol,
    rule: message.rule,
    dependsOn: isKnown ? names : [...factNames.values()],
    error: message.error,
  }
}

export function changeToMessage(change: TableChange): TableChangeMessage {
  const deletePeerCarrier =
    change.kind === 'delete-peer' ? carrierToMessage(change.carrier) : Carrier.CARRIER_UNSPECIFIED
  return { change: changeOf(change), deletePeerCarrier }
}

function changeOf(change: TableChange): NonNullable<TableChangeMessage['change']> {
  switch (change.kind) {
    case 'put-network':
      return { $case: 'putNetwork', value: tableNetwork(change.value) }
    case 'put-endpoint':
      return { $case: 'putEndpoint', value: tableEndpoint(change.value) }
    case 'put-peer':
      return { $case: 'putPeer', value: tablePeer(change.value) }
    case 'delete-network':
      return { $case: 'deleteNetworkId', value: change.id }
    case 'delete-endpoint':
      return { $case: 'deleteEndpointId', value: change.id }
    case 'delete-peer':
      return { $case: 'deletePeerHostId', value: change.id }
  }
}

function tablePeer(entry: PeerEntry): TablePeer {
  const { hostId } = entry
  const common = {
    hostId,
    carrier: carrierToMessage(entry.carrier),
    networkIds: [...entry.networkIds],
  }
  if (entry.carrier === 'vxlan') {
    const { local, remote, isForeign } = entry
    return {
      ...common,
      localAddress: ipToBytes(local),
      remoteAddress: ipToBytes(remote),
      foreign: isForeign,
      sealed: undefined,
    }
  }
  return {
    ...common,
    localAddress: NOTHING,
    remoteAddress: NOTHING,
    foreign: false,
    sealed: {
      publicKey: Buffer.from(entry.tunnelKey, 'hex'),
      previousPublicKey: Buffer.from(entry.previousTunnelKey, 'hex'),
      candidates: entry.candidates.map(candidateToMessage),
      presharedKey: NOTHING,
    },
  }
}

const NOTHING: Buffer = Buffer.alloc(0)

export function candidateToMessage({ address, port, kind }: Candidate): CandidateMessage {
  return { address: ipToBytes(address), port, kind: CANDIDATE_KINDS[kind] }
}

/** None for what is no place that anything can be sent to. */
export function candidateFrom(message: CandidateMessage): Candidate[] {
  const address = ipFromBytes(message.address)
  const { port } = message
  if (!address || !isUnicastAddress(address) || !isPort(port)) return []
  const known = Object.entries(CANDIDATE_KINDS) as [CandidateKind, number][]
  const kind = known.find(([, number]) => number === message.kind)?.[0] ?? 'observed'
  return [{ address, port, kind }]
}

const CANDIDATE_KINDS = {
  own: CandidateKindMessage.CANDIDATE_KIND_OWN,
  configured: CandidateKindMessage.CANDIDATE_KIND_CONFIGURED,
  observed: CandidateKindMessage.CANDIDATE_KIND_OBSERVED,
} as const

export function attachmentToMessage(
  attachment: Attachment,
): NonNullable<AttachPortRequest['attachment']> {
  if (attachment.kind !== 'wireguard') return deviceToMessage(attachment)
  const { publicKey, presharedKey } = attachment
  const value = {
    publicKey: Buffer.from(publicKey, 'hex'),
    presharedKey: Buffer.from(presharedKey, 'hex'),
  }
  return { $case: 'wireguard', value }
}

/** The same for the shuttle and for those who ask this host. */
export function deviceToMessage(
  attachment: DeviceAttachment,
): Extract<AttachPortRequest['attachment'], { $case: 'netns' | 'tap' }> {
  if (attachment.kind === 'tap') return { $case: 'tap', value: { device: attachment.device } }
  const { path, device, keepRoutes } = attachment
  return { $case: 'netns', value: { path, device, keepRoutes } }
}

/** The network as a port's attachment names it. */
export function portNetwork(network: Network): TableNetwork {
  return tableNetwork(networkEntry(network))
}

export function tableEndpoint(endpoint: Endpoint): TableEndpoint {
  return {
    endpointId: endpoint.id,
    networkId: endpoint.networkId,
    mac: macToBytes(endpoint.mac),
    addresses: endpoint.addresses.map(ipToBytes),
    allowedPrefixes: endpoint.allowedPrefixes.map(prefixToMessage),
    hostId: endpoint.hostId,
  }
}

/** The flow that carries out an answer that was made on the tables of this revision. */
export function flowFrom({ facts, action }: Answer, tableRevision: bigint): Flow {
  const flow = {
    sourceEndpointId: facts.source,
    targetEndpointId: facts.target,
    dropReason: '',
    targetHostId: 0,
    tableRevision,
  }
  switch (action.kind) {
    case 'same-host':
      return { ...flow, action: FlowAction.FLOW_ACTION_SAME_HOST, carrier: Carrier.CARRIER_NONE }
    case 'direct':
      return {
        ...flow,
        action: FlowAction.FLOW_ACTION_DIRECT,
        targetHostId: action.targetHostId,
        carrier: carrierToMessage(action.carrier),
      }
    case 'refused':
      return {
        ...flow,
        action: FlowAction.FLOW_ACTION_DROP,
        dropReason: 'refused',
        carrier: Carrier.CARRIER_NONE,
      }
  }
}

function carrierToMessage(carrier: 'none' | 'vxlan' | 'sealed'): Carrier {
  switch (carrier) {
    case 'none':
      return Carrier.CARRIER_NONE
    case 'vxlan':
      return Carrier.CARRIER_VXLAN
    case 'sealed':
      return Carrier.CARRIER_SEALED
  }
}

/** The action that a flow carries out, for one that an earlier run of this process wrote; undefined where it does not tell. */
export function actionFromFlow(flow: Flow, hostId: number): Action | undefined {
  switch (flow.action) {
    case FlowAction.FLOW_ACTION_SAME_HOST:
      return { kind: 'same-host', targetHostId: hostId }
    case FlowAction.FLOW_ACTION_DIRECT: {
      const carrier = carrierFrom(flow.carrier)
      if (carrier === undefined || carrier === 'none') return undefined
      return { kind: 'direct', targetHostId: flow.targetHostId, carrier }
    }
    default:
      return undefined
  }
}

function carrierFrom(carrier: Carrier): 'none' | 'vxlan' | 'sealed' | undefined {
  switch (carrier) {
    case Carrier.CARRIER_NONE:
      return 'none'
    case Carrier.CARRIER_VXLAN:
      return 'vxlan'
    case Carrier.CARRIER_SEALED:
      return 'sealed'
    default:
      return undefined
  }
}

function mechanismFrom(mechanism: Mechanism): 'same-host' | 'direct' | undefined {
  switch (mechanism) {
    case Mechanism.MECHANISM_SAME_HOST:
      return 'same-host'
    case Mechanism.MECHANISM_DIRECT:
      return 'direct'
    default:
      return undefined
  }
}

/** An unknown demand is the strictest one: nothing may be sent plain by mistake. */
function encryptionFrom(encryption: Encryption): LinkEncryption {
  return encryption === Encryption.ENCRYPTION_OUTSIDE_TRUSTED_ZONES
    ? 'outside-trusted-zones'
    : 'required'
}

function endpointFrom(fields: {
  readonly id: number
  readonly networkId: number
  readonly name: string
  readonly mac: Uint8Array
  readonly addresses: readonly Uint8Array[]
  readonly allowedPrefixes: readonly PrefixMessage[]
  readonly hostId: number
  readonly epoch: bigint
}): Endpoint {
  return {
    id: fields.id,
    networkId: fields.networkId,
    name: fields.name,
    mac: macFrom(fields.mac),
    addresses: fields.addresses.map(addressFrom),
    allowedPrefixes: fields.allowedPrefixes.map(prefixFrom),
    hostId: fields.hostId,
    epoch: fields.epoch,
  }
}

function peerAddress(message: PeerAddressMessage): PeerAddress {
  const { address, zoneId, zoneName, trusted } = message
  return { address: addressFrom(address), zoneId, zoneName, trusted }
}

function tableNetwork(entry: NetworkEntry): TableNetwork {
  const { id, vni, mtuBytes, gatewayV4, gatewayV6 } = entry
  return {
    networkId: id,
    vni,
    mtuBytes,
    gatewayIpv4: gatewayV4 ? ipToBytes(gatewayV4) : Buffer.alloc(0),
    gatewayIpv6: gatewayV6 ? ipToBytes(gatewayV6) : Buffer.alloc(0),
  }
}

export function prefixToMessage({ address, lengthBits }: Prefix): PrefixMessage {
  return { address: ipToBytes(address), lengthBits }
}

export function prefixFrom({ address, lengthBits }: PrefixMessage): Prefix {
  return prefixFromBytes(address, lengthBits) ?? broken('prefix', address)
}

export function addressFrom(bytes: Uint8Array): IpAddress {
  return ipFromBytes(bytes) ?? broken('address', bytes)
}

export function macFrom(bytes: Uint8Array): MacAddress {
  return macFromBytes(bytes) ?? broken('MAC', bytes)
}

function broken(what: string, bytes: Uint8Array): never {
  throw new InternalError(`a message holds a broken ${what}: ${Buffer.from(bytes).toString('hex')}`)
}
