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

/**
 * What carries frames from one host to another. `sealed` is the encrypted tunnel: it has its place here, and
 * `carrierBetween` will answer it once hosts have tunnel keys.
 */
export type CarrierChoice =
  | {
      readonly carrier: 'vxlan' | 'sealed'
      readonly local: IpAddress
      readonly remote: IpAddress
    }
  | { readonly carrier: 'refused'; readonly reason: CarrierRefusal }

/**
 * Why two hosts cannot be joined:
 * `no-common-trusted-zone`: they share no trusted zone, and there is no sealed carrier between them;
 * `no-common-family`: they share one, but with no address of the same IP family;
 * `encryption-required`: the network demands a sealed carrier, and there is none between them.
 */
export type CarrierRefusal = 'no-common-trusted-zone' | 'no-common-family' | 'encryption-required'

/**
 * Chooses the carrier between two hosts from their underlay addresses. A plain carrier is chosen only inside a trusted
 * zone: nothing is ever sent plain instead of sealed. IPv4 goes before IPv6 (the shorter header), then the lowest zone id,
 * then each host's first address of that zone and family; so both hosts, each asking for itself, choose the same pair.
 */
export function carrierBetween(
  local: readonly UnderlayAddress[],
  remote: readonly UnderlayAddress[],
  encryption: LinkEncryption,
): CarrierChoice {
  if (encryption === 'required') return { carrier: 'refused', reason: 'encryption-required' }
  let best: { local: UnderlayAddress; remote: UnderlayAddress } | undefined
  let sharesZone = false
  for (const here of local) {
    if (!here.trusted) continue
    for (const there of remote) {
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
