import { keyTokens } from '@weft/bus'
import { InvalidArgumentError } from '@weft/errors'
import { CARRIER_SEALED, ipFromBytes, ipToBytes } from '@weft/net'
import { Carrier, Mechanism } from '@weft/proto/weftline/common/v1/common.ts'
import {
  Encryption,
  HostKind,
  type Host as HostMessage,
  type Record as RecordMessage,
} from '@weft/proto/weftline/config/v1/records.ts'
import {
  type Connection as ConnectionMessage,
  LocationChange,
  LocationReport,
} from '@weft/proto/weftline/location/v1/location.ts'
import { type ConfigItem, type Host, itemKinds } from './domain/config-view.ts'
import type { Location } from './domain/location-table.ts'
import type { Report } from './domain/report.ts'
import type { Connection } from './domain/resolve.ts'

/** What the resolver needs of a record; undefined if it needs nothing. */
export function itemFromRecord({ kind }: RecordMessage): ConfigItem | undefined {
  switch (kind?.$case) {
    case 'zone': {
      const { id, name, trusted } = kind.value
      return { kind: 'zone', value: { id, name, trusted } }
    }
    case 'host':
      return { kind: 'host', value: hostFromMessage(kind.value) }
    case 'network': {
      const { id, name, vni, mtuBytes } = kind.value
      // What this version does not know demands the most.
      const encryption =
        kind.value.encryption === Encryption.ENCRYPTION_OUTSIDE_TRUSTED_ZONES
          ? 'outside-trusted-zones'
          : 'required'
      return { kind: 'network', value: { id, name, vni, mtuBytes, encryption } }
    }
    case 'endpoint': {
      const { id, name, networkId, hostId, mac, addresses } = kind.value
      return { kind: 'endpoint', value: { id, name, networkId, hostId, mac, addresses } }
    }
    default:
      return undefined
  }
}

function hostFromMessage(message: HostMessage): Host {
  const { id, name, kind, underlayAddresses, identityKey, revokedAtUnixMs } = message
  const hasTunnelKey = message.tunnelKey.length > 0 && message.tunnelStatement !== undefined
  const addresses = underlayAddresses.flatMap(({ address, zoneId }) => {
    const parsed = ipFromBytes(address)
    return parsed === undefined ? [] : [{ address: parsed, zoneId }]
  })
  return {
    id,
    name,
    isForeign: kind === HostKind.HOST_KIND_VXLAN_PEER,
    identityKey,
    isRevoked: revokedAtUnixMs > 0n,
    addresses,
    canSeal: hasTunnelKey && message.capabilities.includes(CARRIER_SEALED),
  }
}

/** Which record a key of the bucket `config` names; undefined if none that the resolver needs. */
export function itemOfKey(key: string): { kind: ConfigItem['kind']; id: number } | undefined {
  const [name, id] = keyTokens(key)
  const kind = itemKinds.find((known) => known === name)
  return kind === undefined ? undefined : { kind, id: Number(id) }
}

/** Which endpoint a key of the bucket `locations` names. */
export function endpointOfKey(key: string): number {
  return Number(keyTokens(key)[1])
}

/**
 * A report with its signature. What a forwarder says fits three times: 8 addresses of 18 bytes, 64 prefixes of 24, 64 for the
 * lease, 66 for the signature, 60 of numbers.
 */
const REPORT_BYTES_MAX = 6 * 1024
/** Forwarders name their leases by UUIDs of 36. */
const LEASE_ID_BYTES_MAX = 64

/** @throws InvalidArgumentError: the message does not say what happened, is not numbered, or is too large to be kept. */
export function reportFromMessage(message: LocationReport): Report {
  if (message.sequence === 0n) {
    throw new InvalidArgumentError({ field: 'sequence', problem: 'it is not set' })
  }
  const change = changes.get(message.change)
  if (change === undefined) {
    throw new InvalidArgumentError({ field: 'change', problem: `${message.change} is not known` })
  }
  checkLeaseId(message.leaseId)
  // Fields that this version does not know are encoded again as they came, so that the signature still fits.
  const encoded = Buffer.from(LocationReport.encode(message).finish())
  if (encoded.length > REPORT_BYTES_MAX) {
    const problem = `it has ${encoded.length} bytes, at most ${REPORT_BYTES_MAX} are kept`
    throw new InvalidArgumentError({ field: 'report', problem })
  }
  return { ...message, change, encoded }
}

/** @throws InvalidArgumentError: it is too long to be kept. */
export function checkLeaseId(leaseId: string): void {
  if (Buffer.byteLength(leaseId) <= LEASE_ID_BYTES_MAX) return
  const problem = `it is longer than ${LEASE_ID_BYTES_MAX} bytes`
  throw new InvalidArgumentError({ field: 'lease_id', problem })
}

/** A location for who asks: whose word it is interests only those who check it, and they have it from the bucket. */
export function withoutReport(location: Location): Location {
  return location.report.length === 0 ? location : { ...location, report: NO_REPORT }
}

const NO_REPORT: Buffer = Buffer.alloc(0)

const changes = new Map<LocationChange, Report['change']>([
  [LocationChange.LOCATION_CHANGE_ATTACHED, 'attached'],
  [LocationChange.LOCATION_CHANGE_DETACHED, 'detached'],
])

const carrierNumbers = { vxlan: Carrier.CARRIER_VXLAN, sealed: Carrier.CARRIER_SEALED } as const

export function connectionToMessage(connection: Connection): ConnectionMessage {
  const { source, target, network, sourceHost, targetHost, targetEpoch } = connection
  const isDirect = connection.mechanism === 'direct'
  const isPlain = isDirect && connection.carrier === 'vxlan'
  return {
    sourceEndpointId: source.id,
    targetEndpointId: target.id,
    mechanism: isDirect ? Mechanism.MECHANISM_DIRECT : Mechanism.MECHANISM_SAME_HOST,
    carrier: isDirect ? carrierNumbers[connection.carrier] : Carrier.CARRIER_NONE,
    vni: network.vni,
    sourceHostId: sourceHost.id,
    targetHostId: targetHost.id,
    sourceAddress: isPlain ? ipToBytes(connection.sourceAddress) : NO_ADDRESS,
    targetAddress: isPlain ? ipToBytes(connection.targetAddress) : NO_ADDRESS,
    targetMac: target.mac,
    mtuBytes: network.mtuBytes,
    targetEpoch,
  }
}

const NO_ADDRESS: Buffer = Buffer.alloc(0)
