import { createHash, type KeyObject, randomBytes, sign } from 'node:crypto'
import { isIP } from 'node:net'
import { OctetString } from '@peculiar/asn1-schema'
import {
  AlgorithmIdentifier,
  AuthorityKeyIdentifier,
  BasicConstraints,
  ExtendedKeyUsage,
  Extension,
  GeneralName,
  id_ce_authorityKeyIdentifier,
  id_ce_basicConstraints,
  id_ce_extKeyUsage,
  id_ce_keyUsage,
  id_ce_subjectAltName,
  id_ce_subjectKeyIdentifier,
  id_kp_clientAuth,
  id_kp_serverAuth,
  KeyIdentifier,
  KeyUsage,
  SubjectAlternativeName,
  SubjectKeyIdentifier,
  Validity,
} from '@peculiar/asn1-x509'
import { InvalidArgumentError } from '@weft/errors'
import {
  AUTHORITY_USAGE,
  domainUri,
  ED25519,
  encoded,
  MEMBER_USAGE,
  nameOf,
  parseCertificate,
  subjectOf,
} from './certificate.ts'
import { hasPlaces } from './certificates.ts'
import { formatIdentity, type Identity, parseIdentity } from './identity.ts'
import { generateIdentityKey, identityKeyProblem, publicKeyOf } from './keys.ts'
import {
  CLOCK_TOLERANCE_MS,
  INTERMEDIATE_LIFETIME_MS,
  LADDER_LENGTH,
  LADDER_STEP_MS,
  LEAF_LIFETIME_MS,
  ROOT_LIFETIME_MS,
} from './lifetimes.ts'

export * from './lifetimes.ts'

/** Who may issue certificates: a key, and the certificate that says so. */
export interface Authority {
  readonly domain: string
  /** DER. */
  readonly certificate: Buffer
  /** The name of its subject, DER. */
  readonly name: Buffer
  /** Ed25519, private. */
  readonly key: KeyObject
  /** Nothing that it issues is valid any longer than this. */
  readonly notAfter: Date
}

/** A new root of a domain. Its key belongs offline. @throws InvalidArgumentError if the name of the domain is unusable. */
export function createRoot(options: { readonly domain: string; readonly now: Date }): Authority {
  const { domain, now } = options
  checkDomain(domain)
  const key = generateIdentityKey()
  const name = nameOf(domain, 'root')
  const certificate = issue({
    issuer: { name, key },
    subject: name,
    publicKey: publicKeyOf(key),
    notBefore: new Date(now.getTime() - CLOCK_TOLERANCE_MS),
    notAfter: new Date(now.getTime() + ROOT_LIFETIME_MS),
    extensions: authorityExtensions(domain, 1),
  })
  return openAuthority({ certificate, key })
}

/** A new authority under a root, which issues members' certificates and no other authorities. */
export function createIntermediate(options: {
  readonly root: Authority
  readonly now: Date
}): Authority {
  const { root, now } = options
  const key = generateIdentityKey()
  const notAfter = Math.min(now.getTime() + INTERMEDIATE_LIFETIME_MS, root.notAfter.getTime())
  const certificate = issue({
    issuer: root,
    subject: nameOf(root.domain, `authority ${randomBytes(4).toString('hex')}`),
    publicKey: publicKeyOf(key),
    notBefore: new Date(now.getTime() - CLOCK_TOLERANCE_MS),
    notAfter: new Date(notAfter),
    extensions: authorityExtensions(root.domain, 0),
  })
  return openAuthority({ certificate, key })
}

/**
 * An authority from where it is kept.
 * @throws InvalidArgumentError if key and certificate do not belong together, or it is the certificate of no authority.
 * @throws CertificateRefusedError if it cannot be read.
 */
export function openAuthority(kept: {
  readonly certificate: Uint8Array
  readonly key: KeyObject
}): Authority {
  const { der, subject, publicKey, notAfter, alternativeNames, ...rest } = parseCertificate(
    kept.certificate,
  )
  const wrong = (problem: string): InvalidArgumentError =>
    new InvalidArgumentError({
      field: 'authority',
      problem,
      remedy: 'give the key and the certificate of one authority',
    })
  if (!publicKey.equals(publicKeyOf(kept.key)))
    throw wrong('its key is not that of its certificate')
  const [, domain] = /^spiffe:\/\/([^/]+)$/.exec(
    alternativeNames[0]?.uniformResourceIdentifier ?? '',
  ) ?? [undefined, undefined]
  const mayIssue = rest.isAuthority && (rest.keyUsage & AUTHORITY_USAGE) !== 0
  if (!mayIssue || domain === undefined) throw wrong('it is the certificate of no authority')
  return { domain, certificate: der, name: subject, key: kept.key, notAfter }
}

/**
 * What `issueLeaf` is given for a member that needs a certificate now: a little before now to 24 hours later, but never
 * longer than the authority itself. Both are whole seconds, as certificates have them.
 */
export function leafValidity(options: { readonly authority: Authority; readonly now: Date }): {
  notBefore: Date
  notAfter: Date
} {
  const now = Math.floor(options.now.getTime() / 1000) * 1000
  const end = Math.min(now + LEAF_LIFETIME_MS, options.authority.notAfter.getTime())
  return { notBefore: new Date(now - CLOCK_TOLERANCE_MS), notAfter: new Date(end) }
}

/** DNS names and IP addresses of one certificate: with the longest names it is still short enough to be read. */
const PLACES_MAX = 24

/** A member, its key, and by what places it is known. */
export interface Member {
  readonly authority: Authority
  readonly identity: Identity
  /** Ed25519, 32 bytes. */
  readonly publicKey: Uint8Array
  /** Only for the service `nats`, whose clients of its own look at them. */
  readonly dnsNames?: readonly string[]
  /** IP addresses, likewise. */
  readonly addresses?: readonly string[]
}

/**
 * A member's certificate, DER. Fractions of seconds are cut off.
 * @throws InvalidArgumentError for what no verifier would accept: another domain, an unusable key, names that are not for
 * it, or more time than the authority has itself.
 */
export function issueLeaf(
  options: Member & { readonly notBefore: Date; readonly notAfter: Date },
): Buffer {
  const { authority, identity, publicKey, notBefore, notAfter } = options
  const wrong = (field: string, problem: string): InvalidArgumentError =>
    new InvalidArgumentError({ field, problem })
  if (identity.domain !== authority.domain) {
    throw wrong('identity', `is of ${identity.domain}, not ${authority.domain}`)
  }
  if (parseIdentity(formatIdentity(identity)) === undefined) throw wrong('identity', 'is not valid')
  const keyProblem = identityKeyProblem(publicKey)
  if (keyProblem !== undefined) throw wrong('public key', keyProblem)
  if (!(notBefore < notAfter)) throw wrong('validity', 'ends before it begins')
  if (notAfter > authority.notAfter) throw wrong('validity', 'ends after that of the authority')
  for (const name of options.dnsNames ?? []) {
    if (!/^[A-Za-z0-9_.*-]{1,253}$/.test(name)) throw wrong('DNS name', 'is not one')
  }
  for (const address of options.addresses ?? []) {
    if (isIP(address) === 0) throw wrong('IP address', 'is not one')
  }
  const places = [
    ...(options.dnsNames ?? []).map((dNSName) => new GeneralName({ dNSName })),
    ...(options.addresses ?? []).map((iPAddress) => new GeneralName({ iPAddress })),
  ]
  if (places.length > 0 && !hasPlaces(identity)) throw wrong('names', 'are only for nats')
  if (places.length > PLACES_MAX) throw wrong('names', `are more than ${PLACES_MAX}`)
  return issue({
    issuer: authority,
    subject: subjectOf(identity),
    publicKey,
    notBefore,
    notAfter,
    extensions: [
      ...MEMBER_EXTENSIONS,
      names([new GeneralName({ uniformResourceIdentifier: formatIdentity(identity) }), ...places]),
    ],
  })
}

/**
 * A service's certificates, DER, each beginning 12 hours after the one before, so that it goes on for 8 days without the
 * authority. Those that the authority itself would not outlive are left out; the last may be shorter, and there is at least one.
 * @throws InvalidArgumentError as `issueLeaf`, also if the authority has ended.
 */
export function issueLadder(options: Member & { readonly now: Date }): Buffer[] {
  const { now, ...member } = options
  const ladder: Buffer[] = []
  for (let step = 0; step < LADDER_LENGTH; step++) {
    const start = new Date(now.getTime() + step * LADDER_STEP_MS)
    if (step > 0 && start >= options.authority.notAfter) break
    const validity = leafValidity({ authority: options.authority, now: start })
    ladder.push(issueLeaf({ ...member, ...validity }))
  }
  return ladder
}

function issue(options: {
  readonly issuer: Pick<Authority, 'name' | 'key'>
  readonly subject: Buffer
  readonly publicKey: Uint8Array
  readonly notBefore: Date
  readonly notAfter: Date
  readonly extensions: readonly Buffer[]
}): Buffer {
  const { issuer, subject, publicKey, notBefore, notAfter } = options
  const keyIdentifier = new KeyIdentifier(keyIdOf(publicKeyOf(issuer.key)))
  const extensions = der(
    Tag.Sequence,
    ...options.extensions,
    extension(id_ce_subjectKeyIdentifier, new SubjectKeyIdentifier(keyIdOf(publicKey))),
    extension(id_ce_authorityKeyIdentifier, new AuthorityKeyIdentifier({ keyIdentifier })),
  )
  // TBSCertificate (RFC 5280, 4.1), put together from its parts: most of them are the same in all certificates.
  const tbsCertificate = der(
    Tag.Sequence,
    VERSION_3,
    der(Tag.Integer, newSerial()),
    ALGORITHM,
    issuer.name,
    encoded(new Validity({ notBefore, notAfter })),
    subject,
    der(Tag.Sequence, ALGORITHM, der(Tag.BitString, NO_UNUSED_BITS, publicKey)),
    der(Tag.Explicit3, extensions),
  )
  const signature = sign(null, tbsCertificate, issuer.key)
  return der(Tag.Sequence, tbsCertificate, ALGORITHM, der(Tag.BitString, NO_UNUSED_BITS, signature))
}

const Tag = { Integer: 0x02, BitString: 0x03, Sequence: 0x30, Explicit3: 0xa3 } as const
const NO_UNUSED_BITS = Buffer.of(0)
/** `[0] EXPLICIT INTEGER 2` */
const VERSION_3 = Buffer.from('a003020102', 'hex')

/** A value in DER, from the encodings that are its content: 65,535 bytes at most. */
function der(tag: number, ...contents: readonly Uint8Array[]): Buffer {
  const content = Buffer.concat(contents)
  const { length } = content
  const header =
    length < 0x80
      ? [tag, length]
      : length < 0x100
        ? [tag, 0x81, length]
        : [tag, 0x82, length >> 8, length & 0xff]
  return Buffer.concat([Buffer.from(header), content])
}

/** RFC 8410, 3: without parameters. */
const ALGORITHM = encoded(new AlgorithmIdentifier({ algorithm: ED25519 }))

const MEMBER_EXTENSIONS: readonly Buffer[] = [
  extension(id_ce_basicConstraints, new BasicConstraints({ cA: false }), true),
  extension(id_ce_keyUsage, new KeyUsage(MEMBER_USAGE), true),
  extension(id_ce_extKeyUsage, new ExtendedKeyUsage([id_kp_clientAuth, id_kp_serverAuth])),
]

function authorityExtensions(domain: string, pathLenConstraint: number): Buffer[] {
  return [
    extension(id_ce_basicConstraints, new BasicConstraints({ cA: true, pathLenConstraint }), true),
    extension(id_ce_keyUsage, new KeyUsage(AUTHORITY_USAGE), true),
    names([new GeneralName({ uniformResourceIdentifier: domainUri(domain) })]),
  ]
}

function names(list: GeneralName[]): Buffer {
  return extension(id_ce_subjectAltName, new SubjectAlternativeName(list))
}

function extension(extnID: string, value: object, critical = false): Buffer {
  return encoded(new Extension({ extnID, critical, extnValue: new OctetString(encoded(value)) }))
}

/** RFC 7093, 2: the first 160 bits of the SHA-256 of the key. */
function keyIdOf(publicKey: Uint8Array): Buffer {
  return createHash('sha256').update(publicKey).digest().subarray(0, 20)
}

/** 128 random bits, positive and without leading zeros, so that they are the INTEGER as they are. */
function newSerial(): Buffer {
  const serial = randomBytes(16)
  serial.writeUInt8((serial.readUInt8(0) & 0x3f) | 0x40)
  return serial
}

function checkDomain(domain: string): void {
  const isUsable = parseIdentity(formatIdentity({ domain, kind: 'host', id: 1 }))?.domain === domain
  if (isUsable) return
  throw new InvalidArgumentError({
    field: 'domain',
    problem: 'is not a usable name',
    remedy: 'use up to 63 of a-z, 0-9, - and ., beginning and ending with a letter or digit',
  })
}
