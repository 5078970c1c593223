import { sourceOf } from '@weft/net'

/** What an attempt costs that fails, of a credit that time gives back … */
const FAILURE_MS = 3_000
/** … and that is enough for 20 of them at once. */
const CREDIT_MAX_MS = 20 * FAILURE_MS
/** Sources that are remembered; beyond them the one that failed longest ago is forgotten. */
export const SOURCES_MAX = 4_096

interface Source {
  readonly creditMs: number
  readonly atMs: number
}

/**
 * Counts failed attempts by source, so that nobody tries many secrets or makes us verify for nothing. Who makes no
 * mistakes is never slowed down: a whole fleet may join from behind one address.
 */
export class Attempts {
  readonly #sources = new Map<string, Source>()

  /** Milliseconds until the source is served again; 0 if it is. `nowMs` by a clock that never goes back. */
  waitMs(address: string, nowMs: number): number {
    const source = this.#sources.get(sourceOf(hostOf(address)))
    if (!source) return 0
    return Math.ceil(Math.max(0, FAILURE_MS - creditAt(source, nowMs)))
  }

  failed(address: string, nowMs: number): void {
    const key = sourceOf(hostOf(address))
    const source = this.#sources.get(key)
    const creditMs = source ? creditAt(source, nowMs) : CREDIT_MAX_MS
    this.#sources.delete(key)
    this.#sources.set(key, { creditMs: Math.max(0, creditMs - FAILURE_MS), atMs: nowMs })
    if (this.#sources.size <= SOURCES_MAX) return
    const oldest = this.#sources.keys().next()
    if (!oldest.done) this.#sources.delete(oldest.value)
  }

  get size(): number {
    return this.#sources.size
  }
}

function creditAt({ creditMs, atMs }: Source, nowMs: number): number {
  return Math.min(CREDIT_MAX_MS, creditMs + nowMs - atMs)
}

/** The address without its port. */
function hostOf(address: string): string {
  return address.replace(/:[0-9]+$/, '').replace(/^\[|\]$/g, '')
}
