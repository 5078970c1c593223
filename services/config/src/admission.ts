import { OverloadedError, type TokenRefusal, TokenRefusedError, WeftError } from '@weft/errors'
import { Attempts } from './domain/attempts.ts'

/** Enrolments that are worked on at once: what they cost is signatures, on one core. */
const AT_ONCE_MAX = 32
/** More wait, up to this many; beyond it they are refused and try again. */
const WAITING_MAX = 1_000
const RETRY_AFTER_MS = 500
/** What somebody does wrong who knows no secret and has no key. Whoever knows one is only late, or mistaken. */
const FAILURES: ReadonlySet<string> = new Set([
  'statement-refused',
  'host-not-found',
  'user-not-found',
])
const TOKEN_FAILURES: ReadonlySet<TokenRefusal> = new Set([
  'not-a-token',
  'cut',
  'too-long',
  'other-version',
  'other-purpose',
  'unknown',
])

/** Waits for what may be on its way here, unless too many do, or the same address has failed too often. */
export type Lateness = (wait: () => Promise<void>) => Promise<void>

/** Those that wait for what another replica has written; more are answered by what is known here. */
const LATE_MAX = 64

/** What somebody proved before any work is done. */
export interface Proven {
  /** Whose key was named where no secret was shown, as `host/7`: it is no secret, and only a signature that it made counts. */
  readonly named: string | undefined
}

/**
 * Keeps those whom nobody knows yet from taking more than their part. Who fails again and again is told less and waited for no
 * more, and nobody else is: whoever knows a secret is served beside them, behind the same address too, and so is whoever names
 * the key of a member, unless that key was named there for nothing again and again.
 */
export class Admission {
  readonly #attempts = new Attempts()
  /** Of those who named the key of a member and did not have it, by member. */
  readonly #keyAttempts = new Attempts()
  readonly #waiting: (() => void)[] = []
  #count = 0
  #lateCount = 0

  /**
   * Has somebody at an address prove to know something, which has to cost next to nothing, and then does the work when it is its
   * turn. Throws `OverloadedError` if there is no place, or in place of whatever speaks against somebody who has failed often.
   */
  async run<P extends Proven, T>(
    address: string,
    prove: (lateness: Lateness) => P | Promise<P>,
    work: (proven: P) => Promise<T>,
  ): Promise<T> {
    let named: string | undefined
    try {
      const proven = await prove((wait) => this.#late(address, wait))
      named = proven.named
      if (named !== undefined) this.#checkKeyAttempts(address, named)
      return await this.#inTurn(() => work(proven))
    } catch (error) {
      if (!isFailure(error)) throw error
      const now = performance.now()
      if (named !== undefined) this.#keyAttempts.failed(named, now)
      const retryAfterMs = this.#attempts.waitMs(address, now)
      if (retryAfterMs > 0) throw tooOften(retryAfterMs)
      this.#attempts.failed(address, now)
      throw error
    }
  }

  /** Throws if both the address and those who named the key have failed too often: a turn and a look at a signature cost more. */
  #checkKeyAttempts(address: string, named: string): void {
    const now = performance.now()
    const retryAfterMs = Math.min(
      this.#attempts.waitMs(address, now),
      this.#keyAttempts.waitMs(named, now),
    )
    if (retryAfterMs > 0) throw tooOften(retryAfterMs)
  }

  async #late(address: string, wait: () => Promise<void>): Promise<void> {
    const isTrying = this.#attempts.waitMs(address, performance.now()) > 0
    if (isTrying || this.#lateCount >= LATE_MAX) return
    this.#lateCount++
    try {
      await wait()
    } finally {
      this.#lateCount--
    }
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    if (this.#count >= AT_ONCE_MAX) await this.#turn()
    else this.#count++
    try {
      return await work()
    } finally {
      const next = this.#waiting.shift()
      if (next) next()
      else this.#count--
    }
  }

  /** Takes over the place of somebody who is done. */
  #turn(): Promise<void> {
    if (this.#waiting.length >= WAITING_MAX) {
      throw new OverloadedError({
        what: 'enrolment',
        limit: WAITING_MAX,
        retryAfterMs: RETRY_AFTER_MS,
      })
    }
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#waiting.push(resolve)
    return promise
  }
}

function tooOften(retryAfterMs: number): OverloadedError {
  return new OverloadedError({ what: 'enrolment from your address', limit: 1, retryAfterMs })
}

function isFailure(error: unknown): boolean {
  return error instanceof TokenRefusedError
    ? TOKEN_FAILURES.has(error.reason)
    : error instanceof WeftError && FAILURES.has(error.code)
}
