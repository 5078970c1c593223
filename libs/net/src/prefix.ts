import { addressBits, formatIpAddress, type IpAddress, ipFromBytes, parseIpAddress } from './ip.ts'

/** An IP prefix. `address` may have bits beyond `lengthBits` set: see `isCanonical`. */
export interface Prefix {
  readonly address: IpAddress
  readonly lengthBits: number
}

/** Parses `address/length`; keeps host bits, so that the caller can say what is wrong with them. Undefined if it is no prefix. */
export function parsePrefix(text: string): Prefix | undefined {
  const match = /^([^/]+)\/(0|[1-9][0-9]{0,2})$/.exec(text)
  const address = match?.[1] === undefined ? undefined : parseIpAddress(match[1])
  if (!address) return undefined
  const lengthBits = Number(match?.[2])
  return lengthBits > addressBits(address.family) ? undefined : { address, lengthBits }
}

/** A prefix from the bytes of its address; undefined if the bytes or the length fit no family. */
export function prefixFromBytes(bytes: Uint8Array, lengthBits: number): Prefix | undefined {
  const address = ipFromBytes(bytes)
  if (!address || !Number.isInteger(lengthBits)) return undefined
  if (lengthBits < 0 || lengthBits > addressBits(address.family)) return undefined
  return { address, lengthBits }
}

export function formatPrefix(prefix: Prefix): string {
  return `${formatIpAddress(prefix.address)}/${prefix.lengthBits}`
}

/** True if no bit beyond the length is set. */
export function isCanonical(prefix: Prefix): boolean {
  return (prefix.address.value & hostMask(prefix)) === 0n
}

/** The prefix with its host bits cleared. */
export function canonical(prefix: Prefix): Prefix {
  return { address: firstAddress(prefix), lengthBits: prefix.lengthBits }
}

export function contains(prefix: Prefix, address: IpAddress): boolean {
  return (
    prefix.address.family === address.family &&
    (address.value & ~hostMask(prefix)) === firstValue(prefix)
  )
}

/** True if every address of `inner` is in `outer`. */
export function containsPrefix(outer: Prefix, inner: Prefix): boolean {
  return outer.lengthBits <= inner.lengthBits && contains(outer, inner.address)
}

/** True if some address is in both. */
export function overlaps(a: Prefix, b: Prefix): boolean {
  return containsPrefix(a, b) || containsPrefix(b, a)
}

/** The address with all host bits zero: the subnet's own (RFC 4632, RFC 4291 2.6.1). */
export function firstAddress(prefix: Prefix): IpAddress {
  return { family: prefix.address.family, value: firstValue(prefix) }
}

/** The address with all host bits one. */
export function lastAddress(prefix: Prefix): IpAddress {
  return { family: prefix.address.family, value: firstValue(prefix) | hostMask(prefix) }
}

/** Number of addresses in it, of any use. */
export function addressCount(prefix: Prefix): bigint {
  return hostMask(prefix) + 1n
}

/**
 * The address that a network keeps for gateway, DHCP and DNS: the first one after the subnet's own. Undefined where a
 * prefix is too small to keep one: IPv4 longer than /30, IPv6 longer than /126.
 */
export function gatewayAddress(prefix: Prefix): IpAddress | undefined {
  if (addressCount(prefix) < 4n) return undefined
  return { family: prefix.address.family, value: firstValue(prefix) + 1n }
}

/** First and last number that may be given to an endpoint: neither the subnet's own, nor the gateway's, nor IPv4's broadcast. */
export function assignableRange(
  prefix: Prefix,
): { readonly first: bigint; readonly last: bigint } | undefined {
  const gateway = gatewayAddress(prefix)
  if (!gateway) return undefined
  const last = firstValue(prefix) | hostMask(prefix)
  return { first: gateway.value + 1n, last: prefix.address.family === 4 ? last - 1n : last }
}

/** True if an endpoint of a network with this prefix may have the address. */
export function isAssignable(prefix: Prefix, address: IpAddress): boolean {
  if (!contains(prefix, address)) return false
  const range = assignableRange(prefix)
  return range !== undefined && address.value >= range.first && address.value <= range.last
}

/** The addresses from `firstAddress` to `lastAddress`, in order. */
export function* addressesOf(prefix: Prefix): Generator<IpAddress, void, undefined> {
  const { family, value: last } = lastAddress(prefix)
  for (let value = firstValue(prefix); value <= last; value++) yield { family, value }
}

function hostMask(prefix: Prefix): bigint {
  return (1n << BigInt(addressBits(prefix.address.family) - prefix.lengthBits)) - 1n
}

function firstValue(prefix: Prefix): bigint {
  return prefix.address.value & ~hostMask(prefix)
}
