import assert from 'node:assert/strict'
import { generateKeyPairSync } from 'node:crypto'
import { describe, test } from 'node:test'
import {
  generateIdentityKey,
  generateTunnelKey,
  identityKeyFromPem,
  identityKeyProblem,
  pemOfKey,
  publicKeyObject,
  publicKeyOf,
  tunnelKeyFromPem,
  tunnelKeyProblem,
} from './keys.ts'

describe('a key', () => {
  test('comes back from its text', () => {
    const [identity, tunnel] = [generateIdentityKey(), generateTunnelKey()]
    assert(identityKeyFromPem(pemOfKey(identity)).equals(identity))
    assert(tunnelKeyFromPem(pemOfKey(tunnel)).equals(tunnel))
    assert.equal(publicKeyOf(tunnel).length, 32)
    assert(publicKeyOf(publicKeyObject(publicKeyOf(identity))).equals(publicKeyOf(identity)))
  })

  test('of RFC 8032 has the public part that the RFC says', () => {
    // RFC 8032, 7.1, test 1.
    const secret = '9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60'
    const pkcs8 = Buffer.from(`302e020100300506032b657004220420${secret}`, 'hex')
    const pem = `-----BEGIN PRIVATE KEY-----\n${pkcs8.toString('base64')}\n-----END PRIVATE KEY-----\n`
    assert.equal(
      publicKeyOf(identityKeyFromPem(pem)).toString('hex'),
      'd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a',
    )
  })

  test('of another type or no type is refused, and its text is not repeated', () => {
    const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey
    const texts = [pemOfKey(rsa), pemOfKey(generateTunnelKey()), 'hunter2', '', 'x'.repeat(70_000)]
    for (const text of texts) {
      assert.throws(
        () => identityKeyFromPem(text),
        (error: Error & { code?: string }) =>
          error.code === 'invalid-argument' &&
          error.cause === undefined &&
          !JSON.stringify(error).includes('hunter2') &&
          !error.message.includes(text.slice(40, 80) || 'hunter2'),
      )
    }
    assert.throws(() => tunnelKeyFromPem(pemOfKey(generateIdentityKey())), /type ed25519/)
  })
})

describe('a public key', () => {
  test('for which anybody can sign is refused', () => {
    assert.equal(new Set(LOW_ORDER_KEYS).size, 8, 'as many as there are')
    for (const encoded of LOW_ORDER_KEYS) {
      const key = Buffer.from(encoded, 'hex')
      assert(isOfLowOrder(key), encoded)
      assert.match(identityKeyProblem(key) ?? '', /low order/, encoded)
      assert.throws(() => publicKeyObject(key), { code: 'invalid-argument' })
    }
  })

  test('in a second encoding is refused', () => {
    // y + p of the points with y below 19.
    for (let y = 0; y < 19; y++) {
      const key = Buffer.from(`${(0xed + y).toString(16)}${'ff'.repeat(30)}7f`, 'hex')
      for (const signBit of [0, 0x80]) {
        key.writeUInt8(0x7f | signBit, 31)
        assert.match(identityKeyProblem(key) ?? '', /canonical/, key.toString('hex'))
      }
    }
  })

  test('of another size is refused', () => {
    for (const size of [0, 31, 33, 64]) {
      assert.match(identityKeyProblem(Buffer.alloc(size, 1)) ?? '', /bytes, not 32/)
      assert.match(tunnelKeyProblem(Buffer.alloc(size, 1)) ?? '', /bytes, not 32/)
    }
  })

  test('that somebody made is fine', () => {
    for (let i = 0; i < 50; i++) {
      assert.equal(identityKeyProblem(publicKeyOf(generateIdentityKey())), undefined)
      assert.equal(tunnelKeyProblem(publicKeyOf(generateTunnelKey())), undefined)
    }
  })

  test('of a tunnel whose secret everybody knows is refused', () => {
    // RFC 7748, 6.1 and the points of low order of Curve25519 (cr.yp.to/ecdh.html, "validate").
    for (const key of [
      '00'.repeat(32),
      `01${'00'.repeat(31)}`,
      'e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800',
      '5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157',
      `ec${'ff'.repeat(30)}7f`,
      `ed${'ff'.repeat(30)}7f`,
    ]) {
      assert.match(tunnelKeyProblem(Buffer.from(key, 'hex')) ?? '', /low order/, key)
    }
  })
})

/** The eight points of edwards25519 whose order divides 8, by y and the sign of x. */
const LOW_ORDER_KEYS: readonly string[] = [
  `01${'00'.repeat(31)}`,
  `ec${'ff'.repeat(30)}7f`,
  '00'.repeat(32),
  `${'00'.repeat(31)}80`,
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa',
]

/** Whether eight times the point is the neutral one, by the formulas of RFC 8032, 5.1. */
function isOfLowOrder(key: Buffer): boolean {
  const p = (1n << 255n) - 19n
  const mod = (value: bigint): bigint => ((value % p) + p) % p
  const power = (base: bigint, exponent: bigint): bigint => {
    let [result, square] = [1n, mod(base)]
    for (let rest = exponent; rest > 0n; rest >>= 1n) {
      if (rest & 1n) result = mod(result * square)
      square = mod(square * square)
    }
    return result
  }
  const inverse = (value: bigint): bigint => power(mod(value), p - 2n)
  const d = mod(-121665n * inverse(121666n))
  const encoded = BigInt(`0x${Buffer.from(key.toReversed()).toString('hex')}`)
  let y = encoded & ((1n << 255n) - 1n)
  const square = mod((y * y - 1n) * inverse(d * y * y + 1n))
  const root = power(square, (p + 3n) / 8n)
  let x = mod(root * root) === square ? root : mod(root * power(2n, (p - 1n) / 4n))
  assert.equal(mod(x * x), square, 'it is on the curve')
  if ((x & 1n) !== encoded >> 255n) x = mod(-x)
  for (let doubled = 0; doubled < 3; doubled++) {
    const product = mod(d * mod(x * x) * mod(y * y))
    const next = [2n * x * y * inverse(1n + product), (y * y + x * x) * inverse(1n - product)]
    ;[x = 0n, y = 0n] = next.map(mod)
  }
  return x === 0n && y === 1n
}
