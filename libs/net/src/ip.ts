/** 4 or 6. */
export type IpFamily = 4 | 6

/** An IP address. `value` is the number that its bytes are in network order. */
export interface IpAddress {
  readonly family: IpFamily
  readonly value: bigint
}

const V6_SPACE = 1n << 128n

/** Bits of an address: 32 or 128. */
export function addressBits(family: IpFamily): 32 | 128 {
  return family === 4 ? 32 : 128
}

/** Parses dotted IPv4 (RFC 6943 3.1.1 strict form) or IPv6 (RFC 4291 2.2); no zone ids. Undefined if the text is neither. */
export function parseIpAddress(text: string): IpAddress | undefined {
  if (text.includes(':')) {
    const value = parseV6(text)
    return value === undefined ? undefined : { family: 6, value }
  }
  const value = parseV4(text)
  return value === undefined ? undefined : { family: 4, value: BigInt(value) }
}

/** Canonical text: dotted IPv4, or IPv6 as RFC 5952 has it. */
export function formatIpAddress(address: IpAddress): string {
  return address.family === 4 ? formatV4(Number(address.value)) : formatV6(address.value)
}

/** 4 or 16 bytes in network order. */
export function ipToBytes(address: IpAddress): Buffer {
  if (address.family === 4) {
    const bytes = Buffer.allocUnsafe(4)
    bytes.writeUInt32BE(Number(address.value))
    return bytes
  }
  const bytes = Buffer.allocUnsafe(16)
  bytes.writeBigUInt64BE(address.value >> 64n, 0)
  bytes.writeBigUInt64BE(address.value & 0xffff_ffff_ffff_ffffn, 8)
  return bytes
}

/** Reads 4 or 16 bytes in network order; undefined for any other length. */
export function ipFromBytes(bytes: Uint8Array): IpAddress | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (bytes.byteLength === 4) return { family: 4, value: BigInt(view.getUint32(0)) }
  if (bytes.byteLength === 16) {
    return { family: 6, value: (view.getBigUint64(0) << 64n) | view.getBigUint64(8) }
  }
  return undefined
}

export function sameAddress(a: IpAddress, b: IpAddress): boolean {
  return a.value === b.value && a.family === b.family
}

/** A key for maps and sets, unique over both families: IPv6 addresses lie above all IPv4 ones. */
export function addressKey(address: IpAddress): bigint {
  return address.family === 4 ? address.value : address.value + V6_SPACE
}

/** True for addresses that name one machine: not unspecified, loopback, multicast or broadcast. */
export function isUnicastAddress(address: IpAddress): boolean {
  if (address.family === 4) {
    const first = Number(address.value >> 24n)
    return first !== 0 && first !== 127 && first < 224
  }
  return address.value > 1n && address.value >> 120n !== 0xffn
}

function parseV4(text: string): number | undefined {
  const parts = text.split('.')
  if (parts.length !== 4) return undefined
  let value = 0
  for (const part of parts) {
    // A leading zero means octal to some parsers and decimal to others: refuse it.
    if (!/^(0|[1-9][0-9]{0,2})$/.test(part)) return undefined
    const octet = Number(part)
    if (octet > 255) return undefined
    value = value * 256 + octet
  }
  return value
}

function parseV6(text: string): bigint | undefined {
  if (text.length > 45) return undefined
  const halves = text.split('::')
  if (halves.length > 2) return undefined
  const head = parseGroups(halves[0] ?? '', halves.length === 1)
  const tail = halves.length === 2 ? parseGroups(halves[1] ?? '', true) : []
  if (!head || !tail) return undefined
  const missing = 8 - head.length - tail.length
  if (halves.length === 1 ? missing !== 0 : missing < 1) return undefined
  let value = 0n
  for (const group of head) value = (value << 16n) | BigInt(group)
  value <<= BigInt(16 * missing)
  for (const group of tail) value = (value << 16n) | BigInt(group)
  return value
}

function parseGroups(text: string, mayEndInV4: boolean): number[] | undefined {
  if (text === '') return []
  const groups: number[] = []
  const parts = text.split(':')
  for (const [index, part] of parts.entries()) {
    if (mayEndInV4 && index === parts.length - 1 && part.includes('.')) {
      const v4 = parseV4(part)
      if (v4 === undefined) return undefined
      groups.push(v4 >>> 16, v4 & 0xffff)
    } else if (/^[0-9a-f]{1,4}$/i.test(part)) {
      groups.push(Number.parseInt(part, 16))
    } else {
      return undefined
    }
  }
  return groups
}

function formatV4(value: number): string {
  return `${value >>> 24}.${(value >>> 16) & 255}.${(value >>> 8) & 255}.${value & 255}`
}

function formatV6(value: bigint): string {
  const groups: number[] = []
  for (let shift = 112n; shift >= 0n; shift -= 16n) groups.push(Number((value >> shift) & 0xffffn))
  // RFC 5952 section 5: IPv4-mapped addresses keep their dotted end.
  if (value >> 32n === 0xffffn) return `::ffff:${formatV4(Number(value & 0xffff_ffffn))}`
  const zeros = longestZeroRun(groups)
  const hex = groups.map((group) => group.toString(16))
  if (zeros.length < 2) return hex.join(':')
  return `${hex.slice(0, zeros.start).join(':')}::${hex.slice(zeros.start + zeros.length).join(':')}`
}

/** The first of the longest runs, RFC 5952 section 4.2.3. */
function longestZeroRun(groups: readonly number[]): { start: number; length: number } {
  let best = { start: 0, length: 0 }
  let start = 0
  for (const [index, group] of groups.entries()) {
    if (group !== 0) start = index + 1
    else if (index + 1 - start > best.length) best = { start, length: index + 1 - start }
  }
  return best
}
