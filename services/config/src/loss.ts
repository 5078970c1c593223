import type { Bucket } from '@weft/bus'
import { UnavailableError } from '@weft/errors'
import type { Credentials } from '@weft/identity'
import type { Record as StoredRecord } from '@weft/proto/weftline/config/v1/records.ts'
import type { About } from './audit/about.ts'
import type { Audit } from './audit/audit.ts'
import { commitAsConfig } from './commit-as-config.ts'
import type { Commits } from './commits.ts'
import type { Database } from './domain/database.ts'
import { revokeHost } from './domain/requests/hosts.ts'
import type { Caller, Plan } from './domain/requests/plan.ts'
import { revokeKey } from './domain/requests/revocation.ts'
import { isUsed, revokeToken } from './domain/requests/tokens.ts'
import type { Events } from './events.ts'
import type { LastKnown } from './last-known.ts'
import type { Replica } from './replica.ts'

/** Deleted again and again for the revision that every deletion takes. No record has such a key. */
const FILLER_KEY = 'filler.0'
const FILLERS_AT_ONCE = 256
/** Others may have known so much more than was on this replica's disk: some seconds of writes. */
const MARGIN = 4_096n

export interface LossOptions {
  readonly known: LastKnown
  /** Revision of the store after which its losses are given up; undefined if nobody said so. */
  readonly accepted: number | undefined
  readonly records: Bucket<StoredRecord>
  readonly replica: Replica
  readonly commits: Commits
  readonly audit: Audit
  readonly credentials: Credentials
  readonly events: Events
}

/**
 * Sees whether the store of the VN database is as new as what this replica knew, before anything is written or served. One
 * that is older lost writes: revisions and ids would be given again, tokens that were used would be good once more, and who was
 * revoked would be back. So it is refused, unless the operator gives up what was lost. Then revisions go on after the lost ones,
 * no token that was not used counts any more, and every key that was told to be void is void by a record again.
 * @throws UnavailableError
 */
export async function faceLosses(options: LossOptions): Promise<void> {
  const { known, accepted, records, replica, events } = options
  const { members } = replica.database
  members.remember(known.keys)
  const revision = await records.lastRevision()
  if (revision >= known.revision) return
  if (accepted === undefined || BigInt(accepted) !== revision) {
    throw new UnavailableError({
      service: 'the VN database',
      address: 'bucket config',
      problem: `it is at revision ${revision}, and this replica knew revision ${known.revision}: the store of nats-server is from a backup, or was lost`,
      remedy: `restore a newer store; or give up what came after and start config with WEFT_CONFIG_ACCEPT_LOSS_AFTER=${revision}`,
    })
  }
  await fill(records, known.revision + MARGIN)
  await replica.untilDatabase(await records.lastRevision(), new AbortController().signal)
  const voided = await voidTokens(options)
  const revoked = await revokeForgotten(options)
  events.lossAccepted({ from: revision, known: known.revision, voided, revoked })
}

/** Uses up revisions, up to the given one. */
async function fill(records: Bucket<StoredRecord>, until: bigint): Promise<void> {
  for (let last = await records.lastRevision(); last < until; ) {
    const left = until - last
    const count = left < BigInt(FILLERS_AT_ONCE) ? Number(left) : FILLERS_AT_ONCE
    const written = Array.from({ length: count }, () => records.delete(FILLER_KEY))
    for (const { revision } of await Promise.all(written)) if (revision > last) last = revision
  }
}

/** Any of them may have been used after the backup was made. */
async function voidTokens(options: LossOptions): Promise<number> {
  const { database } = options.replica
  const open = [...database.members.tokens()].filter(
    (token) => token.expiresAtUnixMs !== 0n && !isUsed(database, token),
  )
  for (const { id } of open) {
    const about = { kind: 'token', name: String(id), reason: REASON } as const
    await write(options, about, (current, caller) => revokeToken(current, { id }, caller))
  }
  return open.length
}

async function revokeForgotten(options: LossOptions): Promise<number> {
  const { database } = options.replica
  const forgotten = [...database.members.forgotten()]
  for (const { identityKey, busKey, hostId, revokedAtUnixMs } of forgotten) {
    const holder = database.members.holderOf(identityKey)
    const host = holder?.kind === 'host' ? database.host(holder.id) : undefined
    if (host) {
      const about = { kind: 'host', name: host.name, reason: REASON } as const
      await write(options, about, (current, caller) => revokeHost(current, host, caller))
    } else {
      const retired = {
        identityKey,
        busKey,
        hostId,
        reason: REASON,
        fromUnixMs: revokedAtUnixMs,
      }
      const name = identityKey.toString('hex')
      const about = { kind: 'revokedKey', name, reason: REASON } as const
      await write(options, about, (current, caller) => revokeKey(current, retired, caller))
    }
  }
  return forgotten.length
}

const REASON = 'the store is from a backup'

async function write(
  options: LossOptions,
  about: About,
  plan: (database: Database, caller: Caller) => Plan<unknown>,
): Promise<void> {
  const what = 'going on after a loss'
  await commitAsConfig(options, { what, method: 'accept-loss', about, plan })
}
