import { mkdirSync } from 'node:fs'
import { type Lab, PORTS } from '@weft/lab'
import { Fleet, fingerprintOfLab, fleetFolder, newJoiners } from './fleet.ts'
import type { RenewOrder } from './fleet-process.ts'
import { judge, type Result } from './result.ts'

/** Hosts that renew in turn. */
const HOSTS = 200
/** Renewals at once. */
const IN_FLIGHT = 32
const WARM_UP_MS = 3000
const DURATION_MS = 10_000
const PER_SECOND_MIN = 300

/**
 * Certificates that one replica of config renews in a second, for many hosts, each as itself: with a connection for each renewal,
 * which is how a host asks that does it twice a day, and over connections that are open. These hosts have joined just now, so that
 * their horizons do not move; those of a fleet do once a day, at every second renewal, and that is a write besides.
 */
export async function renewals({ lab }: { readonly lab: Lab }): Promise<Result[]> {
  const folder = fleetFolder(lab, 'renewals')
  mkdirSync(folder)
  await using fleet = await Fleet.start(lab)
  const joiners = await newJoiners(lab, { prefix: 'renewer', count: HOSTS, subnet: 100 })
  const outcomes = await fleet.join({ joiners, fingerprint: fingerprintOfLab(lab), folder })
  const refused = outcomes.find(({ error }) => error !== '')
  if (refused !== undefined) throw new Error(`${refused.name} cannot join: ${refused.error}`)
  const names = joiners.map(({ name }) => name)
  const config = `${lab.plan.controlAddress}:${PORTS.config}`
  const measured = async (
    connections: RenewOrder['connections'],
    what: string,
  ): Promise<Result> => {
    const { renewals, failed, firstError } = await fleet.renew({
      folder,
      names,
      config,
      connections,
      inFlight: IN_FLIGHT,
      warmUpMs: WARM_UP_MS,
      durationMs: DURATION_MS,
    })
    if (failed > 0) throw new Error(`${failed} renewals failed: ${firstError}`)
    return judge(
      {
        bench: `renewals by one replica: ${what}`,
        unit: 'certificates/s',
        ours: (renewals * 1000) / DURATION_MS,
        samples: renewals,
        offered: `${IN_FLIGHT} at once, of ${HOSTS} hosts, for ${DURATION_MS / 1000} s`,
      },
      { kind: 'at-least', value: PER_SECOND_MIN },
    )
  }
  return [
    await measured('each', 'a connection for each'),
    await measured('kept', 'connections kept'),
  ]
}
