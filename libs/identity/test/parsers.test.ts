import assert from 'node:assert/strict'
import { sign } from 'node:crypto'
import { describe, test } from 'node:test'
import { AsnConvert } from '@peculiar/asn1-schema'
import {
  Certificate,
  id_ce_authorityKeyIdentifier,
  id_ce_basicConstraints,
  id_ce_extKeyUsage,
  id_ce_keyUsage,
  id_ce_subjectAltName,
  id_ce_subjectKeyIdentifier,
} from '@peculiar/asn1-x509'
import { asWeftError, WeftError } from '@weft/errors'
import { Head } from '@weft/proto/weftline/audit/v1/audit.ts'
import {
  JoinStatement,
  LoginStatement,
  RenewalStatement,
  RotationStatement,
} from '@weft/proto/weftline/config/v1/enrolment.ts'
import { HostRow } from '@weft/proto/weftline/config/v1/rows.ts'
import {
  PublicKeys,
  Revocations,
  Signed,
  TunnelKeyStatement,
} from '@weft/proto/weftline/identity/v1/identity.ts'
import { TenantStatement } from '@weft/proto/weftline/identity/v1/tenant_lock.ts'
import { LeaseRenewal, LocationReport } from '@weft/proto/weftline/location/v1/location.ts'
import { ConnectionReport } from '@weft/proto/weftline/status/v1/status.ts'
import fc from 'fast-check'
import { createIntermediate, createRoot, issueLeaf, leafValidity } from '../src/authority.ts'
import {
  type Decoder,
  decodeSigned,
  dersOfPem,
  fingerprintOf,
  formatIdentity,
  formatTenantKey,
  generateIdentityKey,
  type Identity,
  identityKeyFromPem,
  identityKeyProblem,
  openPlacement,
  openStatement,
  openTenantStatement,
  type Purpose,
  parseFingerprint,
  parseIdentity,
  parseTenantKeys,
  parseToken,
  pemOf,
  pemOfKey,
  publicKeyObject,
  publicKeyOf,
  readMember,
  signConnections,
  signRenewal,
  signReport,
  signStatement,
  signTenantStatement,
  tokenText,
  tunnelKeyFromPem,
  tunnelKeyProblem,
  verifyChain,
  verifyConnections,
  verifyRenewal,
  verifyReport,
  verifyStatement,
} from '../src/index.ts'
import { partsOf, resigned, setExtension, withSignature } from './forging.ts'

const NOW = new Date('2026-03-01T12:00:00Z')
const root = createRoot({ domain: 'test.weft', now: NOW })
const authority = createIntermediate({ root, now: NOW })
const key = generateIdentityKey()
const host: Identity = { domain: 'test.weft', kind: 'host', id: 7 }
const leaf = issueLeaf({
  authority,
  identity: host,
  publicKey: publicKeyOf(key),
  ...leafValidity({ authority, now: NOW }),
})
const statement = signStatement('host-row', Buffer.from('row'), key)
const encodedStatement = Buffer.from(Signed.encode(statement).finish())
const tenantStatement = signTenantStatement(
  TenantStatement.create({
    domain: 'test.weft',
    tenantId: 17,
    tenant: 'acme',
    number: 3n,
    notAfterUnixMs: 1_800_000_000_000n,
    about: {
      $case: 'delegation',
      value: {
        networkId: 5,
        delegateKey: publicKeyOf(key),
        prefixes: [{ address: Buffer.from([10, 20, 0, 0]), lengthBits: 16 }],
      },
    },
  }),
  key,
)
const report = LocationReport.create({ endpointId: 9, networkId: 5, hostId: 7, sequence: 1n })
const placement = {
  report: Buffer.from(LocationReport.encode(signReport(report, key)).finish()),
  signerKey: publicKeyOf(key),
}
const token = tokenText('join', 7, Buffer.alloc(32, 7))
/*
 * Every parser of what strangers send, fed with what was mutated and with anything at all. `npm test` tries a few hundred cases
 * of each; `WEFT_FUZZ_RUNS=1000000` tries more, and a failure tells the seed that repeats it (`WEFT_FUZZ_SEED`).
 */
const { WEFT_FUZZ_RUNS, WEFT_FUZZ_SEED } = process.env
const RUNS = {
  numRuns: Number(WEFT_FUZZ_RUNS ?? 300),
  ...(WEFT_FUZZ_SEED !== undefined && { seed: Number(WEFT_FUZZ_SEED) }),
}
/** For what is tried with each of several parsers. */
const FEWER_RUNS = { ...RUNS, numRuns: Math.ceil(RUNS.numRuns / 6) }

const EXTENSIONS = {
  authorityKeyIdentifier: id_ce_authorityKeyIdentifier,
  basicConstraints: id_ce_basicConstraints,
  extKeyUsage: id_ce_extKeyUsage,
  keyUsage: id_ce_keyUsage,
  subjectAltName: id_ce_subjectAltName,
  subjectKeyIdentifier: id_ce_subjectKeyIdentifier,
}
const EMPTY_SEQUENCE = Buffer.of(0x30, 0)

/** What is in a statement of each purpose; those of which there is none here are signed in place of a field. */
const DECODERS: { readonly [purpose in Exclude<Purpose, Signature>]: Decoder<unknown> } = {
  join: JoinStatement,
  login: LoginStatement,
  renewal: RenewalStatement,
  rotation: RotationStatement,
  'rotation-new': PublicKeys,
  'host-row': HostRow,
  revocations: Revocations,
  'audit-head': Head,
  'tenant-lock': TenantStatement,
  'tunnel-key': TunnelKeyStatement,
}
type Signature = 'location-report' | 'lease-renewal' | 'connection-report'

describe('what came mutated', () => {
  test('is no certificate of a member', () => {
    fc.assert(
      fc.property(mutationsOf(leaf), (mutated) => {
        fc.pre(!mutated.equals(leaf))
        assertOnlyRefused(() => verify([mutated, authority.certificate]))
      }),
      RUNS,
    )
  })

  test('is no certificate of an authority', () => {
    fc.assert(
      fc.property(mutationsOf(authority.certificate), (mutated) => {
        fc.pre(!mutated.equals(authority.certificate))
        assertOnlyRefused(() => verify([leaf, mutated]))
      }),
      RUNS,
    )
  })

  test('proves no other key, even if the authority signed it', () => {
    const { tbs } = partsOf(leaf)
    fc.assert(
      fc.property(mutationsOf(tbs), (mutated) => {
        const signature = sign(null, mutated, authority.key)
        const chain = [withSignature(mutated, '1.3.101.112', signature), authority.certificate]
        const answer = answerOf(() => verify(chain))
        if (answer instanceof Error) assert(answer instanceof WeftError, String(answer.stack))
        else assert.equal(answer.identity.domain, 'test.weft')
      }),
      RUNS,
    )
  })

  for (const [name, extnID] of Object.entries(EXTENSIONS)) {
    test(`in its extension ${name} proves nobody else, even if the authority signed it`, () => {
      const value = extensionOf(leaf, extnID)
      fc.assert(
        fc.property(mutationsOf(value), (mutated) => {
          const forged = resigned(leaf, authority.key, (tbs) =>
            setExtension(tbs, extnID, mutated, true),
          )
          const answer = answerOf(() => verify([forged, authority.certificate]))
          if (answer instanceof Error) assert(answer instanceof WeftError, String(answer.stack))
          else assert.deepEqual(answer.identity, host)
        }),
        FEWER_RUNS,
      )
    })

    test(`in its extension ${name} makes no authority of what is none, even if the root signed it`, () => {
      const issuer = authority.certificate
      const value = extensionOf(issuer, extnID)
      fc.assert(
        fc.property(mutationsOf(value), (mutated) => {
          const forged = resigned(issuer, root.key, (tbs) =>
            setExtension(tbs, extnID, mutated, true),
          )
          const answer = answerOf(() => verify([leaf, forged]))
          if (answer instanceof Error) assert(answer instanceof WeftError, String(answer.stack))
          else assert.deepEqual(answer.identity, host)
          const itself = answerOf(() => verify([forged]))
          assert(itself instanceof WeftError, 'an authority is no member')
        }),
        FEWER_RUNS,
      )
    })
  }

  test('is no certificate of a peer that OpenSSL has let in', () => {
    fc.assert(
      fc.property(mutationsOf(leaf), (mutated) => {
        const answer = answerOf(() => readMember(mutated, NOW))
        if (answer instanceof Error) assert(answer instanceof WeftError, String(answer.stack))
        else
          assert.equal(parseIdentity(formatIdentity(answer.identity))?.kind, answer.identity.kind)
      }),
      RUNS,
    )
  })

  test('is no report and no renewal of a host', () => {
    const signedReport = signReport(report, key)
    const renewal = signRenewal(LeaseRenewal.create({ hostId: 7, leaseId: 'a' }), key)
    const candidate = { address: Buffer.of(192, 0, 2, 7), port: 61_820, kind: 3 } as const
    const connections = signConnections(
      ConnectionReport.create({ hostId: 7, goneHostIds: [8], observed: [candidate] }),
      key,
    )
    fc.assert(
      fc.property(
        mutationsOf(Buffer.from(LocationReport.encode(signedReport).finish())),
        mutationsOf(Buffer.from(LeaseRenewal.encode(renewal).finish())),
        mutationsOf(Buffer.from(ConnectionReport.encode(connections).finish())),
        (mutatedReport, mutatedRenewal, mutatedConnections) => {
          assertSame(ConnectionReport, verifyConnections, mutatedConnections, connections)
          assertSame(LocationReport, verifyReport, mutatedReport, signedReport)
          assertSame(LeaseRenewal, verifyRenewal, mutatedRenewal, renewal)
        },
      ),
      RUNS,
    )
  })

  test('is no private key of another kind, and is not shown', () => {
    const pem = pemOfKey(key)
    const body = pem.split('\n')[1]?.slice(-20) ?? ''
    fc.assert(
      fc.property(mutationsOf(Buffer.from(pem)), (bytes) => {
        for (const [kind, parse] of [
          ['ed25519', identityKeyFromPem],
          ['x25519', tunnelKeyFromPem],
        ] as const) {
          const answer = answerOf(() => parse(bytes.toString('latin1')))
          if (!(answer instanceof Error)) assert.equal(answer.asymmetricKeyType, kind)
          else assert(answer instanceof WeftError && !answer.message.includes(body))
        }
      }),
      FEWER_RUNS,
    )
  })

  test('is no second form of a fingerprint', () => {
    const fingerprint = fingerprintOf(leaf)
    fc.assert(
      fc.property(mutationsOf(Buffer.from(fingerprint)), (bytes) => {
        const answer = answerOf(() => parseFingerprint(bytes.toString('latin1')))
        if (answer instanceof Error) assert(answer instanceof WeftError, String(answer.stack))
        else assert.equal(parseFingerprint(answer), answer)
      }),
      RUNS,
    )
  })

  test('is no statement', () => {
    fc.assert(
      fc.property(mutationsOf(encodedStatement), (mutated) => {
        const answer = answerOf(() =>
          verifyStatement('host-row', decodeSigned('host-row', mutated), publicKeyOf(key)),
        )
        // Protobuf has many encodings of one message (unknown fields, longer numbers); what it says is what counts.
        if (answer instanceof Error) assert(answer instanceof WeftError, String(answer.stack))
        else assert.deepEqual(answer, statement.payload)
      }),
      RUNS,
    )
  })

  test('is no statement of a tenant, and never one about what nobody may say', () => {
    fc.assert(
      fc.property(mutationsOf(tenantStatement.payload), (payload) => {
        fc.pre(!payload.equals(tenantStatement.payload))
        assertOnlyRefused(() => openTenantStatement({ ...tenantStatement, payload }, 'test.weft'))
        const signed = signStatement('tenant-lock', payload, key)
        const answer = answerOf(() => openTenantStatement(signed, 'test.weft'))
        if (answer instanceof Error) assert(answer instanceof WeftError, String(answer.stack))
        else assert.doesNotThrow(() => signTenantStatement(answer, key))
      }),
      RUNS,
    )
  })

  test('is no placement', () => {
    fc.assert(
      fc.property(mutationsOf(placement.report), (report) => {
        const answer = answerOf(() => openPlacement({ ...placement, report }))
        if (answer instanceof Error) assert(answer instanceof WeftError, String(answer.stack))
        else assert.deepEqual(answer, openPlacement(placement))
      }),
      RUNS,
    )
  })

  test('is no second text of a tenant’s key', () => {
    const text = formatTenantKey({
      tenantId: 17,
      tenant: 'acme',
      number: 1,
      publicKey: publicKeyOf(key),
    })
    fc.assert(
      fc.property(mutationsOf(Buffer.from(text)), (bytes) => {
        const mutated = bytes.toString('latin1')
        const answer = answerOf(() => parseTenantKeys(mutated))
        if (answer instanceof Error) assert(answer instanceof WeftError, String(answer.stack))
        else assert(answer.every((pin) => mutated.includes(formatTenantKey(pin))))
      }),
      RUNS,
    )
  })

  test('is no token', () => {
    fc.assert(
      fc.property(mutationsOf(Buffer.from(token)), (bytes) => {
        const text = bytes.toString('latin1')
        fc.pre(text.trim() !== token)
        const answer = answerOf(() => parseToken('join', text))
        // Another secret or number is a well-formed token of nobody: then this is its one text.
        if (answer instanceof Error) assert(answer instanceof WeftError, String(answer.stack))
        else assert.equal(tokenText('join', answer.id, answer.secret), text.trim())
      }),
      RUNS,
    )
  })

  test('is no second text of an identity', () => {
    fc.assert(
      fc.property(mutationsOf(Buffer.from(formatIdentity(host))), (bytes) => {
        const uri = bytes.toString('latin1')
        const identity = parseIdentity(uri)
        if (identity !== undefined) assert.equal(formatIdentity(identity), uri)
      }),
      RUNS,
    )
  })
})

describe('whatever comes', () => {
  const anyBytes = fc.uint8Array({ maxLength: 600 }).map((bytes) => Buffer.from(bytes))
  const anyText = fc.oneof(fc.string(), fc.string({ unit: 'binary', maxLength: 200 }))

  test('as bytes ends in a refusal', () => {
    fc.assert(
      fc.property(anyBytes, (bytes) => {
        assertOnlyRefused(() => verify([bytes, authority.certificate]))
        assertOnlyRefused(() => verify([leaf, bytes]))
        assertOnlyRefused(() => verifyStatement('join', decodeSigned('join', bytes)))
      }),
      RUNS,
    )
  })

  for (const [purpose, decoder] of Object.entries(DECODERS) as [Purpose, Decoder<unknown>][]) {
    test(`as the payload of a signed statement of ${purpose} is read, or ends in a refusal`, () => {
      fc.assert(
        fc.property(anyBytes, (payload) => {
          const signed = signStatement(purpose, payload, key)
          const answer = answerOf(() => openStatement(purpose, signed, decoder, publicKeyOf(key)))
          if (answer instanceof Error) assert(answer instanceof WeftError, String(answer.stack))
          const other = purpose === 'join' ? 'login' : 'join'
          assertOnlyRefused(() => openStatement(other, signed, decoder, publicKeyOf(key)))
        }),
        FEWER_RUNS,
      )
    })
  }

  test('as a public key is one of 32 bytes that somebody may hold, or ends in a refusal', () => {
    const nearKeys = fc.uint8Array({ minLength: 31, maxLength: 33 })
    const allZeros = fc.nat({ max: 255 }).map((byte) => new Uint8Array(32).fill(byte))
    fc.assert(
      fc.property(fc.oneof(nearKeys, allZeros), (bytes) => {
        const answer = answerOf(() => publicKeyObject(bytes))
        const isUsable = identityKeyProblem(bytes) === undefined
        assert.equal(answer instanceof WeftError, !isUsable)
        if (isUsable) assert.equal(bytes.length, 32)
        if (tunnelKeyProblem(bytes) === undefined) assert.equal(bytes.length, 32)
      }),
      FEWER_RUNS,
    )
  })

  test('as the fields of a statement ends in a refusal', () => {
    fc.assert(
      fc.property(anyBytes, anyKey(), anySignature(), (payload, signerKey, signature) => {
        assertOnlyRefused(() => verifyStatement('join', { payload, signerKey, signature }))
      }),
      RUNS,
    )
  })

  test('as text ends in a refusal', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        assertOnlyRefused(() => parseToken('login', text))
        assertOnlyRefused(() => parseFingerprint(text))
        assertOnlyRefused(() => dersOfPem(text))
        assertOnlyRefused(() => dersOfPem(pemOf(leaf) + text.padStart(1, 'x').replace(/\s/g, 'x')))
        assertOnlyRefused(() => identityKeyFromPem(text))
        assertOnlyRefused(() => tunnelKeyFromPem(text))
        assert.equal(parseIdentity(text), undefined)
      }),
      RUNS,
    )
  })
})

function verify(chain: readonly Buffer[]): { readonly identity: Identity } {
  return verifyChain({ chain, roots: [root.certificate], now: NOW })
}

/** The value of an extension of a certificate. */
function extensionOf(der: Buffer, extnID: string): Buffer {
  const { extensions } = AsnConvert.parse(der, Certificate).tbsCertificate
  const found = [...(extensions ?? [])].find((extension) => extension.extnID === extnID)
  return found ? Buffer.from(found.extnValue.buffer) : EMPTY_SEQUENCE
}

/** What is accepted of a message that a host signed says what that host said. */
function assertSame<T>(
  codec: Decoder<T>,
  verifySigned: (message: T, identityKey: Uint8Array) => void,
  mutated: Buffer,
  original: T,
): void {
  let message: T
  try {
    message = codec.decode(mutated)
  } catch {
    // The bus drops what is no message.
    return
  }
  const answer = answerOf(() => verifySigned(message, publicKeyOf(key)))
  if (answer instanceof Error) assert(answer instanceof WeftError, String(answer.stack))
  else assert.deepEqual(message, original)
}

function answerOf<T>(act: () => T): T | Error {
  try {
    return act()
  } catch (error) {
    return error instanceof Error ? error : asWeftError(error)
  }
}

function assertOnlyRefused(act: () => unknown): void {
  const answer = answerOf(act)
  assert(answer instanceof Error, 'it was accepted')
  assert(answer instanceof WeftError, String(answer.stack))
}

function anyKey(): fc.Arbitrary<Buffer> {
  return fc.uint8Array({ minLength: 31, maxLength: 33 }).map((bytes) => Buffer.from(bytes))
}

function anySignature(): fc.Arbitrary<Buffer> {
  return fc.uint8Array({ minLength: 63, maxLength: 65 }).map((bytes) => Buffer.from(bytes))
}

/** The bytes with up to four changes: a bit flipped, a byte set, bytes cut out, put in, or said twice. */
function mutationsOf(original: Buffer): fc.Arbitrary<Buffer> {
  const at = fc.nat({ max: original.length - 1 })
  const change = fc.oneof(
    fc.tuple(at, fc.nat({ max: 7 })).map(([position, bit]) => (bytes: Buffer): Buffer => {
      const copy = Buffer.from(bytes)
      if (position < copy.length) copy.writeUInt8(copy.readUInt8(position) ^ (1 << bit), position)
      return copy
    }),
    fc.tuple(at, fc.nat({ max: 255 })).map(([position, byte]) => (bytes: Buffer): Buffer => {
      const copy = Buffer.from(bytes)
      if (position < copy.length) copy.writeUInt8(byte, position)
      return copy
    }),
    fc.tuple(at, fc.nat({ max: 20 }), fc.uint8Array({ maxLength: 20 })).map(
      ([position, length, added]) =>
        (bytes: Buffer): Buffer =>
          Buffer.concat([bytes.subarray(0, position), added, bytes.subarray(position + length)]),
    ),
    fc.tuple(at, fc.nat({ max: 40 })).map(
      ([position, length]) =>
        (bytes: Buffer): Buffer =>
          Buffer.concat([bytes.subarray(0, position + length), bytes.subarray(position)]),
    ),
  )
  return fc
    .array(change, { minLength: 1, maxLength: 4 })
    .map((changes) => changes.reduce((bytes, apply) => apply(bytes), original))
}
