import { setTimeout as sleep } from 'node:timers/promises'
import type { Lab } from '@weft/lab'
import { eventually } from '../../support/eventually.ts'
import { NewPlace } from '../../support/place.ts'
import { type Probe, type Received, send, startReceiver } from '../../support/probe.ts'
import { at, PREFIX } from './lab.ts'
import { socketAddress } from './traffic.ts'

const PORT = 5310
const RATE = 2000
/**
 * What comes and goes at a host does both once in so long: three hosts together 10 a second. A host may have 5,000 changes written into
 * the audit log at once, and one a second: twice as fast would use that up within half an hour.
 */
const CYCLE_MS = 600

/** Counts at `NETWORK/ENDPOINT` what has the label of its network, and what has another one. */
export async function listenFor(lab: Lab, name: string, label: number): Promise<Probe<Received>> {
  return await startReceiver(at(lab, name), { listen: `[::]:${PORT}`, label })
}

/** One flow at the receiver for each way, with how much of it was sent: a receiver keeps account of 1,024. */
const flows = new Map<string, { readonly number: number; sent: number }>()

export async function sendLabelled(
  lab: Lab,
  name: string,
  label: number,
  address: string,
  count: number,
): Promise<void> {
  const way = `${name} ${address}`
  const flow = flows.get(way) ?? { number: flows.size, sent: 0 }
  flows.set(way, flow)
  await send(at(lab, name), {
    to: socketAddress(address, PORT),
    rate: RATE,
    count,
    label,
    'first-flow': flow.number,
    'first-sequence': flow.sent,
  })
  flow.sent += count
}

export interface ComingAndGoing {
  /** Throws what went wrong so far. */
  readonly check: () => void
  /** How many came and went. */
  readonly stop: () => Promise<number>
}

/** Endpoints with one MAC and address in several networks, each at a host, made and removed until told to stop. */
export function comeAndGo(
  lab: Lab,
  where: readonly (readonly [network: string, host: string])[],
): ComingAndGoing {
  const end = new AbortController()
  let count = 0
  const cycle = async (network: string, host: string): Promise<void> => {
    const ref = { tenant: lab.plan.tenantOfNetwork(network), network, endpoint: 'guest' }
    await using place = await NewPlace.make(`${PREFIX}-${network}-guest`)
    while (!end.signal.aborted) {
      const pause = sleep(CYCLE_MS)
      await lab.client.endpoints.create(ref)
      await lab.client.host(host).attach(ref, { kind: 'netns', path: place.path })
      await lab.client.host(host).detach(ref)
      // A slow config may hear of the detach later.
      await eventually(() => lab.client.endpoints.delete(ref))
      count++
      await pause
    }
  }
  const done = Promise.all(where.map(([network, host]) => cycle(network, host)))
  let problem: Error | undefined
  done.catch((error: Error) => {
    problem = error
  })
  return {
    check: () => {
      if (problem !== undefined) throw problem
    },
    stop: async () => {
      end.abort()
      await done
      return count
    },
  }
}
