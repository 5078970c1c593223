import { AuditRecord } from '@weft/proto/weftline/audit/v1/audit.ts'

/**
 * The local copy of a chain is a file: these 8 bytes, then frames. A frame is the length of its payload and the CRC-32C of
 * its payload (4 bytes each, little endian), and the payload, an encoded `AuditRecord`. `readAuditFile` of `@weft/sdk` reads it.
 */
export const FILE_MAGIC: Uint8Array = Buffer.from('weftaud1')

const FRAME_HEADER_BYTES = 8

/** The record as a frame. */
export function frameOf(record: AuditRecord): Uint8Array {
  const payload = AuditRecord.encode(record).finish()
  const frame = Buffer.allocUnsafe(FRAME_HEADER_BYTES + payload.byteLength)
  frame.writeUInt32LE(payload.byteLength, 0)
  frame.writeUInt32LE(crc32c(payload), 4)
  frame.set(payload, FRAME_HEADER_BYTES)
  return frame
}

/** CRC-32C (RFC 3720 appendix B.4), reflected polynomial of 0x1EDC6F41. */
const CRC32C_TABLE: Uint32Array = Uint32Array.from({ length: 256 }, (_, index) => {
  let value = index
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f6_3b78 : value >>> 1
  return value
})

export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffff_ffff
  for (const byte of bytes) crc = (crc >>> 8) ^ (CRC32C_TABLE[(crc ^ byte) & 0xff] ?? 0)
  return (crc ^ 0xffff_ffff) >>> 0
}
