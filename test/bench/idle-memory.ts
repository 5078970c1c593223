import type { BenchContext } from './context.ts'
import { judge, type Result } from './result.ts'

const IDLE_MS = 15_000
const MEBIBYTE = 1024 ** 2

/** Resident memory of each process of ours, once it has had nothing to do for a while. */
export async function idleMemory({ lab }: BenchContext): Promise<Result[]> {
  await new Promise((resolve) => setTimeout(resolve, IDLE_MS))
  return OURS.map(([name, limit]) =>
    judge(
      {
        bench: `idle memory: ${name}`,
        unit: 'MiB',
        ours: lab.residentBytes(name) / MEBIBYTE,
        samples: 1,
      },
      { kind: 'at-most', value: limit },
    ),
  )
}

const OURS = [
  ['shuttle@alpha', 16],
  ['forwarder@alpha', 100],
  ['config', 100],
  ['location-resolver', 100],
  ['routing-policy', 100],
] as const
