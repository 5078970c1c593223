import { interleaved } from './interleaved.ts'
import { applicationRttUs, type Pair, packetRate, rttUs, tcpGbps } from './measure.ts'
import type { Measured } from './result.ts'

/** Ours first, then the peers by name. */
export type Contenders = { readonly ours: Pair } & Readonly<Record<string, Pair>>

export async function compareTcp(
  name: string,
  contenders: Contenders,
  streams: number,
  runs: number,
): Promise<Measured> {
  const bench = `${name}: TCP, ${streams} ${streams === 1 ? 'stream' : 'streams'}`
  return await compare({ bench, unit: 'Gb/s' }, contenders, (pair) => tcpGbps(pair, streams), runs)
}

/** Round trips as ping takes them, and as the program that pings sees them. */
export async function compareRtt(
  name: string,
  contenders: Contenders,
  runs: number,
): Promise<Measured[]> {
  const unit = 'us'
  const seen = `${name}: ping RTT, read by the application`
  return [
    await compare({ bench: `${name}: ping RTT`, unit }, contenders, rttUs, runs),
    await compare({ bench: seen, unit }, contenders, applicationRttUs, runs),
  ]
}

/** Every packet that is offered costs the same two cores, so what was offered is told beside what arrived. */
export async function comparePackets(
  name: string,
  contenders: Contenders,
  runs: number,
): Promise<Measured> {
  let leastOffered = Number.POSITIVE_INFINITY
  const measured = await compare(
    { bench: `${name}: 64-byte UDP`, unit: 'packets/s' },
    contenders,
    async (pair) => {
      const { deliveredPerSecond, offeredPerSecond } = await packetRate(pair)
      leastOffered = Math.min(leastOffered, offeredPerSecond)
      return deliveredPerSecond
    },
    runs,
  )
  return {
    ...measured,
    offered: `as many as one sender can; at least ${Math.round(leastOffered)} packets/s`,
  }
}

async function compare(
  what: { readonly bench: string; readonly unit: string },
  contenders: Contenders,
  measure: (pair: Pair) => Promise<number>,
  runs: number,
): Promise<Measured> {
  const entries = Object.entries(contenders)
  const { ours = Number.NaN, ...peers } = await interleaved(
    entries.map(([name, pair]) => ({ name, measure: () => measure(pair) })),
    runs,
  )
  return { ...what, ours, peers, samples: runs }
}
