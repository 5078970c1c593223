/**
 * The way from the forwarder to the shuttle: `proto/weftline/shuttle/v1` over a unix socket. Only the forwarder uses it, and the shuttle admits
 * nobody else.
 */
import { SealingServiceService } from '@weft/proto/weftline/shuttle/v1/sealing.ts'
import {
  type ApplyTablesRequest,
  ShuttleServiceService,
  TableChange,
} from '@weft/proto/weftline/shuttle/v1/shuttle.ts'
import { type CallOptions, type Client, connect } from '@weft/rpc'

/** A chunk of changes has at most 256 KiB on the wire: this, and one more change of at most some KiB. */
const CHUNK_BYTES = 192 * 1024

/** Which tables the changes build on, and which they lead to. */
export interface TableStep {
  /** 0 to replace everything. */
  readonly baseRevision: bigint
  readonly revision: bigint
  readonly localHostId: number
}

/** All calls of the shuttle, typed. */
export type ShuttleClient = Client<ShuttleServiceService>

/**
 * Opens the client, for example of `unix:/run/weft/shuttle.sock`. It tries nothing again by itself: a stream that went over to a new shuttle unnoticed
 * would hide that tables and ports must be compared.
 */
export function connectShuttle(address: string): ShuttleClient {
  return connect(address, ShuttleServiceService, {
    security: { kind: 'socket-mode' },
    retries: false,
  })
}

/** The calls of its sealed transport, typed. */
export type SealingClient = Client<SealingServiceService>

/** Opens the client for the sealed transport of the shuttle at the same address, in the same way. */
export function connectSealing(address: string): SealingClient {
  return connect(address, SealingServiceService, {
    security: { kind: 'socket-mode' },
    retries: false,
  })
}

/** Brings changes into force, in as many chunks as they need; resolves with the revision in force when no packet follows the old tables. */
export async function applyTables(
  client: ShuttleClient,
  step: TableStep,
  changes: Iterable<TableChange>,
  options?: CallOptions,
): Promise<bigint> {
  const { revision } = await client.applyTables(tableChunks(step, changes), options)
  return revision
}

/** The messages of one `ApplyTables`: at least one, as the first says which step it is. */
export async function* tableChunks(
  step: TableStep,
  changes: Iterable<TableChange>,
): AsyncGenerator<ApplyTablesRequest, void, undefined> {
  let chunk: TableChange[] = []
  let bytes = 0
  for (const change of changes) {
    chunk.push(change)
    bytes += TableChange.encode(change).finish().length
    if (bytes < CHUNK_BYTES) continue
    yield { ...step, changes: chunk }
    chunk = []
    bytes = 0
  }
  yield { ...step, changes: chunk }
}
