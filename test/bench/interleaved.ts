import { median } from './result.ts'

/** A way to join two containers, and how its figure is taken. */
export interface Contender {
  readonly name: string
  readonly measure: () => Promise<number>
}

/**
 * Measures every contender once, then all of them again, so that what else happens on the machine meets them alike.
 * Returns the median of each by name.
 */
export async function interleaved(
  contenders: readonly Contender[],
  runs: number,
): Promise<Record<string, number>> {
  const figures = contenders.map(({ name }) => ({ name, values: new Array<number>() }))
  for (let round = 0; round < runs; round++) {
    for (const [index, { measure }] of contenders.entries()) {
      figures[index]?.values.push(await measure())
    }
  }
  return Object.fromEntries(figures.map(({ name, values }) => [name, median(values)]))
}
