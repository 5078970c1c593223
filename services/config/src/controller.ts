import { setTimeout as delay, setImmediate as turn } from 'node:timers/promises'
import { type Bucket, type Bus, buckets, hostRowKey, keyTokens, type Written } from '@weft/bus'
import { asWeftError, UnavailableError } from '@weft/errors'
import type { Record as StoredRecord } from '@weft/proto/weftline/config/v1/records.ts'
import { ControllerLease, HostRow } from '@weft/proto/weftline/config/v1/rows.ts'
import type { Location } from '@weft/proto/weftline/location/v1/location.ts'
import { type RowKey, rowKinds } from './domain/host-rows.ts'
import type { Events } from './events.ts'
import { LEASE_KEY, LEASE_RENEWAL_MS, takeLease } from './lease.ts'
import type { Replica } from './replica.ts'

/** Row writes on their way at once; each is up to 64 KiB, most are 100 to 300 bytes. */
const WRITES_IN_FLIGHT_MAX = 256
/** Rows that are compared before other work gets its turn. */
const ROWS_PER_TURN = 512
const RETRY_MAX_MS = 500
const ROWS_PREFIX = 'host'

export interface ControllerOptions {
  readonly replicaId: string
  readonly bus: Bus
  readonly replica: Replica
  /** To ask how far the VN database and the locations have come. */
  readonly records: Bucket<StoredRecord>
  readonly locations: Bucket<Location>
  readonly events: Events
}

/**
 * Writes for every host the rows that it needs, and only what changes. One replica does it at a time: the one that holds
 * the lease, which is a key of the same bucket. Every write says which write to the bucket it follows, so the moment
 * another replica takes the lease, nothing that the one before still has under way can be written: rows never go back.
 */
export class Controller implements AsyncDisposable {
  readonly #options: ControllerOptions
  readonly #stop = new AbortController()
  readonly #running: Promise<void>
  #isLeading = false

  constructor(options: ControllerOptions) {
    this.#options = options
    this.#running = this.#run()
  }

  /** Whether this replica writes the rows at present. */
  get isLeading(): boolean {
    return this.#isLeading
  }

  /** Finishes what is on its way and gives the lease back, so that another replica goes on at once. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort()
    await this.#running
  }

  async #run(): Promise<void> {
    const { bus, events, replica, replicaId } = this.#options
    const { signal } = this.#stop
    for (let failures = 0; !signal.aborted && !replica.lost; ) {
      try {
        // Opened each time: the bucket is kept in memory, and gone after a restart of its server.
        const leases = await bus.openBucket(buckets.hosts, ControllerLease)
        const rows = await bus.openBucket(buckets.hosts, HostRow)
        const revision = await takeLease(leases, replicaId, signal)
        if (revision === undefined) return
        failures = 0
        await this.#lead(leases, rows, revision)
      } catch (error) {
        if (signal.aborted) return
        events.controllerFailed(asWeftError(error))
        const backoffMs = Math.random() * Math.min(RETRY_MAX_MS, 2 ** ++failures)
        await delay(backoffMs, undefined, { signal }).catch(() => undefined)
      }
    }
  }

  /** Brings all rows up to date and keeps them so, until the controller stops or a write fails. */
  async #lead(
    leases: Bucket<ControllerLease>,
    rows: Bucket<HostRow>,
    revision: bigint,
  ): Promise<void> {
    const { events, replica, replicaId } = this.#options
    const { signal } = this.#stop
    const changed = new ChangedRows()
    const wake = (): void => changed.wake()
    const writer = new FencedWriter(revision, wake)
    const lease = ControllerLease.create({ replicaId })
    this.#isLeading = true
    signal.addEventListener('abort', wake)
    replica.rowsListener = (key) => changed.add(key)
    using _renewal = setInterval(() => {
      writer.send((options) => leases.put(LEASE_KEY, lease, options))
    }, LEASE_RENEWAL_MS)
    try {
      events.controllerStarted(revision)
      const written = await this.#presentRows(rows)
      for (const key of written.keys()) changed.add(parseRowKey(key))
      for (const key of replica.rows.allKeys()) changed.add(key)
      while (!signal.aborted) {
        await this.#bringUpToDate(changed.take(), written, rows, writer)
        await changed.any
      }
      writer.send((options) => leases.delete(LEASE_KEY, options))
      await writer.flushed()
    } finally {
      signal.removeEventListener('abort', wake)
      replica.rowsListener = undefined
      this.#isLeading = false
      events.controllerStopped()
    }
  }

  /**
   * The rows in the bucket, by key, without their revisions. Waits until this replica knows everything that they can have
   * been derived from, so that none is replaced by an older one.
   */
  async #presentRows(rows: Bucket<HostRow>): Promise<Map<string, string>> {
    const { locations, records, replica } = this.#options
    const { signal } = this.#stop
    const present = new Map<string, string>()
    let derivedFrom = 0n
    const stop = new AbortController()
    reading: for await (const batch of rows.watch(ROWS_PREFIX, {
      signal: AbortSignal.any([signal, stop.signal]),
    })) {
      for (const event of batch) {
        if (event.kind === 'put') {
          present.set(event.key, contentOf(event.value))
          if (event.value.configRevision > derivedFrom) derivedFrom = event.value.configRevision
        } else if (event.kind === 'delete') {
          present.delete(event.key)
        } else if (event.kind === 'snapshot-end') {
          break reading
        }
      }
    }
    stop.abort()
    const known = await records.lastRevision()
    if (known < derivedFrom) {
      throw new UnavailableError({
        service: 'the VN database',
        address: 'bucket config',
        problem: `it is at revision ${known}, and the hosts have rows of revision ${derivedFrom}`,
        remedy: 'restore the store of nats-server, or delete the bucket hosts to go on without it',
      })
    }
    await replica.untilDatabase(known, signal)
    await replica.untilLocations(await locations.lastRevision(), signal)
    return present
  }

  async #bringUpToDate(
    keys: readonly RowKey[],
    written: Map<string, string>,
    rows: Bucket<HostRow>,
    writer: FencedWriter,
  ): Promise<void> {
    const { events, replica } = this.#options
    let count = 0
    for (const [index, rowKey] of keys.entries()) {
      if (index % ROWS_PER_TURN === ROWS_PER_TURN - 1) await turn()
      const key = hostRowKey(rowKey.hostId, rowKey.kind, rowKey.id)
      const row = replica.rows.row(rowKey)
      const content = row && contentOf(row)
      if (content === written.get(key)) continue
      await writer.ready()
      if (row && content !== undefined) {
        written.set(key, content)
        writer.send((options) => rows.put(key, row, options))
      } else {
        written.delete(key)
        writer.send((options) => rows.delete(key, options))
      }
      count++
    }
    await writer.flushed()
    if (count > 0) events.rowsWritten(count)
  }
}

/** Keys of rows that may have changed, each once, however often it did. */
class ChangedRows {
  readonly #keys = new Map<string, RowKey>()
  #any = Promise.withResolvers<void>()

  /** Resolves when there are some, or at `wake`. */
  get any(): Promise<void> {
    return this.#any.promise
  }

  add(key: RowKey): void {
    this.#keys.set(hostRowKey(key.hostId, key.kind, key.id), key)
    this.wake()
  }

  wake(): void {
    this.#any.resolve()
  }

  /** All of them, host by host, each in the order in which rows are written. */
  take(): RowKey[] {
    const keys = [...this.#keys.values()].sort(
      (a, b) => a.hostId - b.hostId || rowKinds.indexOf(a.kind) - rowKinds.indexOf(b.kind),
    )
    this.#keys.clear()
    this.#any = Promise.withResolvers()
    return keys
  }
}

interface FencedWrite {
  readonly expectedBucketRevision: bigint
}

/** Sends writes one behind the other without waiting for each, every one on condition that it follows the one before. */
class FencedWriter {
  #revision: bigint
  readonly #underWay = new Set<Promise<void>>()
  readonly #onFailure: () => void
  #failure: { readonly error: unknown } | undefined

  /** `revision` of the write that the first one follows. */
  constructor(revision: bigint, onFailure: () => void) {
    this.#revision = revision
    this.#onFailure = onFailure
  }

  /** Resolves when fewer than `WRITES_IN_FLIGHT_MAX` writes are under way; rejects once one has failed. */
  async ready(): Promise<void> {
    while (this.#underWay.size >= WRITES_IN_FLIGHT_MAX) await Promise.race(this.#underWay)
    this.#throwFailure()
  }

  /** Sends nothing after a failure. */
  send(write: (options: FencedWrite) => Promise<Written>): void {
    if (this.#failure) return
    const expectedBucketRevision = this.#revision++
    const sent: Promise<void> = write({ expectedBucketRevision })
      .then(
        () => undefined,
        (error: unknown) => {
          this.#failure ??= { error }
          this.#onFailure()
        },
      )
      .finally(() => this.#underWay.delete(sent))
    this.#underWay.add(sent)
  }

  /** Resolves when all that was sent is written; rejects once one has failed. */
  async flushed(): Promise<void> {
    await Promise.all(this.#underWay)
    this.#throwFailure()
  }

  #throwFailure(): void {
    if (this.#failure) throw this.#failure.error
  }
}

/** What a row says, apart from what it was derived from; a string of one character a byte, to compare. */
function contentOf(row: HostRow): string {
  const bytes = HostRow.encode({ ...row, configRevision: 0n, locationRevision: 0n }).finish()
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
}

function parseRowKey(key: string): RowKey {
  const [, hostId, kindToken, id] = keyTokens(key)
  const kind = rowKinds.find((candidate) => candidate === kindToken) ?? 'self'
  return { hostId: Number(hostId), kind, id: Number(id) }
}
