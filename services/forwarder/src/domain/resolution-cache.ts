import type { ErrorInfo } from '@weft/errors'
import { BoundedMap } from './bounded-map.ts'
import type { CacheStatus } from './cache-status.ts'

/** How location-resolver answered for a pair of endpoints. */
export type Resolution =
  | {
      readonly kind: 'joined'
      readonly mechanism: 'same-host' | 'direct'
      readonly carrier: 'none' | 'vxlan' | 'sealed'
      readonly targetHostId: number
      readonly targetEpoch: bigint
    }
  | { readonly kind: 'error'; readonly error: ErrorInfo }

/** A resolution with when it was given, on which state, and for how long it may be used. */
export interface GivenResolution {
  readonly resolution: Resolution
  readonly locationRevision: bigint
  readonly configRevision: bigint
  readonly givenAtMs: number
  readonly horizonMs: number
}

/** Sum: 65,536 entries of some 300 bytes are 20 MB at most. */
const ENTRIES_MAX = 65_536

/** How long a refusal or an error is taken for granted, in milliseconds: its cause may be gone any moment. */
const NEGATIVE_HORIZON_MS = 1_000

/** Answers of location-resolver by pair of endpoints. Where an endpoint is decides all that is in an answer, so a move drops it. */
export class ResolutionCache {
  readonly #entries: BoundedMap<string, GivenResolution>
  readonly #keysByEndpoint: Map<number, Set<string>> = new Map()
  #hits = 0
  #misses = 0
  #staleAnswers = 0
  #revision = 0n
  #horizonMs = 0

  constructor(entriesMax: number = ENTRIES_MAX) {
    this.#entries = new BoundedMap(entriesMax, (key) => this.#unindex(key))
  }

  get(sourceId: number, targetId: number, nowMs: number): GivenResolution | undefined {
    const given = this.#entries.get(pairKey(sourceId, targetId))
    if (given && nowMs - given.givenAtMs <= given.horizonMs) {
      this.#hits++
      return given
    }
    this.#misses++
    return undefined
  }

  put(sourceId: number, targetId: number, given: GivenResolution): void {
    const key = pairKey(sourceId, targetId)
    const horizonMs =
      given.resolution.kind === 'error'
        ? Math.min(given.horizonMs, NEGATIVE_HORIZON_MS)
        : given.horizonMs
    this.#entries.set(key, { ...given, horizonMs })
    for (const id of [sourceId, targetId]) {
      const keys = this.#keysByEndpoint.get(id)
      if (keys) keys.add(key)
      else this.#keysByEndpoint.set(id, new Set([key]))
    }
    if (given.locationRevision > this.#revision) this.#revision = given.locationRevision
    this.#horizonMs = given.horizonMs
  }

  /** The endpoint came, went or moved. */
  dropEndpoint(endpointId: number): void {
    for (const key of [...(this.#keysByEndpoint.get(endpointId) ?? [])]) {
      this.#entries.delete(key)
      this.#unindex(key)
    }
  }

  /** Something on which many answers lean changed, or changes may have been missed. */
  clear(): void {
    this.#entries.clear()
    this.#keysByEndpoint.clear()
  }

  countStaleAnswer(): void {
    this.#staleAnswers++
  }

  status(nowMs: number): CacheStatus {
    let oldest = nowMs
    for (const [, { givenAtMs }] of this.#entries) oldest = Math.min(oldest, givenAtMs)
    return {
      entries: this.#entries.size,
      revision: this.#revision,
      oldestAgeMs: nowMs - oldest,
      horizonMs: this.#horizonMs,
      hits: this.#hits,
      misses: this.#misses,
      staleAnswers: this.#staleAnswers,
    }
  }

  #unindex(key: string): void {
    for (const id of key.split(' ').map(Number)) {
      const keys = this.#keysByEndpoint.get(id)
      keys?.delete(key)
      if (keys?.size === 0) this.#keysByEndpoint.delete(id)
    }
  }
}

/** A key for the pair; the order matters. */
export function pairKey(sourceId: number, targetId: number): string {
  return `${sourceId} ${targetId}`
}
