import { mkdirSync } from 'node:fs'
import type { Lab } from '@weft/lab'
import { Fleet, fingerprintOfLab, fleetFolder, newJoiners } from './fleet.ts'
import type { Joiner, JoinOutcome } from './fleet-process.ts'
import { judge, quantile, type Result } from './result.ts'

const JOINERS = 1000
/** Processes of joiners. */
const FLEETS = 2

/** A thousand hosts that join at once, by a token each, spread over three replicas of config. */
export async function enrolment({ lab }: { readonly lab: Lab }): Promise<Result[]> {
  const folder = fleetFolder(lab, 'enrolment')
  const joiners = await newJoiners(lab, { prefix: 'joiner', count: JOINERS, subnet: 102 })
  const { outcomes, elapsedMs } = await joinAtOnce(lab, joiners, folder)
  const known = await Array.fromAsync(lab.client.hosts.list())
  const failed = outcomes.filter(({ error }) => error !== '')
  for (const { name, error } of failed.slice(0, 3)) console.log(`${name}: ${error}`)
  const durationsMs = outcomes.map(({ durationMs }) => durationMs)
  const repeats = outcomes.flatMap(({ repeated }) => repeated)
  const samples = outcomes.length
  return [
    judge(
      {
        bench: 'enrolment: 1000 hosts at once, 3 replicas',
        unit: 's',
        ours: elapsedMs / 1000,
        samples,
        offered: `p50 ${quantile(durationsMs, 0.5).toFixed(0)} ms, p99 ${quantile(durationsMs, 0.99).toFixed(0)} ms; ${describe(repeats)} repeated by the joiners`,
      },
      { kind: 'at-most', value: 60 },
    ),
    judge(
      { bench: 'enrolment: failed', unit: 'hosts', ours: failed.length, samples },
      { kind: 'at-most', value: 0 },
    ),
    judge(
      {
        bench: 'enrolment: twice or not there',
        unit: 'hosts',
        ours: misfits(outcomes, known),
        samples,
      },
      { kind: 'at-most', value: 0 },
    ),
  ]
}

/** Joins them all at the same moment. */
async function joinAtOnce(
  lab: Lab,
  joiners: readonly Joiner[],
  folder: string,
): Promise<{ readonly outcomes: readonly JoinOutcome[]; readonly elapsedMs: number }> {
  mkdirSync(folder)
  await using opened = new AsyncDisposableStack()
  const fleets: Fleet[] = []
  for (let index = 0; index < FLEETS; index++) fleets.push(opened.use(await Fleet.start(lab)))
  const fingerprint = fingerprintOfLab(lab)
  const startedAt = performance.now()
  const outcomes = await Promise.all(
    fleets.map((fleet, index) =>
      fleet.join({
        joiners: joiners.filter((_, position) => position % FLEETS === index),
        fingerprint,
        folder,
      }),
    ),
  )
  return { outcomes: outcomes.flat(), elapsedMs: performance.now() - startedAt }
}

/** Hosts that joined and are not there exactly once, under the id and the name that they were told, or are there without. */
function misfits(
  outcomes: readonly JoinOutcome[],
  known: readonly { readonly id: number; readonly name: string }[],
): number {
  const joined = outcomes.filter(({ error }) => error === '')
  const there = known.filter(({ name }) => name.startsWith('joiner-'))
  const wrong = joined.filter(
    ({ name, hostId }) =>
      there.filter((host) => host.name === name || host.id === hostId).length !== 1,
  )
  return wrong.length + Math.max(0, there.length - joined.length)
}

/** How many of each. */
function describe(codes: readonly string[]): string {
  if (codes.length === 0) return 'nothing'
  const counts = Object.entries(Object.groupBy(codes, (code) => code))
  return counts.map(([code, all]) => `${all?.length ?? 0} ${code}`).join(', ')
}
