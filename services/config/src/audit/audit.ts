import { createHash } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { AuditUnavailableError, OverloadedError } from '@weft/errors'
import { AuditPhase } from '@weft/proto/weftline/audit/v1/audit.ts'
import type { Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import { AuditChain, auditTexts, type EntryFacts, entryFacts } from '../domain/audit-chain.ts'
import type { AuditCopy, CopyRecord } from './copy.ts'
import { type CountedDenial, type Denial, Denials } from './denials.ts'
import { type AuditEvents, messageOf } from './events.ts'

/** Intents that wait to be written; more are refused. */
export const INTENTS_MAX = 1_000
/**
 * Intents that were accepted and whose outcome is not written yet, waiting ones among them. It bounds the outcomes that
 * wait while a copy cannot be written: 4,096 of at most 1.4 KiB, 5.6 MiB.
 */
const UNFINISHED_MAX = 4_096
/** Entries that are written together: 512 of at most 1.4 KiB, 0.7 MiB. */
const BATCH_MAX = 512
/** How long a write is tried before the actions that wait for it are refused. */
const PATIENCE_MS = 500
/** The same for a copy that does not answer at all; longer than a slow disk takes. */
const SILENCE_MS = 2_000
const RETRY_MIN_MS = 10
const RETRY_MAX_MS = 1_000
/** A stopping writer tries this long to write what is left. */
const STOP_MS = 3_000
/** How often it is looked whether a head, denials or counts are due. */
const TICK_MS = 1_000
/** A head is signed this long after the first entry that it is the first to cover: with a tick and a write, less than 10 s. */
const HEAD_AFTER_MS = 5_000
/** How often it is looked how full the copies are. */
const FILL_INTERVAL_MS = 10_000
/** From here on somebody has to make room, and what is left is for those who run the domain. */
const FILL_ALARM_RATIO = 0.8
/** From here on denials of callers who are nobody are only counted: whoever is outside has no part in the rest. */
const FILL_FOR_NOBODY_RATIO = 0.5
/** What is only counted is written this often, by action. */
const COUNTS_INTERVAL_MS = 600_000
const COUNTED_ACTIONS_MAX = 64

/** An action of somebody. Texts are cut at `auditLimits`. */
export interface AuditedAction {
  /** Identity of the caller as URI; empty for somebody unknown. */
  readonly who: string
  /** Address of the caller. */
  readonly from: string
  /** Full method name. */
  readonly action: string
  /** For example `network default/blue`. */
  readonly object: string
  /** Name of the object's tenant, empty for what belongs to the domain. */
  readonly tenant: string
  /** The reason that the caller gave. */
  readonly reason?: string
}

/** An action that may be done now. Its outcome is told once, by either function. */
export interface Intent {
  /** Revisions of the object: 0 before it is there; both 0 if it was not written. */
  done(revisions: { readonly revisionBefore: bigint; readonly revisionAfter: bigint }): void
  /** `code`: that of the error; with `deadline-exceeded` and `unknown-outcome` it may have been done. */
  failed(code: string): void
}

export interface AuditOptions {
  /** Names the chain; nobody else ever writes under it. A token of a key, up to 104 characters. */
  readonly writer: string
  readonly copies: readonly AuditCopy[]
  /** Signs an encoded `Head` with purpose `audit-head`. */
  readonly signHead: (head: Uint8Array) => Signed
  readonly events: AuditEvents
  readonly nowUnixMs?: () => number
  readonly tickMs?: number
  readonly headAfterMs?: number
}

/** An entry that waits to be written. */
interface Item {
  readonly facts: EntryFacts
  /** Of an intent that its action waits for. */
  waiting?: Waiting | undefined
  readonly isOutcome: boolean
}

interface Waiting {
  readonly action: AuditedAction
  readonly resolve: (intent: Intent) => void
  readonly reject: (error: Error) => void
}

/**
 * The audit log of this replica: a chain of its own in two copies. A privileged action is done only after both have its
 * intent; what waits is written together. Whatever was given a number is kept: a copy that fails gets the same entries again
 * until it has them, and meanwhile every intent is refused.
 */
export class Audit implements AsyncDisposable {
  readonly #options: AuditOptions
  readonly #nowUnixMs: () => number
  readonly #chain: AuditChain
  readonly #denials: Denials = new Denials()
  readonly #counts = new Map<string, number>()
  #countedSinceMs = performance.now()
  readonly #timer: NodeJS.Timeout
  readonly #unobserve: () => void
  readonly #givenUp = new AbortController()

  readonly #queue: Item[] = []
  #batch: readonly Item[] = []
  /** Intents among both. */
  #waitingCount = 0
  #unfinishedCount = 0
  #running: Promise<void> | undefined
  /** Why intents are refused. */
  #problem: string | undefined
  #isStopping = false
  #fillRatio: number | undefined
  #filledAtMs = Number.NEGATIVE_INFINITY
  /** When the first entry was written that no head covers. */
  #unsignedSinceMs: number | undefined
  /** At first for the head of the empty chain: by it the chain is known from its first entry on. */
  #isHeadDue = true

  constructor(options: AuditOptions) {
    this.#options = options
    this.#nowUnixMs = options.nowUnixMs ?? Date.now
    this.#chain = new AuditChain(options.writer, sha256)
    this.#timer = setInterval(() => this.#tick(), options.tickMs ?? TICK_MS)
    this.#timer.unref()
    this.#unobserve = options.events.observe({
      queueDepth: () => this.#queue.length + this.#batch.length,
      isAvailable: () => this.#problem === undefined,
      bucketFill: () => this.#fillRatio,
    })
    options.events.chainStarted(options.writer)
    this.#kick()
  }

  get writer(): string {
    return this.#chain.writer
  }

  /** Whether a copy is nearly full. */
  get isNearlyFull(): boolean {
    return this.#fillRatio !== undefined && this.#fillRatio >= FILL_ALARM_RATIO
  }

  /**
   * Resolves when both copies say what is going to be done. Rejects with `AuditUnavailableError` if one of them cannot be
   * written and with `OverloadedError` if too much waits: then the action must not be done.
   */
  intent(action: AuditedAction): Promise<Intent> {
    const problem = this.#isStopping ? STOPPING : this.#problem
    if (problem !== undefined) {
      this.#options.events.refused('unavailable')
      return Promise.reject(unavailable(action, problem))
    }
    if (this.#waitingCount >= INTENTS_MAX || this.#unfinishedCount >= UNFINISHED_MAX) {
      this.#options.events.refused('overloaded')
      const limit = this.#waitingCount >= INTENTS_MAX ? INTENTS_MAX : UNFINISHED_MAX
      return Promise.reject(new OverloadedError({ what: 'the audit log', limit }))
    }
    const { promise, resolve, reject } = Promise.withResolvers<Intent>()
    const phase = AuditPhase.AUDIT_PHASE_INTENT
    const facts = entryFacts({ ...action, phase, atUnixMs: this.#nowUnixMs() })
    this.#waitingCount++
    this.#unfinishedCount++
    this.#enqueue({ facts, waiting: { action, resolve, reject }, isOutcome: false })
    return promise
  }

  /** Counts a denial, and writes it down soon. */
  denied(denial: Denial): void {
    if (this.#denials.add({ ...denial, ...auditTexts(denial) })) this.#takeDenials()
  }

  /** Counts what is too frequent for entries and gives nobody a new right; one entry tells of all within ten minutes. */
  counted(action: string): void {
    const count = this.#counts.get(action)
    if (count === undefined && this.#counts.size >= COUNTED_ACTIONS_MAX) return
    this.#counts.set(action, (count ?? 0) + 1)
  }

  /** Writes what is left, and the last head, unless a copy fails for `STOP_MS`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isStopping = true
    clearInterval(this.#timer)
    for (const denial of this.#denials.takeAll()) this.#enqueueDenial(denial)
    this.#takeCounts()
    this.#isHeadDue = true
    this.#kick()
    const timer = setTimeout(() => this.#givenUp.abort(), STOP_MS)
    await Promise.race([this.#running, aborted(this.#givenUp.signal)])
    clearTimeout(timer)
    this.#unobserve()
    if (this.#givenUp.signal.aborted) {
      const count = this.#queue.length + this.#batch.length
      this.#refuse(this.#problem ?? STOPPING)
      this.#options.events.endedUnwritten(count, this.#problem ?? '')
    }
    await Promise.all(this.#options.copies.map((copy) => copy[Symbol.asyncDispose]()))
  }

  #enqueue(item: Item): void {
    this.#queue.push(item)
    this.#kick()
  }

  #kick(): void {
    if (this.#queue.length > 0 || this.#isHeadDue) this.#running ??= this.#drain()
  }

  async #drain(): Promise<void> {
    try {
      while (!this.#givenUp.signal.aborted) {
        if (this.#queue.length > 0) await this.#writeEntries()
        else if (this.#isHeadDue) await this.#writeHead()
        else break
      }
    } catch (error) {
      if (!this.#givenUp.signal.aborted) throw error
    } finally {
      this.#running = undefined
    }
  }

  async #writeEntries(): Promise<void> {
    this.#batch = this.#queue.splice(0, BATCH_MAX)
    const entries = this.#batch.map((item) => ({ item, ...this.#chain.append(item.facts) }))
    await this.#keep(
      entries.map(({ number, bytes }) => ({
        number,
        record: { kind: { $case: 'entry', value: Buffer.from(bytes) } },
      })),
    )
    this.#batch = []
    this.#unsignedSinceMs ??= performance.now()
    for (const { item, number } of entries) {
      if (item.isOutcome) this.#unfinishedCount--
      const isIntent = item.facts.phase === AuditPhase.AUDIT_PHASE_INTENT
      if (!isIntent) continue
      const intent = this.#intent(number, item.facts)
      if (item.waiting) {
        this.#waitingCount--
        item.waiting.resolve(intent)
      } else {
        // It was refused while it was being written.
        intent.failed('audit-unavailable')
      }
    }
    this.#options.events.entriesWritten(entries.map(({ item }) => item.facts.phase))
  }

  async #writeHead(): Promise<void> {
    this.#isHeadDue = false
    let value: Signed
    try {
      value = this.#options.signHead(this.#chain.head(this.#nowUnixMs()))
    } catch (error) {
      this.#unsignedSinceMs ??= performance.now()
      this.#options.events.headNotSigned(error)
      return
    }
    // After its entries are in both copies, so that a head in one copy vouches for what is in the other.
    await this.#keep([{ number: undefined, record: { kind: { $case: 'head', value } } }])
    this.#unsignedSinceMs = undefined
  }

  /** Resolves when every copy has the records, however long that takes; rejects when the stop's time is over. */
  async #keep(records: readonly CopyRecord[]): Promise<void> {
    const { copies, events } = this.#options
    const behind = new Set(copies)
    const startedAtMs = performance.now()
    const silence = setTimeout(() => {
      const names = [...behind].map(({ name }) => name).join(', ')
      this.#refuse(`${names} does not answer`)
    }, SILENCE_MS)
    try {
      for (let attempt = 1; ; attempt++) {
        const problems: string[] = []
        const appending = [...behind].map(async (copy) => {
          try {
            await copy.append(records)
            behind.delete(copy)
          } catch (error) {
            problems.push(`${copy.name}: ${messageOf(error)}`)
            events.writeFailed(copy.name, copy.kind, error)
          }
        })
        await Promise.all(appending)
        if (problems.length === 0) break
        const isLate = performance.now() - startedAtMs > PATIENCE_MS
        if (isLate || this.#isStopping) this.#refuse(problems.join('; '))
        await delay(backoffMs(attempt), undefined, { signal: this.#givenUp.signal })
      }
    } finally {
      clearTimeout(silence)
    }
    if (this.#problem !== undefined) {
      this.#problem = undefined
      events.becameAvailable()
    }
  }

  /** Refuses what waits, and what comes, until the entries at hand are kept. */
  #refuse(problem: string): void {
    const { events } = this.#options
    if (this.#problem === undefined) events.becameUnavailable(problem)
    this.#problem = problem
    const refuse = (item: Item): void => {
      if (!item.waiting) return
      events.refused('unavailable')
      item.waiting.reject(unavailable(item.waiting.action, problem))
      item.waiting = undefined
      this.#waitingCount--
    }
    for (const item of this.#batch) refuse(item)
    // These have no number yet: nobody will ever hear of them.
    const kept = this.#queue.filter(({ waiting }) => !waiting)
    this.#unfinishedCount -= this.#queue.length - kept.length
    for (const item of this.#queue) refuse(item)
    this.#queue.splice(0, this.#queue.length, ...kept)
  }

  #intent(number: bigint, facts: EntryFacts): Intent {
    let isFinished = false
    const finish = (outcome: Partial<EntryFacts>): void => {
      if (isFinished) return
      isFinished = true
      const atUnixMs = this.#nowUnixMs()
      const told = entryFacts({ ...facts, ...outcome, intent: number, atUnixMs })
      this.#enqueue({ facts: told, isOutcome: true })
    }
    return {
      done: (revisions) => finish({ ...revisions, phase: AuditPhase.AUDIT_PHASE_DONE }),
      failed: (code) => finish({ reason: code, phase: AuditPhase.AUDIT_PHASE_FAILED }),
    }
  }

  #tick(): void {
    const nowMs = performance.now()
    this.#takeDenials()
    if (nowMs - this.#filledAtMs >= FILL_INTERVAL_MS) {
      this.#filledAtMs = nowMs
      void this.#lookAtFill()
    }
    if (nowMs - this.#countedSinceMs >= COUNTS_INTERVAL_MS) this.#takeCounts()
    const headAfterMs = this.#options.headAfterMs ?? HEAD_AFTER_MS
    const unsignedSinceMs = this.#unsignedSinceMs ?? Number.POSITIVE_INFINITY
    if (nowMs - unsignedSinceMs >= headAfterMs) this.#isHeadDue = true
    this.#kick()
  }

  async #lookAtFill(): Promise<void> {
    const { copies, events } = this.#options
    for (const copy of copies) {
      // Whether it can be reached at all is told by those who write.
      const fill = await copy.fill?.().catch(() => undefined)
      if (!fill) continue
      this.#fillRatio = fill.sizeBytes / fill.sizeMaxBytes
      if (this.#fillRatio >= FILL_ALARM_RATIO) {
        events.bucketFillsUp(fill.sizeBytes, fill.sizeMaxBytes)
      }
    }
  }

  /** While the log cannot be written, or is nearly full, they are only counted on: anybody can be denied. */
  #takeDenials(): void {
    if (this.#problem !== undefined || this.#isStopping || this.isNearlyFull) return
    const roomForNobody = (this.#fillRatio ?? 0) < FILL_FOR_NOBODY_RATIO
    for (const denial of this.#denials.take(performance.now(), { roomForNobody })) {
      this.#enqueueDenial(denial)
    }
  }

  #enqueueDenial(denial: CountedDenial): void {
    const phase = AuditPhase.AUDIT_PHASE_DENIED
    const facts = entryFacts({ ...denial, phase, atUnixMs: this.#nowUnixMs() })
    this.#enqueue({ facts, isOutcome: false })
  }

  #takeCounts(): void {
    if (this.#problem !== undefined) return
    this.#countedSinceMs = performance.now()
    const phase = AuditPhase.AUDIT_PHASE_DONE
    const atUnixMs = this.#nowUnixMs()
    for (const [action, count] of this.#counts) {
      const object = 'all within ten minutes'
      this.#enqueue({
        facts: entryFacts({ phase, atUnixMs, action, object, count }),
        isOutcome: false,
      })
    }
    this.#counts.clear()
  }
}

const STOPPING = 'this replica is stopping'

function unavailable({ action }: AuditedAction, problem: string): AuditUnavailableError {
  const what = auditTexts({ action: action.slice(action.lastIndexOf('/') + 1) }).action
  return new AuditUnavailableError({ what, problem })
}

function sha256(bytes: Uint8Array): Uint8Array {
  return createHash('sha256').update(bytes).digest()
}

/** Full jitter. */
function backoffMs(attempt: number): number {
  return Math.random() * Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** attempt)
}

async function aborted(signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  signal.addEventListener('abort', () => resolve(), { once: true })
  await promise
}
