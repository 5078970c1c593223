/** One measurement between two namespaces, by the same tools for us and for the peers. */

import type { Place } from '../support/place.ts'
import { askByTcp, ping, send, startReceiver, startTcpEcho } from '../support/probe.ts'
import { busyCpuSeconds } from './machine.ts'

/** Two ends, with the address at which the first reaches the second. */
export interface Pair {
  readonly client: Place
  readonly server: Place
  readonly address: string
}

const TCP_SECONDS = 3
const PINGS = 5000
const REQUESTS = 5000
const PACKETS_MS = 2000
const PORT = 5201

export interface TcpLoad {
  readonly streams: number
  /** From the server to the client. */
  readonly reverse?: boolean
}

export interface TcpRun {
  /** As the receiver saw it. */
  readonly gbps: number
  /** Of the whole machine, both ends and whoever carries the packets, by 10^9 bytes that arrived. */
  readonly cpuSecondsPerGb: number
}

/**
 * Throughput of TCP and what it costs; all streams are of one process at either end. The client is held to core 0 and the server to
 * core 1, whoever carries the packets: left alone, the scheduler now and then puts both on one core or moves them in the middle, and a run then
 * measures that instead. `congestion` is one of Linux's kinds of congestion control.
 */
export async function tcpRun(
  pair: Pair,
  { streams, reverse = false }: TcpLoad,
  congestion: string,
): Promise<TcpRun> {
  const { client, server, address } = pair
  await using listener = server.start(['iperf3', '--server', '--one-off', '--forceflush'])
  await listener.until('listening')
  const busyBefore = busyCpuSeconds()
  const output = await client.mustRun([
    ...['iperf3', '--client', address, '--time', String(TCP_SECONDS)],
    ...['--parallel', String(streams), '--affinity', '0,1', '--json'],
    ...['--congestion', congestion],
    ...(reverse ? ['--reverse'] : []),
  ])
  const cpuSeconds = busyCpuSeconds() - busyBefore
  const { end } = JSON.parse(output) as {
    end: { sum_received: { bits_per_second: number; bytes: number } }
  }
  const { bits_per_second, bytes } = end.sum_received
  return { gbps: bits_per_second / 1e9, cpuSecondsPerGb: (cpuSeconds * 1e9) / bytes }
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

/** Median time, in microseconds, from a request of one byte over an open TCP connection to where its answer has been read. */
export async function requestUs({ client, server, address }: Pair): Promise<number> {
  const to = `${address}:${PORT}`
  await using _ = await startTcpEcho(server, { listen: to })
  const { p50_ns } = await askByTcp(client, to, { count: REQUESTS })
  if (p50_ns === null) throw new Error(`${to} does not answer`)
  return p50_ns / 1000
}

export interface PacketRate {
  readonly deliveredPerSecond: number
  readonly offeredPerSecond: number
}

/** Datagrams of `sizeBytes` that reach the receiver's socket in a second, while one sender offers as many as it can. */
export async function packetRate(
  { client, server, address }: Pair,
  sizeBytes: number,
): Promise<PacketRate> {
  await using receiver = await startReceiver(server, { listen: `${address}:${PORT}` })
  const sent = await send(client, {
    to: `${address}:${PORT}`,
    rate: 0,
    size: sizeBytes,
    'duration-ms': PACKETS_MS,
  })
  const { received, socket_drops, span_ns } = await receiver.stop()
  return {
    deliveredPerSecond: ((received + socket_drops) * 1e9) / span_ns,
    offeredPerSecond: (sent.sent * 1e9) / sent.elapsed_ns,
  }
}
