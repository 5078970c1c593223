import { randomBytes, randomUUID } from 'node:crypto'
import type { Credentials } from '@weft/identity'
import type { About } from './audit/about.ts'
import type { Audit } from './audit/audit.ts'
import { Recording } from './audit/recording.ts'
import type { Commits } from './commits.ts'
import type { Database } from './domain/database.ts'
import type { Caller, Plan } from './domain/requests/plan.ts'

/** Commits what config does of its own accord, and records it under its own name before it is written. */
export async function commitAsConfig<T>(
  {
    commits,
    audit,
    credentials,
  }: {
    readonly commits: Commits
    readonly audit: Audit
    readonly credentials: Credentials
  },
  {
    what,
    method,
    about,
    plan,
  }: {
    /** For error messages. */
    readonly what: string
    /** What the audit log calls it. */
    readonly method: string
    readonly about: About
    readonly plan: (database: Database, caller: Caller) => Plan<T>
  },
): Promise<T> {
  const recording = new Recording(audit, { caller: credentials, peer: '', method }, about)
  const caller = {
    idempotencyKey: randomUUID(),
    writtenBy: 'service/config',
    nowUnixMs: Date.now(),
    random: randomBytes,
  }
  return await recording.during(() =>
    commits.commit({
      what,
      idempotencyKey: caller.idempotencyKey,
      signal: new AbortController().signal,
      plan: (database) => plan(database, caller),
      beforeWrite: () => recording.begin(),
      onWritten: (write, revisions) => recording.wrote(write, revisions),
    }),
  )
}
