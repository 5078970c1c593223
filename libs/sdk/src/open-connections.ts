import {
  CandidateKind,
  type Candidate as CandidateMessage,
  Carrier,
  Cipher,
  ConnectionState,
  Offload,
  type OffloadState as OffloadStateMessage,
  type OpenConnection as OpenConnectionMessage,
} from '@weft/proto/weftline/common/v1/common.ts'
import type { SealingStatus as SealingMessage } from '@weft/proto/weftline/forwarder/v1/forwarder.ts'
import { decodeAddress, present } from './decode.ts'
import type {
  Candidate,
  CarrierWord,
  CipherWord,
  EndpointRef,
  OffloadState,
  OffloadWord,
  OpenConnection,
  OpenConnectionState,
  SealingStatus,
} from './types.ts'

/** The connection to a host of this name, or to a client. */
export function decodeOpenConnection(
  host: string,
  message: OpenConnectionMessage | undefined,
  client?: EndpointRef,
): OpenConnection {
  const connection = present(message, 'connection')
  const isMeasured = connection.rttUs > 0n
  return {
    hostId: connection.hostId,
    host,
    client,
    carrier: CARRIER_WORDS[connection.carrier] ?? 'unknown',
    state: STATE_WORDS[connection.state] ?? 'unknown',
    reason: connection.reason,
    endpoint:
      connection.address.length === 0
        ? undefined
        : { address: decodeAddress(connection.address), port: connection.port },
    rttUs: isMeasured ? Number(connection.rttUs) : undefined,
    jitterUs: isMeasured ? Number(connection.jitterUs) : undefined,
    lossPpm: isMeasured ? connection.lossPpm : undefined,
    pathMtuBytes: connection.pathMtuBytes || undefined,
    sentPackets: connection.sentPackets,
    sentBytes: connection.sentBytes,
    receivedPackets: connection.receivedPackets,
    receivedBytes: connection.receivedBytes,
    openSince: dateOf(connection.openSinceUnixMs),
    lastHandshake: dateOf(connection.lastHandshakeUnixMs),
    cipher: CIPHER_WORDS[connection.cipher],
    offloads: connection.offloads.map((offload) => OFFLOAD_WORDS[offload] ?? 'unknown'),
  }
}

export function decodeSealing(message: SealingMessage | undefined): SealingStatus | undefined {
  if (message === undefined) return undefined
  return {
    available: message.available,
    problem: message.problem,
    listenPort: message.listenPort,
    cipher: CIPHER_WORDS[message.cipher],
    speeds: message.speeds.map(({ cipher, bytesPerSecond }) => ({
      cipher: CIPHER_WORDS[cipher],
      bytesPerSecond,
    })),
    offloads: message.offloads.map(decodeOffload),
    keyLogged: message.keyLogged,
    observed: message.observed.map(decodeCandidate),
    drops: message.drops,
    fallbacks: message.fallbacks,
    refusals: message.refusals,
  }
}

export function decodeCandidate({ address, port, kind }: CandidateMessage): Candidate {
  return { address: decodeAddress(address), port, kind: KIND_WORDS[kind] ?? 'observed' }
}

export const CARRIER_WORDS: { readonly [carrier: number]: CarrierWord } = {
  [Carrier.CARRIER_NONE]: 'none',
  [Carrier.CARRIER_VXLAN]: 'vxlan',
  [Carrier.CARRIER_SEALED]: 'sealed',
}
const STATE_WORDS: { readonly [state: number]: OpenConnectionState } = {
  [ConnectionState.CONNECTION_STATE_IDLE]: 'idle',
  [ConnectionState.CONNECTION_STATE_CONNECTING]: 'connecting',
  [ConnectionState.CONNECTION_STATE_OPEN]: 'open',
  [ConnectionState.CONNECTION_STATE_UNREACHABLE]: 'unreachable',
}
const CIPHER_WORDS: { readonly [cipher: number]: CipherWord } = {
  [Cipher.CIPHER_CHACHA20_POLY1305]: 'chacha20-poly1305',
  [Cipher.CIPHER_AES_256_GCM]: 'aes-256-gcm',
}
const OFFLOAD_WORDS: { readonly [offload: number]: OffloadWord } = {
  [Offload.OFFLOAD_UDP_GSO]: 'udp-gso',
  [Offload.OFFLOAD_UDP_GRO]: 'udp-gro',
  [Offload.OFFLOAD_TAP_GSO]: 'tap-gso',
  [Offload.OFFLOAD_EQUAL_TAIL]: 'equal-tail',
}
const KIND_WORDS: { readonly [kind: number]: Candidate['kind'] } = {
  [CandidateKind.CANDIDATE_KIND_OWN]: 'own',
  [CandidateKind.CANDIDATE_KIND_CONFIGURED]: 'configured',
  [CandidateKind.CANDIDATE_KIND_OBSERVED]: 'observed',
}

function decodeOffload({ offload, inUse, reason }: OffloadStateMessage): OffloadState {
  return { offload: OFFLOAD_WORDS[offload] ?? 'unknown', inUse, reason }
}

function dateOf(unixMs: bigint): Date | undefined {
  return unixMs === 0n ? undefined : new Date(Number(unixMs))
}
