import {
  IdempotencyMismatchError,
  InvalidArgumentError,
  InvalidNameError,
  RevisionConflictError,
} from '@weft/errors'
import { nameProblem } from '@weft/net'
import type { RecordMeta } from '@weft/proto/weftline/config/v1/records.ts'
import type { Database, Kind, RecordsByKind, Write } from '../database.ts'
import { limits } from '../limits.ts'

/** What a request comes to at one revision of the database: at most one write, and the answer once it is made. */
export interface Plan<T> {
  readonly write?: Write
  /** Called after the write was applied. */
  readonly result: () => T
}

/** One step of several that a request takes: each a transaction, and each harmless to repeat. */
export type Step = (database: Database, caller: Caller) => Plan<unknown>

/** Who asks, when, and with which key; a plan reads no clock and no chance of its own. */
export interface Caller {
  readonly idempotencyKey: string
  readonly writtenBy: string
  readonly nowUnixMs: number
  readonly random: (sizeBytes: number) => Uint8Array
}

/** An answer without a write. */
export function answer<T>(value: T): Plan<T> {
  return { result: () => value }
}

/** Puts a record of which the database makes its own: the answer is the record with its revision. */
export function put<K extends Kind>(
  kind: K,
  id: number,
  record: RecordsByKind[K],
): Plan<RecordsByKind[K]> {
  return { write: { kind, id, record } as Write, result: () => record }
}

/** Removes a record; the answer is true. */
export function remove(kind: Kind, id: number): Plan<boolean> {
  return { write: { kind, id, record: undefined }, result: () => true }
}

/** A plan with the same write and another answer. */
export function answering<T, U>({ write, result }: Plan<T>, answerOf: (value: T) => U): Plan<U> {
  const answered = (): U => answerOf(result())
  return write ? { write, result: answered } : { result: answered }
}

/** The id of a record that is created now: the revision at which it will be, so that none is ever given twice. */
export function newId(database: Database): number {
  return Number(database.revision + 1n)
}

/** What an earlier request with the same key wrote. Throws `IdempotencyMismatchError` if that was something else. */
export function repeated<K extends Kind>(
  database: Database,
  caller: Caller,
  kind: K,
  isSame: (record: RecordsByKind[K]) => boolean,
): RecordsByKind[K] | undefined {
  const remembered = database.remembered(caller.idempotencyKey)
  if (!remembered) return undefined
  const record = remembered.record as RecordsByKind[K]
  if (remembered.kind === kind && isSame(record)) return record
  throw new IdempotencyMismatchError({ key: caller.idempotencyKey })
}

export function createdMeta(
  database: Database,
  caller: Caller,
  labels: Readonly<Record<string, string>>,
): RecordMeta {
  const now = BigInt(caller.nowUnixMs)
  return {
    revision: 0n,
    createdRevision: database.revision + 1n,
    createdAtUnixMs: now,
    writtenAtUnixMs: now,
    idempotencyKey: caller.idempotencyKey,
    writtenBy: caller.writtenBy,
    labels: checkedLabels(labels),
  }
}

/** The meta of a record that is written again; what a newer version put there stays. */
export function rewrittenMeta(meta: RecordMeta | undefined, caller: Caller): RecordMeta {
  return {
    createdRevision: 0n,
    createdAtUnixMs: 0n,
    labels: {},
    ...meta,
    revision: 0n,
    writtenAtUnixMs: BigInt(caller.nowUnixMs),
    idempotencyKey: caller.idempotencyKey,
    writtenBy: caller.writtenBy,
  }
}

export function checkName(kind: Kind, name: string): void {
  const problem = nameProblem(name)
  if (problem !== undefined) throw new InvalidNameError({ kind, name, problem })
}

/** Throws if there are more of something than a record may hold. */
export function checkCount(field: string, items: readonly unknown[], max: number): void {
  if (items.length > max) {
    throw new InvalidArgumentError({
      field,
      problem: `${items.length} are too many, at most ${max} are allowed`,
    })
  }
}

/** Throws if the record is not at the revision that the caller saw; 0 stands for any. */
export function checkRevision(what: string, meta: RecordMeta | undefined, expected: bigint): void {
  const actual = meta?.revision ?? 0n
  if (expected !== 0n && expected !== actual) {
    throw new RevisionConflictError({ what, expected, actual })
  }
}

export function checkedLabels(labels: Readonly<Record<string, string>>): { [key: string]: string } {
  const entries = Object.entries(labels)
  checkCount('labels', entries, limits.labelsPerRecord)
  for (const [key, value] of entries) {
    if (key.length === 0 || key.length > limits.labelKeyLength || !/^[\w./-]+$/.test(key)) {
      throw new InvalidArgumentError({
        field: 'labels',
        problem: `${JSON.stringify(key.slice(0, 80))} is no label key`,
        remedy: `use up to ${limits.labelKeyLength} of a-z, A-Z, 0-9, _ . / -`,
      })
    }
    if (value.length > limits.labelValueLength) {
      throw new InvalidArgumentError({
        field: 'labels',
        problem: `the value of ${key} has ${value.length} characters`,
        remedy: `use up to ${limits.labelValueLength}`,
      })
    }
  }
  return { ...labels }
}
