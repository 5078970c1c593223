import { InternalError, MessageTooLargeError, UnavailableError, type WeftError } from '@weft/errors'
import type { BucketShape, Codec } from './bus.ts'
import { isKey } from './subjects.ts'

/**
 * Largest message on the bus, which the servers are told (`max_payload`): a value of a bucket is 64 KiB at most, the JWT of an
 * account with 2,000 revoked users 200 KB.
 */
export const PAYLOAD_MAX_BYTES: number = 256 * 1024

export function encodeMessage<T>(what: string, codec: Codec<T>, message: T): Uint8Array {
  const bytes = codec.encode(message).finish()
  return checkSize(what, bytes, PAYLOAD_MAX_BYTES)
}

export function encodeValue<T>(
  shape: BucketShape,
  key: string,
  codec: Codec<T>,
  value: T,
): Uint8Array {
  const bytes = codec.encode(value).finish()
  return checkSize(`value of ${shape.name}/${key}`, bytes, shape.valueMaxBytes)
}

/** A value that does not decode was damaged: no caller can go on from there. */
export function decodeValue<T>(
  shape: BucketShape,
  key: string,
  codec: Codec<T>,
  bytes: Uint8Array,
): T {
  try {
    return codec.decode(bytes)
  } catch (cause) {
    throw new InternalError(`the value of ${shape.name}/${key} is damaged`, { cause })
  }
}

export function checkKey(key: string): void {
  if (!isKey(key)) throw new RangeError(`${JSON.stringify(key)} is not a key`)
}

export function checkDeletable(shape: BucketShape): void {
  if (shape.keeps === 'every-value') {
    throw new RangeError(`nothing is deleted from ${shape.name}: it keeps every value`)
  }
}

export function closedError(address: string): WeftError {
  return new UnavailableError({ service: 'nats', address, problem: 'the connection is closed' })
}

function checkSize(what: string, bytes: Uint8Array, limitBytes: number): Uint8Array {
  if (bytes.byteLength > limitBytes) {
    throw new MessageTooLargeError({ what, sizeBytes: bytes.byteLength, limitBytes })
  }
  return bytes
}
