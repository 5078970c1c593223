import { mkdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Lab } from '@weft/lab'
import { eventually } from '../support/eventually.ts'
import { Fleet, fingerprintOfLab, fleetFolder, newJoiners } from './fleet.ts'
import { judge, quantile, type Result } from './result.ts'

const TIMES = 200
const NETWORK = 'blue'
/** The real hosts, which all have an endpoint in the network. */
const WATCHERS = ['alpha', 'beta'] as const
const POLL_MS = 20
const GIVE_UP_MS = 10_000
/** Between two revocations, so that each begins when the one before is over everywhere. */
const PAUSE_MS = 100

/**
 * From the call that revokes a host to when all real hosts that have it as a peer have it in their tables no more. When that was is
 * what each forwarder wrote down once the shuttle had taken the tables without it: looking does not take part in it.
 */
export async function revocation({ lab }: { readonly lab: Lab }): Promise<Result[]> {
  await using fleet = await Fleet.start(lab)
  const names = await settle(lab, fleet)
  const logs = WATCHERS.map((host) => new AppliedTables(lab.logFile(`forwarder@${host}`)))
  const delaysMs: number[] = []
  let looksMs = 0
  for (const [index, name] of names.entries()) {
    const leftOver = names.length - index - 1
    for (const log of logs) log.skip()
    const calledAt = Date.now()
    const revoked = lab.client.hosts.revoke({ name, reason: 'bench' })
    const droppedAt = await Promise.all(
      WATCHERS.map(async (host, position) => {
        await untilPeers(lab, host, leftOver + WATCHERS.length - 1)
        return await logs[position]?.firstSince(calledAt)
      }),
    )
    await revoked
    const times = droppedAt.map((time) => time ?? Number.NaN)
    delaysMs.push(Math.max(...times) - calledAt)
    looksMs = Math.max(looksMs, Date.now() - Math.max(...times))
    await sleep(PAUSE_MS)
  }
  return [
    judge(
      {
        bench: 'revocation: call to the last peer that drops the host, p99',
        unit: 'ms',
        ours: quantile(delaysMs, 0.99),
        samples: TIMES,
        offered: `p50 ${quantile(delaysMs, 0.5)} ms, max ${Math.max(...delaysMs)} ms; ${WATCHERS.length} peers each; found out up to ${looksMs} ms later`,
      },
      { kind: 'at-most', value: 1000 },
    ),
  ]
}

/** Makes hosts that are peers of the lab's own by an endpoint each. Returns their names once those have them all in their tables. */
async function settle(lab: Lab, fleet: Fleet): Promise<readonly string[]> {
  const { tenant } = lab.plan
  const folder = fleetFolder(lab, 'revocation')
  mkdirSync(folder)
  const joiners = await newJoiners(lab, { prefix: 'revoked', count: TIMES, subnet: 101 })
  const outcomes = await fleet.join({ joiners, fingerprint: fingerprintOfLab(lab), folder })
  const refused = outcomes.find(({ error }) => error !== '')
  if (refused !== undefined) throw new Error(`${refused.name} cannot join: ${refused.error}`)
  const names = joiners.map(({ name }) => name)
  for (const name of names) {
    await lab.client.endpoints.create({ tenant, network: NETWORK, endpoint: name })
  }
  const hosts = names.map((name) => ({ name, endpoint: name }))
  await fleet.settle({ folder, hosts, tenant, network: NETWORK })
  for (const host of WATCHERS) {
    await eventually(async () => {
      const { peers } = await lab.status(host)
      const wanted = names.length + WATCHERS.length - 1
      if (peers !== wanted) throw new Error(`${host} has ${peers} of ${wanted} peers`)
    })
  }
  return names
}

async function untilPeers(lab: Lab, host: string, wanted: number): Promise<void> {
  const deadline = Date.now() + GIVE_UP_MS
  for (;;) {
    const { peers } = await lab.status(host)
    if (peers === wanted) return
    if (peers < wanted) throw new Error(`${host} has ${peers} peers, fewer than the ${wanted} left`)
    if (Date.now() > deadline) throw new Error(`${host} still has ${peers} peers, not ${wanted}`)
    await sleep(POLL_MS)
  }
}

/** When a forwarder's shuttle has taken tables that were different, as its log has it at the level `debug`. */
class AppliedTables {
  readonly #file: string
  #offset = 0

  constructor(file: string) {
    this.#file = file
  }

  /** Leaves out what is there. */
  skip(): void {
    this.#offset = readFileSync(this.#file).length
  }

  /** Time of the first ones since a time, in milliseconds since 1970; waits until there are some. */
  async firstSince(sinceUnixMs: number): Promise<number> {
    return await eventually(async () => {
      const content = readFileSync(this.#file)
      // The keeper begins a log anew when it has grown too large.
      const text = content.subarray(content.length < this.#offset ? 0 : this.#offset).toString()
      for (const line of text.split('\n')) {
        if (!line.includes('"applied tables"')) continue
        const { time, changes } = JSON.parse(line) as { time: string; changes: number }
        if (changes > 0 && Date.parse(time) >= sinceUnixMs) return Date.parse(time)
      }
      throw new Error(`${this.#file} does not tell of tables`)
    }, GIVE_UP_MS)
  }
}
