import {
  ClientKeyTakenError,
  InvalidArgumentError,
  NoCandidateError,
  SealingUnavailableError,
} from '@weft/errors'
import { tunnelKeyProblem } from '@weft/identity'
import { WIREGUARD_MTU_MAX_BYTES } from '@weft/net'
import type {
  WireguardAccess,
  WireguardAttachment,
} from '@weft/proto/weftline/forwarder/v1/forwarder.ts'
import { candidateToMessage, prefixToMessage } from './decode.ts'
import { candidatesForClients } from './domain/clients.ts'
import { seenAt } from './domain/open-connections.ts'
import type { ClientAttachment } from './domain/ports.ts'
import type { Network, Self } from './domain/rows.ts'
import type { Host } from './host.ts'

const PRESHARED_KEY_BYTES = 32

/**
 * The client that a request names, as an attachment.
 * @throws what stands against it, before anything is changed: this host does not seal, the key is none or somebody else's,
 * or the client would find no way here
 */
export function clientFrom(host: Host, request: WireguardAttachment): ClientAttachment {
  const { hostKey, self } = sealingOf(host)
  const { publicKey, presharedKey, needsCandidate } = request
  const problem = tunnelKeyProblem(publicKey)
  if (problem !== undefined) throw invalid('wireguard.public_key', problem)
  if (![0, PRESHARED_KEY_BYTES].includes(presharedKey.length)) {
    const length = `has ${presharedKey.length} bytes, not ${PRESHARED_KEY_BYTES}`
    throw invalid('wireguard.preshared_key', length)
  }
  const key = publicKey.toString('hex')
  const holder = hostWithKey(host, key, hostKey)
  if (holder !== undefined) {
    throw new ClientKeyTakenError({ key: publicKey.toString('base64'), holder: `host ${holder}` })
  }
  if (needsCandidate && candidatesOf(host, self).length === 0) {
    const behind = 'it is behind a NAT, and no port of that is known to lead to it'
    const nowhere = 'no address of it is known'
    const reason = host.sealing.states.observed.length > 0 ? behind : nowhere
    throw new NoCandidateError({ host: self.name, problem: reason })
  }
  return { kind: 'wireguard', publicKey: key, presharedKey: presharedKey.toString('hex'), hostKey }
}

/** What a client has to know to talk through this host in the network. */
export function accessTo(host: Host, network: Network): WireguardAccess {
  const { hostKey, self } = sealingOf(host)
  return {
    hostPublicKey: Buffer.from(hostKey, 'hex'),
    candidates: candidatesOf(host, self).map(candidateToMessage),
    prefixes: network.prefixes.map(prefixToMessage),
    mtuBytes: Math.min(network.mtuBytes, WIREGUARD_MTU_MAX_BYTES),
  }
}

/** The tunnel key that this host has at present, in hexadecimal digits; undefined while it does not seal. */
export function presentHostKey({ sealing: { state } }: Host): string | undefined {
  return state?.kind === 'on' ? state.said.publicKey.toString('hex') : undefined
}

function sealingOf(host: Host): { readonly hostKey: string; readonly self: Self } {
  const { self } = host.rows
  const hostKey = presentHostKey(host)
  if (self && hostKey !== undefined) return { hostKey, self }
  const problem = whyNotSealing(host)
  throw new SealingUnavailableError({ host: self?.name ?? host.hostName, problem })
}

function whyNotSealing({ rows: { self }, sealing: { state } }: Host): string {
  if (!self) return 'it has not heard from the control plane yet'
  if (state?.kind === 'unavailable') return `its sealed transport is not there: ${state.problem}`
  return self.canSeal
    ? 'its sealed transport is not there yet'
    : 'it does not seal; its record lacks the capability carrier-sealed'
}

function candidatesOf(host: Host, self: Self) {
  return candidatesForClients(self, host.sealing.states.observed.flatMap(seenAt))
}

/** The name of the host that has the key as its tunnel key. */
function hostWithKey({ rows }: Host, key: string, ownKey: string): string | undefined {
  if (key === ownKey) return rows.self?.name
  for (const { value } of rows.peers.values()) {
    if (value.tunnelKey === key) return value.name
  }
  return undefined
}

function invalid(field: string, problem: string): InvalidArgumentError {
  return new InvalidArgumentError({ field, problem })
}
