import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { labFolder } from './plan.ts'
import type { ProcessOptions } from './processes.ts'

/**
 * What a lab has made, written before it is made: whoever comes after a crash finds here everything to remove, and
 * removes nothing else.
 */
export interface LabState {
  readonly name: string
  /** Built-in name or absolute path of its topology. */
  readonly topology: string
  readonly startedAtUnixMs: number
  readonly namespaces: readonly string[]
  /** Endpoints that were added to those of the topology. */
  readonly added: readonly AddedEndpoint[]
  /** The process that ends the lab when it ends; undefined for one that is left running by itself. */
  readonly owner: ProcessRef | undefined
  /** How its processes are started. */
  readonly options: ProcessOptions
}

export interface AddedEndpoint {
  readonly network: string
  readonly name: string
  readonly host: string
}

/** A process that cannot be mistaken for another one that got its number later. */
export interface ProcessRef {
  readonly pid: number
  /** Clock ticks after boot, field 22 of /proc/PID/stat. */
  readonly startTicks: number
}

export function stateFile(name: string): string {
  return join(labFolder(name), 'state.json')
}

export function readState(name: string): LabState | undefined {
  const file = stateFile(name)
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as LabState) : undefined
}

/** Replaces the state in one step. */
export function writeState(state: LabState): void {
  const file = stateFile(state.name)
  mkdirSync(labFolder(state.name), { recursive: true, mode: 0o755 })
  writeFileSync(`${file}.new`, `${JSON.stringify(state, undefined, 2)}\n`)
  renameSync(`${file}.new`, file)
}

/** A living process by its number; undefined if there is none. */
export function processRef(pid: number): ProcessRef | undefined {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  } catch {
    return undefined
  }
  // The second field, the name in parentheses, may hold spaces: count from behind it.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return fields[0] === 'Z' ? undefined : { pid, startTicks: Number(fields[19]) }
}

/** The process that another one started, where it has one. */
export function childOf({ pid }: ProcessRef): ProcessRef | undefined {
  let children: string
  try {
    children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
  } catch {
    return undefined
  }
  const [child] = children.split(' ')
  return child ? processRef(Number(child)) : undefined
}

export function isAlive(process: ProcessRef): boolean {
  return processRef(process.pid)?.startTicks === process.startTicks
}
