import { X509Certificate } from 'node:crypto'
import { uptime } from 'node:os'
import { publicKeyOf } from '@weft/identity'
import type { HostRows, RowsTouched } from './domain/host-rows.ts'
import { RightsClock } from './domain/rights-clock.ts'
import type { Events } from './events.ts'
import { pause } from './loop.ts'
import type { Member } from './member.ts'
import { encodeClock } from './state.ts'
import type { StateFile } from './store.ts'

/** How often the end of rights is looked at when none is known to be nearer: clocks jump and machines sleep. */
const RIGHTS_LOOK_MS = 1_000
/** How often the time by which rights end is written to disk: a clock that is set back meanwhile, and a crash, gain this much. */
const CLOCK_WRITE_MS = 60_000

/** Has what this host may do end in time: with each row, with its own horizon, and with keys that become void. */
export class RightsKeeper {
  readonly #member: Member
  readonly #rows: HostRows
  readonly #clockFile: StateFile
  readonly #events: Events
  readonly #clock: RightsClock
  #newestSignedMs: number
  #trusted: { readonly signedMs: number; readonly atMs: number } | undefined

  constructor(options: {
    readonly member: Member
    readonly rows: HostRows
    readonly clockFile: StateFile
    /** The last time that is known to have come, in milliseconds since 1970; 0 for none. */
    readonly clockFloorMs: number
    readonly events: Events
  }) {
    this.#member = options.member
    this.#rows = options.rows
    this.#clockFile = options.clockFile
    this.#events = options.events
    this.#newestSignedMs = signedAtMs(this.#member)
    const floorMs = Math.max(options.clockFloorMs, this.#newestSignedMs)
    this.#clock = new RightsClock(floorMs, Date.now(), machineMs())
  }

  /** The time by which rights end, in milliseconds since 1970. */
  nowMs(): number {
    return this.#clock.at(Date.now(), machineMs())
  }

  /** Takes away the rows whose time is over. */
  expire(): readonly RowsTouched[] {
    const ended = this.#rows.expire(this.nowMs())
    if (ended.length > 0) this.#events.rightsEnded(ended.length)
    return ended
  }

  /** The certificate may be another one: the time at which it was signed has come. */
  noteCertificate(): void {
    const signedMs = signedAtMs(this.#member)
    this.#clock.noteSigned(signedMs)
    if (signedMs <= this.#newestSignedMs) return
    this.#newestSignedMs = signedMs
    this.#trusted = { signedMs, atMs: machineMs() }
  }

  /**
   * The time by the control plane, which the clock of this machine has no part in: when it signed the last certificate that came
   * meanwhile, and what has passed since. Some minutes behind, for certificates begin before they are issued. Undefined until one
   * has come: how old one is that was there at the start nobody can tell.
   */
  trustedMs(): number | undefined {
    return this.#trusted && this.#trusted.signedMs + machineMs() - this.#trusted.atMs
  }

  /** Keys have become void: takes away the peers that had them. */
  reviewRevocations(): readonly RowsTouched[] {
    this.noteSelf()
    const touched = this.#rows.reviewRevocations()
    const peers = touched.filter(({ kind }) => kind === 'peer').length
    if (peers > 0) this.#events.peersRevoked(peers)
    return touched
  }

  /** Says if the key of this host itself is void. */
  noteSelf(): void {
    const key = publicKeyOf(this.#member.identityKey)
    if (this.#member.isRevoked(key)) this.#events.selfRevoked()
  }

  /**
   * Takes away what ends, until the signal is aborted. `onEnded` is called with the rows that did, `onRanOut` when those that
   * were lost, and cannot say until when the kernel may go on by them, count no longer: this host's own horizon has come.
   */
  async run(
    {
      onEnded,
      onRanOut,
    }: {
      readonly onEnded: (touched: readonly RowsTouched[]) => void
      readonly onRanOut: () => void
    },
    signal: AbortSignal,
  ): Promise<void> {
    while (!signal.aborted) {
      const ended = this.expire()
      if (ended.length > 0) onEnded(ended)
      const horizonMs = this.#member.horizon?.getTime() ?? Infinity
      if (this.nowMs() >= horizonMs && this.#rows.runOut()) {
        this.#events.rightsEnded(0)
        onRanOut()
      }
      const leftMs = this.#rows.nextEndMs - this.nowMs()
      await pause(Math.max(1, Math.min(leftMs, RIGHTS_LOOK_MS)), signal)
    }
  }

  /** Keeps the time on disk until the signal is aborted. */
  async keepClock(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.nowMs()
      await this.#clockFile
        .write(encodeClock(this.#clock.floorMs))
        .catch((error: unknown) => this.#events.stateNotWritten(error))
      await pause(CLOCK_WRITE_MS, signal)
    }
  }
}

/** When the control plane signed the certificate. */
function signedAtMs({ tls }: Member): number {
  return new X509Certificate(tls.chainPem).validFromDate.getTime()
}

/** Time since the machine started, also while it slept; in milliseconds. */
function machineMs(): number {
  return uptime() * 1_000
}
