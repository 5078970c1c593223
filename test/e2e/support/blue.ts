import assert from 'node:assert/strict'
import { join } from 'node:path'
import type { Lab } from '@weft/lab'
import { ROOT } from '../../check/repository.ts'
import { ping } from '../../support/probe.ts'
import { at, sharedLab } from './lab.ts'
import type { Target } from './traffic.ts'

/** Endpoints of network blue in the topology `routed`. */
export const BLUE = [
  { name: 'blue/web', host: 'alpha', ip4: '10.20.0.11', ip6: 'fd20::11' },
  { name: 'blue/db', host: 'alpha', ip4: '10.20.0.12', ip6: 'fd20::12' },
  { name: 'blue/api', host: 'beta', ip4: '10.20.0.13', ip6: 'fd20::13' },
  { name: 'blue/edge', host: 'gamma', ip4: '10.20.0.14', ip6: 'fd20::14' },
] as const

/** Endpoints of network red, with addresses of blue. */
export const RED = [
  { name: 'red/web', host: 'alpha', ip4: '10.20.0.11', ip6: 'fd20::11' },
  { name: 'red/api', host: 'beta', ip4: '10.20.0.13', ip6: 'fd20::13' },
] as const

export type Known = (typeof BLUE)[number] | (typeof RED)[number]

/** The lab of the scenarios in `routed`: the topology of that name, with networks that go plain between its hosts. */
export function routedLab(): Promise<Lab> {
  const topology = join(ROOT, 'test/e2e/routed/topology.yaml')
  return sharedLab({ topology, configReplicas: 3 })
}

/** The lab of the scenarios in `sealed`: as it is for users. */
export function sealedLab(): Promise<Lab> {
  return sharedLab({ topology: 'routed', configReplicas: 1 })
}

export function target(lab: Lab, known: Known, family: 4 | 6 = 4): Target {
  return { place: at(lab, known.name), address: family === 4 ? known.ip4 : known.ip6 }
}

/** Makes the flows between a source and its targets known to their hosts, both ways. */
export async function establish(lab: Lab, source: Known, targets: readonly Known[]): Promise<void> {
  for (const { name, ip4 } of targets) {
    const { received } = await ping(at(lab, source.name), ip4, { count: 1, 'timeout-ms': 5000 })
    assert.equal(received, 1, `${source.name} to ${name}`)
  }
}

/** Every ordered pair of different endpoints. */
export function pairsOf(endpoints: readonly Known[]): (readonly [Known, Known])[] {
  return endpoints.flatMap((source) =>
    endpoints.filter((other) => other !== source).map((other) => [source, other] as const),
  )
}

export function known(name: string): Known {
  const found = [...BLUE, ...RED].find((endpoint) => endpoint.name === name)
  if (found === undefined) throw new RangeError(`${name} is not in the topology`)
  return found
}
