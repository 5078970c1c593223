/** How a cache of answers is. Ages and horizons in milliseconds. */
export interface CacheStatus {
  readonly entries: number
  readonly revision: bigint
  readonly oldestAgeMs: number
  readonly horizonMs: number
  readonly hits: number
  readonly misses: number
  /** Answered from this host's own tables because nobody could be asked. */
  readonly staleAnswers: number
}
