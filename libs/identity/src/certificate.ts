import { X509Certificate } from 'node:crypto'
import { AsnConvert } from '@peculiar/asn1-schema'
import {
  AttributeTypeAndValue,
  AttributeValue,
  AuthorityKeyIdentifier,
  BasicConstraints,
  Certificate,
  ExtendedKeyUsage,
  type Extension,
  type GeneralName,
  id_ce_authorityKeyIdentifier,
  id_ce_basicConstraints,
  id_ce_extKeyUsage,
  id_ce_keyUsage,
  id_ce_subjectAltName,
  id_ce_subjectKeyIdentifier,
  KeyUsage,
  KeyUsageFlags,
  Name,
  RelativeDistinguishedName,
  SubjectAlternativeName,
  SubjectKeyIdentifier,
  Version,
} from '@peculiar/asn1-x509'
import { type CertificateRefusal, CertificateRefusedError } from '@weft/errors'
import { derProblem } from './der.ts'
import { formatIdentity, type Identity } from './identity.ts'
import { identityKeyProblem, publicKeyOf } from './keys.ts'

/** No certificate that is read is longer; those of members take some 450 bytes. */
const CERTIFICATE_BYTES_MAX = 8 * 1024
/** Object identifier of Ed25519, as key and as signature (RFC 8410). */
export const ED25519 = '1.3.101.112'
const COMMON_NAME = '2.5.4.3'
const ORGANIZATION = '2.5.4.10'

/** A certificate whose form was checked; nobody has vouched for it yet. */
export interface ParsedCertificate {
  readonly der: Buffer
  readonly x509: X509Certificate
  /** DER of the names. */
  readonly issuer: Buffer
  readonly subject: Buffer
  readonly notBefore: Date
  readonly notAfter: Date
  /** Ed25519, 32 bytes. */
  readonly publicKey: Buffer
  /** Lower-case hexadecimal digits. */
  readonly serialNumber: string
  readonly subjectKeyId: Buffer | undefined
  readonly authorityKeyId: Buffer | undefined
  readonly isAuthority: boolean
  /** How many authorities may stand below this one; undefined for any number. */
  readonly pathLengthMax: number | undefined
  /** Bits of `KeyUsageFlags`. */
  readonly keyUsage: number
  /** Object identifiers; empty where the certificate does not say. */
  readonly extendedKeyUsage: readonly string[]
  readonly alternativeNames: readonly GeneralName[]
}

/** Reads a certificate: X.509 version 3 in DER, with an Ed25519 key. @throws CertificateRefusedError */
export function parseCertificate(der: Uint8Array): ParsedCertificate {
  if (der.length > CERTIFICATE_BYTES_MAX) throw refused('malformed', 'it is far too long')
  const problem = derProblem(der)
  if (problem !== undefined) throw refused(problem)
  const { certificate, x509 } = parsed(der)
  const { tbsCertificate: tbs, signatureAlgorithm } = certificate
  const { algorithm: keyAlgorithm, subjectPublicKey } = tbs.subjectPublicKeyInfo
  for (const { algorithm, parameters } of [signatureAlgorithm, tbs.signature, keyAlgorithm]) {
    if (algorithm !== ED25519) throw refused('wrong-key-type')
    if (parameters !== undefined) throw refused('malformed', 'Ed25519 has no parameters')
  }
  const keyProblem = identityKeyProblem(new Uint8Array(subjectPublicKey))
  if (keyProblem !== undefined) throw refused('wrong-key-type', `its key ${keyProblem}`)
  if (tbs.version !== Version.v3) throw refused('malformed', 'it is not of version 3')
  const serial = Buffer.from(tbs.serialNumber)
  if (serial.length > 20 || (serial[0] ?? 0x80) >= 0x80 || serial.every((byte) => byte === 0)) {
    throw refused('malformed', 'its serial number is not a positive one of up to 20 bytes')
  }
  try {
    const [notBefore, notAfter] = [tbs.validity.notBefore, tbs.validity.notAfter].map((time) =>
      time.getTime(),
    )
    if (!isTime(notBefore) || !isTime(notAfter)) throw refused('malformed', 'its times are none')
    return {
      der: Buffer.from(der),
      x509,
      issuer: encoded(tbs.issuer),
      subject: encoded(tbs.subject),
      notBefore,
      notAfter,
      publicKey: publicKeyOf(x509.publicKey),
      serialNumber: serial.toString('hex'),
      ...readExtensions(tbs.extensions ?? []),
    }
  } catch (error) {
    throw error instanceof CertificateRefusedError ? error : refused('malformed')
  }
}

function isTime(date: Date | undefined): date is Date {
  return date !== undefined && !Number.isNaN(date.getTime())
}

/** Two readers have to agree that it is a certificate: the one whose fields are looked at here, and OpenSSL, which speaks TLS. */
function parsed(der: Uint8Array): { certificate: Certificate; x509: X509Certificate } {
  let x509: X509Certificate
  let certificate: Certificate
  try {
    x509 = new X509Certificate(der)
    certificate = AsnConvert.parse(der, Certificate)
  } catch {
    throw refused('malformed')
  }
  if (!x509.raw.equals(der)) throw refused('re-encoded')
  return { certificate, x509 }
}

type Extensions = Pick<
  ParsedCertificate,
  | 'subjectKeyId'
  | 'authorityKeyId'
  | 'isAuthority'
  | 'pathLengthMax'
  | 'keyUsage'
  | 'extendedKeyUsage'
  | 'alternativeNames'
>

function readExtensions(extensions: readonly Extension[]): Extensions {
  const values = new Map<string, ArrayBuffer>()
  for (const { extnID, critical, extnValue } of extensions) {
    if (values.has(extnID)) throw refused('malformed', `extension ${extnID} is there twice`)
    if (critical && !KNOWN_EXTENSIONS.has(extnID)) {
      throw refused('wrong-usage', `it demands ${extnID}, which is not known here`)
    }
    const value = extnValue.buffer
    if (KNOWN_EXTENSIONS.has(extnID)) {
      const problem = derProblem(new Uint8Array(value))
      if (problem !== undefined) throw refused(problem, `in extension ${extnID}`)
    }
    values.set(extnID, value)
  }
  const read = <T>(id: string, type: new () => T): T | undefined => {
    const value = values.get(id)
    return value && AsnConvert.parse(value, type)
  }
  const constraints = read(id_ce_basicConstraints, BasicConstraints)
  const authorityKeyId = read(id_ce_authorityKeyIdentifier, AuthorityKeyIdentifier)?.keyIdentifier
  const subjectKeyId = read(id_ce_subjectKeyIdentifier, SubjectKeyIdentifier)
  return {
    subjectKeyId: subjectKeyId && Buffer.from(subjectKeyId.buffer),
    authorityKeyId: authorityKeyId && Buffer.from(authorityKeyId.buffer),
    isAuthority: constraints?.cA ?? false,
    pathLengthMax: constraints?.pathLenConstraint,
    keyUsage: read(id_ce_keyUsage, KeyUsage)?.toNumber() ?? 0,
    extendedKeyUsage: [...(read(id_ce_extKeyUsage, ExtendedKeyUsage) ?? [])],
    alternativeNames: [...(read(id_ce_subjectAltName, SubjectAlternativeName) ?? [])],
  }
}

const KNOWN_EXTENSIONS: ReadonlySet<string> = new Set([
  id_ce_authorityKeyIdentifier,
  id_ce_basicConstraints,
  id_ce_extKeyUsage,
  id_ce_keyUsage,
  id_ce_subjectAltName,
  id_ce_subjectKeyIdentifier,
])

/** What an authority names itself by: the domain alone (SPIFFE-ID, 2.3). */
export function domainUri(domain: string): string {
  return `spiffe://${domain}`
}

/** DER of the subject of a member's certificate. It says what the identity says, for those who only look at subjects. */
export function subjectOf(identity: Identity): Buffer {
  return nameOf(identity.domain, formatIdentity(identity).split('/').slice(3).join('/'))
}

/** DER of a distinguished name. */
export function nameOf(organization: string, commonName: string): Buffer {
  const attributes = [
    [ORGANIZATION, organization],
    [COMMON_NAME, commonName],
  ] as const
  const names = attributes.map(([type, text]) => {
    const value = new AttributeValue({ utf8String: text })
    return new RelativeDistinguishedName([new AttributeTypeAndValue({ type, value })])
  })
  return encoded(new Name(names))
}

/** All that a member's key does. */
export const MEMBER_USAGE: number = KeyUsageFlags.digitalSignature
/** What an authority's key has to do. */
export const AUTHORITY_USAGE: number = KeyUsageFlags.keyCertSign

export function encoded(value: object): Buffer {
  return Buffer.from(AsnConvert.serialize(value))
}

export function refused(reason: CertificateRefusal, problem?: string): CertificateRefusedError {
  return new CertificateRefusedError({ reason, ...(problem !== undefined && { problem }) })
}
