/** VXLAN network identifiers have 24 bits (RFC 7348); 0 is left to mean none. */
export const VNI_MIN = 1
export const VNI_MAX: number = 2 ** 24 - 1

export function isVni(vni: number): boolean {
  return Number.isInteger(vni) && vni >= VNI_MIN && vni <= VNI_MAX
}

/** Least MTU of an IPv4 network: every host takes a datagram of 576 bytes (RFC 791). */
export const MTU_MIN_V4_BYTES = 576
/** Least MTU of a network with IPv6 (RFC 8200 section 5). */
export const MTU_MIN_V6_BYTES = 1280
/** Largest IP packet that fits an IPv4 packet of 65,535 bytes with its header 20, UDP 8, VXLAN 8 and Ethernet 14. */
export const MTU_MAX_BYTES = 65_485
/** What fits an IPv6 underlay of 1500 with room for the sealed carrier's overhead, and Docker's and clouds' smaller links. */
export const MTU_DEFAULT_BYTES = 1320

/** Largest MTU of a WireGuard client: 1500 less IPv6 40, UDP 8, and the message's 32 (wg-quick's default). */
export const WIREGUARD_MTU_MAX_BYTES = 1420

/** Longest name, in characters: one DNS label (RFC 1123 2.1, RFC 1035 2.3.4). */
export const NAME_LENGTH_MAX = 63

/** Says what is wrong with a name; undefined if it is a lower-case RFC 1123 label. */
export function nameProblem(name: string): string | undefined {
  if (name.length === 0) return 'it is empty'
  if (name.length > NAME_LENGTH_MAX) {
    return `it has ${name.length} characters, at most ${NAME_LENGTH_MAX} are allowed`
  }
  const bad = /[^a-z0-9-]/u.exec(name)
  if (bad) return `it has the character ${JSON.stringify(bad[0])}; only a-z, 0-9 and - are allowed`
  if (name.startsWith('-') || name.endsWith('-')) return 'it begins or ends with a hyphen'
  return undefined
}
