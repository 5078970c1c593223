import { median } from './result.ts'

/** A way to join two containers, and how its figures are taken. */
export interface Contender<Sample> {
  readonly name: string
  readonly measure: () => Promise<Sample>
}

export interface Rounds {
  /** Rounds of which the medians are taken. */
  readonly runs: number
  /** Ends a comparison before its next measurement. */
  readonly signal: AbortSignal
}

/**
 * Measures every contender once, then all of them again, so that what else happens on the machine meets them alike; each round
 * begins with another one, so that nobody always comes after the same. Returns the samples of each by name.
 */
export async function interleaved<Sample>(
  contenders: readonly Contender<Sample>[],
  { runs, signal }: Rounds,
): Promise<Record<string, readonly Sample[]>> {
  const rows = contenders.map((contender) => ({ ...contender, samples: new Array<Sample>() }))
  for (let round = 0; round < runs; round++) {
    const first = round % Math.max(1, rows.length)
    for (const { measure, samples } of [...rows.slice(first), ...rows.slice(0, first)]) {
      signal.throwIfAborted()
      samples.push(await measure())
    }
  }
  return Object.fromEntries(rows.map(({ name, samples }) => [name, samples]))
}

/** The median of one figure of the samples, by name. */
export function mediansOf<Sample>(
  samples: Readonly<Record<string, readonly Sample[]>>,
  figure: (sample: Sample) => number,
): Record<string, number> {
  return Object.fromEntries(
    Object.entries(samples).map(([name, row]) => [name, median(row.map((one) => figure(one)))]),
  )
}
