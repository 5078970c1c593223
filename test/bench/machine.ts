import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { cpus, loadavg, release, totalmem } from 'node:os'
import { ROOT } from '../check/repository.ts'

/** Where and of what a figure was measured. */
export interface Machine {
  readonly processor: string
  readonly cores: number
  readonly memoryGib: number
  readonly kernel: string
  /** TCP's congestion control; it decides much of what a stream reaches. */
  readonly tcp: string
  readonly node: string
  /** With `+` where the clone differs from it. */
  readonly commit: string
  readonly date: string
  /** Programs that ran or waited for a core in the minute before; figures beside 1 or more are of a busy machine. */
  readonly load: number
}

export function describeMachine(tcp: string): Machine {
  const all = cpus()
  const git = (...words: string[]): string =>
    execFileSync('git', words, { cwd: ROOT, encoding: 'utf8' }).trim()
  const isChanged = git('status', '--porcelain') !== ''
  return {
    processor: all[0]?.model ?? 'unknown',
    cores: all.length,
    memoryGib: Math.round(totalmem() / 1024 ** 3),
    kernel: release(),
    tcp,
    node: process.version,
    commit: git('rev-parse', '--short', 'HEAD') + (isChanged ? '+' : ''),
    date: new Date().toISOString().slice(0, 10),
    load: Number(loadavg()[0]?.toFixed(1)),
  }
}

/** Kinds of congestion control that this kernel has; the one that it uses unless told otherwise first. */
export function congestionControls(): readonly string[] {
  const read = (name: string): string[] =>
    readFileSync(`/proc/sys/net/ipv4/${name}`, 'utf8').trim().split(' ')
  const all = [...read('tcp_congestion_control'), ...read('tcp_available_congestion_control')]
  return [...new Set(all)]
}

/** Ticks of /proc/stat in a second (`USER_HZ`, the same on every architecture that we run on). */
const TICKS_PER_SECOND = 100

/** Time that the cores of the machine together have not been idle since it booted: programs, kernel threads and interrupts. */
export function busyCpuSeconds(): number {
  const [line = ''] = readFileSync('/proc/stat', 'utf8').split('\n')
  // proc_stat(5): user, nice, system, idle, iowait, irq, softirq; user has the time of guests in it already.
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = line
    .trim()
    .split(/\s+/)
    .slice(1)
    .map(Number)
  return (user + nice + system + irq + softirq) / TICKS_PER_SECOND
}
