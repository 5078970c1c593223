/** Frames that an honest network stack would not send, as rows of hexadecimal digits. */
import { ipToBytes, macToBytes, parseIpAddress, parseMacAddress } from '@weft/net'

const ETHERTYPE_IPV4 = 0x0800
const ETHERTYPE_ARP = 0x0806
const ETHERTYPE_IPV6 = 0x86dd
const PROTOCOL_UDP = 17
const PROTOCOL_ICMPV6 = 58
const NEIGHBOUR_ADVERTISEMENT = 136
/** Source option and target option of neighbour discovery (RFC 4861 4.6.1). */
const TARGET_LINK_LAYER_ADDRESS = 2

export interface Ends {
  readonly sourceMac: string
  readonly targetMac: string
  readonly source: string
  readonly target: string
}

/** A UDP datagram over IPv4. */
export function udp4({ sourceMac, targetMac, source, target }: Ends, payload: string): string {
  const datagram = udpDatagram(payload)
  const header = Buffer.alloc(20)
  header.set([0x45, 0])
  header.writeUInt16BE(header.length + datagram.length, 2)
  header.set([64, PROTOCOL_UDP], 8)
  header.set(ip(source), 12)
  header.set(ip(target), 16)
  header.writeUInt16BE(checksum(header), 10)
  return frame(sourceMac, targetMac, ETHERTYPE_IPV4, [header, datagram])
}

/** A UDP datagram over IPv6. */
export function udp6(ends: Ends, payload: string): string {
  const datagram = udpDatagram(payload)
  datagram.writeUInt16BE(pseudoChecksum(ends, PROTOCOL_UDP, datagram), 6)
  return ipv6(ends, PROTOCOL_UDP, datagram)
}

/** An ARP reply in which `source` claims to be at `sourceMac`. */
export function arpReply(ends: Ends, claimedMac: string): string {
  const message = Buffer.alloc(28)
  message.writeUInt16BE(1, 0)
  message.writeUInt16BE(ETHERTYPE_IPV4, 2)
  message.set([6, 4], 4)
  message.writeUInt16BE(2, 6)
  message.set(mac(claimedMac), 8)
  message.set(ip(ends.source), 14)
  message.set(mac(ends.targetMac), 18)
  message.set(ip(ends.target), 24)
  return frame(ends.sourceMac, ends.targetMac, ETHERTYPE_ARP, [message])
}

/** A neighbour advertisement in which `claimed` claims to be at `sourceMac`. */
export function neighbourAdvertisement(ends: Ends, claimed: string): string {
  const message = Buffer.alloc(32)
  message[0] = NEIGHBOUR_ADVERTISEMENT
  message[4] = 0x60
  message.set(ip(claimed), 8)
  message.set([TARGET_LINK_LAYER_ADDRESS, 1], 24)
  message.set(mac(ends.sourceMac), 26)
  message.writeUInt16BE(pseudoChecksum(ends, PROTOCOL_ICMPV6, message), 2)
  return ipv6(ends, PROTOCOL_ICMPV6, message)
}

/** A frame of no protocol that anybody knows. */
export function strange(
  { sourceMac, targetMac }: Pick<Ends, 'sourceMac' | 'targetMac'>,
  payload: string,
): string {
  return frame(sourceMac, targetMac, 0x88b5, [Buffer.from(payload)])
}

/** Digits of a text, to look for in frames. */
export function hex(text: string): string {
  return Buffer.from(text).toString('hex')
}

function ipv6(
  { sourceMac, targetMac, source, target }: Ends,
  protocol: number,
  payload: Buffer,
): string {
  const header = Buffer.alloc(40)
  header[0] = 0x60
  header.writeUInt16BE(payload.length, 4)
  // Neighbour discovery is ignored below 255 (RFC 4861 7.1).
  header.set([protocol, 255], 6)
  header.set(ip(source), 8)
  header.set(ip(target), 24)
  return frame(sourceMac, targetMac, ETHERTYPE_IPV6, [header, payload])
}

function udpDatagram(payload: string): Buffer {
  const datagram = Buffer.alloc(8 + payload.length)
  datagram.writeUInt16BE(40_000, 0)
  datagram.writeUInt16BE(9, 2)
  datagram.writeUInt16BE(datagram.length, 4)
  datagram.write(payload, 8)
  return datagram
}

function frame(
  sourceMac: string,
  targetMac: string,
  ethertype: number,
  parts: readonly Buffer[],
): string {
  const header = Buffer.concat([
    mac(targetMac),
    mac(sourceMac),
    Buffer.from([ethertype >> 8, ethertype & 0xff]),
  ])
  return Buffer.concat([header, ...parts]).toString('hex')
}

function pseudoChecksum({ source, target }: Ends, protocol: number, payload: Buffer): number {
  const tail = Buffer.alloc(8)
  tail.writeUInt32BE(payload.length)
  tail[7] = protocol
  return checksum(Buffer.concat([ip(source), ip(target), tail, payload]))
}

/** The internet checksum (RFC 1071). */
function checksum(bytes: Buffer): number {
  let sum = 0
  for (let at = 0; at < bytes.length; at += 2) sum += ((bytes[at] ?? 0) << 8) + (bytes[at + 1] ?? 0)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16)
  return ~sum & 0xffff
}

function mac(text: string): Buffer {
  const value = parseMacAddress(text)
  if (value === undefined) throw new TypeError(`${text} is no MAC address`)
  return Buffer.from(macToBytes(value))
}

function ip(text: string): Buffer {
  const value = parseIpAddress(text)
  if (value === undefined) throw new TypeError(`${text} is no IP address`)
  return Buffer.from(ipToBytes(value))
}
