import { setTimeout as sleep } from 'node:timers/promises'
import type { Lab } from '@weft/lab'
import { formatIpAddress, parsePrefix } from '@weft/net'
import type { EndpointRef } from '@weft/sdk'
import { eventually } from '../support/eventually.ts'
import { NewPlace } from '../support/place.ts'
import { ping } from '../support/probe.ts'
import type { BenchContext } from './context.ts'
import { judge, quantile, type Result } from './result.ts'

/** Half of them from either side. */
const TIMES = 200
const NETWORK = 'cold'
const PREFIX = '10.44.0.0/24'
const SIDES = ['alpha', 'beta'] as const
const READY_MS = 15_000
const GIVE_UP_MS = 5000
/** By then hosts with a session know where others see them: those that do not would open one to ask. */
const KNOWN_MS = 3000
/** What an attach has led to is over by then. */
const SETTLE_MS = 100

interface Member {
  readonly host: (typeof SIDES)[number]
  readonly place: NewPlace
  readonly ref: EndpointRef
  readonly address: string
}

/**
 * From the first packet of an endpoint to its answer while the two hosts have no session: before each, one of the two endpoints is detached,
 * so that the hosts share no network and forget each other with all sessions, and attached again. The handshake is in it, and on
 * both sides the questions of a first packet.
 */
export async function firstData({ lab, prefix, signal }: BenchContext): Promise<Result[]> {
  await using made = new AsyncDisposableStack()
  await onlyNetwork(lab, made)
  const [one, other] = [
    await join(lab, made, 'alpha', `${prefix}-cold1`),
    await join(lab, made, 'beta', `${prefix}-cold2`),
  ]
  await one.place.mustRun(['ping', '-c', '1', '-w', '5', other.address])
  await sleep(KNOWN_MS)
  const known = await knownEndpoints(lab)
  const ms: number[] = []
  const losses: string[] = []
  for (let index = 0; index < TIMES; index++) {
    signal.throwIfAborted()
    const [source, target] = index % 2 === 0 ? [one, other] : [other, one]
    await lab.client.host(other.host).detach(other.ref)
    await untilConnections(lab, [])
    await attach(lab, other)
    await untilKnown(lab, known)
    await sleep(SETTLE_MS)
    await untilConnections(lab, ['idle'])
    const before = await dropsOf(lab)
    const { first_ns } = await ping(source.place, target.address, {
      count: 1,
      'timeout-ms': GIVE_UP_MS,
    })
    if (first_ns !== null) ms.push(first_ns / 1e6)
    else losses.push(`from ${source.host}: ${grown(before, await dropsOf(lab))}`)
  }
  if (ms.length === 0) throw new Error('nobody was ever answered')
  const quantileMs = (share: number): string => quantile(ms, share).toFixed(1)
  return [
    judge(
      {
        bench: 'sealed: handshake to first data, p99',
        unit: 'ms',
        ours: quantile(ms, 0.99),
        samples: ms.length,
        offered: `p50 ${quantileMs(0.5)} ms, p90 ${quantileMs(0.9)} ms, longest ${quantileMs(1)} ms`,
      },
      { kind: 'at-most', value: 30 },
    ),
    judge(
      {
        bench: 'sealed: handshake to first data, lost',
        unit: 'packets',
        ours: losses.length,
        samples: TIMES,
        ...(losses.length > 0 && { offered: losses.join('; ') }),
      },
      { kind: 'at-most', value: 0 },
    ),
  ]
}

/** A network that the hosts share, and for the time of the bench no other. */
async function onlyNetwork(lab: Lab, made: AsyncDisposableStack): Promise<void> {
  const { tenant } = lab.plan
  const prefix = parsePrefix(PREFIX)
  if (prefix === undefined) throw new TypeError(PREFIX)
  const host = lab.client.host('beta')
  for (const { network, name, namespace } of lab.plan.endpoints.filter(
    (endpoint) => endpoint.host === 'beta',
  )) {
    const ref = { tenant, network, endpoint: name }
    await host.detach(ref)
    made.defer(async () => {
      await host.attach(ref, { kind: 'netns', path: `/run/netns/${namespace}` })
    })
  }
  await lab.client.networks.create({ tenant, network: NETWORK, prefixes: [prefix] })
  made.defer(async () => {
    await lab.client.networks.delete({ tenant, network: NETWORK })
  })
}

/** An endpoint that says nothing by itself: with IPv6 its neighbour discovery would open the session. */
async function join(
  lab: Lab,
  made: AsyncDisposableStack,
  host: Member['host'],
  namespace: string,
): Promise<Member> {
  const place = made.use(await NewPlace.make(namespace))
  for (const which of ['all', 'default']) {
    await place.mustRun(['sysctl', '-qw', `net.ipv6.conf.${which}.disable_ipv6=1`])
  }
  const ref = { tenant: lab.plan.tenant, network: NETWORK, endpoint: host }
  const { addresses } = await lab.client.endpoints.create(ref)
  made.defer(async () => {
    await lab.client.endpoints.delete(ref)
  })
  const [address] = addresses
  if (address === undefined) throw new Error(`${host} has no address`)
  const member = { host, place, ref, address: formatIpAddress(address) }
  await attach(lab, member)
  made.defer(async () => {
    await lab.client.host(host).detach(ref)
  })
  return member
}

/** What both hosts have dropped so far, by host and reason. */
async function dropsOf(lab: Lab): Promise<ReadonlyMap<string, bigint>> {
  const counts = new Map<string, bigint>()
  for (const host of SIDES) {
    const { drops, sealing } = await lab.status(host)
    const ports = (await lab.client.host(host).listPorts()).map(({ counters }) => counters.drops)
    for (const part of [drops, sealing?.drops ?? {}, ...ports]) {
      for (const [reason, count] of Object.entries(part)) {
        const name = `${host} ${reason}`
        counts.set(name, (counts.get(name) ?? 0n) + count)
      }
    }
  }
  return counts
}

function grown(before: ReadonlyMap<string, bigint>, after: ReadonlyMap<string, bigint>): string {
  const changes = [...after].filter(([name, count]) => count > (before.get(name) ?? 0n))
  const texts = changes.map(([name, count]) => `${name} +${count - (before.get(name) ?? 0n)}`)
  return texts.join(', ') || 'no drop was counted'
}

/** Right after a detach location-resolver may not have heard yet that the endpoint is the host's again. */
async function attach(lab: Lab, { host, place, ref }: Member): Promise<void> {
  const netns = { kind: 'netns', path: place.path } as const
  await eventually(() => lab.client.host(host).attach(ref, netns), READY_MS)
}

/** How many endpoints each of the hosts has in its tables. */
async function knownEndpoints(lab: Lab): Promise<string> {
  const all = await Promise.all(SIDES.map((host) => lab.status(host)))
  return all.map(({ endpoints }) => endpoints).join()
}

/** Waits until both hosts know both endpoints again: before, a first packet waits for that. */
async function untilKnown(lab: Lab, wanted: string): Promise<void> {
  await eventually(async () => {
    const known = await knownEndpoints(lab)
    if (known !== wanted) throw new Error(`the hosts know ${known} endpoints, not ${wanted}`)
  }, READY_MS)
}

/** Waits until each of the hosts has connections of these states and no others. */
async function untilConnections(lab: Lab, wanted: readonly string[]): Promise<void> {
  await eventually(async () => {
    for (const host of SIDES) {
      const connections = await lab.client.host(host).listOpenConnections()
      const states = connections.map(({ state }) => state)
      if (states.join() !== wanted.join()) {
        throw new Error(`${host} has connections [${states.join()}], not [${wanted.join()}]`)
      }
    }
  }, READY_MS)
}
