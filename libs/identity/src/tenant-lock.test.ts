import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { type StatementRefusal, StatementRefusedError } from '@weft/errors'
import { TenantStatement } from '@weft/proto/weftline/identity/v1/tenant_lock.ts'
import { LocationChange, LocationReport } from '@weft/proto/weftline/location/v1/location.ts'
import { signReport } from './host-signature.ts'
import { generateIdentityKey, generateTunnelKey, publicKeyOf } from './keys.ts'
import { signStatement } from './signed.ts'
import {
  formatTenantKey,
  openPlacement,
  openTenantStatement,
  parseTenantKeys,
  signTenantStatement,
} from './tenant-lock.ts'

const DOMAIN = 'test.weft'
const tenantKey = generateIdentityKey()
const hostKey = generateIdentityKey()
const NO_KEY = Buffer.alloc(0)
const LOW_ORDER = Buffer.alloc(32)
const address = Buffer.from([10, 0, 0, 1])

const network = about({ $case: 'network', value: { networkId: 7, network: 'red', vni: 5 } })
const membership = about({
  $case: 'membership',
  value: {
    networkId: 7,
    hostId: 3,
    identityKey: publicKeyOf(hostKey),
    tunnelKey: publicKeyOf(generateTunnelKey()),
    plainAddresses: [address],
  },
})
const delegation = about({
  $case: 'delegation',
  value: {
    networkId: 7,
    delegateKey: publicKeyOf(hostKey),
    prefixes: [{ address, lengthBits: 24 }],
  },
})

describe('what a tenant signs', () => {
  for (const statement of [keyed(publicKeyOf(tenantKey)), network, membership, delegation]) {
    test(`as ${statement.about?.$case} comes back as it was`, () => {
      const signed = signTenantStatement(statement, tenantKey)

      assert.deepEqual(signed.signerKey, publicKeyOf(tenantKey))
      assertSame(openTenantStatement(signed, DOMAIN), statement)
    })
  }

  test('may be that it is locked no longer', () => {
    const unlocked = { ...keyed(NO_KEY), number: 2n }

    assertSame(openTenantStatement(signTenantStatement(unlocked, tenantKey), DOMAIN), unlocked)
  })

  const wrong: readonly (readonly [string, TenantStatement])[] = [
    ['without a tenant', { ...network, tenantId: 0 }],
    ['with a tenant that has no name', { ...network, tenant: '' }],
    ['with a name for a terminal', { ...network, tenant: '\u001b[2J' }],
    ['without a number', { ...network, number: 0n }],
    ['without an end', { ...network, notAfterUnixMs: 0n }],
    ['with an end beyond all time', { ...network, notAfterUnixMs: 1n << 62n }],
    ['about nothing', { ...network, about: undefined }],
    ['about a key that ends', { ...keyed(publicKeyOf(tenantKey)), notAfterUnixMs: 1n }],
    ['about a key of 31 bytes', keyed(Buffer.alloc(31, 1))],
    ['about a key of which everybody knows the secret', keyed(LOW_ORDER)],
    ['about no key as the first', keyed(NO_KEY)],
    ['about a seventeenth key', { ...keyed(publicKeyOf(tenantKey)), number: 17n }],
    ['about network 0', withAbout(network, { networkId: 0 })],
    ['about VNI 0', withAbout(network, { vni: 0 })],
    ['about a VNI of 25 bits', withAbout(network, { vni: 1 << 24 })],
    ['about host 0', withAbout(membership, { hostId: 0 })],
    ['about a host with a weak key', withAbout(membership, { identityKey: LOW_ORDER })],
    ['about a host with a weak tunnel', withAbout(membership, { tunnelKey: LOW_ORDER })],
    ['about a host without a tunnel', withAbout(membership, { tunnelKey: NO_KEY })],
    ['about an address of 5 bytes', withAbout(membership, { plainAddresses: [Buffer.alloc(5)] })],
    [
      'about 17 addresses',
      withAbout(membership, { plainAddresses: Array.from({ length: 17 }, () => address) }),
    ],
    ['about a weak delegate', withAbout(delegation, { delegateKey: LOW_ORDER })],
    ['about a delegate of nothing', withAbout(delegation, { prefixes: [] })],
    [
      'about a prefix of 33 bits',
      withAbout(delegation, { prefixes: [{ address, lengthBits: 33 }] }),
    ],
  ]
  for (const [what, statement] of wrong) {
    test(`${what} is neither signed nor believed`, () => {
      assert.throws(() => signTenantStatement(statement, tenantKey), { code: 'invalid-argument' })
      const payload = TenantStatement.encode(statement).finish()
      const signed = signStatement('tenant-lock', payload, tenantKey)
      assertRefused('malformed', () => openTenantStatement(signed, DOMAIN))
    })
  }

  test('in another domain, for another purpose, or larger than any is not believed', () => {
    const signed = signTenantStatement(network, tenantKey)
    const otherPurpose = signStatement('host-row', signed.payload, tenantKey)
    const large = signStatement('tenant-lock', Buffer.alloc(5_000), tenantKey)

    assertRefused('malformed', () => openTenantStatement(signed, 'other.weft'))
    assertRefused('bad-signature', () => openTenantStatement(otherPurpose, DOMAIN))
    assertRefused('too-large', () => openTenantStatement(large, DOMAIN))
    assertRefused('missing', () => openTenantStatement(undefined, DOMAIN))
  })
})

describe('a placement', () => {
  const report = LocationReport.create({
    change: LocationChange.LOCATION_CHANGE_ATTACHED,
    endpointId: 11,
    networkId: 7,
    hostId: 3,
    sequence: 1n,
    addresses: [address],
    mac: Buffer.from([2, 0, 0, 0, 0, 1]),
    allowedPrefixes: [{ address, lengthBits: 32 }],
  })
  const encoded = Buffer.from(LocationReport.encode(signReport(report, hostKey)).finish())
  const signerKey = publicKeyOf(hostKey)

  test('is what its signer reported', () => {
    const opened = openPlacement({ report: encoded, signerKey })

    const unsigned = { ...opened, hostSignature: NO_KEY }
    assert.deepEqual(LocationReport.toJSON(unsigned), LocationReport.toJSON(report))
  })

  test('of another signer, altered, cut or too large is not believed', () => {
    const altered = Buffer.from(encoded)
    altered.writeUInt8(12, 3)
    const large = Buffer.concat([encoded, Buffer.alloc(9_000)])

    assertRefused('bad-signature', () =>
      openPlacement({ report: encoded, signerKey: publicKeyOf(tenantKey) }),
    )
    assertRefused('bad-signature', () => openPlacement({ report: altered, signerKey }))
    assertRefused('malformed', () => openPlacement({ report: encoded.subarray(0, -1), signerKey }))
    assertRefused('missing', () => openPlacement({ report: NO_KEY, signerKey }))
    assertRefused('too-large', () => openPlacement({ report: large, signerKey }))
    assertRefused('wrong-size', () => openPlacement({ report: encoded, signerKey: NO_KEY }))
  })
})

describe('the file of tenants’ keys', () => {
  const pin = { tenantId: 17, tenant: 'acme', number: 2, publicKey: publicKeyOf(tenantKey) }
  const line = formatTenantKey(pin)

  test('says what was written', () => {
    assert.deepEqual(parseTenantKeys(`# keys\n\n${line}\n`), [pin])
  })

  for (const text of [
    `${line} `.replace('acme', 'Acme'),
    `${line}0`,
    line.slice(1).replace('7', '0'),
    line.replace('ed25519:', ''),
    line.replace(/[0-9a-f]{64}$/, '0'.repeat(64)),
    `${line}\n${line}`,
  ]) {
    test(`is refused as ${JSON.stringify(text.slice(0, 24))}…`, () => {
      assert.throws(() => parseTenantKeys(text), { code: 'invalid-argument' })
    })
  }
})

function assertRefused(reason: StatementRefusal, act: () => unknown): void {
  assert.throws(act, (error) => error instanceof StatementRefusedError && error.reason === reason)
}

/** Compares what they say; one that was decoded also knows that it has no unknown fields. */
function assertSame(actual: TenantStatement, expected: TenantStatement): void {
  assert.deepEqual(TenantStatement.toJSON(actual), TenantStatement.toJSON(expected))
}

function about(what: NonNullable<TenantStatement['about']>): TenantStatement {
  return {
    domain: DOMAIN,
    tenantId: 17,
    tenant: 'acme',
    number: 1n,
    notAfterUnixMs: 1_800_000_000_000n,
    about: what,
  }
}

function keyed(publicKey: Buffer): TenantStatement {
  return { ...about({ $case: 'key', value: { publicKey } }), notAfterUnixMs: 0n }
}

function withAbout(statement: TenantStatement, changes: object): TenantStatement {
  const { about: before } = statement
  const value = { ...before?.value, ...changes }
  return { ...statement, about: { ...before, value } as TenantStatement['about'] }
}
