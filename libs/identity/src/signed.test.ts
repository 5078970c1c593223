import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { type StatementRefusal, StatementRefusedError } from '@weft/errors'
import { RevokedKey, Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import { generateIdentityKey, publicKeyOf } from './keys.ts'
import {
  decodeSigned,
  openStatement,
  type Purpose,
  STATEMENT_BYTES_MAX,
  signStatement,
  verifyStatement,
} from './signed.ts'

const key = generateIdentityKey()
const publicKey = publicKeyOf(key)
const payload = Buffer.from('payload')
const signed = signStatement('join', payload, key)
const purposes: readonly Purpose[] = [
  'join',
  'login',
  'renewal',
  'rotation',
  'rotation-new',
  'host-row',
  'location-report',
  'lease-renewal',
  'revocations',
  'audit-head',
  'tenant-lock',
]

describe('a signed statement', () => {
  test('gives its payload for its purpose, from its signer', () => {
    assert.deepEqual(verifyStatement('join', signed), payload)
    assert.deepEqual(verifyStatement('join', signed, publicKey), payload)
  })

  test('passes for no other purpose', () => {
    for (const made of purposes) {
      const statement = signStatement(made, payload, key)
      for (const expected of purposes.filter((purpose) => purpose !== made)) {
        assertRefused('bad-signature', () => verifyStatement(expected, statement))
      }
    }
  })

  test('does not pass for another one by moving bytes between purpose and payload', () => {
    const statement = signStatement('rotation', Buffer.from('-new\0rest'), key)
    const moved = { ...statement, payload: Buffer.from('rest') }
    assertRefused('bad-signature', () => verifyStatement('rotation-new', moved))
  })

  const refusals: readonly (readonly [string, StatementRefusal, Signed | undefined])[] = [
    ['is missing', 'missing', undefined],
    ['is empty', 'wrong-size', Signed.create()],
    ['has a key of 31 bytes', 'wrong-size', { ...signed, signerKey: publicKey.subarray(1) }],
    ['has no key', 'wrong-size', { ...signed, signerKey: Buffer.alloc(0) }],
    ['has a signature of 63 bytes', 'wrong-size', { ...signed, signature: Buffer.alloc(63) }],
    ['has a signature of 65 bytes', 'wrong-size', { ...signed, signature: Buffer.alloc(65) }],
    ['is too large', 'too-large', { ...signed, payload: Buffer.alloc(STATEMENT_BYTES_MAX + 1) }],
    ['has another payload', 'bad-signature', { ...signed, payload: Buffer.from('paylOad') }],
    ['has a signature of zeros', 'bad-signature', { ...signed, signature: Buffer.alloc(64) }],
    ['has a second signature', 'bad-signature', { ...signed, signature: plusOrder() }],
    ['is of anybody', 'weak-key', anybody()],
    ['has a key in a second encoding', 'weak-key', { ...signed, signerKey: Buffer.alloc(32, 255) }],
    [
      'has the key of another',
      'bad-signature',
      { ...signed, signerKey: publicKeyOf(generateIdentityKey()) },
    ],
  ]
  for (const [what, reason, statement] of refusals) {
    test(`that ${what} is refused as ${reason}`, () => {
      assertRefused(reason, () => verifyStatement('join', statement))
    })
  }

  test('of another signer than expected is refused', () => {
    const other = signStatement('join', payload, generateIdentityKey())
    assertRefused('other-signer', () => verifyStatement('join', other, publicKey))
    assertRefused('other-signer', () => verifyStatement('join', signed, Buffer.alloc(0)))
  })

  test('whose payload is no such message is refused', () => {
    const broken = signStatement('revocations', Buffer.from('0aff', 'hex'), key)
    assertRefused('malformed', () => openStatement('revocations', broken, RevokedKey))
    const message = RevokedKey.create({ identityKey: publicKey, hostId: 7 })
    const statement = signStatement('revocations', RevokedKey.encode(message).finish(), key)
    assert.equal(openStatement('revocations', statement, RevokedKey, publicKey).hostId, 7)
  })

  test('comes back from its encoding, up to its largest size', () => {
    const largest = signStatement('join', Buffer.alloc(STATEMENT_BYTES_MAX), key)
    const bytes = Signed.encode(largest).finish()
    const read = verifyStatement('join', decodeSigned('join', bytes), publicKey)
    assert.equal(read.length, STATEMENT_BYTES_MAX)
    assertRefused('too-large', () => decodeSigned('join', Buffer.alloc(STATEMENT_BYTES_MAX * 2)))
    assertRefused('malformed', () => decodeSigned('join', Buffer.from('0aff', 'hex')))
    assertRefused('too-large', () =>
      signStatement('join', Buffer.alloc(STATEMENT_BYTES_MAX + 1), key),
    )
  })
})

function assertRefused(reason: StatementRefusal, act: () => unknown): void {
  assert.throws(act, (error) => error instanceof StatementRefusedError && error.reason === reason)
}

/** The neutral element as key: by the equation of RFC 8032, 5.1.7 this is right for every payload. */
function anybody(): Signed {
  const neutral = Buffer.from(`01${'00'.repeat(31)}`, 'hex')
  return { payload, signerKey: neutral, signature: Buffer.concat([neutral, Buffer.alloc(32)]) }
}

/** RFC 8032, 8.4: the scalar plus the order of the group, which lenient verifiers accept as well. */
function plusOrder(): Buffer {
  const order = (1n << 252n) + 27742317777372353535851937790883648493n
  const scalar = Buffer.from(signed.signature.subarray(32).toReversed()).toString('hex')
  const digits = (BigInt(`0x${scalar}`) + order).toString(16).padStart(64, '0')
  return Buffer.concat([signed.signature.subarray(0, 32), Buffer.from(digits, 'hex').toReversed()])
}
