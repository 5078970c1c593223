/** Deeper than any certificate of this profile nests. */
const DEPTH_MAX = 16

/**
 * What keeps bytes from being one value in DER (X.690): `malformed` if no rule of ASN.1 reads them, `re-encoded` if BER does
 * (longer lengths, indefinite lengths, pieces, other booleans, bytes after the end). Whoever compares certificates by their
 * bytes, for example to revoke them, must not meet a second form of one.
 */
export function derProblem(bytes: Uint8Array): 'malformed' | 're-encoded' | undefined {
  const end = endOfValue(bytes, 0, bytes.length, 0)
  if (typeof end === 'string') return end
  return end === bytes.length ? undefined : 're-encoded'
}

const Tag = {
  Boolean: 0x01,
  Integer: 0x02,
  BitString: 0x03,
  Sequence: 0x30,
  Set: 0x31,
  ConstructedMask: 0x20,
  NumberMask: 0x1f,
} as const
/** Tag numbers of types that BER lets come in pieces. */
const STRINGS: ReadonlySet<number> = new Set([
  3, 4, 12, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 30,
])

function endOfValue(
  bytes: Uint8Array,
  start: number,
  limit: number,
  depth: number,
): number | 'malformed' | 're-encoded' {
  const [tag, first] = [bytes[start], bytes[start + 1]]
  if (tag === undefined || first === undefined || start + 2 > limit) return 'malformed'
  // X.509 has no tag number that takes a second byte.
  if (depth > DEPTH_MAX || (tag & Tag.NumberMask) === Tag.NumberMask) return 'malformed'
  if (first === 0x80) return 're-encoded'
  let [content, length] = [start + 2, first]
  if (first > 0x80) {
    content += first & 0x7f
    if (first > 0x84 || content > limit) return 'malformed'
    length = bytes.subarray(start + 2, content).reduce((sum, byte) => sum * 256 + byte, 0)
    if (length < 0x80 || bytes[start + 2] === 0) return 're-encoded'
  }
  const end = content + length
  if (end > limit) return 'malformed'
  const isUniversal = tag < 0x40
  if (tag & Tag.ConstructedMask) {
    if (isUniversal && tag !== Tag.Sequence && tag !== Tag.Set) {
      return STRINGS.has(tag & Tag.NumberMask) ? 're-encoded' : 'malformed'
    }
    for (let at = content; at < end; ) {
      const next = endOfValue(bytes, at, end, depth + 1)
      if (typeof next === 'string') return next
      at = next
    }
    return end
  }
  return (isUniversal ? primitiveProblem(tag, bytes.subarray(content, end)) : undefined) ?? end
}

function primitiveProblem(
  tag: number,
  content: Uint8Array,
): 'malformed' | 're-encoded' | undefined {
  const [first, second] = content
  switch (tag) {
    case Tag.Boolean:
      if (content.length !== 1) return 'malformed'
      return first === 0 || first === 0xff ? undefined : 're-encoded'
    case Tag.Integer:
      if (first === undefined) return 'malformed'
      if (second === undefined) return undefined
      return (first === 0 && second < 0x80) || (first === 0xff && second >= 0x80)
        ? 're-encoded'
        : undefined
    case Tag.BitString: {
      if (first === undefined || first > 7 || (first > 0 && second === undefined))
        return 'malformed'
      const last = content.at(-1) ?? 0
      return first > 0 && (last & ((1 << first) - 1)) !== 0 ? 're-encoded' : undefined
    }
    default:
      return undefined
  }
}
