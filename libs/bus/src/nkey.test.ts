import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fromPublic, fromSeed } from '@nats-io/jwt'
import { InvalidArgumentError } from '@weft/errors'
import fc from 'fast-check'
import { isBusPublicKey, type KeyRole, newKeys, openSeed } from './nkey.ts'

const roles: readonly KeyRole[] = ['operator', 'account', 'user']

test('keys are those of the official library, for every role', () => {
  for (const role of roles) {
    const { publicKey, seed } = newKeys(role)
    assert.equal(fromSeed(seed).getPublicKey(), publicKey)
    const key = openSeed(role, seed)
    assert.equal(key.publicKey, publicKey)
    const data = Buffer.from('said')
    assert(fromPublic(publicKey).verify(data, key.sign(data)))
  }
})

test('a key of one role is none of another', () => {
  for (const role of roles) {
    const { publicKey, seed } = newKeys(role)
    for (const other of roles) {
      assert.equal(isBusPublicKey(other, publicKey), other === role)
      if (other !== role) assert.throws(() => openSeed(other, seed), InvalidArgumentError)
    }
  }
})

test('a seed that is changed, cut or lengthened is refused without being shown', () => {
  const { publicKey, seed } = newKeys('user')
  const text = Buffer.from(seed).toString()
  const place = fc.nat(text.length - 1)
  const letter = fc.constantFrom(...Array.from('ABCDEFGHIJKLMNOPQRSTUVWXYZ234567=a1 '))
  const changed = fc
    .tuple(place, letter)
    .map(([at, by]) => text.slice(0, at) + by + text.slice(at + 1))
  const cut = fc.nat(text.length - 1).map((length) => text.slice(0, length))
  const longer = letter.map((by) => text + by)
  fc.assert(
    fc.property(fc.oneof(changed, cut, longer, fc.string()), (other) => {
      fc.pre(other.trim() !== text)
      assert.throws(
        () => openSeed('user', Buffer.from(other)),
        (error) =>
          error instanceof InvalidArgumentError && !error.message.includes(text.slice(0, 8)),
      )
    }),
  )
  const other = fc.tuple(fc.nat(publicKey.length - 1), letter)
  fc.assert(
    fc.property(other, ([at, by]) => {
      const text = publicKey.slice(0, at) + by + publicKey.slice(at + 1)
      assert.equal(isBusPublicKey('user', text), text === publicKey)
    }),
  )
})
