import { execFileSync } from 'node:child_process'
import { cpus, release, totalmem } from 'node:os'
import { ROOT } from '../check/repository.ts'

/** Where and of what a figure was measured. */
export interface Machine {
  readonly processor: string
  readonly cores: number
  readonly memoryGib: number
  readonly kernel: string
  readonly node: string
  /** With `+` where the clone differs from it. */
  readonly commit: string
  readonly date: string
}

export function describeMachine(): Machine {
  const all = cpus()
  const git = (...words: string[]): string =>
    execFileSync('git', words, { cwd: ROOT, encoding: 'utf8' }).trim()
  const isChanged = git('status', '--porcelain') !== ''
  return {
    processor: all[0]?.model ?? 'unknown',
    cores: all.length,
    memoryGib: Math.round(totalmem() / 1024 ** 3),
    kernel: release(),
    node: process.version,
    commit: git('rev-parse', '--short', 'HEAD') + (isChanged ? '+' : ''),
    date: new Date().toISOString().slice(0, 10),
  }
}
