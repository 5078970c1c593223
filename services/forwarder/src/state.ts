import { BinaryReader, BinaryWriter } from '@bufbuild/protobuf/wire'
import { type IpAddress, ipFromBytes, ipToBytes } from '@weft/net'
import { Endpoint, Network } from '@weft/proto/weftline/config/v1/records.ts'
import { HostRow } from '@weft/proto/weftline/config/v1/rows.ts'
import {
  endpointFromRecord,
  endpointToRecord,
  networkFromRecord,
  networkToRecord,
  rowFromMessage,
  rowToMessage,
} from './decode.ts'
import type { Attachment, Port, Release } from './domain/ports.ts'
import type { RowChange, StampedRow } from './domain/rows.ts'

/** What this host is and has attached; on disk before anybody is told of it. */
export interface HostState {
  readonly hostId: number
  readonly hostName: string
  /** Names the claims of this host; renewed by its lease. */
  readonly leaseId: string
  /** Number of the last location report. */
  readonly sequence: bigint
  readonly ports: readonly Port[]
  /** Detached, and config or location-resolver have still to be told. */
  readonly releases: readonly Release[]
}

export const HOST_STATE_VERSION = 1
export const ROWS_VERSION = 1

export function encodeHostState(state: HostState): Buffer {
  return Buffer.from(
    JSON.stringify({
      hostId: state.hostId,
      hostName: state.hostName,
      leaseId: state.leaseId,
      sequence: `${state.sequence}`,
      ports: state.ports.map((port) => ({
        endpoint: Endpoint.toJSON(endpointToRecord(port.endpoint)),
        network: Network.toJSON(networkToRecord(port.network)),
        tenant: port.network.tenant,
        attachment: port.attachment,
        attachedAtUnixMs: port.attachedAtUnixMs,
        assignedRevision: `${port.assignedRevision}`,
        sequence: `${port.sequence}`,
      })),
      releases: state.releases.map((release) => ({
        name: release.name,
        endpointId: release.endpointId,
        networkId: release.networkId,
        addresses: release.addresses.map((address) => ipToBytes(address).toString('hex')),
        sequence: `${release.sequence}`,
      })),
    }),
  )
}

/** Reads what `encodeHostState` wrote: the file's checksum and version vouch for its shape. */
export function decodeHostState(body: Buffer): HostState {
  const state = JSON.parse(body.toString()) as StoredHostState
  return {
    hostId: state.hostId,
    hostName: state.hostName,
    leaseId: state.leaseId,
    sequence: BigInt(state.sequence),
    ports: state.ports.map((port) => ({
      endpoint: endpointFromRecord(Endpoint.fromJSON(port.endpoint)),
      network: networkFromRecord(Network.fromJSON(port.network), port.tenant),
      attachment: port.attachment,
      attachedAtUnixMs: port.attachedAtUnixMs,
      assignedRevision: BigInt(port.assignedRevision),
      sequence: BigInt(port.sequence),
    })),
    releases: state.releases.map((release) => ({
      name: release.name,
      endpointId: release.endpointId,
      networkId: release.networkId,
      addresses: release.addresses.map(addressFromHex),
      sequence: BigInt(release.sequence),
    })),
  }
}

/** Rows one after the other, each with its length before it. */
export function encodeRows(hostId: number, rows: Iterable<StampedRow>): Uint8Array {
  const writer = new BinaryWriter()
  for (const row of rows) HostRow.encode(rowToMessage(hostId, row), writer.fork()).join()
  return writer.finish()
}

export function decodeRows(body: Buffer): RowChange[] {
  const reader = new BinaryReader(body)
  const rows: RowChange[] = []
  while (reader.pos < reader.len) {
    const row = rowFromMessage(HostRow.decode(reader, reader.uint32()))
    if (row) rows.push(row)
  }
  return rows
}

interface StoredHostState {
  readonly hostId: number
  readonly hostName: string
  readonly leaseId: string
  readonly sequence: string
  readonly ports: readonly {
    readonly endpoint: unknown
    readonly network: unknown
    readonly tenant: string
    readonly attachment: Attachment
    readonly attachedAtUnixMs: number
    readonly assignedRevision: string
    readonly sequence: string
  }[]
  readonly releases: readonly {
    readonly name: string
    readonly endpointId: number
    readonly networkId: number
    readonly addresses: readonly string[]
    readonly sequence: string
  }[]
}

function addressFromHex(hex: string): IpAddress {
  const address = ipFromBytes(Buffer.from(hex, 'hex'))
  if (!address) throw new RangeError(`${hex} is no address`)
  return address
}
