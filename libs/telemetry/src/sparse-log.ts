import type { Logger } from './log.ts'

/** Of a kind of event there is a line this often, and no more. */
const INTERVAL_MS = 1000

/**
 * Warns of what others may cause as often as they like: of each kind a line in a second, with how many there were since the last
 * one. The kinds are those of the program, never what somebody sends.
 */
export class SparseLog {
  readonly #log: Logger
  readonly #kinds = new Map<string, { count: number; loggedAtMs: number }>()

  constructor(log: Logger) {
    this.#log = log
  }

  warn(kind: string, facts: object, text: string): void {
    const nowMs = performance.now()
    const state = this.#kinds.get(kind) ?? { count: 0, loggedAtMs: -Infinity }
    this.#kinds.set(kind, state)
    state.count++
    if (nowMs - state.loggedAtMs < INTERVAL_MS) return
    this.#log.warn({ ...facts, count: state.count }, text)
    state.count = 0
    state.loggedAtMs = nowMs
  }
}
