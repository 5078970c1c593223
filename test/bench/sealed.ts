import type { Lab } from '@weft/lab'
import { Place } from '../support/place.ts'
import { startSniffer } from '../support/probe.ts'
import {
  type Contenders,
  comparePackets,
  compareRequests,
  compareRtt,
  compareTcp,
} from './compare.ts'
import { type BenchContext, directPair, type RunContext } from './context.ts'
import { firstData } from './first-data.ts'
import { manyHosts } from './many-hosts.ts'
import type { Pair, TcpLoad } from './measure.ts'
import { cutToSize, type WireEnd } from './offloads.ts'
import { type Peer, rawVeth } from './peers.ts'
import { type Bar, judge, type Measured, type Result, unjudged } from './result.ts'
import { type StockClient, stockClient } from './stock.ts'
import { n2n, nebula, openvpn, type TunnelPeer, tinc, wireguardGo } from './tunnels.ts'

const WIREGUARD = 'wireguard-go'
const VETH = 'veth'
/** The best of them counts. */
const OTHERS: readonly string[] = ['nebula', 'tinc', 'n2n', 'openvpn']
const TUNNELS = { [WIREGUARD]: wireguardGo, nebula, tinc, n2n, openvpn }
const DATAGRAM_SIZES_BYTES = [64, 1200]
const TCP_LOADS: readonly TcpLoad[] = [
  { streams: 1 },
  { streams: 1, reverse: true },
  { streams: 4 },
  { streams: 4, reverse: true },
]
/** What a client of the WireGuard protocol alone has to reach with a host of ours, as a ratio to two machines of wireguard-go. */
const STOCK = 1.2

/** What the ratios of TCP have to be at least, where the underlay takes super-packets whole and where it cuts them. */
interface TcpBars {
  readonly wireguard: number
  readonly others: number
  readonly vethOneStream: number
}
const WHOLE: TcpBars = { wireguard: 2.5, others: 10, vethOneStream: 0.4 }
const SEGMENTED: TcpBars = { wireguard: 2.5, others: 6, vethOneStream: 0.55 }

/** Two containers of two hosts on one wire that seal what they send each other, against programs that join two hosts by a tunnel. */
export async function sealed(context: BenchContext): Promise<Result[]> {
  const { lab } = context
  const clear = await clearOnTheWire(lab)
  if (!clear.pass) {
    console.log('not sealed; try: npm run bench -- sealed --peers-only')
    return [clear]
  }
  const handshakes = [...(await firstData(context)), ...(await manyHosts(context))]
  await using stock = await orLeftOut('a stock client', context, () => stockClient(lab))
  const ends = lab.weftHosts.map(({ namespace }) => ({ place: new Place(namespace) }))
  const ours: Ours = { pair: directPair(lab), ends, ...(stock && { stock }) }
  return [clear, ...handshakes, ...(await measureAll(context, ours))]
}

/** The same of the peers alone; nothing is asked of them. */
export async function sealedPeers(context: RunContext): Promise<Result[]> {
  return await measureAll(context, undefined)
}

interface Ours {
  readonly pair: Pair
  readonly ends: readonly WireEnd[]
  readonly stock?: StockClient
}

async function measureAll(context: RunContext, ours: Ours | undefined): Promise<Result[]> {
  await using made = new AsyncDisposableStack()
  const peers = await startPeers(made, context)
  const contenders: Contenders = {
    ...(ours && { ours: ours.pair }),
    ...Object.fromEntries(peers.map(({ name, pair }) => [name, pair])),
  }
  const whole = [
    ...(await tcp('sealed', contenders, WHOLE, context)),
    ...(await roundTrips(contenders, context)),
    ...(await packets('sealed', contenders, context)),
    ...(await toStock('sealed', ours, contenders, context)),
  ]
  const ends = [...(ours?.ends ?? []), ...peers.flatMap((peer) => wireEnds(peer))]
  await using _ = await cutToSize(ends)
  const segmented = [
    ...(await tcp('sealed, segmented', contenders, SEGMENTED, context)),
    ...(await packets('sealed, segmented', contenders, context)),
    ...(await toStock('sealed, segmented', ours, contenders, context)),
  ]
  const peersAbout = Object.fromEntries(peers.map(({ name, about }) => [name, about]))
  return [...whole, ...segmented].map((result) => ({
    ...result,
    peersAbout: { ...peersAbout, ...result.peersAbout },
  }))
}

/** Starts those that can be had here, tells what they are, and names the others with the reason. */
async function startPeers(
  made: AsyncDisposableStack,
  { prefix, signal }: RunContext,
): Promise<readonly TunnelPeer[]> {
  const veth = made.use(await rawVeth(`${prefix}-ve`))
  const peers: TunnelPeer[] = [{ ...veth, about: 'a bare pair of the same MTU' }]
  // One after the other: what each sends at first, to learn what the path takes, must not be delayed by others.
  for (const [name, start] of Object.entries(TUNNELS)) {
    const found = await orLeftOut(name, { signal }, () => start(`${prefix}-${name.slice(0, 2)}`))
    if (found !== undefined) peers.push(made.use(found))
  }
  for (const { name, about } of peers) console.log(`${name}: ${about}`)
  return peers
}

/** What is not to be had is told with the reason. */
async function orLeftOut<T>(
  name: string,
  { signal }: Pick<RunContext, 'signal'>,
  start: () => Promise<T>,
): Promise<T | undefined> {
  signal.throwIfAborted()
  try {
    return await start()
  } catch (error) {
    signal.throwIfAborted()
    console.log(`${name} is left out: ${error instanceof Error ? error.message : String(error)}`)
    return undefined
  }
}

/** Where packets leave: the hosts of a tunnel, or for a bare veth pair its own ends. */
function wireEnds({ hosts, pair }: Peer): WireEnd[] {
  if (hosts.length > 0) return hosts.map((place) => ({ place }))
  return [pair.client, pair.server].map((place) => ({ place, device: 'eth0' }))
}

async function tcp(
  name: string,
  contenders: Contenders,
  bars: TcpBars,
  context: RunContext,
): Promise<Result[]> {
  const results: Result[] = []
  for (const load of TCP_LOADS) {
    const { throughput, cost } = await compareTcp(name, contenders, load, context)
    const isOneStream = load.streams === 1
    results.push(
      ...hold(throughput, [
        { kind: 'at-least', value: bars.wireguard, versus: WIREGUARD },
        { kind: 'at-least', value: bars.others, versus: fastest(throughput) },
        ...(isOneStream
          ? [{ kind: 'at-least', value: bars.vethOneStream, versus: VETH } as const]
          : []),
      ]),
      ...(isOneStream ? hold(cost, [{ kind: 'at-most', value: 0.4, versus: WIREGUARD }]) : []),
    )
  }
  return results
}

async function roundTrips(contenders: Contenders, context: RunContext): Promise<Result[]> {
  const all = [
    ...(await compareRtt('sealed', contenders, context)),
    await compareRequests('sealed', contenders, context),
  ]
  return all.flatMap((one) => hold(one, [{ kind: 'at-most', value: 0.7, versus: WIREGUARD }]))
}

async function packets(
  name: string,
  contenders: Contenders,
  context: RunContext,
): Promise<Result[]> {
  const results: Result[] = []
  for (const sizeBytes of DATAGRAM_SIZES_BYTES) {
    const measured = await comparePackets(name, contenders, sizeBytes, context)
    results.push(...hold(measured, [{ kind: 'at-least', value: 2.5, versus: WIREGUARD }]))
  }
  return results
}

/** A client of the WireGuard protocol alone with a host of ours, against two machines that have that client's program. */
async function toStock(
  name: string,
  ours: Ours | undefined,
  contenders: Contenders,
  context: RunContext,
): Promise<Result[]> {
  const both = contenders[WIREGUARD]
  if (ours?.stock === undefined || both === undefined) return []
  const { pair, about } = ours.stock
  const peersAbout = { 'stock client': about }
  const pairs: Contenders = { ours: pair, [WIREGUARD]: both }
  const results: Result[] = []
  for (const load of TCP_LOADS) {
    const { throughput } = await compareTcp(`${name}, to a stock client`, pairs, load, context)
    results.push(...hold(throughput, [{ kind: 'at-least', value: STOCK, versus: WIREGUARD }]))
  }
  return results.map((result) => ({ ...result, peersAbout }))
}

/** Of the `OTHERS`, the one that is hardest to beat. */
function fastest({ peers = {} }: Measured): string {
  const there = Object.entries(peers).filter(([name]) => OTHERS.includes(name))
  return there.toSorted(([, a], [, b]) => b - a)[0]?.[0] ?? ''
}

/** Holds a figure against the bars of peers that are there. */
function hold(measured: Measured, bars: readonly (Bar & { readonly versus: string })[]): Result[] {
  const { ours, peers = {} } = measured
  const there = bars.filter(({ versus }) => Object.hasOwn(peers, versus))
  if (ours === null || there.length === 0) return [unjudged(measured)]
  return there.map((bar) => judge(measured, bar))
}

const CANARY = 'c0ffee5ea1ed0b5e55edfacade5eed42'
const CANARIES = 5

/** Whether what containers of the two hosts send each other can be read on the wire; figures of a path that shows it would be of another one. */
async function clearOnTheWire(lab: Lab): Promise<Result> {
  const { client, address } = directPair(lab)
  const [, receiver] = lab.weftHosts
  if (receiver === undefined) throw new Error('the lab has one host only')
  const wire = { device: receiver.underlayDevice, match: CANARY }
  await using sniffer = await startSniffer(new Place(receiver.namespace), wire)
  await client.mustRun(['ping', '-c', String(CANARIES), '-i', '0.1', '-p', CANARY, address])
  const { frames, matched } = await sniffer.stop()
  if (frames < CANARIES) throw new Error(`${frames} packets have come by ${receiver.name}'s wire`)
  return judge(
    { bench: 'sealed: readable on the wire', unit: 'packets', ours: matched, samples: CANARIES },
    { kind: 'at-most', value: 0 },
  )
}
