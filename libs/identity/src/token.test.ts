import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { type TokenRefusal, TokenRefusedError } from '@weft/errors'
import { hashOfSecret, isSecretOf, newSecret, parseToken, tokenText } from './token.ts'

const secret = Buffer.from('ab'.repeat(32), 'hex')
const text = tokenText('join', 12, secret)
const secretText = secret.toString('base64url')

describe('a token', () => {
  test('comes back from its text, with white space around it', () => {
    for (const id of [1, 12, 4_294_967_295]) {
      for (const kind of ['join', 'login'] as const) {
        const own = newSecret()
        const parsed = parseToken(kind, `\n ${tokenText(kind, id, own)}\r\n`)
        assert.deepEqual(parsed, { id, secret: own })
      }
    }
    assert.match(text, /^weft-join-v1\.12\.[A-Za-z0-9_-]{43}$/)
  })

  test('has a secret of 256 bits that differs each time', () => {
    const secrets = new Set(Array.from({ length: 100 }, () => newSecret().toString('hex')))
    assert.equal(secrets.size, 100)
    assert([...secrets].every((hex) => hex.length === 64))
  })

  const refusals: readonly (readonly [string, TokenRefusal, string])[] = [
    ['nothing', 'not-a-token', ''],
    ['a word', 'not-a-token', 'hunter2'],
    ['a token of something else', 'not-a-token', `ghp_${'a'.repeat(36)}`],
    ['the secret alone', 'not-a-token', secretText],
    ['upper case', 'not-a-token', text.toUpperCase()],
    ['a zero in front of its number', 'not-a-token', text.replace('.12.', '.012.')],
    ['the number 0', 'not-a-token', text.replace('.12.', '.0.')],
    ['a number of 33 bits', 'not-a-token', text.replace('.12.', '.4294967296.')],
    ['a number with a fraction', 'too-long', text.replace('.12.', '.1.5.')],
    ['a number with an exponent', 'not-a-token', text.replace('.12.', '.1e1.')],
    ['a negative number', 'not-a-token', text.replace('.12.', '.-1.')],
    ['the other alphabet of base64', 'not-a-token', tokenOf(`+/${secretText.slice(2)}`)],
    ['bits that its secret does not have', 'not-a-token', tokenOf(`${secretText.slice(0, -1)}t`)],
    [
      'white space inside',
      'not-a-token',
      tokenOf(`${secretText.slice(0, 20)} ${secretText.slice(21)}`),
    ],
    ['its first letter alone', 'cut', 'w'],
    ['its first word alone', 'cut', 'weft-join'],
    ['its kind alone', 'cut', 'weft-join-v1'],
    ['no number and secret', 'cut', 'weft-join-v1.'],
    ['no secret', 'cut', 'weft-join-v1.12'],
    ['an empty secret', 'cut', 'weft-join-v1.12.'],
    ['no number', 'cut', `weft-join-v1..${secretText}`],
    ['a secret without its last character', 'cut', text.slice(0, -1)],
    ['a secret with a character more', 'too-long', `${text}A`],
    ['a part more', 'too-long', `${text}.x`],
    ['itself twice', 'too-long', text + text],
    ['a megabyte', 'too-long', 'w'.repeat(1 << 20)],
    ['a code to log in', 'other-purpose', tokenText('login', 12, secret)],
    ['the next version', 'other-version', text.replace('-v1.', '-v2.')],
  ]
  for (const [what, reason, given] of refusals) {
    test(`of ${what} is refused as ${reason}, and not repeated`, () => {
      assert.throws(
        () => parseToken('join', given),
        (error) => {
          assert(error instanceof TokenRefusedError)
          assert.equal(error.reason, reason)
          const said = `${error.message} ${error.remedy} ${JSON.stringify(error.facts)}`
          assert(!said.includes(secretText.slice(0, 8)) && !said.includes('hunter2'))
          return true
        },
      )
    })
  }

  test('cut anywhere is refused', () => {
    for (let length = 1; length < text.length; length++) {
      assert.throws(() => parseToken('join', text.slice(0, length)), { code: 'token-refused' })
    }
  })

  test('is known by the hash of its secret', () => {
    assert.equal(hashOfSecret(secret).length, 32)
    assert(isSecretOf(secret, hashOfSecret(secret)))
    assert(!isSecretOf(newSecret(), hashOfSecret(secret)))
    assert(!isSecretOf(secret, hashOfSecret(secret).subarray(1)))
    assert(!isSecretOf(secret, Buffer.alloc(0)))
    assert(!isSecretOf(secret, secret))
  })
})

function tokenOf(secretPart: string): string {
  return `weft-join-v1.12.${secretPart}`
}
