/** One measurement between two namespaces, by the same tools for us and for the peers. */

import type { Place } from '../support/place.ts'
import { ping, send, startReceiver } from '../support/probe.ts'

/** Two ends, with the address at which the first reaches the second. */
export interface Pair {
  readonly client: Place
  readonly server: Place
  readonly address: string
}

const TCP_SECONDS = 3
const PINGS = 5000
const PACKETS_MS = 2000
const PORT = 5201

/**
 * Throughput of TCP in Gb/s, as the receiver saw it; all streams are of one process at either end. The client is held to core 0 and the server to
 * core 1, whoever carries the packets: left alone, the scheduler now and then puts both on one core or moves them in the middle, and a run then
 * measures that instead.
 */
export async function tcpGbps({ client, server, address }: Pair, streams: number): Promise<number> {
  await using listener = server.start(['iperf3', '--server', '--one-off', '--forceflush'])
  await listener.until('listening')
  const output = await client.mustRun([
    ...['iperf3', '--client', address, '--time', String(TCP_SECONDS)],
    ...['--parallel', String(streams), '--affinity', '0,1', '--json'],
  ])
  const report: { end: { sum_received: { bits_per_second: number } } } = JSON.parse(output)
  return report.end.sum_received.bits_per_second / 1e9
}

/**
 * Median round trip of ICMP echo in microseconds, one in flight, without pauses, as ping(8) takes it: up to the kernel's
 * time stamp of the reply. `bpf_redirect_peer` keeps the stamp of the host's device, so one of our two last hops is not
 * in it; it is in `applicationRttUs`.
 */
export function rttUs(pair: Pair): Promise<number> {
  return medianUs(pair, 'p50_ns')
}

/** The same up to where the program that pings has read the reply. */
export function applicationRttUs(pair: Pair): Promise<number> {
  return medianUs(pair, 'application_p50_ns')
}

async function medianUs(
  { client, address }: Pair,
  figure: 'p50_ns' | 'application_p50_ns',
): Promise<number> {
  const { [figure]: median } = await ping(client, address, { count: PINGS, 'interval-us': 0 })
  if (median === null) throw new Error(`${address} does not answer`)
  return median / 1000
}

export interface PacketRate {
  readonly deliveredPerSecond: number
  readonly offeredPerSecond: number
}

/** Datagrams of 64 bytes that reach the receiver's socket in a second, while one sender offers as many as it can. */
export async function packetRate({ client, server, address }: Pair): Promise<PacketRate> {
  await using receiver = await startReceiver(server, { listen: `${address}:${PORT}` })
  const sent = await send(client, {
    to: `${address}:${PORT}`,
    rate: 0,
    size: 64,
    'duration-ms': PACKETS_MS,
  })
  const { received, socket_drops, span_ns } = await receiver.stop()
  return {
    deliveredPerSecond: ((received + socket_drops) * 1e9) / span_ns,
    offeredPerSecond: (sent.sent * 1e9) / sent.elapsed_ns,
  }
}
