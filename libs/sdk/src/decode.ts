import { InternalError } from '@weft/errors'
import {
  type IpAddress,
  ipFromBytes,
  ipToBytes,
  type MacAddress,
  macFromBytes,
  type Prefix,
  prefixFromBytes,
} from '@weft/net'
import type { Prefix as PrefixMessage } from '@weft/proto/weftline/common/v1/common.ts'
import type { Page } from '@weft/proto/weftline/config/v1/config_service.ts'
import type { RecordMeta } from '@weft/proto/weftline/config/v1/records.ts'
import type { Labels } from './types.ts'

/** An address of a server's answer. A malformed one is the server's defect. */
export function decodeAddress(bytes: Uint8Array): IpAddress {
  return ipFromBytes(bytes) ?? malformed('address', bytes)
}

export function decodeMac(bytes: Uint8Array): MacAddress {
  return macFromBytes(bytes) ?? malformed('MAC address', bytes)
}

export function decodePrefix(prefix: PrefixMessage): Prefix {
  return prefixFromBytes(prefix.address, prefix.lengthBits) ?? malformed('prefix', prefix.address)
}

export function encodePrefix(prefix: Prefix): PrefixMessage {
  return { address: ipToBytes(prefix.address), lengthBits: prefix.lengthBits }
}

/** What every record has besides its own fields. */
export function decodeMeta(meta: RecordMeta | undefined): {
  labels: Labels
  revision: bigint
  createdAt: Date
} {
  return {
    labels: meta?.labels ?? {},
    revision: meta?.revision ?? 0n,
    createdAt: new Date(Number(meta?.createdAtUnixMs ?? 0n)),
  }
}

/** A part of an answer that the contract promises. */
export function present<T>(part: T | undefined, name: string): T {
  if (part === undefined) throw new InternalError(`an answer came without its ${name}`)
  return part
}

function malformed(what: string, bytes: Uint8Array): never {
  throw new InternalError(`an answer has a malformed ${what} of ${bytes.byteLength} bytes`)
}

/** Objects that a server sends in one page; its own limit is the same. */
const PAGE_SIZE = 1000

/** Every page of a list, one after the other. */
export async function* pages<Answer extends { readonly nextToken: string }>(
  ask: (page: Page) => Promise<Answer>,
): AsyncGenerator<Answer, void, undefined> {
  let token = ''
  do {
    const answer = await ask({ size: PAGE_SIZE, token })
    yield answer
    token = answer.nextToken
  } while (token !== '')
}
