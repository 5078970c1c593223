import { contains, type IpAddress, type Prefix } from '@weft/net'

const linkLocal: Prefix = { address: { family: 6, value: 0xfe80n << 112n }, lengthBits: 10 }

/** IPv6 link-local (RFC 4291 2.5.6): every interface has one, and it means nothing without the interface. */
export function isLinkLocal(address: IpAddress): boolean {
  return contains(linkLocal, address)
}
