import { BinaryReader, BinaryWriter } from '@bufbuild/protobuf/wire'
import { type IpAddress, ipFromBytes, ipToBytes } from '@weft/net'
import { Endpoint, Network } from '@weft/proto/weftline/config/v1/records.ts'
import {
  endpointFromRecord,
  endpointToRecord,
  networkFromRecord,
  networkToRecord,
} from './decode.ts'
import type { HostRows, RowsState } from './domain/host-rows.ts'
import type { Attachment, Port, Release } from './domain/ports.ts'
import type { Pins, TenantPin } from './domain/tenant-locks.ts'

/** What this host is and has attached; on disk before anybody is told of it. */
export interface HostState {
  /** Who this is: what another host has left behind, or the same number in another domain, is of no use to it. */
  readonly domain: string
  readonly hostId: number
  readonly hostName: string
  /** Names the claims of this host; renewed by its lease. */
  readonly leaseId: string
  /** Number of the last location report. */
  readonly sequence: bigint
  readonly ports: readonly Port[]
  /** Detached, and config or location-resolver have still to be told. */
  readonly releases: readonly Release[]
  /** Names of locked tenants, in case the pins are lost. */
  readonly lockedTenants: readonly string[]
}

export const HOST_STATE_VERSION = 3
/** Versions without WireGuard clients among the ports, and otherwise the same. */
export const HOST_STATE_VERSIONS_OLDER: readonly number[] = [2]
/** Also another one when this program knows rows that it did not before: those that it left out are older than the others. */
export const ROWS_VERSION = 2
export const CLOCK_VERSION = 1
export const PINS_VERSION = 1

export function encodeHostState(state: HostState): Buffer {
  return Buffer.from(
    JSON.stringify({
      domain: state.domain,
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
      lockedTenants: state.lockedTenants,
    }),
  )
}

/** Reads what `encodeHostState` wrote: the file's checksum and version vouch for its shape. */
export function decodeHostState(body: Buffer): HostState {
  const state = JSON.parse(body.toString()) as StoredHostState
  return {
    domain: state.domain,
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
    lockedTenants: state.lockedTenants ?? [],
  }
}

/** What is kept of the rows: each as it came, with its signature, for only that vouches for it. */
export interface StoredRows extends RowsState {
  readonly proofs: readonly Uint8Array[]
}

/** Revision and flag in 9 bytes, then the rows, each with its length before it. */
export function encodeRows(rows: HostRows): Uint8Array {
  const { newestConfigRevision, hasRunOut } = rows.state
  const head = Buffer.alloc(ROWS_HEAD_BYTES)
  head.writeBigUInt64BE(newestConfigRevision)
  head.writeUInt8(hasRunOut ? 1 : 0, 8)
  const writer = new BinaryWriter()
  for (const { proof } of rows.all()) writer.bytes(proof)
  return Buffer.concat([head, writer.finish()])
}

export function decodeRows(body: Buffer): StoredRows {
  const reader = new BinaryReader(body.subarray(ROWS_HEAD_BYTES))
  const proofs: Uint8Array[] = []
  while (reader.pos < reader.len) proofs.push(reader.bytes())
  return {
    newestConfigRevision: body.readBigUInt64BE(),
    hasRunOut: body.readUInt8(8) === 1,
    proofs,
  }
}

const ROWS_HEAD_BYTES = 9

/** The time by which rights end, in milliseconds since 1970. */
export function encodeClock(floorMs: number): Uint8Array {
  return Buffer.from(JSON.stringify({ floorMs }))
}

export function decodeClock(body: Buffer): number {
  const { floorMs } = JSON.parse(body.toString()) as { readonly floorMs: number }
  return floorMs
}

/** Keys and networks of locked tenants that this host has met. */
export function encodePins(pins: Pins): Uint8Array {
  return Buffer.from(JSON.stringify(pins))
}

/** Reads what `encodePins` wrote: the file's checksum and version vouch for its shape. */
export function decodePins(body: Buffer): Pins {
  const pins = JSON.parse(body.toString()) as StoredPins
  const tenants = pins.tenants.map((pin) => ({ ...pin, chain: pin.chain ?? [pin.publicKey] }))
  return { ...pins, tenants }
}

/** A pin that was written without its chain is the chain. */
interface StoredPins extends Omit<Pins, 'tenants'> {
  readonly tenants: readonly (Omit<TenantPin, 'chain'> & Partial<TenantPin>)[]
}

interface StoredHostState {
  readonly domain: string
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
  readonly lockedTenants?: readonly string[]
}

function addressFromHex(hex: string): IpAddress {
  const address = ipFromBytes(Buffer.from(hex, 'hex'))
  if (!address) throw new RangeError(`${hex} is no address`)
  return address
}
