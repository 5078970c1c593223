import assert from 'node:assert/strict'
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import test from 'node:test'
import { routedLab } from '../support/blue.ts'

/** linux/capability.h */
const CAPABILITIES: Readonly<Record<string, bigint>> = {
  net_admin: 12n,
  net_raw: 13n,
  sys_admin: 21n,
  perfmon: 38n,
  bpf: 39n,
}

/** What a process may have: nothing, but for these. */
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  shuttle: ['net_admin', 'net_raw', 'bpf', 'perfmon'],
  netns: ['sys_admin', 'net_raw'],
}

test('every process runs as a user of its own, and only the shuttle and its helper have capabilities', async () => {
  const lab = await routedLab()
  const processes = lab.processes()
  for (const { name, ref } of processes) {
    assert.ok(ref !== undefined, `${name} does not run`)
    const status = readFileSync(`/proc/${ref.pid}/status`, 'utf8')
    const allowed = (ALLOWED[name.split('@')[0] ?? ''] ?? []).reduce(
      (set, capability) => set | (1n << (CAPABILITIES[capability] ?? 0n)),
      0n,
    )
    for (const set of ['CapEff', 'CapPrm', 'CapBnd', 'CapAmb']) {
      const held = BigInt(`0x${field(status, set)}`)
      assert.equal(held & ~allowed, 0n, `${name}: ${set} is ${held.toString(16)}`)
    }
    if (allowed === 0n) assert.equal(field(status, 'CapEff'), '0'.repeat(16), name)
    assert.equal(field(status, 'NoNewPrivs'), '1', name)
    const uids = field(status, 'Uid').split(/\s+/)
    assert.ok(!uids.includes('0'), `${name} runs as root`)
  }
  // What keeps nats-server's certificate writes the server's files and sends it a signal: it is the same user.
  const uids = processes.filter(({ name }) => name !== 'nats-certificate').map(({ uid }) => uid)
  assert.equal(new Set(uids).size, uids.length, 'two processes share a user')
})

test('no process in JavaScript holds a descriptor through which a packet could come', async () => {
  const lab = await routedLab()
  for (const { name, ref } of lab.processes()) {
    if (ref === undefined || !readlinkSync(`/proc/${ref.pid}/exe`).endsWith('node')) continue
    // Sockets of family AF_PACKET and AF_XDP that are open in the process's namespace, by inode.
    const packetSockets = ['packet', 'xdp'].flatMap((family) =>
      inodes(`/proc/${ref.pid}/net/${family}`),
    )
    for (const descriptor of readdirSync(`/proc/${ref.pid}/fd`)) {
      const target = readLink(`/proc/${ref.pid}/fd/${descriptor}`)
      assert.doesNotMatch(target, /\/net\/tun|bpf-map|bpf-prog/, `${name} holds ${target}`)
      const inode = /^socket:\[(\d+)\]$/.exec(target)?.[1]
      assert.ok(
        inode === undefined || !packetSockets.includes(inode),
        `${name} holds a packet socket`,
      )
    }
  }
})

function field(status: string, name: string): string {
  return new RegExp(`^${name}:\\s+(.*)$`, 'm').exec(status)?.[1] ?? ''
}

/** Last column of a table of sockets; nothing where the kernel has no such table. */
function inodes(path: string): string[] {
  try {
    const rows = readFileSync(path, 'utf8').trim().split('\n').slice(1)
    return rows.map((row) => row.trim().split(/\s+/).at(-1) ?? '')
  } catch {
    return []
  }
}

/** A descriptor may be closed between listing and looking. */
function readLink(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return ''
  }
}
