import { after } from 'node:test'
import { type Lab, type LabOptions, startLab } from '@weft/lab'
import { type IpAddress, type Prefix, parseIpAddress, parsePrefix } from '@weft/net'
import { Place } from '../../support/place.ts'

/** Whether scenarios run in full, as `npm run torture` does. */
export const isTorture: boolean = process.env['WEFT_TORTURE'] === '1'

/** A number for the short form of a scenario and one for the full form. */
export function scaled(short: number, full: number): number {
  return isTorture ? full : short
}

/** Prefix of everything that the tests of this process make: they run beside a lab of the user's. */
export const PREFIX: string = `t${process.pid}`

let shared: Promise<Lab> | undefined

/**
 * The lab of this process. Scenarios of one folder run in one process, one after the other, and leave the lab as they found it.
 * All of them pass the same options: the first one starts it.
 */
export function sharedLab(options: Omit<LabOptions, 'name'>): Promise<Lab> {
  shared ??= startLab({ ...options, name: PREFIX })
  return shared
}

after(async () => {
  const lab = await shared?.catch(() => undefined)
  await lab?.down()
})

/** The namespace of a host, `router`, `control` or `NETWORK/ENDPOINT`. */
export function at(lab: Lab, name: string): Place {
  return new Place(lab.namespaceOf(name))
}

export function address(text: string): IpAddress {
  const parsed = parseIpAddress(text)
  if (parsed === undefined) throw new TypeError(`${text} is no IP address`)
  return parsed
}

export function prefix(text: string): Prefix {
  const parsed = parsePrefix(text)
  if (parsed === undefined) throw new TypeError(`${text} is no prefix`)
  return parsed
}
