import { type IpAddress, sameAddress } from '@weft/net'

/** A UDP address at which a host is seen. */
export interface Seen {
  readonly address: IpAddress
  readonly port: number
}

/** What stands between a host and others: a `stable` NAT gives every peer the same port, a `symmetric` one does not (RFC 4787, 4.1). */
export type Nat = 'none' | 'stable' | 'symmetric'

/** The NAT of a host that has addresses at which it is reached without one, and is seen by others at these. */
export function natOf(reached: readonly IpAddress[], seen: readonly Seen[]): Nat {
  const outside = seen.filter(({ address }) => !reached.some((own) => sameAddress(own, address)))
  if (outside.length === 0) return 'none'
  const isSymmetric = outside.some((one) =>
    outside.some((other) => sameAddress(one.address, other.address) && one.port !== other.port),
  )
  return isSymmetric ? 'symmetric' : 'stable'
}

/** Whether two hosts behind these NATs cannot meet, whoever begins: where one waits the other does not come from where it is expected. */
export function natsPart(one: Nat, other: Nat): boolean {
  if (one === 'none' || other === 'none') return false
  return one === 'symmetric' || other === 'symmetric'
}
