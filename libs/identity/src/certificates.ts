import { id_kp_clientAuth, id_kp_serverAuth } from '@peculiar/asn1-x509'
import { InvalidArgumentError } from '@weft/errors'
import {
  AUTHORITY_USAGE,
  domainUri,
  MEMBER_USAGE,
  type ParsedCertificate,
  parseCertificate,
  refused,
  subjectOf,
} from './certificate.ts'
import type { Peer } from './credentials.ts'
import { type Identity, parseIdentity } from './identity.ts'
import { PEM_LENGTH_MAX } from './keys.ts'
import { LEAF_LIFETIME_MS } from './lifetimes.ts'

/** Member, intermediate authority, root. */
const CHAIN_LENGTH_MAX = 3

/**
 * Who shows these certificates: the path rules of RFC 5280 for a profile of one algorithm (Ed25519), one form (DER), one
 * identity, and at most one authority between member and root.
 *
 * `chain` is DER, the member's certificate first, each one issued by the next; it may end with the root. `roots` is DER as
 * well: only they are trusted. Revocation is the caller's, by the public key of the answer, and so is what the peer may do.
 * @throws CertificateRefusedError whose `reason` says why nobody is proven.
 */
export function verifyChain(options: {
  readonly chain: readonly Uint8Array[]
  readonly roots: readonly Uint8Array[]
  readonly now: Date
}): Peer {
  const { chain, now } = options
  const [first, ...others] = chain
  if (first === undefined) throw refused('missing')
  if (chain.length > CHAIN_LENGTH_MAX) throw refused('path-too-long')
  const leaf = parseCertificate(first)
  const authorities = authoritiesOf(leaf, others.map(parseAuthority), options.roots)
  checkValidity(leaf, now, '')
  for (const authority of authorities) checkValidity(authority, now, 'an authority above it: ')
  const identity = identityOf(leaf)
  for (const authority of authorities) {
    const names = authority.alternativeNames.map((name) => name.uniformResourceIdentifier)
    if (names.length !== 1 || names[0] !== domainUri(identity.domain)) throw refused('wrong-domain')
  }
  const ends = [leaf, ...authorities].map(({ notAfter }) => notAfter.getTime())
  return {
    identity,
    publicKey: leaf.publicKey,
    // Nothing outlives who vouches for it.
    notAfter: new Date(Math.min(...ends)),
    serialNumber: leaf.serialNumber,
  }
}

/** A certificate that a peer has shown, with those above it, as `node:crypto` and `node:tls` have them. */
export interface ShownCertificate {
  readonly raw: Uint8Array
  readonly issuerCertificate?: ShownCertificate | undefined
}

/**
 * What a peer has shown, DER, its own certificate first, for `verifyChain`. Ends where one comes again, as roots do in
 * `node:tls`, and after one more than is ever accepted.
 */
export function shownChain(own: ShownCertificate | undefined): Buffer[] {
  const chain: Buffer[] = []
  for (let next = own; next?.raw && chain.length <= CHAIN_LENGTH_MAX; ) {
    const der = Buffer.from(next.raw)
    if (chain.some((one) => one.equals(der))) break
    chain.push(der)
    next = next.issuerCertificate
  }
  return chain
}

/**
 * Who a member's certificate names, if it is one of our form and valid now. Only for somebody for whom OpenSSL has vouched in a
 * handshake already, with an authority that it does not show: this looks at no signature. When that authority ends is not known,
 * so the answer holds for a day, which is what members have, whatever the certificate says.
 * @throws CertificateRefusedError
 */
export function readMember(der: Uint8Array, now: Date): Peer {
  const leaf = parseCertificate(der)
  checkValidity(leaf, now, '')
  const { publicKey, serialNumber } = leaf
  const notAfter = new Date(Math.min(leaf.notAfter.getTime(), now.getTime() + LEAF_LIFETIME_MS))
  return { identity: identityOf(leaf), publicKey, notAfter, serialNumber }
}

/** Those above a member, up to a root, every step verified. None if the certificate is a root itself. */
function authoritiesOf(
  leaf: ParsedCertificate,
  shown: readonly ParsedCertificate[],
  trusted: readonly Uint8Array[],
): ParsedCertificate[] {
  const roots = trusted.map(parseAuthority)
  const path = [leaf]
  let last = leaf
  while (!roots.some(({ der }) => der.equals(last.der))) {
    const subject = last
    const issuer = shown[path.length - 1] ?? roots.find((root) => names(subject, root))
    if (issuer === undefined || !names(subject, issuer)) throw refused('unknown-authority')
    if (!subject.x509.verify(issuer.x509.publicKey)) throw refused('bad-signature')
    if (!issuer.isAuthority || (issuer.keyUsage & AUTHORITY_USAGE) === 0) {
      throw refused('unknown-authority', 'who issued it is no authority')
    }
    // The member does not count as one below (RFC 5280, 4.2.1.9).
    const below = path.length - 1
    if (below > (issuer.pathLengthMax ?? below)) throw refused('path-too-long')
    path.push(issuer)
    if (path.length > CHAIN_LENGTH_MAX) throw refused('path-too-long')
    last = issuer
  }
  if (path.length < 1 + shown.length) throw refused('path-too-long', 'more follow the root')
  const [, ...authorities] = path
  remember(authorities)
  return authorities
}

/** Authorities of verified paths by their DER: reading them takes longer than verifying, and they are the same for all members. */
const remembered = new Map<string, ParsedCertificate>()
/** A root and an intermediate of a domain, before and after they are replaced; the oldest gives way. */
const REMEMBERED_MAX = 8

function remember(authorities: readonly ParsedCertificate[]): void {
  for (const authority of authorities) {
    remembered.set(authority.der.toString('latin1'), authority)
    const [oldest] = remembered.keys()
    if (remembered.size > REMEMBERED_MAX && oldest !== undefined) remembered.delete(oldest)
  }
}

function parseAuthority(der: Uint8Array): ParsedCertificate {
  return remembered.get(Buffer.from(der).toString('latin1')) ?? parseCertificate(der)
}

/** Whether a certificate says that this is its issuer. Only the signature shows whether that is true. */
function names(certificate: ParsedCertificate, issuer: ParsedCertificate): boolean {
  const { authorityKeyId } = certificate
  return (
    certificate.issuer.equals(issuer.subject) &&
    authorityKeyId !== undefined &&
    issuer.subjectKeyId !== undefined &&
    authorityKeyId.equals(issuer.subjectKeyId)
  )
}

function checkValidity({ notBefore, notAfter }: ParsedCertificate, now: Date, whose: string): void {
  // Not `now < notBefore`: a time that is no number proves nothing.
  if (!(now >= notBefore)) throw refused('not-yet-valid', `${whose}from ${notBefore.toISOString()}`)
  if (!(now <= notAfter)) throw refused('expired', `${whose}at ${notAfter.toISOString()}`)
}

function identityOf(leaf: ParsedCertificate): Identity {
  if (leaf.isAuthority) throw refused('not-a-leaf')
  const usage = leaf.extendedKeyUsage
  const isForBothSides = usage.includes(id_kp_clientAuth) && usage.includes(id_kp_serverAuth)
  if (leaf.keyUsage !== MEMBER_USAGE || !isForBothSides || usage.length !== 2) {
    throw refused('wrong-usage', 'a member has digitalSignature, clientAuth and serverAuth')
  }
  const uris = leaf.alternativeNames.flatMap((name) => name.uniformResourceIdentifier ?? [])
  const [uri] = uris
  if (uri === undefined) throw refused('no-identity')
  if (uris.length > 1) throw refused('several-identities')
  const identity = parseIdentity(uri)
  if (identity === undefined) throw refused('no-identity', 'its URI is of no form that is known')
  for (const { uniformResourceIdentifier, dNSName, iPAddress } of leaf.alternativeNames) {
    const isPlace = dNSName !== undefined || iPAddress !== undefined
    const mayStand = uniformResourceIdentifier !== undefined || (isPlace && hasPlaces(identity))
    if (!mayStand) throw refused('several-identities', 'it has names besides its URI')
  }
  if (!leaf.subject.equals(subjectOf(identity))) {
    throw refused('several-identities', 'its subject is not that of its URI')
  }
  return identity
}

/** Whether a member is also known by DNS names and addresses: nats-server's own clients, in a cluster, check those. */
export function hasPlaces(identity: Identity): boolean {
  return identity.kind === 'service' && identity.id === 'nats'
}

/** A certificate in PEM (RFC 7468). */
export function pemOf(der: Uint8Array): string {
  const lines =
    Buffer.from(der)
      .toString('base64')
      .match(/.{1,64}/g) ?? []
  return ['-----BEGIN CERTIFICATE-----', ...lines, '-----END CERTIFICATE-----', ''].join('\n')
}

/**
 * The certificates in a text, DER, in their order; nothing else may be in it but white space. They are not read yet.
 * @throws InvalidArgumentError, which never holds a part of the text.
 */
export function dersOfPem(pem: string): Buffer[] {
  const wrong = (problem: string): InvalidArgumentError =>
    new InvalidArgumentError({ field: 'certificates', problem })
  if (pem.length > PEM_LENGTH_MAX) throw wrong(`are longer than ${PEM_LENGTH_MAX} characters`)
  const block = /-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----/g
  const ders = Array.from(pem.matchAll(block), ([, base64 = '']) => Buffer.from(base64, 'base64'))
  if (ders.length === 0) throw wrong('there is none in PEM')
  if (pem.replaceAll(block, '').trim() !== '') throw wrong('something else stands between them')
  return ders
}
