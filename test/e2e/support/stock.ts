import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { mustRun } from '../../support/place.ts'

/** What a machine has that a lab adds to: a row of names for each kind. */
export type Stock = Readonly<Record<string, readonly string[]>>

export async function takeStock(): Promise<Stock> {
  const links: { ifname: string }[] = JSON.parse(await mustRun(['ip', '-j', 'link', 'show']))
  const mounts = readFileSync('/proc/self/mounts', 'utf8').trimEnd().split('\n')
  return {
    namespaces: readdirOrNothing('/run/netns'),
    links: links.map((link) => link.ifname),
    mounts: mounts.map((line) => line.split(' ')[1] ?? ''),
    folders: readdirSync('/run').filter((name) => name.startsWith('weft')),
    rules: (await mustRun(['ip', 'rule'])).trimEnd().split('\n'),
    pins: readdirOrNothing('/sys/fs/bpf'),
    processes: processesOfLabs(),
  }
}

/** Nothing is there that was not there before, of any kind. */
export async function assertNothingNew(before: Stock): Promise<void> {
  const after = await takeStock()
  const added = Object.entries(after).flatMap(([kind, names]) =>
    names.filter((name) => !(before[kind] ?? []).includes(name)).map((name) => `${kind}: ${name}`),
  )
  assert.deepEqual(added, [])
}

/** Processes whose program or script lies in the folder of a lab. */
function processesOfLabs(): string[] {
  return readdirSync('/proc').filter((entry) => {
    if (!/^\d+$/.test(entry)) return false
    try {
      return readFileSync(`/proc/${entry}/cmdline`, 'utf8').includes('/run/weft-lab')
    } catch {
      return false
    }
  })
}

function readdirOrNothing(path: string): string[] {
  try {
    return readdirSync(path)
  } catch {
    return []
  }
}
