import type { KeyObject } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { type Bus, events as busEvents } from '@weft/bus'
import { asWeftError } from '@weft/errors'
import { signStatement } from '@weft/identity'
import { VOID_KEY_LIFE_MS } from '@weft/identity/authority'
import { Revocations, Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import type { Change } from './domain/database.ts'
import type { VoidKey } from './domain/members.ts'
import type { Events } from './events.ts'
import type { LastKnown } from './last-known.ts'
import type { Replica } from './replica.ts'

const HOUR_MS = 3_600_000
/** 45 bytes each, so a statement has up to 45 KiB; of more the newest, for who hears of them keeps what was told before. */
export const TOLD_MAX = 1_000
/** 49 bytes each at most, so a brief statement has less than the 1,024 bytes that hosts pass on inside their tunnels. */
export const BRIEF_MAX = 16
/** A host's login to the bus ends by itself after a day. */
const BUS_REFUSED_FOR_MS = 25 * HOUR_MS
/** The server takes no more (`REVOKED_USERS_MAX` of `@weft/bus/operator`). */
const BUS_REFUSED_MAX = 2_000
/** For those who missed the first time. */
const REPEAT_MS = 60_000
/** How often it is looked whether there is something newer to keep on disk. */
const KEEP_MS = 1_000
const RETRY_MAX_MS = 5_000
/** Timers take 31 bits of milliseconds. */
const TIMER_MAX_MS = 24 * HOUR_MS

/** Refuses users of the bus. */
export interface BusAdmin {
  /** Cuts off these users of the hosts' account (public nkeys) and lets them not come back; all others may. */
  refuse(users: readonly string[]): Promise<void>
}

interface RevokerOptions {
  readonly bus: Bus
  readonly busAdmin: BusAdmin
  readonly replica: Replica
  readonly replicaId: string
  /** Ed25519 private key of the directory. */
  readonly directoryKey: KeyObject
  /** Where the newest statement is kept. */
  readonly lastKnown: Pick<LastKnown, 'write'>
  /** Whether this replica repeats what was told. */
  readonly isLeading: () => boolean
  readonly events: Events
}

/**
 * Tells everybody which keys are void, as soon as this replica knows: whichever replica wrote it, each one tells, so that the
 * death of one delays nothing. A statement names the newest ones, and who hears it keeps what was told before. A long one is
 * followed by a brief one, for hosts to pass on to those who hear nothing. Users of the bus are refused there too.
 */
export class Revoker implements AsyncDisposable {
  readonly #options: RevokerOptions
  readonly #listeners = new Set<() => void>()
  readonly #stop = new AbortController()
  readonly #ends: (() => void)[]
  #isPending = false
  #timer: NodeJS.Timeout | undefined
  #refusing: Promise<void> | undefined
  /** Users that the bus has to refuse, each once. */
  #wanted: readonly string[] = []
  /** Whether it has to be told of them. */
  #hasToRefuse = false
  /** Of the VN database, in the statement that is on disk. */
  #keptRevision = 0n
  #isStale = false
  #keeping: Promise<void> | undefined

  constructor(options: RevokerOptions) {
    this.#options = options
    const { bus, replica, isLeading } = options
    const repeat = setInterval(() => {
      this.#hasToRefuse = true
      if (isLeading()) this.#tell()
    }, REPEAT_MS)
    repeat.unref()
    const keep = setInterval(() => this.#keep(), KEEP_MS)
    keep.unref()
    this.#ends = [
      () => clearInterval(repeat),
      () => clearInterval(keep),
      replica.onChange((change) => {
        if (isRevocation(change)) this.#soon()
      }),
      // What was told while the bus was away nobody heard, and a server may be back as it was long ago.
      bus.onStateChange((state) => {
        if (state !== 'connected') return
        this.#hasToRefuse = true
        this.#soon()
      }),
    ]
    this.#soon()
  }

  /** Calls the listener after keys have become void, until the returned function is called. */
  onRevoked(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort()
    for (const end of this.#ends) end()
    clearTimeout(this.#timer)
    await this.#keeping
    this.#keep()
    await this.#keeping
    await this.#refusing
  }

  /** Once for all that happens in this turn. */
  #soon(): void {
    if (this.#isPending) return
    this.#isPending = true
    setImmediate(() => {
      this.#isPending = false
      if (!this.#stop.signal.aborted) this.#tell()
    })
  }

  #tell(): void {
    const nowMs = Date.now()
    const voidKeys = [...this.#options.replica.database.members.voidKeys()]
    this.#tellAgainAt(
      voidKeys.reduce(
        (next, { revokedAtUnixMs: at }) => (at > nowMs && at < next ? at : next),
        Infinity,
      ),
      nowMs,
    )
    const inForce = inForceAt(voidKeys, nowMs)
    if (inForce.length === 0) return
    for (const listener of this.#listeners) listener()
    this.#publish(inForce)
    const users = inForce
      .filter(({ busKey, revokedAtUnixMs: at }) => busKey !== '' && at > nowMs - BUS_REFUSED_FOR_MS)
      .map(({ busKey }) => busKey)
    this.#refuse([...new Set(users)].slice(0, BUS_REFUSED_MAX))
  }

  /** Some keys become void only later. */
  #tellAgainAt(atMs: number, nowMs: number): void {
    clearTimeout(this.#timer)
    if (atMs === Infinity) return
    this.#timer = setTimeout(() => this.#tell(), Math.min(atMs - nowMs + 1, TIMER_MAX_MS))
    this.#timer.unref()
  }

  #publish(inForce: readonly VoidKey[]): void {
    const { bus, replicaId, events } = this.#options
    const { number, keys, statement } = this.#statement(inForce)
    const subject = busEvents.keyRevoked.subject(replicaId, number)
    bus.publish(subject, Signed, statement)
    if (keys > BRIEF_MAX) {
      const brief = hostsFirst(inForce).slice(0, BRIEF_MAX)
      bus.publish(subject, Signed, this.#statement(brief).statement)
    }
    events.revocationsTold(keys, number)
    // On disk without waiting for the next look: it is what a store that comes from a backup does not know.
    this.#isStale = true
    this.#keep()
  }

  #statement(inForce: readonly VoidKey[]): { number: bigint; keys: number; statement: Signed } {
    const { directoryKey, replica } = this.#options
    // Grows with every write: whoever has a statement of a later revision knows at least as much.
    const number = replica.database.revision
    const keys = inForce.slice(0, TOLD_MAX).map(({ identityKey, hostId, revokedAtUnixMs }) => ({
      identityKey,
      hostId,
      revokedAtUnixMs: BigInt(revokedAtUnixMs),
    }))
    const payload = Revocations.encode({ number, keys }).finish()
    const statement = signStatement('revocations', payload, directoryKey)
    return { number, keys: keys.length, statement }
  }

  /** Has the newest statement written to disk, if the VN database went on since the last one. */
  #keep(): void {
    const { replica } = this.#options
    const { members, revision } = replica.database
    if (this.#keeping || replica.lost) return
    if (revision <= this.#keptRevision && !this.#isStale) return
    this.#isStale = false
    const { number, statement } = this.#statement(inForceAt([...members.voidKeys()], Date.now()))
    this.#keeping = this.#write(number, statement)
  }

  async #write(number: bigint, statement: Signed): Promise<void> {
    const { events, lastKnown } = this.#options
    try {
      await lastKnown.write(statement)
      this.#keptRevision = number
    } catch (error) {
      this.#isStale = true
      events.lastKnownNotKept(asWeftError(error))
    } finally {
      this.#keeping = undefined
    }
  }

  #refuse(users: readonly string[]): void {
    if (!isSame(users, this.#wanted)) this.#hasToRefuse = true
    this.#wanted = users
    this.#refusing ??= this.#refuseAll().finally(() => {
      this.#refusing = undefined
    })
  }

  /** Until the bus refuses all that it has to. */
  async #refuseAll(): Promise<void> {
    const { busAdmin, events } = this.#options
    const { signal } = this.#stop
    let failures = 0
    while (this.#hasToRefuse && !signal.aborted) {
      this.#hasToRefuse = false
      try {
        await busAdmin.refuse(this.#wanted)
        failures = 0
      } catch (error) {
        this.#hasToRefuse = true
        events.busUsersNotRefused(asWeftError(error))
        const backoffMs = Math.random() * Math.min(RETRY_MAX_MS, 50 * 2 ** ++failures)
        await delay(backoffMs, undefined, { signal }).catch(() => undefined)
      }
    }
  }
}

/**
 * Those that are void by now and may matter to somebody, the newest first; what a host only replaced comes last, since hosts do
 * that by themselves and nobody may be pushed out by it who was revoked.
 */
function inForceAt(voidKeys: readonly VoidKey[], nowMs: number): VoidKey[] {
  return voidKeys
    .filter(({ revokedAtUnixMs: at }) => at <= nowMs && at > nowMs - VOID_KEY_LIFE_MS)
    .sort(
      (a, b) =>
        Number(a.isReplaced ?? false) - Number(b.isReplaced ?? false) ||
        b.revokedAtUnixMs - a.revokedAtUnixMs,
    )
}

/** Hosts are the ones whom hosts talk to. */
function hostsFirst(voidKeys: readonly VoidKey[]): VoidKey[] {
  return [
    ...voidKeys.filter(({ hostId }) => hostId !== 0),
    ...voidKeys.filter(({ hostId }) => hostId === 0),
  ]
}

function isRevocation(change: Change): boolean {
  if (change.kind === 'revokedKey') return change.after !== undefined
  if (change.kind !== 'host') return false
  return change.after !== undefined && change.after.revokedAtUnixMs !== 0n
}

/** Whether both name the same, in any order; neither names one twice. */
function isSame(some: readonly string[], others: readonly string[]): boolean {
  const known = new Set(some)
  return some.length === others.length && others.every((one) => known.has(one))
}
