import { formatIpAddress, parseIpAddress } from './ip.ts'
import { canonical, formatPrefix } from './prefix.ts'

/**
 * Who cannot be told apart by their address, for bounds that hold for each: an IPv4 address, also where it is mapped into
 * IPv6 (RFC 4291 2.5.5.2), and of IPv6 the /64, since whoever has one address there has them all. Any other text stands for itself.
 */
export function sourceOf(text: string): string {
  const address = parseIpAddress(text.replace(/%.*$/, ''))
  if (address === undefined || address.family === 4) return text
  if (address.value >> 32n === 0xffffn) {
    return formatIpAddress({ family: 4, value: address.value & 0xffff_ffffn })
  }
  return formatPrefix(canonical({ address, lengthBits: 64 }))
}
