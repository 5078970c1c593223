import { type KeyObject, sign } from 'node:crypto'
import { AsnConvert, OctetString } from '@peculiar/asn1-schema'
import {
  Certificate,
  Extension,
  GeneralName,
  id_ce_subjectAltName,
  SubjectAlternativeName,
  type TBSCertificate,
} from '@peculiar/asn1-x509'

/** Another certificate, changed as told and then signed by `key`: what an authority that follows no rules can make. */
export function resigned(
  der: Uint8Array,
  key: KeyObject,
  change: (tbs: TBSCertificate) => void,
): Buffer {
  const { tbsCertificate, signatureAlgorithm } = AsnConvert.parse(der, Certificate)
  change(tbsCertificate)
  const bytes = Buffer.from(AsnConvert.serialize(tbsCertificate))
  return withSignature(bytes, signatureAlgorithm.algorithm, sign(null, bytes, key))
}

/** A certificate of any signed part, algorithm and signature. */
export function withSignature(
  tbs: Uint8Array,
  algorithm: string,
  signature: Uint8Array,
  { isNullParameters = false }: { readonly isNullParameters?: boolean } = {},
): Buffer {
  const oid = algorithm === '1.3.101.112' ? '06032b6570' : OTHER_ALGORITHMS[algorithm]
  if (oid === undefined) throw new Error(`no encoding of ${algorithm}`)
  const parameters = isNullParameters ? '0500' : ''
  return tlv(
    0x30,
    tbs,
    tlv(0x30, Buffer.from(oid + parameters, 'hex')),
    tlv(0x03, Buffer.of(0), signature),
  )
}

/** id-alg-unsigned (RFC 9925), ecdsa-with-SHA256 */
const OTHER_ALGORITHMS: { readonly [algorithm: string]: string } = {
  '1.3.6.1.5.5.7.6.36': '06082b06010505070624',
  '1.2.840.10045.4.3.2': '06082a8648ce3d040302',
}

/** The parts of a certificate: what was signed, as it is encoded, and the signature. */
export function partsOf(der: Uint8Array): { tbs: Buffer; signature: Buffer } {
  const bytes = Buffer.from(der)
  const start = 2 + extraLengthBytes(bytes, 0)
  const header = 2 + extraLengthBytes(bytes, start)
  const length = header === 2 ? bytes.readUInt8(start + 1) : bytes.readUIntBE(start + 2, header - 2)
  return {
    tbs: bytes.subarray(start, start + header + length),
    signature: bytes.subarray(-64),
  }
}

/** A value with a tag, its length as short as it can be. */
export function tlv(tag: number, ...contents: readonly Uint8Array[]): Buffer {
  const content = Buffer.concat(contents)
  const { length } = content
  if (length < 0x80) return Buffer.concat([Buffer.of(tag, length), content])
  if (length < 0x100) return Buffer.concat([Buffer.of(tag, 0x81, length), content])
  return Buffer.concat([Buffer.of(tag, 0x82, length >> 8, length & 0xff), content])
}

/** Replaces, adds or (without a value) removes an extension. */
export function setExtension(
  tbs: TBSCertificate,
  extnID: string,
  value?: object | Uint8Array,
  critical = false,
): void {
  const others = [...(tbs.extensions ?? [])].filter((extension) => extension.extnID !== extnID)
  tbs.extensions?.splice(0, Number.POSITIVE_INFINITY, ...others)
  if (value !== undefined) tbs.extensions?.push(extensionOf(extnID, value, critical))
}

export function extensionOf(
  extnID: string,
  value: object | Uint8Array,
  critical = false,
): Extension {
  const bytes = value instanceof Uint8Array ? value : AsnConvert.serialize(value)
  return new Extension({ extnID, critical, extnValue: new OctetString(bytes) })
}

export function setNames(
  tbs: TBSCertificate,
  ...names: ConstructorParameters<typeof GeneralName>[0][]
): void {
  const list = names.map((name) => new GeneralName(name))
  setExtension(tbs, id_ce_subjectAltName, new SubjectAlternativeName(list))
}

function extraLengthBytes(bytes: Buffer, start: number): number {
  const first = bytes.readUInt8(start + 1)
  return first > 0x80 ? first & 0x7f : 0
}
