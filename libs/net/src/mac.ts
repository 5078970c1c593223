import type { IpAddress } from './ip.ts'

declare const macBrand: unique symbol

/** An Ethernet address as the 48-bit number that its bytes are in network order; itself a key for maps. */
export type MacAddress = number & { readonly [macBrand]: true }

/** Parses six hexadecimal octets with `:` or `-` between. Undefined if the text is anything else. */
export function parseMacAddress(text: string): MacAddress | undefined {
  if (!/^[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}$/i.test(text)) return undefined
  return Number.parseInt(text.replaceAll(/[:-]/g, ''), 16) as MacAddress
}

/** Lower case, with colons. */
export function formatMacAddress(mac: MacAddress): string {
  return mac
    .toString(16)
    .padStart(12, '0')
    .replaceAll(/(..)(?!$)/g, '$1:')
}

/** 6 bytes in network order. */
export function macToBytes(mac: MacAddress): Buffer {
  const bytes = Buffer.allocUnsafe(6)
  bytes.writeUIntBE(mac, 0, 6)
  return bytes
}

/** Reads 6 bytes in network order; undefined for any other length. */
export function macFromBytes(bytes: Uint8Array): MacAddress | undefined {
  if (bytes.byteLength !== 6) return undefined
  let value = 0
  for (const byte of bytes) value = value * 256 + byte
  return value as MacAddress
}

/** True if one station may have it: not a group address (IEEE 802, first octet's lowest bit) and not all zeros. */
export function isStationMac(mac: MacAddress): boolean {
  return mac !== 0 && (firstOctet(mac) & 1) === 0
}

/** A locally administered station address from 6 random bytes; 46 bits of them count. */
export function localMac(random: Uint8Array): MacAddress {
  const bytes = Uint8Array.from(random.subarray(0, 6))
  bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 0x02
  const mac = macFromBytes(bytes)
  if (mac === undefined) throw new RangeError(`localMac needs 6 bytes, got ${random.byteLength}`)
  return mac
}

/**
 * The locally administered station address that goes with an IP address: `02:57` and its last four bytes. Whoever gets
 * the IP address next has the same one, so that neighbours who remember it still reach its owner. Two IPv6 addresses
 * may share one.
 */
export function macOfAddress(address: IpAddress): MacAddress {
  return (0x0257 * 2 ** 32 + Number(address.value & 0xffff_ffffn)) as MacAddress
}

function firstOctet(mac: MacAddress): number {
  return Math.floor(mac / 2 ** 40)
}
