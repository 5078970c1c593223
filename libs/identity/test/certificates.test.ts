import assert from 'node:assert/strict'
import { createHash, createPublicKey, generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { describe, test } from 'node:test'
import { AsnConvert } from '@peculiar/asn1-schema'
import {
  AlgorithmIdentifier,
  BasicConstraints,
  ExtendedKeyUsage,
  id_ce_authorityKeyIdentifier,
  id_ce_basicConstraints,
  id_ce_extKeyUsage,
  id_ce_keyUsage,
  id_ce_subjectAltName,
  KeyUsage,
  KeyUsageFlags,
  Name,
  SubjectPublicKeyInfo,
  type TBSCertificate,
  Time,
  Version,
} from '@peculiar/asn1-x509'
import { type CertificateRefusal, CertificateRefusedError } from '@weft/errors'
import {
  type Authority,
  createIntermediate,
  createRoot,
  INTERMEDIATE_LIFETIME_MS,
  issueLeaf,
  LEAF_LIFETIME_MS,
  leafValidity,
  ROOT_LIFETIME_MS,
} from '../src/authority.ts'
import { nameOf, subjectOf } from '../src/certificate.ts'
import {
  generateIdentityKey,
  type Identity,
  pemOf,
  publicKeyOf,
  readMember,
  type ShownCertificate,
  shownChain,
  verifyChain,
} from '../src/index.ts'
import {
  extensionOf,
  partsOf,
  resigned,
  setExtension,
  setNames,
  tlv,
  withSignature,
} from './forging.ts'

const NOW = new Date('2026-03-01T12:00:00Z')
const DOMAIN = 'test.weft'
const HOST: Identity = { domain: DOMAIN, kind: 'host', id: 7 }
const URI = 'spiffe://test.weft/host/7'
const CLIENT = '1.3.6.1.5.5.7.3.2'
const SERVER = '1.3.6.1.5.5.7.3.1'
const CODE_SIGNING = '1.3.6.1.5.5.7.3.3'
const ANY_USAGE = '2.5.29.37.0'
const ED25519 = '1.3.101.112'

const root = createRoot({ domain: DOMAIN, now: NOW })
const authority = createIntermediate({ root, now: NOW })
const hostKey = generateIdentityKey()
const leaf = leafOf(HOST, authority)
/** Anybody can make a domain of the same name. */
const otherRoot = createRoot({ domain: DOMAIN, now: NOW })
const otherAuthority = createIntermediate({ root: otherRoot, now: NOW })
const otherLeaf = leafOf(HOST, otherAuthority)
/** A member that plays authority. */
const hostAsAuthority: Authority = {
  ...authority,
  certificate: leaf,
  name: subjectOf(HOST),
  key: hostKey,
}

interface Shown {
  readonly chain: readonly Uint8Array[]
  readonly roots?: readonly Uint8Array[]
  readonly now?: Date
}
type Case = readonly [what: string, shown: () => Shown]

const refusals: { readonly [Reason in CertificateRefusal]?: readonly Case[] } = {
  missing: [['no certificate', () => ({ chain: [] })]],
  malformed: [
    ['no bytes', () => of(Buffer.alloc(0))],
    ['text', () => of(Buffer.from(URI))],
    ['PEM instead of DER', () => of(Buffer.from(pemOf(leaf)))],
    ['another structure in DER', () => of(tlv(0x30, tlv(0x02, Buffer.of(1))))],
    ['a public key in DER', () => of(spkiOf(hostKey))],
    ['one without its last byte', () => of(leaf.subarray(0, -1))],
    ['one without its second half', () => of(leaf.subarray(0, leaf.length / 2))],
    ['one that is far too long', () => of(tlv(0x30, tlv(0x04, Buffer.alloc(9000))))],
    ['one that nests a thousand times', () => of(nested(1000))],
    ['version 1', () => changed((tbs) => Object.assign(tbs, { version: Version.v1 }))],
    ['serial number 0', () => withSerial('00')],
    ['a negative serial number', () => withSerial('80')],
    ['a serial number of 21 bytes', () => withSerial(`40${'00'.repeat(20)}`)],
    ['the same extension twice', () => changed(repeatConstraints)],
    ['alternative names that are none', () => changed(names(Buffer.from('040100', 'hex')))],
    ['parameters of its algorithm', () => of(withParameters())],
    ['an authority that is text', () => ({ chain: [leaf, Buffer.from('authority')] })],
  ],
  're-encoded': [
    ['a byte after its end', () => of(Buffer.concat([leaf, Buffer.of(0)]))],
    ['a second certificate after its end', () => of(Buffer.concat([leaf, leaf]))],
    ['its length in one byte more', () => of(longerLength(leaf))],
    ['an indefinite length', () => of(indefiniteLength(leaf))],
    ['the length of what was signed in one byte more', () => of(around(longerLength(tbsOf(leaf))))],
    ['the length of its signature in one byte more', () => of(longerSignatureLength())],
    ['its signature in pieces', () => of(signatureInPieces())],
    ['another form of TRUE', () => of(replaced(leaf, '0101ff', '010101'))],
    ['a serial number with a zero in front', () => withSerial(`00${'11'.repeat(16)}`)],
    [
      'something after its alternative names',
      () => changed(names(Buffer.concat([uriNames(URI), Buffer.of(5, 0)]))),
    ],
    ['an authority with a byte after its end', () => ({ chain: [leaf, longerAuthority()] })],
  ],
  'bad-signature': [
    ['a flipped bit in its signature', () => of(signedWith((bytes) => flip(bytes, 5)))],
    ['a signature of zeros', () => of(signedWith(() => Buffer.alloc(64)))],
    ['a signature of 63 bytes', () => of(signedWith((bytes) => bytes.subarray(1)))],
    ['an empty signature', () => of(signedWith(() => Buffer.alloc(0)))],
    ['a second signature for the same bytes', () => of(signedWith(plusOrder))],
    ['the signature of another certificate', () => of(signedWith(() => signatureOf(otherLeaf)))],
    [
      'another serial number than was signed',
      () => of(replaced(leaf, serialOf(leaf), '11'.repeat(16))),
    ],
    [
      'another identity than was signed',
      () => of(replaced(leaf, hex(URI), hex(URI.replace('7', '8')))),
    ],
    [
      'a later end than was signed',
      () => of(replaced(leaf, hex('260302120000Z'), hex('270302120000Z'))),
    ],
    ['the right name and another key than was signed', () => of(withOtherKey())],
    [
      'our authority named, signed by nobody',
      () => of(resigned(leaf, generateIdentityKey(), same)),
    ],
    ['our authority named, signed by the member itself', () => of(resigned(leaf, hostKey, same))],
    ['our authority named, signed by the root', () => of(resigned(leaf, root.key, same))],
    [
      'an authority with another key than was signed',
      () => ({
        chain: [leaf, replaced(authority.certificate, rawOf(authority), rawOf(otherRoot))],
      }),
    ],
    [
      'an authority that names the root, signed by nobody',
      () => ({ chain: [leaf, resigned(authority.certificate, generateIdentityKey(), same)] }),
    ],
  ],
  'unknown-authority': [
    [
      'a whole chain of a domain of the same name',
      () => ({ chain: [otherLeaf, otherAuthority.certificate, otherRoot.certificate] }),
    ],
    ['the same without its root', () => ({ chain: [otherLeaf, otherAuthority.certificate] })],
    ['a foreign member under our authority', () => of(otherLeaf)],
    ['our member under a foreign authority', () => ({ chain: [leaf, otherAuthority.certificate] })],
    ['our member under the root', () => ({ chain: [leaf, root.certificate] })],
    ['the serial number of a member, by a foreign authority', () => of(sameSerialElsewhere())],
    ['itself as its authority', () => ({ chain: [selfSigned()] })],
    ['itself as its authority, shown twice', () => ({ chain: [selfSigned(), selfSigned()] })],
    ['a member without the authority between', () => ({ chain: [leaf] })],
    [
      'a good chain, and no root is trusted',
      () => ({ chain: [leaf, authority.certificate], roots: [] }),
    ],
    ['a good chain, and only the authority between is not', () => trustOnlyForeign()],
    [
      'no key of its authority',
      () => changed((tbs) => setExtension(tbs, id_ce_authorityKeyIdentifier)),
    ],
    [
      'the name of another authority',
      () => changed((tbs) => Object.assign(tbs, { issuer: name('x') })),
    ],
    ['a member of the domain as its authority', () => issuedByHost()],
    ['an authority that may not issue', () => under({ usage: KeyUsageFlags.digitalSignature })],
    ['an authority that is none', () => under({ constraints: { cA: false } })],
  ],
  'path-too-long': [
    ['four certificates', () => ({ chain: [leaf, ...Array(3).fill(authority.certificate)] })],
    ['an authority under an authority', () => twoAuthorities()],
    ['an authority under a root that allows none', () => underStrictRoot()],
    [
      'something after the root',
      () => ({ chain: [leafOf(HOST, root), root.certificate, authority.certificate] }),
    ],
  ],
  expired: [
    ['a member since a second', () => at(leaf, new Date('2026-03-02T12:00:01Z'))],
    ['a member since a millisecond', () => at(leaf, new Date('2026-03-02T12:00:00.001Z'))],
    ['a member since a year', () => at(leaf, new Date('2027-03-02T12:00:00Z'))],
    [
      'an end before its begin',
      () => changed(validity('2026-03-01T11:00:00Z', '2026-03-01T10:00:00Z')),
    ],
    ['an authority, while the member has not', () => outlived(INTERMEDIATE_LIFETIME_MS)],
    ['the root, while all others have not', () => outlived(ROOT_LIFETIME_MS)],
  ],
  'not-yet-valid': [
    ['a member in a second', () => at(leaf, new Date('2026-03-01T11:54:59Z'))],
    ['a member in a year', () => at(leaf, new Date('2025-03-01T12:00:00Z'))],
    ['an authority, while the member is', () => before(authority.certificate)],
    ['a time that is no time', () => at(leaf, new Date(Number.NaN))],
  ],
  'not-a-leaf': [
    ['the root itself', () => ({ chain: [root.certificate] })],
    ['an authority itself', () => ({ chain: [authority.certificate] })],
    ['a member that may issue', () => changed(constraints({ cA: true }))],
    [
      'a member that may issue members',
      () => changed(constraints({ cA: true, pathLenConstraint: 0 })),
    ],
  ],
  'wrong-usage': [
    ['no purpose', () => changed((tbs) => setExtension(tbs, id_ce_extKeyUsage))],
    ['the purpose of clients alone', () => changed(purposes(CLIENT))],
    ['the purpose of servers alone', () => changed(purposes(SERVER))],
    ['any purpose', () => changed(purposes(ANY_USAGE))],
    ['one purpose more', () => changed(purposes(CLIENT, SERVER, CODE_SIGNING))],
    ['one purpose twice', () => changed(purposes(CLIENT, CLIENT))],
    ['no use of its key', () => changed((tbs) => setExtension(tbs, id_ce_keyUsage))],
    ['key agreement as use of its key', () => changed(uses(KeyUsageFlags.keyAgreement))],
    ['signing of certificates as well', () => changed(uses(1 | KeyUsageFlags.keyCertSign))],
    ['a demand that nobody knows', () => changed(unknownDemand)],
  ],
  'wrong-key-type': [
    ['an RSA key', () => withKey(generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey)],
    ['a P-256 key', () => withKey(generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey)],
    ['an Ed448 key', () => withKey(generateKeyPairSync('ed448').privateKey)],
    ['an X25519 key', () => withKey(generateKeyPairSync('x25519').privateKey)],
    [
      'a key for which anybody can sign',
      () => withRawKey(Buffer.from(`01${'00'.repeat(31)}`, 'hex')),
    ],
    ['a key that is not encoded canonically', () => withRawKey(Buffer.alloc(32, 0xff))],
    ['a signature of P-256', () => of(signedByEcdsa())],
    ['no signature algorithm', () => of(unsigned())],
    [
      'an algorithm other than what was signed',
      () => of(withSignature(tbsOf(leaf), ECDSA, signatureOf(leaf))),
    ],
  ],
  'no-identity': [
    ['no alternative name', () => changed((tbs) => setExtension(tbs, id_ce_subjectAltName))],
    ['an empty list of alternative names', () => changed(names(tlv(0x30)))],
    ['its identity as common name alone', () => changed(identityAsCommonName)],
    ['its identity as DNS name', () => named({ dNSName: URI })],
    ['its identity as mail address', () => named({ rfc822Name: URI })],
    ...[
      'https://test.weft/host/7',
      'spiffe://test.weft',
      'spiffe://test.weft/',
      'spiffe://test.weft/host',
      'spiffe://test.weft/host/',
      'spiffe://test.weft/host/0',
      'spiffe://test.weft/host/07',
      'spiffe://test.weft/host/+7',
      'spiffe://test.weft/host/7/',
      'spiffe://test.weft/host/7/8',
      'spiffe://test.weft/host/7?as=8',
      'spiffe://test.weft/host/7#8',
      'spiffe://test.weft/host/%37',
      'spiffe://test.weft/host/4294967296',
      'spiffe://test.weft/HOST/7',
      'SPIFFE://test.weft/host/7',
      'spiffe://TEST.weft/host/7',
      'spiffe://test.weft:443/host/7',
      'spiffe://root@test.weft/host/7',
      'spiffe://test.weft/root/7',
      'spiffe://test.weft/service/shuttle',
      'spiffe://test.weft/service/Config',
      'spiffe://test.weft/user/owner',
      'spiffe://test.weft/host/7\0',
      'spiffe://test.weft/host/7\n',
      ' spiffe://test.weft/host/7',
      `spiffe://${'a'.repeat(64)}/host/7`,
    ].map(
      (uri): Case => [
        `the URI ${JSON.stringify(uri)}`,
        () => named({ uniformResourceIdentifier: uri }),
      ],
    ),
  ],
  'several-identities': [
    [
      'two URIs',
      () => named({ uniformResourceIdentifier: URI }, { uniformResourceIdentifier: 'x' }),
    ],
    [
      'the same URI twice',
      () => named({ uniformResourceIdentifier: URI }, { uniformResourceIdentifier: URI }),
    ],
    [
      'a DNS name of a host',
      () => named({ uniformResourceIdentifier: URI }, { dNSName: 'a.weft' }),
    ],
    [
      'an address of a host',
      () => named({ uniformResourceIdentifier: URI }, { iPAddress: '10.0.0.1' }),
    ],
    ['a mail address', () => named({ uniformResourceIdentifier: URI }, { rfc822Name: 'a@b.c' })],
    [
      'a number of the registry',
      () => named({ uniformResourceIdentifier: URI }, { registeredID: '1.2.3' }),
    ],
    [
      'the subject of another host',
      () => changed((tbs) => Object.assign(tbs, { subject: name('host/8') })),
    ],
    ['a subject of no name', () => changed((tbs) => Object.assign(tbs, { subject: new Name() }))],
    [
      'a service by its URI, a host by its subject',
      () => named({ uniformResourceIdentifier: 'spiffe://test.weft/service/config' }),
    ],
  ],
  'wrong-domain': [
    ['a member of another domain, by our authority', () => foreignMember()],
    ['an authority of another domain, by our root', () => underNamed('spiffe://other.weft')],
    ['an authority of a part of our domain', () => underNamed('spiffe://a.test.weft')],
    ['an authority that names a member', () => underNamed(URI)],
    ['an authority of no domain', () => under({ names: [] })],
  ],
}

describe('a certificate is refused', () => {
  for (const [reason, cases] of Object.entries(refusals)) {
    for (const [what, shown] of cases) {
      test(`as ${reason}: ${what}`, () => {
        const { chain, roots = [root.certificate], now = NOW } = shown()
        assert.throws(
          () => verifyChain({ chain, roots, now }),
          (error) => error instanceof CertificateRefusedError && error.reason === reason,
        )
      })
    }
  }

  test('in at least a hundred ways, none named twice', () => {
    const cases = Object.entries(refusals).flatMap(([reason, all]) =>
      all.map(([what]) => reason + what),
    )
    assert(new Set(cases).size === cases.length && cases.length >= 100, String(cases.length))
  })

  test('the same whether or not its authorities were seen before', () => {
    const fresh = createRoot({ domain: DOMAIN, now: NOW })
    const between = createIntermediate({ root: fresh, now: NOW })
    const chain = [leafOf(HOST, between), between.certificate]
    for (const roots of [[root.certificate], [fresh.certificate], [root.certificate]]) {
      const verify = (): unknown => verifyChain({ chain, roots, now: NOW })
      if (roots[0] === fresh.certificate) verify()
      else assert.throws(verify, { code: 'certificate-refused' })
    }
  })
})

describe('what a peer has shown', () => {
  test('is its certificate and those above it, each once', () => {
    const shownRoot: { raw: Buffer; issuerCertificate?: ShownCertificate } = {
      raw: root.certificate,
    }
    // As node:tls has it.
    shownRoot.issuerCertificate = shownRoot
    const between = { raw: authority.certificate, issuerCertificate: shownRoot }
    const chain = shownChain({ raw: leaf, issuerCertificate: between })
    assert.deepEqual(chain, [leaf, authority.certificate, root.certificate])
    assert.deepEqual(shownChain(undefined), [])
  })

  test('that goes on and on is cut where it is too long already', () => {
    let last: ShownCertificate = { raw: leaf }
    for (let count = 0; count < 100; count++) {
      last = { raw: Buffer.concat([leaf, Buffer.of(count)]), issuerCertificate: last }
    }
    const chain = shownChain(last)
    assert.equal(chain.length, 4)
    assert.throws(() => verifyChain({ chain, roots: [root.certificate], now: NOW }), {
      code: 'certificate-refused',
      reason: 'path-too-long',
    })
  })
})

describe('a certificate for whose holder TLS has vouched', () => {
  test('names the same member', () => {
    assert.deepEqual(
      readMember(leaf, NOW),
      verifyChain({ ...of(leaf), roots: [root.certificate], now: NOW }),
    )
  })

  test('counts for a day, whatever it says, since its authority may end any time', () => {
    const notAfter = new Date(NOW.getTime() + 5 * LEAF_LIFETIME_MS)
    const long = issueLeaf({
      ...{ authority, identity: HOST, publicKey: publicKeyOf(hostKey) },
      ...{ notBefore: NOW, notAfter },
    })
    assert.deepEqual(
      verifyChain({ ...of(long), roots: [root.certificate], now: NOW }).notAfter,
      notAfter,
    )
    assert.deepEqual(readMember(long, NOW).notAfter, new Date(NOW.getTime() + LEAF_LIFETIME_MS))
  })

  const reasons = [
    'malformed',
    're-encoded',
    'not-a-leaf',
    'wrong-usage',
    'wrong-key-type',
  ] as const
  for (const reason of [...reasons, 'no-identity', 'several-identities'] as const) {
    test(`is refused as ${reason} all the same`, () => {
      let refused = 0
      for (const [what, shown] of refusals[reason] ?? []) {
        const [first = leaf] = shown().chain
        if (leaf.equals(first)) continue
        refused++
        assert.throws(
          () => readMember(first, NOW),
          (error) => error instanceof CertificateRefusedError && error.reason === reason,
          what,
        )
      }
      assert(refused >= 4)
    })
  }

  test('is refused before it begins and after it ends', () => {
    for (const [time, reason] of [
      ['2026-03-01T11:54:59Z', 'not-yet-valid'],
      ['2026-03-02T12:00:01Z', 'expired'],
    ] as const) {
      assert.throws(
        () => readMember(leaf, new Date(time)),
        (error) => error instanceof CertificateRefusedError && error.reason === reason,
      )
    }
  })
})

describe('a certificate is accepted', () => {
  test('with the authorities between, and with the root as well', () => {
    for (const chain of [
      [leaf, authority.certificate],
      [leaf, authority.certificate, root.certificate],
    ]) {
      const peer = verifyChain({ chain, roots: [root.certificate], now: NOW })
      assert.deepEqual(peer, {
        identity: HOST,
        publicKey: publicKeyOf(hostKey),
        notAfter: new Date('2026-03-02T12:00:00Z'),
        serialNumber: serialOf(leaf),
      })
    }
  })

  test('by one of several roots', () => {
    const chain = [leaf, authority.certificate]
    const roots = [otherRoot.certificate, root.certificate]
    assert.deepEqual(verifyChain({ chain, roots, now: NOW }).identity, HOST)
  })

  test('from the second it begins to the second it ends', () => {
    for (const time of ['2026-03-01T11:55:00Z', '2026-03-02T12:00:00Z']) {
      verifyChain({ ...at(leaf, new Date(time)), roots: [root.certificate] })
    }
  })

  test('of every kind of member', () => {
    const members: Identity[] = [
      { domain: DOMAIN, kind: 'host', id: 4_294_967_295 },
      { domain: DOMAIN, kind: 'user', id: 1 },
      { domain: DOMAIN, kind: 'service', id: 'location-resolver' },
    ]
    for (const member of members) {
      const chain = [leafOf(member, authority), authority.certificate]
      const peer = verifyChain({ chain, roots: [root.certificate], now: NOW })
      assert.deepEqual(peer.identity, member)
    }
  })

  test('of nats with DNS names and addresses', () => {
    const identity: Identity = { domain: DOMAIN, kind: 'service', id: 'nats' }
    const places = { dnsNames: ['nats.test'], addresses: ['127.0.0.1', 'fd00::1'] }
    const chain = [leafOf(identity, authority, places), authority.certificate]
    const peer = verifyChain({ chain, roots: [root.certificate], now: NOW })
    assert.deepEqual(peer.identity, identity)
  })
})

/** The certificate, with our authority. */
function of(certificate: Uint8Array): Shown {
  return { chain: [certificate, authority.certificate] }
}

function at(certificate: Uint8Array, now: Date): { chain: readonly Uint8Array[]; now: Date } {
  return { chain: [certificate, authority.certificate], now }
}

function leafOf(
  identity: Identity,
  by: Authority,
  places: { readonly dnsNames?: string[]; readonly addresses?: string[] } = {},
): Buffer {
  const validity = leafValidity({ authority: by, now: NOW })
  return issueLeaf({
    authority: by,
    identity,
    publicKey: publicKeyOf(hostKey),
    ...validity,
    ...places,
  })
}

/** The leaf, changed and signed again by our authority: only the rules for what it says can refuse it. */
function changed(change: (tbs: TBSCertificate) => void): Shown {
  return of(resigned(leaf, authority.key, change))
}

function same(): void {}

function named(...names: Parameters<typeof setNames>[1][]): Shown {
  return changed((tbs) => setNames(tbs, ...names))
}

function names(value: Uint8Array): (tbs: TBSCertificate) => void {
  return (tbs) => setExtension(tbs, id_ce_subjectAltName, value)
}

function uriNames(uri: string): Buffer {
  return tlv(0x30, tlv(0x86, Buffer.from(uri)))
}

function name(commonName: string): Name {
  return AsnConvert.parse(nameOf(DOMAIN, commonName), Name)
}

function identityAsCommonName(tbs: TBSCertificate): void {
  setExtension(tbs, id_ce_subjectAltName)
  tbs.subject = name(URI)
}

function purposes(...ids: string[]): (tbs: TBSCertificate) => void {
  return (tbs) => setExtension(tbs, id_ce_extKeyUsage, new ExtendedKeyUsage(ids))
}

function uses(flags: number): (tbs: TBSCertificate) => void {
  return (tbs) => setExtension(tbs, id_ce_keyUsage, new KeyUsage(flags), true)
}

function constraints(
  value: ConstructorParameters<typeof BasicConstraints>[0],
): (tbs: TBSCertificate) => void {
  return (tbs) => setExtension(tbs, id_ce_basicConstraints, new BasicConstraints(value), true)
}

function validity(from: string, to: string): (tbs: TBSCertificate) => void {
  return (tbs) => {
    tbs.validity.notBefore = new Time(new Date(from))
    tbs.validity.notAfter = new Time(new Date(to))
  }
}

function repeatConstraints(tbs: TBSCertificate): void {
  tbs.extensions?.push(extensionOf(id_ce_basicConstraints, new BasicConstraints()))
}

function unknownDemand(tbs: TBSCertificate): void {
  tbs.extensions?.push(extensionOf('1.3.6.1.4.1.99999.1', Buffer.of(5, 0), true))
}

function withSerial(digits: string): Shown {
  return changed((tbs) => {
    tbs.serialNumber = new Uint8Array(Buffer.from(digits, 'hex')).buffer
  })
}

function withKey(key: KeyObject): Shown {
  const info = AsnConvert.parse(spkiOf(key), SubjectPublicKeyInfo)
  return changed((tbs) => Object.assign(tbs, { subjectPublicKeyInfo: info }))
}

function withRawKey(raw: Uint8Array): Shown {
  const algorithm = new AlgorithmIdentifier({ algorithm: ED25519 })
  const subjectPublicKey = new Uint8Array(raw).buffer
  const info = new SubjectPublicKeyInfo({ algorithm, subjectPublicKey })
  return changed((tbs) => Object.assign(tbs, { subjectPublicKeyInfo: info }))
}

/** Signed by an authority between that our root made, of the same key as our authority, but otherwise as told. */
function under(told: {
  readonly usage?: number
  readonly constraints?: ConstructorParameters<typeof BasicConstraints>[0]
  readonly names?: Parameters<typeof setNames>[1][]
}): Shown {
  const between = resigned(authority.certificate, root.key, (tbs) => {
    if (told.usage !== undefined) uses(told.usage)(tbs)
    if (told.constraints !== undefined) constraints(told.constraints)(tbs)
    if (told.names !== undefined) setExtension(tbs, id_ce_subjectAltName)
    for (const entry of told.names ?? []) setNames(tbs, entry)
  })
  return { chain: [leaf, between] }
}

function underNamed(uri: string): Shown {
  return under({ names: [{ uniformResourceIdentifier: uri }] })
}

function issuedByHost(): Shown {
  const victim: Identity = { domain: DOMAIN, kind: 'host', id: 8 }
  return { chain: [leafOf(victim, hostAsAuthority), leaf, authority.certificate] }
}

function twoAuthorities(): Shown {
  const second = createIntermediate({ root: authority, now: NOW })
  return { chain: [leafOf(HOST, second), second.certificate, authority.certificate] }
}

function underStrictRoot(): Shown {
  const strict = resigned(
    root.certificate,
    root.key,
    constraints({ cA: true, pathLenConstraint: 0 }),
  )
  return { chain: [leaf, authority.certificate], roots: [strict] }
}

function trustOnlyForeign(): Shown {
  return { chain: [leaf, authority.certificate, root.certificate], roots: [otherRoot.certificate] }
}

function selfSigned(): Buffer {
  const keyId = createHash('sha256').update(publicKeyOf(hostKey)).digest().subarray(0, 20)
  return resigned(leaf, hostKey, (tbs) => {
    tbs.issuer = tbs.subject
    const own = tlv(0x30, tlv(0x80, keyId))
    setExtension(tbs, id_ce_authorityKeyIdentifier, own)
  })
}

function sameSerialElsewhere(): Buffer {
  return resigned(otherLeaf, otherAuthority.key, (tbs) => {
    tbs.serialNumber = new Uint8Array(Buffer.from(serialOf(leaf), 'hex')).buffer
  })
}

function foreignMember(): Shown {
  return changed((tbs) => {
    const identity: Identity = { domain: 'other.weft', kind: 'host', id: 7 }
    tbs.subject = AsnConvert.parse(subjectOf(identity), Name)
    setNames(tbs, { uniformResourceIdentifier: 'spiffe://other.weft/host/7' })
  })
}

/** A member's certificate that is still valid when this much time is over for its authorities. */
function outlived(lifetimeMs: number): Shown {
  const now = new Date(NOW.getTime() + lifetimeMs + 1000)
  const later = validity(NOW.toISOString(), '2049-01-01T00:00:00Z')
  const between =
    lifetimeMs === ROOT_LIFETIME_MS
      ? resigned(authority.certificate, root.key, later)
      : authority.certificate
  return { chain: [resigned(leaf, authority.key, later), between], now }
}

function before(between: Uint8Array): Shown {
  const later = validity('2026-03-01T12:00:01Z', '2026-04-01T00:00:00Z')
  return { chain: [leaf, resigned(between, root.key, later)] }
}

const ECDSA = '1.2.840.10045.4.3.2'
const UNSIGNED = '1.3.6.1.5.5.7.6.36'

function signedByEcdsa(): Buffer {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  return reissuedAs(ECDSA, (tbs) => sign('sha256', tbs, privateKey))
}

function unsigned(): Buffer {
  return reissuedAs(UNSIGNED, () => Buffer.alloc(0))
}

function reissuedAs(algorithm: string, signatureOver: (tbs: Buffer) => Buffer): Buffer {
  const inner = resigned(leaf, authority.key, (tbs) => {
    tbs.signature = new AlgorithmIdentifier({ algorithm })
  })
  const { tbs } = partsOf(inner)
  return withSignature(tbs, algorithm, signatureOver(tbs))
}

function withParameters(): Buffer {
  return withSignature(tbsOf(leaf), ED25519, signatureOf(leaf), { isNullParameters: true })
}

function signedWith(change: (signature: Buffer) => Buffer): Buffer {
  return withSignature(tbsOf(leaf), ED25519, change(signatureOf(leaf)))
}

/** RFC 8032, 8.4: adding the order of the group to the scalar gives what lenient verifiers accept as well. */
function plusOrder(signature: Buffer): Buffer {
  const order = (1n << 252n) + 27742317777372353535851937790883648493n
  const scalar = BigInt(`0x${hexReversed(signature.subarray(32))}`) + order
  const bytes = Buffer.from(scalar.toString(16).padStart(64, '0'), 'hex')
  return Buffer.concat([signature.subarray(0, 32), bytes.toReversed()])
}

function hexReversed(bytes: Buffer): string {
  return Buffer.from(bytes.toReversed()).toString('hex')
}

function withOtherKey(): Buffer {
  return replaced(leaf, publicKeyOf(hostKey).toString('hex'), rawOf(authority))
}

function rawOf({ key }: Authority): string {
  return publicKeyOf(key).toString('hex')
}

function tbsOf(certificate: Uint8Array): Buffer {
  return partsOf(certificate).tbs
}

function signatureOf(certificate: Uint8Array): Buffer {
  return partsOf(certificate).signature
}

function serialOf(certificate: Buffer): string {
  const at = certificate.indexOf(Buffer.from('a0030201020210', 'hex')) + 7
  return certificate.subarray(at, at + 16).toString('hex')
}

function around(tbs: Uint8Array): Buffer {
  return withSignature(tbs, ED25519, signatureOf(leaf))
}

/** BER: `82 LL LL` where `81 LL` is enough, or `83 00 LL LL`. */
function longerLength(value: Buffer): Buffer {
  const first = value.readUInt8(1)
  assert(first > 0x80)
  const header = Buffer.of(value.readUInt8(0), first + 1, 0)
  return Buffer.concat([header, value.subarray(2)])
}

function indefiniteLength(value: Buffer): Buffer {
  const content = value.subarray(2 + (value.readUInt8(1) & 0x7f))
  return Buffer.concat([Buffer.of(0x30, 0x80), content, Buffer.of(0, 0)])
}

function longerSignatureLength(): Buffer {
  const signature = Buffer.concat([Buffer.of(0x03, 0x81, 65, 0), signatureOf(leaf)])
  return tlv(0x30, tbsOf(leaf), Buffer.from('300506032b6570', 'hex'), signature)
}

function signatureInPieces(): Buffer {
  const signature = signatureOf(leaf)
  const [first, second] = [signature.subarray(0, 32), signature.subarray(32)]
  const pieces = [first, second].map((piece) => tlv(0x03, Buffer.of(0), piece))
  return tlv(0x30, tbsOf(leaf), Buffer.from('300506032b6570', 'hex'), tlv(0x23, ...pieces))
}

function longerAuthority(): Buffer {
  return Buffer.concat([authority.certificate, Buffer.of(0)])
}

function replaced(certificate: Buffer, from: string, to: string): Buffer {
  const digits = certificate.toString('hex')
  assert(from.length === to.length && digits.includes(from), 'nothing to replace')
  return Buffer.from(digits.replace(from, to), 'hex')
}

function flip(bytes: Buffer, position: number): Buffer {
  const copy = Buffer.from(bytes)
  copy.writeUInt8(copy.readUInt8(position) ^ 1, position)
  return copy
}

function nested(depth: number): Buffer {
  let value: Buffer = tlv(0x30)
  for (let level = 0; level < depth; level++) value = tlv(0x30, value)
  return value
}

function spkiOf(key: KeyObject): Buffer {
  return createPublicKey(key).export({ format: 'der', type: 'spki' })
}

function hex(text: string): string {
  return Buffer.from(text).toString('hex')
}
