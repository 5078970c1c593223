import { UnavailableError } from '@weft/errors'
import type { Host } from '@weft/proto/weftline/config/v1/records.ts'
import type { ConnectionReport } from '@weft/proto/weftline/status/v1/status.ts'
import { type Change, Database, type Kind, type Write } from './domain/database.ts'
import { distrusted } from './domain/distrust.ts'
import { HostRows, type RowKey } from './domain/host-rows.ts'
import { Locations, type Observation } from './domain/locations.ts'
import { OpenConnections } from './domain/open-connections.ts'

/** Waits for a revision. */
interface Waiter {
  readonly revision: bigint
  readonly resolve: () => void
}

/**
 * What this replica knows: the VN database and the observed locations, each up to a revision, and what the hosts' rows
 * come to by them. Fed by the watches of both buckets, and by the replica's own acknowledged writes ahead of them.
 */
export class Replica {
  readonly database: Database = new Database()
  readonly locations: Locations = new Locations()
  readonly connections: OpenConnections = new OpenConnections()
  readonly rows: HostRows = new HostRows(this.database, this.locations, this.connections)

  #lost: UnavailableError | undefined
  #rowsListener: ((key: RowKey) => void) | undefined
  readonly #changeListeners = new Set<(change: Change) => void>()
  readonly #databaseWaiters = new Set<Waiter>()
  readonly #locationsWaiters = new Set<Waiter>()

  /** Hears of every row that may have changed, while the replica writes the rows; undefined to stop. */
  set rowsListener(listener: ((key: RowKey) => void) | undefined) {
    this.#rowsListener = listener
  }

  /** Calls the listener after each change of the VN database, until the returned function is called. */
  onChange(listener: (change: Change) => void): () => void {
    this.#changeListeners.add(listener)
    return () => this.#changeListeners.delete(listener)
  }

  /** Why this replica takes no writes: the bucket of the VN database lost what this replica still knows. */
  get lost(): UnavailableError | undefined {
    return this.#lost
  }

  /** The bucket lost writes. What is known is kept and shown; nothing is written, and no row is removed. */
  lose(reason: string): void {
    this.#lost = new UnavailableError({
      service: 'the VN database',
      address: 'bucket config',
      problem: `its store was ${reason} and lost writes; this replica still knows revision ${this.database.revision}`,
      remedy: 'restore the store of nats-server, or restart config to go on with what is left',
    })
  }

  /** Applies one message of the VN database. */
  apply(write: Write, revision: bigint): void {
    const change: Change | undefined = this.database.apply(write, revision)
    if (change?.kind === 'host' && !isBelieved(change.after)) this.connections.forget(change.id)
    if (change && this.#rowsListener) this.rows.affectedBy(change, this.#rowsListener)
    if (change) for (const listener of this.#changeListeners) listener(change)
    release(this.#databaseWaiters, this.database.revision)
  }

  /** A message of the VN database cannot be read. */
  distrust(kind: Kind, id: number, revision: bigint): void {
    const write = distrusted(this.database, kind, id)
    if (write) this.apply(write, revision)
    else this.caughtUp(revision)
  }

  /** The VN database is known up to the revision. */
  caughtUp(revision: bigint): void {
    this.database.skip(revision)
    release(this.#databaseWaiters, this.database.revision)
  }

  /** Undefined as the observation: the endpoint is located nowhere. */
  locate(endpointId: number, observation: Observation | undefined): void {
    if (observation) this.locations.put(endpointId, observation)
    else this.locations.delete(endpointId)
    if (this.#rowsListener) this.rows.affectedByLocation(endpointId, this.#rowsListener)
  }

  /** Takes what a host says of its connections, whose signature was verified. Throws what `OpenConnections.take` throws. */
  hearConnections(report: ConnectionReport, nowMs: number): void {
    const isSeenElsewhere = this.connections.take(report, nowMs)
    if (isSeenElsewhere && this.#rowsListener) {
      this.rows.affectedByObserved(report.hostId, this.#rowsListener)
    }
  }

  locationsCaughtUp(revision: bigint): void {
    this.locations.revision = revision
    release(this.#locationsWaiters, revision)
  }

  /** Resolves once the VN database is known up to the revision; rejects when the signal is aborted. */
  async untilDatabase(revision: bigint, signal: AbortSignal): Promise<void> {
    if (this.database.revision < revision) await wait(this.#databaseWaiters, revision, signal)
  }

  /** The same for the locations. */
  async untilLocations(revision: bigint, signal: AbortSignal): Promise<void> {
    if (this.locations.revision < revision) await wait(this.#locationsWaiters, revision, signal)
  }
}

function isBelieved(host: Host | undefined): boolean {
  return host !== undefined && host.revokedAtUnixMs === 0n
}

async function wait(waiters: Set<Waiter>, revision: bigint, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const waiter = { revision, resolve }
  const abort = (): void => reject(signal.reason)
  waiters.add(waiter)
  signal.addEventListener('abort', abort, { once: true })
  try {
    await promise
  } finally {
    waiters.delete(waiter)
    signal.removeEventListener('abort', abort)
  }
}

function release(waiters: Set<Waiter>, revision: bigint): void {
  for (const waiter of waiters) if (waiter.revision <= revision) waiter.resolve()
}
