import type { Lab } from '@weft/lab'
import { Place } from '../support/place.ts'
import type { Rounds } from './interleaved.ts'
import type { Pair } from './measure.ts'

/** What every bench gets. */
export interface RunContext extends Rounds {
  /** Prefix of the namespaces that a bench makes. */
  readonly prefix: string
  /** Congestion control of TCP where throughput is measured. */
  readonly tcp: string
}

/** What a bench in a lab gets. */
export interface BenchContext extends RunContext {
  /** A lab of two hosts on one wire: web and db on alpha, api on beta. */
  readonly lab: Lab
}

/** Two containers of one host of ours. */
export function sameHostPair(lab: Lab): Pair {
  return {
    client: placeOf(lab, 'blue/web'),
    server: placeOf(lab, 'blue/db'),
    address: '10.20.0.12',
  }
}

/** Two containers of two hosts of ours. */
export function directPair(lab: Lab): Pair {
  return {
    client: placeOf(lab, 'blue/web'),
    server: placeOf(lab, 'blue/api'),
    address: '10.20.0.13',
  }
}

export function placeOf(lab: Lab, name: string): Place {
  return new Place(lab.namespaceOf(name))
}
