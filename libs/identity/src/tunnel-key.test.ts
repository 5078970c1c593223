import assert from 'node:assert/strict'
import { test } from 'node:test'
import { StatementRefusedError } from '@weft/errors'
import { Signed, TunnelKeyStatement } from '@weft/proto/weftline/identity/v1/identity.ts'
import { generateIdentityKey, generateTunnelKey, publicKeyOf } from './keys.ts'
import { signStatement } from './signed.ts'
import { openTunnelKey, signTunnelKey } from './tunnel-key.ts'

const identity = generateIdentityKey()
const identityKey = publicKeyOf(identity)
const tunnel = generateTunnelKey()
const tunnelKey = publicKeyOf(tunnel)
const before = generateTunnelKey()
/** A point of order 4: the secret that it shares is zero. */
const LOW_ORDER = Buffer.alloc(32)

test('what a host says of its tunnel key is believed by its identity key, also after its way', () => {
  const sent = Signed.decode(Signed.encode(signTunnelKey(tunnel, identity)).finish())

  const { tunnelKey: said, previous } = openTunnelKey(sent, identityKey, tunnelKey)

  assert.deepEqual([said, previous], [tunnelKey, undefined])
})

test('it tells the key before, and until when that one holds', () => {
  const signed = signTunnelKey(tunnel, identity, { tunnelKey: before, untilUnixMs: 5_000 })

  const { previous } = openTunnelKey(signed, identityKey, tunnelKey)

  assert.deepEqual(previous, { tunnelKey: publicKeyOf(before), untilUnixMs: 5_000 })
})

test('nobody else says it, and it is said of no other key', () => {
  const other = generateIdentityKey()
  const payload = TunnelKeyStatement.encode(TunnelKeyStatement.create({ tunnelKey })).finish()
  const refused: readonly (readonly [string, Signed | undefined, Buffer, Buffer])[] = [
    ['missing', undefined, identityKey, tunnelKey],
    ['other-signer', signTunnelKey(tunnel, other), identityKey, tunnelKey],
    [
      'bad-signature',
      { ...signTunnelKey(tunnel, other), signerKey: identityKey },
      identityKey,
      tunnelKey,
    ],
    ['malformed', signTunnelKey(tunnel, identity), identityKey, publicKeyOf(before)],
    // Somebody has the host sign something else, and hands it on as this.
    ['bad-signature', signStatement('join', payload, identity), identityKey, tunnelKey],
  ]
  for (const [reason, statement, signer, key] of refused) {
    assert.throws(
      () => openTunnelKey(statement, signer, key),
      (error) => error instanceof StatementRefusedError && error.facts['reason'] === reason,
      reason,
    )
  }
})

test('a key whose secret everybody knows is refused, now and before', () => {
  const weak = [
    { tunnelKey: LOW_ORDER },
    { tunnelKey, previousTunnelKey: LOW_ORDER, previousUntilUnixMs: 1n },
    { tunnelKey, previousTunnelKey: tunnelKey.subarray(1), previousUntilUnixMs: 1n },
  ]
  for (const statement of weak) {
    const payload = TunnelKeyStatement.encode(TunnelKeyStatement.create(statement)).finish()
    const signed = signStatement('tunnel-key', payload, identity)
    const about = statement.tunnelKey
    assert.throws(() => openTunnelKey(signed, identityKey, about), StatementRefusedError)
  }
})
