import type { RunContext } from './context.ts'
import { interleaved, mediansOf, type Rounds } from './interleaved.ts'
import {
  applicationRttUs,
  type Pair,
  packetRate,
  requestUs,
  rttUs,
  type TcpLoad,
  tcpRun,
} from './measure.ts'
import type { Measured } from './result.ts'

/** Us, and the peers by name; without us the peers are measured alone. */
export type Contenders = { readonly ours?: Pair } & Readonly<Record<string, Pair>>

type What = Pick<Measured, 'bench' | 'unit'>

export async function compareTcp(
  name: string,
  contenders: Contenders,
  load: TcpLoad,
  context: RunContext,
): Promise<{ readonly throughput: Measured; readonly cost: Measured }> {
  const samples = await measureAll(contenders, (pair) => tcpRun(pair, load, context.tcp), context)
  const direction = load.reverse === true ? ', reverse' : ''
  const bench = `${name}: TCP, ${load.streams} ${load.streams === 1 ? 'stream' : 'streams'}${direction}`
  return {
    throughput: measured({ bench, unit: 'Gb/s' }, samples, ({ gbps }) => gbps),
    cost: {
      ...measured({ bench: `${bench}, CPU`, unit: 's/GB' }, samples, (run) => run.cpuSecondsPerGb),
      offered: 'all cores, both ends with iperf3 and the kernel',
    },
  }
}

/** Round trips as ping takes them, and as the program that pings sees them. */
export async function compareRtt(
  name: string,
  contenders: Contenders,
  rounds: Rounds,
): Promise<Measured[]> {
  const unit = 'us'
  const seen = `${name}: ping RTT, read by the application`
  return [
    await compare({ bench: `${name}: ping RTT`, unit }, contenders, rttUs, rounds),
    await compare({ bench: seen, unit }, contenders, applicationRttUs, rounds),
  ]
}

export async function compareRequests(
  name: string,
  contenders: Contenders,
  rounds: Rounds,
): Promise<Measured> {
  const what = { bench: `${name}: TCP request and response`, unit: 'us' }
  return await compare(what, contenders, requestUs, rounds)
}

/** Every packet that is offered costs the same two cores, so what was offered is told beside what arrived. */
export async function comparePackets(
  name: string,
  contenders: Contenders,
  sizeBytes: number,
  rounds: Rounds,
): Promise<Measured> {
  const samples = await measureAll(contenders, (pair) => packetRate(pair, sizeBytes), rounds)
  const all = Object.values(samples).flat()
  const leastOffered = Math.min(...all.map(({ offeredPerSecond }) => offeredPerSecond))
  const what = { bench: `${name}: ${sizeBytes}-byte UDP`, unit: 'packets/s' }
  return {
    ...measured(what, samples, ({ deliveredPerSecond }) => deliveredPerSecond),
    offered: `as many as one sender can; at least ${Math.round(leastOffered)} packets/s`,
  }
}

async function compare(
  what: What,
  contenders: Contenders,
  measure: (pair: Pair) => Promise<number>,
  rounds: Rounds,
): Promise<Measured> {
  return measured(what, await measureAll(contenders, measure, rounds), (value) => value)
}

function measureAll<Sample>(
  contenders: Contenders,
  measure: (pair: Pair) => Promise<Sample>,
  rounds: Rounds,
): Promise<Record<string, readonly Sample[]>> {
  const entries = Object.entries(contenders)
  return interleaved(
    entries.map(([name, pair]) => ({ name, measure: () => measure(pair) })),
    rounds,
  )
}

function measured<Sample>(
  what: What,
  samples: Readonly<Record<string, readonly Sample[]>>,
  figure: (sample: Sample) => number,
): Measured {
  const { ours = null, ...peers } = mediansOf(samples, figure)
  const counts = Object.values(samples).map(({ length }) => length)
  return { ...what, ours, peers, samples: Math.max(0, ...counts) }
}
