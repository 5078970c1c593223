import assert from 'node:assert/strict'
import type { Lab } from '@weft/lab'
import { formatIpAddress } from '@weft/net'
import type { OpenConnection } from '@weft/sdk'
import { eventually } from '../../support/eventually.ts'
import { ping } from '../../support/probe.ts'
import { at, sharedLab } from './lab.ts'

/** Endpoints of network blue in the topology `nat`: of two homes behind a NAT each, and of two hosts that everybody reaches. */
export const AT_HOME = [
  { name: 'blue/web', host: 'alpha', underlay: 'east', ip4: '10.20.0.11' },
  { name: 'blue/api', host: 'beta', underlay: 'west', ip4: '10.20.0.13' },
] as const
export const OUTSIDE = [
  { name: 'blue/edge', host: 'gamma', ip4: '10.20.0.14' },
  { name: 'blue/mail', host: 'delta', ip4: '10.20.0.15' },
] as const

type Known = (typeof AT_HOME)[number] | (typeof OUTSIDE)[number]

/** The lab of the scenarios in `nat`. */
export function natLab(): Promise<Lab> {
  return sharedLab({ topology: 'nat' })
}

/** Port of the sealed transport of every host of the lab. */
export const SEALED_PORT = 61_820

/** The address that stands outside for a host behind a NAT. */
export function outsideOf(lab: Lab, underlay: string): string {
  const nat = lab.plan.underlays.find(({ name }) => name === underlay)?.nat
  if (nat === undefined) throw new RangeError(`${underlay} is not behind a NAT`)
  return formatIpAddress(nat.address.address)
}

/** The open connection of a host to another one, as its host says. */
export async function connectionTo(lab: Lab, on: string, to: string): Promise<OpenConnection> {
  const connections = await lab.client.host(on).listOpenConnections()
  const found = connections.find(({ host }) => host === to)
  assert.ok(found, `${on} has no connection to ${to}`)
  return found
}

/**
 * Others are told of a host that is seen elsewhere a few times at once, and then every 30 s (config's `OBSERVED_PAUSE_MS`): here
 * NATs begin anew all the time.
 */
export const DEADLINE_MS = 90_000

/** One echo request after the other until one is answered. */
export async function untilAnswered(lab: Lab, source: Known, target: Known): Promise<void> {
  await eventually(async () => {
    const options = { count: 1, 'timeout-ms': 500 }
    const { received } = await ping(at(lab, source.name), target.ip4, options)
    assert.equal(received, 1, `${source.name} to ${target.name}`)
  }, DEADLINE_MS)
}
