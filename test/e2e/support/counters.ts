import assert from 'node:assert/strict'
import type { Lab } from '@weft/lab'
import type { Port, PortCounters } from '@weft/sdk'
import { at } from './lab.ts'

/** Counters of the port of `NETWORK/ENDPOINT`. */
export async function countersOf(lab: Lab, host: string, name: string): Promise<PortCounters> {
  const ports = await lab.client.host(host).listPorts()
  const port = ports.find((candidate) => labelOf(candidate) === name)
  if (port === undefined) throw new Error(`${name} is not attached at ${host}`)
  return port.counters
}

export function labelOf({ network, endpoint }: Port): string {
  return `${network}/${endpoint}`
}

/** How many packets of a port were dropped for a reason between two readings. */
export function dropsBetween(before: PortCounters, after: PortCounters, reason: string): number {
  return Number((after.drops[reason] ?? 0n) - (before.drops[reason] ?? 0n))
}

/** What a frame may come to, as the sums of `reasons.h` have it; `resent` frames come in a second time. */
const ENDS = [
  'same_host',
  'direct',
  'device',
  'sealed',
  'replicated',
  'answered',
  'absorbed',
  'held',
] as const

/** At every port of every host: packets in = what became of them + drops by reason. */
export async function assertConservation(lab: Lab): Promise<void> {
  for (const { name } of lab.weftHosts) {
    for (const port of await lab.client.host(name).listPorts()) {
      const { receivedPackets, verdicts, drops } = port.counters
      const seen = receivedPackets + (verdicts['resent'] ?? 0n)
      const ended = ENDS.reduce((sum, verdict) => sum + (verdicts[verdict] ?? 0n), 0n)
      const dropped = Object.values(drops).reduce((sum, count) => sum + count, 0n)
      assert.equal(seen, ended + dropped, `${labelOf(port)} at ${name}: ${describe(port.counters)}`)
    }
  }
}

function describe(counters: PortCounters): string {
  return JSON.stringify(counters, (_, value) => (typeof value === 'bigint' ? Number(value) : value))
}

/** All that was dropped on any host so far, by place and reason, and by its devices: where to look for what is missing. */
export async function dropsOf(lab: Lab): Promise<string> {
  const found: string[] = []
  for (const { name } of lab.weftHosts) {
    const host = lab.client.host(name)
    const ports = await host.listPorts()
    const places = [
      ...ports.map((port) => [`${labelOf(port)}@${name}`, port.counters.drops] as const),
      [name, (await host.status()).drops] as const,
    ]
    for (const [place, drops] of places) {
      for (const [reason, count] of Object.entries(drops)) {
        if (count > 0n) found.push(`${place} ${reason} ${count}`)
      }
    }
    found.push(...(await deviceDropsOf(lab, name)))
  }
  return found.join(', ')
}

/** Devices of a host that dropped packets by themselves, for example as nobody took them in time. */
async function deviceDropsOf(lab: Lab, host: string): Promise<string[]> {
  const links: readonly {
    ifname: string
    stats64: { rx: { dropped: number }; tx: { dropped: number } }
  }[] = JSON.parse(await at(lab, host).mustRun(['ip', '-j', '-s', 'link', 'show']))
  return links
    .filter(({ stats64: { rx, tx } }) => rx.dropped + tx.dropped > 0)
    .map(({ ifname, stats64: { rx, tx } }) => `${ifname}@${host} rx ${rx.dropped} tx ${tx.dropped}`)
}
