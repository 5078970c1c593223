import { hostRowKey } from '@weft/bus'
import { type StatementRefusal, StatementRefusedError } from '@weft/errors'
import { openStatement } from '@weft/identity'
import { HostRow, SignedHostRow } from '@weft/proto/weftline/config/v1/rows.ts'
import { rowFromMessage } from './decode.ts'
import type { Row, RowChange } from './domain/rows.ts'
import { entryProblem } from './domain/table-entries.ts'
import { placementFrom, statementFrom } from './tenant-statements.ts'
import { sealingFrom } from './tunnel-keys.ts'

/** Why a row is not acted on. */
export type RowRefusal =
  | StatementRefusal
  /** It was signed for somebody else. */
  | 'other-host'
  /** It is not the row that its key names. */
  | 'other-row'
  /** Its time is over. */
  | 'expired'
  /** It is older than what is known. */
  | 'replayed'
  /** It says what cannot be: the data plane would refuse it, and all else with it. */
  | 'unusable'

export type Admission =
  | { readonly kind: 'row'; readonly change: RowChange & { readonly kind: 'put' } }
  | { readonly kind: 'refused'; readonly reason: RowRefusal }
  /** A row of a kind that this version does not know. */
  | { readonly kind: 'unknown' }

/**
 * Believes rows that the directory signed for this host, and nothing else, wherever they come from. What tenants and hosts
 * have signed inside of them is verified along with them; whether it counts is for `TenantLocks` to say.
 */
export class RowGate {
  readonly #hostId: number
  readonly #directoryKey: () => Uint8Array
  readonly #domain: string

  /** `directoryKey`: Ed25519, 32 bytes. */
  constructor(hostId: number, directoryKey: () => Uint8Array, domain: string) {
    this.#hostId = hostId
    this.#directoryKey = directoryKey
    this.#domain = domain
  }

  /** Looks at a row that lies under `key` in the bucket; without one it comes from our own disk. */
  admit(message: SignedHostRow, key?: string): Admission {
    try {
      const row = openStatement('host-row', message.row, HostRow, this.#directoryKey())
      if (row.hostId !== this.#hostId) return refused('other-host')
      const content = this.#open(row)
      if (!content) return { kind: 'unknown' }
      if (key !== undefined && key !== keyOf(row)) return refused('other-row')
      if (entryProblem(content.row, this.#hostId) !== undefined) return refused('unusable')
      const change = {
        kind: 'put',
        row: content.row,
        revisions: { config: row.configRevision, location: row.locationRevision },
        notAfterMs: Math.min(Number(row.notAfterUnixMs), content.notAfterMs),
        proof: SignedHostRow.encode(message).finish(),
      } as const
      return { kind: 'row', change }
    } catch (error) {
      // What the directory signed and cannot be read is as good as nothing.
      return refused(error instanceof StatementRefusedError ? error.reason : 'malformed')
    }
  }

  /** What a row says, and the end that this has by itself; undefined for a kind that this version does not know. */
  #open(message: HostRow): { readonly row: Row; readonly notAfterMs: number } | undefined {
    if (message.row?.$case === 'statement') {
      const { statement, notAfterMs } = statementFrom(message.row.value, this.#domain)
      return { row: { kind: 'statement', value: statement }, notAfterMs }
    }
    const row = rowFromMessage(message)
    if (!row) return undefined
    if (row.kind === 'peer' && message.row?.$case === 'peer') {
      const sealing = sealingFrom(message.row.value)
      const value = sealing ? { ...row.value, sealing } : row.value
      return { row: { kind: 'peer', value }, notAfterMs: Infinity }
    }
    const signed = message.row?.$case === 'endpoint' ? message.row.value.placement : undefined
    const placement = signed && placementFrom(signed)
    return row.kind === 'endpoint' && placement
      ? { row: { kind: 'endpoint', value: { ...row.value, placement } }, notAfterMs: Infinity }
      : { row, notAfterMs: Infinity }
  }
}

/** Reads what may be anything: what is no signed row is one without a signature. */
export const untrustedRows: {
  encode(message: SignedHostRow): { finish(): Uint8Array }
  decode(bytes: Uint8Array): SignedHostRow
} = {
  encode: (message) => SignedHostRow.encode(message),
  decode(bytes) {
    try {
      return SignedHostRow.decode(bytes)
    } catch {
      return { row: undefined }
    }
  },
}

function refused(reason: RowRefusal): Admission {
  return { kind: 'refused', reason }
}

/** The key under which a row belongs; undefined for a kind that this version does not know. */
function keyOf({ hostId, row }: HostRow): string | undefined {
  switch (row?.$case) {
    case 'statement':
      return hostRowKey(hostId, 'statement', row.value.id)
    case 'network':
      return hostRowKey(hostId, 'network', row.value.network?.id ?? 0)
    case 'endpoint':
      return hostRowKey(hostId, 'endpoint', row.value.endpointId)
    case 'peer':
      return hostRowKey(hostId, 'peer', row.value.hostId)
    case 'self':
      return hostRowKey(hostId, 'self', hostId)
    default:
      return undefined
  }
}
