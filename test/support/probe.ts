import { join } from 'node:path'
import { ROOT } from '../check/repository.ts'
import type { Place, Running } from './place.ts'

/** Drives `weft-probe`; its README says what each mode counts. */
const PROBE = join(ROOT, 'libs/shuttle/target/release/weft-probe')

type Options = Readonly<Record<string, string | number | boolean | undefined>>

export interface Sent {
  readonly sent: number
  readonly elapsed_ns: number
}

export interface Received {
  readonly received: number
  readonly doubled: number
  readonly out_of_order: number
  /** Of another label: it came from where nothing may come from. */
  readonly foreign: number
  readonly unknown: number
  /** Dropped by the receiver's own full buffer. */
  readonly socket_drops: number
  readonly span_ns: number
  readonly flows: readonly {
    readonly flow: number
    readonly received: number
    readonly longest_silence_ns: number
    /** From sending its first packet to its arrival. */
    readonly first_delay_ns: number
  }[]
}

export interface Sniffed {
  readonly frames: number
  readonly matched: number
}

export interface Pinged {
  readonly sent: number
  readonly received: number
  readonly lost: number
  readonly first_ns: number | null
  readonly min_ns: number | null
  readonly p50_ns: number | null
  readonly p90_ns: number | null
  readonly p99_ns: number | null
  readonly max_ns: number | null
  readonly application_p50_ns: number | null
}

export interface SendOptions {
  readonly to: string
  /** Datagrams per second of all flows, 0 for as many as can be. */
  readonly rate: number
  readonly flows?: number
  /** Number of the first flow. */
  readonly 'first-flow'?: number
  /** Number of the first datagram of each. */
  readonly 'first-sequence'?: number
  readonly size?: number
  /** Datagrams that the kernel is handed at once (UDP GSO). */
  readonly segments?: number
  readonly label?: number
  readonly count?: number
  readonly 'duration-ms'?: number
}

/** A running mode with its result at the end. */
export class Probe<Result> implements AsyncDisposable {
  readonly #running: Running

  constructor(running: Running) {
    this.#running = running
  }

  async stop(): Promise<Result> {
    return resultOf(await this.#running.stop())
  }

  async end(): Promise<Result> {
    return resultOf(await this.#running.end())
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#running[Symbol.asyncDispose]()
  }
}

export const startReceiver = (
  place: Place,
  options: { readonly listen: string; readonly label?: number },
): Promise<Probe<Received>> => start(place, 'udp-recv', options)

export const startSender = (place: Place, options: SendOptions): Promise<Probe<Sent>> =>
  start(place, 'udp-send', { ...options })

export const startSniffer = (
  place: Place,
  options: { readonly device: string; readonly match: string },
): Promise<Probe<Sniffed>> => start(place, 'sniff', options)

/** Stores datagrams to a port that a device receives, for `startThrow`. */
export const startRecord = (
  place: Place,
  options: {
    readonly device: string
    readonly port: number
    readonly file: string
    readonly count?: number
  },
): Promise<Probe<{ readonly recorded: number }>> => start(place, 'record', options)

export type ThrowKind = 'random' | 'again' | 'reversed' | 'flips' | 'cuts' | 'index'

export interface Thrown {
  readonly sent: number
  readonly elapsed_ns: number
  readonly answered: number
  readonly answered_bytes: number
}

/** Throws datagrams that no honest host sends. */
export const startThrow = (
  place: Place,
  options: {
    readonly to: string
    readonly from: string
    readonly kind: ThrowKind
    readonly file?: string
    readonly count?: number
    readonly rate?: number
    readonly seed?: number
    readonly spread?: boolean
  },
): Promise<Probe<Thrown>> => start(place, 'throw', { ...options })

export const startTapBridge = (
  place: Place,
  options: {
    readonly outer: string
    readonly netns: string
    readonly inner: string
    readonly 'vnet-hdr': boolean
  },
): Promise<Probe<{ readonly in_refused: number; readonly out_refused: number }>> =>
  start(place, 'tap-bridge', options)

/** Pings every millisecond until somebody answers. */
export const startFirstAnswer = (
  place: Place,
  to: string,
  giveUpMs: number,
): Promise<Probe<{ readonly answered_at_ns: number | null }>> =>
  start(place, 'ping', { to, count: giveUpMs, 'interval-us': 1000, 'until-answered': true })

/** Sends every byte back, one connection after the other. */
export const startTcpEcho = (
  place: Place,
  options: { readonly listen: string },
): Promise<Probe<{ readonly connections: number; readonly echoed_bytes: number }>> =>
  start(place, 'tcp-echo', options)

export interface AskOptions {
  readonly count?: number
  readonly size?: number
  readonly 'timeout-ms'?: number
}

export interface Asked {
  readonly answered: number
  readonly p50_ns: number | null
  readonly max_ns: number | null
}

/** Requests over one TCP connection, each sent when the answer to the one before has been read. */
export const startAsk = (place: Place, to: string, options: AskOptions): Promise<Probe<Asked>> =>
  start(place, 'tcp-ask', { to, ...options })

/** All of them. */
export async function askByTcp(place: Place, to: string, options: AskOptions = {}): Promise<Asked> {
  return await (await startAsk(place, to, options)).end()
}

export async function send(place: Place, options: SendOptions): Promise<Sent> {
  return await (await startSender(place, options)).end()
}

export async function sendFrame(
  place: Place,
  device: string,
  frame: string,
  count: number,
): Promise<void> {
  await (await start(place, 'frame-send', { device, frame, count })).end()
}

export async function ping(
  place: Place,
  to: string,
  options: {
    readonly count?: number
    readonly 'interval-us'?: number
    readonly 'timeout-ms'?: number
    readonly size?: number
  } = {},
): Promise<Pinged> {
  return await (await start<Pinged>(place, 'ping', { to, ...options })).end()
}

async function start<Result>(place: Place, mode: string, options: Options): Promise<Probe<Result>> {
  const words = Object.entries(options).flatMap(([name, value]) => {
    if (value === undefined || value === false) return []
    return value === true ? [`--${name}`] : [`--${name}`, String(value)]
  })
  const running = place.start([PROBE, mode, ...words])
  await running.until('"ready"')
  return new Probe(running)
}

function resultOf<Result>(lines: readonly string[]): Result {
  return JSON.parse(lines.at(-1) ?? 'null') as Result
}
