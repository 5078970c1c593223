import { createHash } from 'node:crypto'
import { InvalidArgumentError } from '@weft/errors'

/** Of a certificate in DER: `sha256:` and 64 lower-case hexadecimal digits. That of the root stands for the domain. */
export function fingerprintOf(der: Uint8Array): string {
  return `sha256:${createHash('sha256').update(der).digest('hex')}`
}

/**
 * Reads a fingerprint as people copy it: `sha256:` may be missing, letters may be upper case, and colons may stand
 * between the bytes (as openssl prints them). What comes out is as `fingerprintOf` writes it.
 * @throws InvalidArgumentError
 */
export function parseFingerprint(text: string): string {
  const [, digits] = /^\s*(?:sha256[:=])?([0-9a-f]{64}|[0-9a-f]{2}(?::[0-9a-f]{2}){31})\s*$/i.exec(
    text.length > 256 ? '' : text,
  ) ?? [undefined, undefined]
  if (digits === undefined) {
    throw new InvalidArgumentError({
      field: 'fingerprint',
      problem: 'is not the SHA-256 of a certificate',
      remedy: 'give sha256: and 64 hexadecimal digits, as weft init prints them',
    })
  }
  return `sha256:${digits.replaceAll(':', '').toLowerCase()}`
}
