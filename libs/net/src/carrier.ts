import type { IpAddress } from './ip.ts'

/** An address of a host on an underlay, with what its zone promises. */
export interface UnderlayAddress {
  readonly address: IpAddress
  readonly zoneId: number
  /** An operator vouches that nobody else is on the zone: links inside may be plain. */
  readonly trusted: boolean
}

/** What a network demands of the links between its hosts. */
export type LinkEncryption = 'required' | 'outside-trusted-zones'

/** What a network demands that was created without saying. */
export const LINK_ENCRYPTION_DEFAULT: LinkEncryption = 'required'

/** The capability of a host whose data plane has the sealed carrier. */
export const CARRIER_SEALED = 'carrier-sealed'

/** What a host can do, as it says when it joins. */
export const HOST_CAPABILITIES: readonly string[] = [CARRIER_SEALED]

/**
 * UDP port of the sealed transport of a host that names none. The WireGuard protocol has no registered one. This is a dynamic
 * port (RFC 6335, 49152 to 65535), which nobody can register, above those that Linux gives to sockets by itself (up to 60999).
 */
export const SEALED_PORT_DEFAULT = 61_820

/** Candidates that are handed on of one host: 16 own addresses would leave no room, so the others have 8 and 4 of them. */
export const CANDIDATES_MAX = 16
export const CONFIGURED_CANDIDATES_MAX = 8
export const OBSERVED_CANDIDATES_MAX = 4

/** How an address at which a host may be reached came to be known. */
export type CandidateKind = 'own' | 'configured' | 'observed'

/** A UDP address at which the sealed transport of a host may be reached. */
export interface Candidate {
  readonly address: IpAddress
  readonly port: number
  readonly kind: CandidateKind
}

export function isPort(port: number): boolean {
  return Number.isInteger(port) && port >= 1 && port <= 65_535
}

/** A host, as far as the choice of a carrier goes. */
export interface LinkEnd {
  readonly addresses: readonly UnderlayAddress[]
  /** Its data plane has the sealed carrier, and it has a tunnel key that counts. */
  readonly canSeal: boolean
}

/** What carries frames from one host to another: VXLAN between two addresses, or the encrypted tunnel, wherever that leads. */
export type CarrierChoice =
  | { readonly carrier: 'vxlan'; readonly local: IpAddress; readonly remote: IpAddress }
  | { readonly carrier: 'sealed' }
  | { readonly carrier: 'refused'; readonly reason: CarrierRefusal }

/**
 * Why two hosts cannot be joined:
 * `no-common-trusted-zone`: they share no trusted zone, and there is no sealed carrier between them;
 * `no-common-family`: they share one, but with no address of the same IP family, and there is no sealed carrier either;
 * `encryption-required`: the network demands a sealed carrier, and there is none between them.
 */
export type CarrierRefusal = 'no-common-trusted-zone' | 'no-common-family' | 'encryption-required'

/**
 * Chooses the carrier between two hosts. A plain carrier is chosen only inside a trusted zone, by a network that allows it:
 * nothing is ever sent plain because sealing does not work. Of the addresses in trusted zones, IPv4 goes before IPv6 (the shorter header), then the lowest zone id,
 * then each host's first address of that zone and family; so both hosts, each asking for itself, choose the same pair.
 */
export function carrierBetween(
  local: LinkEnd,
  remote: LinkEnd,
  encryption: LinkEncryption,
): CarrierChoice {
  const plain = encryption === 'required' ? undefined : plainBetween(local, remote)
  if (plain?.carrier === 'vxlan') return plain
  if (local.canSeal && remote.canSeal) return { carrier: 'sealed' }
  return plain ?? { carrier: 'refused', reason: 'encryption-required' }
}

function plainBetween(
  local: LinkEnd,
  remote: LinkEnd,
): Exclude<CarrierChoice, { readonly carrier: 'sealed' }> {
  let best: { local: UnderlayAddress; remote: UnderlayAddress } | undefined
  let sharesZone = false
  for (const here of local.addresses) {
    if (!here.trusted) continue
    for (const there of remote.addresses) {
      if (!there.trusted || there.zoneId !== here.zoneId) continue
      sharesZone = true
      if (there.address.family !== here.address.family) continue
      if (!best || isBefore(here, best.local)) best = { local: here, remote: there }
    }
  }
  if (best) return { carrier: 'vxlan', local: best.local.address, remote: best.remote.address }
  return {
    carrier: 'refused',
    reason: sharesZone ? 'no-common-family' : 'no-common-trusted-zone',
  }
}

function isBefore(a: UnderlayAddress, b: UnderlayAddress): boolean {
  if (a.address.family !== b.address.family) return a.address.family < b.address.family
  return a.zoneId < b.zoneId
}
