import assert from 'node:assert/strict'
import type { Lab } from '@weft/lab'
import type { Place } from '../../support/place.ts'
import {
  type Probe,
  type Received,
  type SendOptions,
  type Sent,
  startReceiver,
  startSender,
} from '../../support/probe.ts'
import { dropsOf } from './counters.ts'

/** Time for the last packets to arrive after the sender has ended. */
const SETTLE_MS = 300
const PORT = 5300

/** Where traffic goes: a namespace and the address at which its sender reaches it. */
export interface Target {
  readonly place: Place
  readonly address: string
}

export interface Loss {
  readonly sent: number
  readonly received: number
  readonly doubled: number
  /** Sent - received - dropped by the receiver's own socket. */
  readonly lost: number
  readonly longestSilenceMs: number
}

/** Numbered datagrams from one namespace to another, counted at both ends. */
export class Traffic implements AsyncDisposable {
  readonly #sender: Probe<Sent>
  readonly #receiver: Probe<Received>

  private constructor(sender: Probe<Sent>, receiver: Probe<Received>) {
    this.#sender = sender
    this.#receiver = receiver
  }

  static async start(
    from: Place,
    to: Target,
    options: Omit<SendOptions, 'to'>,
    port: number = PORT,
  ): Promise<Traffic> {
    const listen = socketAddress(to.address, port)
    const receiver = await startReceiver(to.place, { listen })
    const sender = await startSender(from, { ...options, to: listen })
    return new Traffic(sender, receiver)
  }

  /** Stops the sender, waits for the last packets, and counts. */
  async stop(): Promise<Loss> {
    return this.#count(await this.#sender.stop())
  }

  /** Waits until the sender has sent what it was to send, and counts. */
  async end(): Promise<Loss> {
    return this.#count(await this.#sender.end())
  }

  async #count({ sent }: Sent): Promise<Loss> {
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS))
    const { received, doubled, socket_drops, flows } = await this.#receiver.stop()
    return {
      sent,
      received,
      doubled,
      lost: sent - received - socket_drops,
      longestSilenceMs: Math.max(0, ...flows.map((flow) => flow.longest_silence_ns)) / 1e6,
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#sender[Symbol.asyncDispose]()
    await this.#receiver[Symbol.asyncDispose]()
  }
}

/** Everything that was sent arrived, once. */
export async function assertNothingLost(lab: Lab, loss: Loss): Promise<void> {
  assert.ok(loss.sent > 0, 'the sender sent nothing')
  if (loss.lost === 0 && loss.doubled === 0) return
  assert.fail(`${JSON.stringify(loss)}; dropped so far: ${await dropsOf(lab)}`)
}

/** `ADDRESS:PORT`, with brackets around IPv6. */
export function socketAddress(address: string, port: number): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`
}
