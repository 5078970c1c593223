import { formatIpAddress } from '@weft/net'
import { eventually } from '../support/eventually.ts'
import { NewPlace } from '../support/place.ts'
import { type Probe, type Received, send, startReceiver } from '../support/probe.ts'
import type { BenchContext } from './context.ts'
import { judge, quantile, type Result } from './result.ts'

/** Endpoints on either host: each of one side sends to each of the other. */
const SIDE = 15
const PORT = 5400
const SETTLE_MS = 500

interface Member {
  readonly place: NewPlace
  readonly address: string
}

/**
 * From sending the first packet of a connection to its arrival at another host: while nobody has asked about the pair before, and
 * after the kernel has forgotten the flow while the forwarder still remembers the answers.
 */
export async function firstPacket({ lab, prefix }: BenchContext): Promise<Result[]> {
  await using made = new AsyncDisposableStack()
  const member = async (host: string, index: number): Promise<Member> => {
    const place = made.use(await NewPlace.make(`${prefix}-${host}${index}`))
    const ref = { tenant: lab.plan.tenant, network: 'blue', endpoint: `${host}-${index}` }
    const { addresses } = await lab.client.endpoints.create(ref)
    made.defer(async () => {
      await lab.client.endpoints.delete(ref)
    })
    await lab.client.host(host).attach(ref, { kind: 'netns', path: place.path })
    made.defer(async () => {
      await lab.client.host(host).detach(ref)
    })
    const address = addresses.find(({ family }) => family === 4)
    if (address === undefined) throw new Error(`${host}-${index} has no IPv4 address`)
    return { place, address: formatIpAddress(address) }
  }
  const sources: Member[] = []
  const targets: Member[] = []
  for (let index = 0; index < SIDE; index++) {
    sources.push(await member('alpha', index))
    targets.push(await member('beta', index))
  }
  const asking = await sendOneEach(sources, targets)
  await eventually(async () => {
    const { flows } = await lab.status('alpha')
    if (flows > 0) throw new Error(`${flows} flows are not forgotten yet`)
  }, FORGOTTEN_MS)
  const cached = await sendOneEach(sources, targets)
  return [
    ...judgeDelays('everything cached', cached, 3),
    ...judgeDelays('asking the services', asking, 15),
  ]
}

/** Flows are forgotten after `FLOW_IDLE_S` without a packet; the answers behind them live longer. */
export const FLOW_IDLE_S = 5
const FORGOTTEN_MS = 150_000

interface Delays {
  readonly ms: readonly number[]
  readonly lost: number
}

/** One packet from every source to every target, one after the other. */
async function sendOneEach(
  sources: readonly Member[],
  targets: readonly Member[],
): Promise<Delays> {
  await using made = new AsyncDisposableStack()
  const receivers: Probe<Received>[] = []
  for (const { place, address } of targets) {
    receivers.push(made.use(await startReceiver(place, { listen: `${address}:${PORT}` })))
  }
  for (const [index, { place }] of sources.entries()) {
    for (const { address } of targets) {
      await send(place, { to: `${address}:${PORT}`, rate: 0, count: 1, 'first-flow': index })
    }
  }
  await new Promise((resolve) => setTimeout(resolve, SETTLE_MS))
  const results = await Promise.all(receivers.map((receiver) => receiver.stop()))
  const ms = results.flatMap(({ flows }) => flows.map((flow) => flow.first_delay_ns / 1e6))
  return { ms, lost: sources.length * targets.length - ms.length }
}

function judgeDelays(name: string, { ms, lost }: Delays, atMostMs: number): Result[] {
  const samples = ms.length + lost
  const p50 = quantile(ms, 0.5)
  return [
    judge(
      {
        bench: `first-packet: ${name}, p99`,
        unit: 'ms',
        ours: quantile(ms, 0.99),
        samples,
        offered: `p50 ${p50.toFixed(2)} ms`,
      },
      { kind: 'at-most', value: atMostMs },
    ),
    judge(
      { bench: `first-packet: ${name}, lost`, unit: 'packets', ours: lost, samples },
      { kind: 'at-most', value: 0 },
    ),
  ]
}
