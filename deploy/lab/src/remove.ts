import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { InternalError } from '@weft/errors'
import { labFolder } from './plan.ts'
import { requireRoot } from './root.ts'
import { ip, mustRun } from './shell.ts'
import { isAlive, readState } from './state.ts'

const TERMINATE_MS = 1500
const KILL_MS = 3000
const OWNER_MS = 10_000
const POLL_MS = 10

/**
 * Removes everything that a lab has made, running or left behind by a crash: the processes in its namespaces, the
 * namespaces, its mounts and its folder. False if there is no such lab.
 * @throws NeedsRootError if there is one
 */
export async function removeLab(name: string): Promise<boolean> {
  const state = readState(name)
  if (state === undefined) return false
  requireRoot('removing a lab')
  await endOwner(name)
  const namespaces = state.namespaces.filter((namespace) => existsSync(`/run/netns/${namespace}`))
  await endProcesses(namespaces)
  await ip(namespaces.map((namespace) => `netns delete ${namespace}`))
  for (const mount of mountedUnder(labFolder(name))) await mustRun(['umount', '--lazy', mount])
  rmSync(labFolder(name), { recursive: true, force: true })
  return true
}

/** Asks a lab's owner in another terminal to remove it; then it is gone, or its owner is. */
async function endOwner(name: string): Promise<void> {
  const owner = readState(name)?.owner
  if (owner === undefined || owner.pid === process.pid || !isAlive(owner)) return
  kill(owner.pid, 'SIGTERM')
  const deadline = Date.now() + OWNER_MS
  while (isAlive(owner) && Date.now() < deadline) await sleep(POLL_MS)
  if (isAlive(owner)) kill(owner.pid, 'SIGKILL')
}

/** Asks all processes in the namespaces to end, then makes them. */
async function endProcesses(namespaces: readonly string[]): Promise<void> {
  for (const [signal, patienceMs] of [
    ['SIGTERM', TERMINATE_MS],
    ['SIGKILL', KILL_MS],
  ] as const) {
    const deadline = Date.now() + patienceMs
    let left = processesIn(namespaces)
    for (const pid of left) kill(pid, signal)
    while (left.length > 0 && Date.now() < deadline) {
      await sleep(POLL_MS)
      left = processesIn(namespaces)
    }
    if (left.length === 0) return
  }
  throw new InternalError(`processes ${processesIn(namespaces).join(', ')} do not end`)
}

/** Processes whose network namespace is one of these: only a lab's own are, whatever started them. */
export function processesIn(namespaces: readonly string[]): number[] {
  const inodes = new Set(namespaces.map((namespace) => statSync(`/run/netns/${namespace}`).ino))
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .filter((pid) => inodes.has(namespaceInode(pid) ?? -1))
    .map(Number)
}

function namespaceInode(pid: string): number | undefined {
  try {
    return statSync(`/proc/${pid}/ns/net`).ino
  } catch {
    return undefined
  }
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    // It ended by itself meanwhile.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** Mount points below a folder, the innermost first. */
function mountedUnder(folder: string): string[] {
  return readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '')
    .filter((mount) => mount.startsWith(`${folder}/`))
    .toReversed()
}
