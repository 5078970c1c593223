/** What became of tests. */
export interface Counts {
  readonly passed: number
  readonly failed: number
  readonly skipped: number
}

export const NOTHING: Counts = { passed: 0, failed: 0, skipped: 0 }

export function addCounts(a: Counts, b: Counts): Counts {
  return {
    passed: a.passed + b.passed,
    failed: a.failed + b.failed,
    skipped: a.skipped + b.skipped,
  }
}

export function formatCounts({ passed, failed, skipped }: Counts): string {
  return `${passed} passed, ${failed} failed, ${skipped} skipped`
}

/** Adds up the lines `test result: ok. 3 passed; 0 failed; 1 ignored; …` of `cargo test`. */
export function countCargoTests(output: string): Counts {
  let counts = NOTHING
  for (const match of output.matchAll(
    /^test result: .*? (\d+) passed; (\d+) failed; (\d+) ignored/gm,
  )) {
    const [passed = 0, failed = 0, skipped = 0] = match.slice(1).map(Number)
    counts = addCounts(counts, { passed, failed, skipped })
  }
  return counts
}
