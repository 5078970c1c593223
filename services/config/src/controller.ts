import type { KeyObject } from 'node:crypto'
import { setTimeout as delay, setImmediate as turn } from 'node:timers/promises'
import {
  type Bucket,
  type Bus,
  buckets,
  hostRowKey,
  keyTokens,
  type RemoteBucket,
  type Written,
} from '@weft/bus'
import { asWeftError, UnavailableError } from '@weft/errors'
import { openStatement, publicKeyOf, signStatement } from '@weft/identity'
import { CLOCK_TOLERANCE_MS } from '@weft/identity/authority'
import type { Record as StoredRecord } from '@weft/proto/weftline/config/v1/records.ts'
import { ControllerLease, HostRow, SignedHostRow } from '@weft/proto/weftline/config/v1/rows.ts'
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
/** Until when a host may act on a row, after it was signed. */
const ROW_HORIZON_MS: number = 7 * 24 * 3_600_000
/** How often rows are looked for that half of their horizon has passed. */
const RENEWAL_TICK_MS = 1_000
/** Rows that may be signed again in one tick: all of them within a quarter of the horizon, and never fewer than this. */
const RENEWALS_PER_TICK_MIN = 256

export interface ControllerOptions {
  readonly replicaId: string
  readonly bus: Bus
  readonly replica: Replica
  /** To ask how far the VN database and the locations have come. */
  readonly records: Bucket<StoredRecord>
  readonly locations: RemoteBucket<Location>
  /** Ed25519 private key of the domain's directory: hosts believe no row that it did not sign. */
  readonly directoryKey: KeyObject
  /** How long hosts may act on a row after it was signed; `ROW_HORIZON_MS` by default. */
  readonly rowHorizonMs?: number
  readonly events: Events
}

/** A row as it is in the bucket. */
interface PresentRow {
  readonly content: string
  readonly notAfterMs: number
}

/**
 * Writes for every host the rows that it needs, and only what changes. One replica does it at a time: the one that holds
 * the lease, which is a key of the same bucket. Every write says which write to the bucket it follows, so the moment
 * another replica takes the lease, nothing that the one before still has under way can be written: rows never go back.
 *
 * Every row is signed, and holds for a horizon. Once half of that has passed it is signed anew, a few rows at a time.
 */
export class Controller implements AsyncDisposable {
  readonly #options: ControllerOptions
  readonly #stop = new AbortController()
  readonly #running: Promise<void>
  readonly #directoryPublicKey: Buffer
  readonly #rowHorizonMs: number
  #isLeading = false

  constructor(options: ControllerOptions) {
    this.#options = options
    this.#directoryPublicKey = publicKeyOf(options.directoryKey)
    this.#rowHorizonMs = options.rowHorizonMs ?? ROW_HORIZON_MS
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
        const rows = await bus.openBucket(buckets.hosts, SignedHostRow)
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
    rows: Bucket<SignedHostRow>,
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
      using _renewals = setInterval(() => this.#renewDue(written, changed), RENEWAL_TICK_MS)
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
   * The rows in the bucket, by key, the oldest signature first; one that the directory did not sign counts as empty. Waits
   * until this replica knows everything that they can have been derived from, so that none is replaced by an older one.
   */
  async #presentRows(rows: Bucket<SignedHostRow>): Promise<Map<string, PresentRow>> {
    const { locations, records, replica } = this.#options
    const { signal } = this.#stop
    const present = new Map<string, PresentRow>()
    let derivedFrom = 0n
    const stop = new AbortController()
    reading: for await (const batch of rows.watch(ROWS_PREFIX, {
      signal: AbortSignal.any([signal, stop.signal]),
    })) {
      for (const event of batch) {
        if (event.kind === 'put') {
          const row = this.#ownRow(event.value)
          present.set(event.key, row ? this.#presentRow(row) : { content: '', notAfterMs: 0 })
          if (row && row.configRevision > derivedFrom) derivedFrom = row.configRevision
        } else if (event.kind === 'damaged') {
          present.set(event.key, { content: '', notAfterMs: 0 })
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
    return new Map([...present].sort(([, a], [, b]) => a.notAfterMs - b.notAfterMs))
  }

  /**
   * What a row in the bucket says, or undefined if it is not ours. Signatures of all rows would take long to verify, and a
   * row with a wrong one harms nobody but the bucket's writer; only one from ahead of this replica, which can hold up the
   * controller, has to prove itself.
   */
  #ownRow({ row: signed }: SignedHostRow): HostRow | undefined {
    if (!signed?.signerKey.equals(this.#directoryPublicKey)) return undefined
    try {
      const row = HostRow.decode(signed.payload)
      if (row.configRevision <= this.#options.replica.database.revision) return row
      return openStatement('host-row', signed, HostRow, this.#directoryPublicKey)
    } catch {
      return undefined
    }
  }

  #presentRow(row: HostRow): PresentRow {
    const notAfterMs = Number(row.notAfterUnixMs)
    // Signed by a clock that was wrong.
    const isFromWrongClock = notAfterMs > Date.now() + this.#rowHorizonMs + CLOCK_TOLERANCE_MS
    return isFromWrongClock
      ? { content: '', notAfterMs: 0 }
      : { content: contentOf(row), notAfterMs }
  }

  #isDue({ notAfterMs }: PresentRow, nowMs: number): boolean {
    return notAfterMs - nowMs < this.#rowHorizonMs / 2
  }

  /** Has the rows signed again that half of their horizon has passed: `written` begins with the oldest. */
  #renewDue(written: ReadonlyMap<string, PresentRow>, changed: ChangedRows): void {
    const nowMs = Date.now()
    const perTick = Math.ceil((written.size * RENEWAL_TICK_MS) / (this.#rowHorizonMs / 4))
    let left = Math.max(perTick, RENEWALS_PER_TICK_MIN)
    for (const [key, row] of written) {
      if (left-- === 0 || !this.#isDue(row, nowMs)) return
      changed.add(parseRowKey(key))
    }
  }

  #sign(row: HostRow, notAfterMs: number): SignedHostRow {
    const payload = HostRow.encode({ ...row, notAfterUnixMs: BigInt(notAfterMs) }).finish()
    return { row: signStatement('host-row', payload, this.#options.directoryKey) }
  }

  async #bringUpToDate(
    keys: readonly RowKey[],
    written: Map<string, PresentRow>,
    rows: Bucket<SignedHostRow>,
    writer: FencedWriter,
  ): Promise<void> {
    const { events, replica } = this.#options
    let count = 0
    for (const [index, rowKey] of keys.entries()) {
      if (index % ROWS_PER_TURN === ROWS_PER_TURN - 1) await turn()
      const key = hostRowKey(rowKey.hostId, rowKey.kind, rowKey.id)
      const row = replica.rows.row(rowKey)
      const content = row && contentOf(row)
      const present = written.get(key)
      const nowMs = Date.now()
      if (content === present?.content && !(present && this.#isDue(present, nowMs))) continue
      await writer.ready()
      // Put behind all others, so that the first one is the oldest.
      written.delete(key)
      if (row && content !== undefined) {
        const notAfterMs = nowMs + this.#rowHorizonMs
        const signed = this.#sign(row, notAfterMs)
        written.set(key, { content, notAfterMs })
        writer.send((options) => rows.put(key, signed, options))
      } else {
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

/** What a row says, apart from what it was derived from and until when it holds; a string of one character a byte, to compare. */
function contentOf(row: HostRow): string {
  const stamps = { configRevision: 0n, locationRevision: 0n, notAfterUnixMs: 0n }
  const bytes = HostRow.encode({ ...row, ...stamps }).finish()
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
}

function parseRowKey(key: string): RowKey {
  const [, hostId, kindToken, id] = keyTokens(key)
  const kind = rowKinds.find((candidate) => candidate === kindToken) ?? 'self'
  return { hostId: Number(hostId), kind, id: Number(id) }
}
