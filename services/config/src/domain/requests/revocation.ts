import { LimitReachedError, PermissionDeniedError } from '@weft/errors'
import type { Host, RevokedKey } from '@weft/proto/weftline/config/v1/records.ts'
import type { Database } from '../database.ts'
import { limits } from '../limits.ts'
import { answer, type Caller, createdMeta, newId, type Plan, put, rewrittenMeta } from './plan.ts'

/** Nobody removes a void key. */
const WAIT_FOR_PLACE = 'wait: void keys are forgotten after 8 days'

/** What becomes void. */
interface Retired {
  /** Ed25519, 32 bytes. */
  readonly identityKey: Buffer
  /** Empty for a user's, or if it stays valid. */
  readonly busKey: string
  /** 0 for a user. */
  readonly hostId: number
  readonly reason: string
  /** From when on; at once by default. */
  readonly fromUnixMs?: number
}

/**
 * Puts a key among the void ones, where it stays when its host or user is gone. What is there already becomes void sooner, if
 * that is asked for, and never later: harmless to repeat.
 */
export function revokeKey(
  database: Database,
  { identityKey, busKey, hostId, reason, fromUnixMs }: Retired,
  caller: Caller,
): Plan<RevokedKey | undefined> {
  const { members } = database
  const revokedAtUnixMs = BigInt(fromUnixMs ?? caller.nowUnixMs)
  const there = members.revokedKeyOf(identityKey)
  if (there) {
    if (there.revokedAtUnixMs <= revokedAtUnixMs) return answer(there)
    const meta = rewrittenMeta(there.meta, caller)
    return put('revokedKey', there.id, { ...there, revokedAtUnixMs, meta })
  }
  const forgettable = forgettableKey(database, caller)
  if (!forgettable && database.counts.revokedKey >= limits.revokedKeys) {
    throw new LimitReachedError({
      what: 'void keys',
      limit: limits.revokedKeys,
      remedy: WAIT_FOR_PLACE,
    })
  }
  const id = forgettable?.id ?? newId(database)
  return put('revokedKey', id, {
    id,
    identityKey,
    busKey,
    hostId,
    revokedAtUnixMs,
    reason,
    meta: forgettable ? rewrittenMeta(forgettable.meta, caller) : createdMeta(database, caller, {}),
  })
}

/**
 * Throws unless a host may give up one more key. A host that changes its keys again and again would take the places of those who
 * are revoked, here and in what is told to everybody.
 */
export function checkMayChangeKeys(database: Database, host: Host, caller: Caller): void {
  const former = database.members
    .revokedKeysOfHost(host.id)
    .map(({ revokedAtUnixMs }) => Number(revokedAtUnixMs))
    .filter((at) => !isForgettable(at, caller))
  if (former.length >= limits.formerKeysPerHost) {
    const until = new Date(Math.min(...former) + limits.voidKeyLifeMs)
    throw new PermissionDeniedError({
      what: `changing the keys of host ${host.name} again`,
      problem: `it gave up ${former.length} within 8 days`,
      remedy: `wait until ${until.toISOString()}; or remove the host (weft host rm ${host.name}) and join it again with a new token`,
    })
  }
  const isCrowded = database.counts.revokedKey >= limits.revokedKeysForChanges
  if (isCrowded && !forgettableKey(database, caller)) {
    throw new LimitReachedError({
      what: 'void keys (the places that are left are for those who have to go)',
      limit: limits.revokedKeysForChanges,
      remedy: WAIT_FOR_PLACE,
    })
  }
}

/** A void key of which nothing is left anywhere; its place may be taken. */
function forgettableKey({ members }: Database, caller: Caller): RevokedKey | undefined {
  const [oldest] = members.revokedKeys()
  return oldest && isForgettable(Number(oldest.revokedAtUnixMs), caller) ? oldest : undefined
}

function isForgettable(revokedAtUnixMs: number, { nowUnixMs }: Caller): boolean {
  return revokedAtUnixMs < nowUnixMs - limits.voidKeyLifeMs
}
