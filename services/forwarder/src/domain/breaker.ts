export const Health = { Unknown: 'unknown', Ok: 'ok', Stale: 'stale' } as const
export type Health = (typeof Health)[keyof typeof Health]

/** How something that the host depends on is. */
export interface BreakerStatus {
  readonly health: Health
  /** Milliseconds since it last answered, or since the start if it never did. */
  readonly ageMs: number
  /** The last error; empty while it answers. */
  readonly error: string
}

/**
 * Whether something is worth asking: one failure opens the breaker and everybody is answered without it at once, until
 * it has answered a probe. While it never answered it may be asked.
 */
export class Breaker {
  readonly #startedAtMs: number
  #answeredAtMs: number | undefined
  #error = ''

  constructor(nowMs: number) {
    this.#startedAtMs = nowMs
  }

  get isClosed(): boolean {
    return this.#error === ''
  }

  /** It answered. Returns true if it did not before. */
  succeeded(nowMs: number): boolean {
    const recovered = !this.isClosed || this.#answeredAtMs === undefined
    this.#answeredAtMs = nowMs
    this.#error = ''
    return recovered
  }

  /** It did not answer. Returns true if it did before. */
  failed(error: string): boolean {
    const broke = this.isClosed
    this.#error = error || 'no answer'
    return broke
  }

  status(nowMs: number): BreakerStatus {
    const health =
      this.#answeredAtMs === undefined ? Health.Unknown : this.isClosed ? Health.Ok : Health.Stale
    return {
      health,
      ageMs: nowMs - (this.#answeredAtMs ?? this.#startedAtMs),
      error: this.#error,
    }
  }
}
