import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { dersOfPem, pemOf } from './certificates.ts'
import { fingerprintOf, parseFingerprint } from './fingerprint.ts'
import { formatIdentity, type Identity, parseIdentity, serviceNames } from './identity.ts'

describe('an identity', () => {
  test('comes back from its URI', () => {
    const identities: Identity[] = [
      { domain: 'a', kind: 'host', id: 1 },
      { domain: 'lab.weft', kind: 'user', id: 4_294_967_295 },
      ...serviceNames.map((id): Identity => ({ domain: 'x-1.y', kind: 'service', id })),
    ]
    for (const identity of identities) {
      assert.deepEqual(parseIdentity(formatIdentity(identity)), identity)
    }
  })
})

describe('a fingerprint', () => {
  const fingerprint = fingerprintOf(Buffer.from('certificate'))

  test('is read as people copy it', () => {
    const digits = fingerprint.slice('sha256:'.length)
    const colons = (digits.match(/../g) ?? []).join(':')
    for (const text of [
      fingerprint,
      digits,
      digits.toUpperCase(),
      colons.toUpperCase(),
      `SHA256:${colons}`,
      `sha256=${colons}`,
      ` ${fingerprint}\n`,
    ]) {
      assert.equal(parseFingerprint(text), fingerprint, text)
    }
  })

  test('that is none is refused', () => {
    const digits = fingerprint.slice('sha256:'.length)
    for (const text of [
      '',
      'sha256:',
      digits.slice(1),
      `${digits}0`,
      `sha1:${digits}`,
      `g${digits.slice(1)}`,
      `${digits.slice(0, 2)}:${digits.slice(2)}`,
      ' '.repeat(1 << 20),
    ]) {
      assert.throws(() => parseFingerprint(text), { code: 'invalid-argument' }, text.slice(0, 80))
    }
  })
})

describe('certificates in PEM', () => {
  const ders = [Buffer.alloc(100, 1), Buffer.alloc(47, 2)]
  const pem = ders.map(pemOf).join('')

  test('come back in their order', () => {
    assert.deepEqual(dersOfPem(pem), ders)
    assert.deepEqual(dersOfPem(pem.replaceAll('\n', '\r\n')), ders)
  })

  test('are nothing else', () => {
    const secret = '-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n'
    for (const text of ['', 'x', pem + secret, `${pem}x`, pem.slice(0, -5), pem.repeat(400)]) {
      assert.throws(
        () => dersOfPem(text),
        (error: Error) => !error.message.includes('hunter2'),
      )
    }
  })
})
