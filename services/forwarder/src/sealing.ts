import type { KeyObject } from 'node:crypto'
import { asWeftError } from '@weft/errors'
import { privateBytesOf, publicKeyOf, TUNNEL_KEY_OVERLAP_MS } from '@weft/identity'
import type { Offload } from '@weft/proto/weftline/common/v1/common.ts'
import type { ConfigureSealingResponse } from '@weft/proto/weftline/shuttle/v1/sealing.ts'
import type { SealingClient } from '@weft/shuttle'
import { untraced } from '@weft/telemetry'
import { backOffMs } from './domain/back-off.ts'
import type { HostRows } from './domain/host-rows.ts'
import { SealedStates } from './domain/open-connections.ts'
import type { SwitchTable } from './domain/switch-table.ts'
import type { Events } from './events.ts'
import { Coalesced, pause } from './loop.ts'
import type { RevocationPasser } from './revocation-passer.ts'

/** The shuttle measures its ciphers meanwhile, some 20 ms. */
const TIMEOUT_MS = 2_000
/** How often a shuttle that does not seal is asked again, and keys are looked at whose time may be over. */
const LOOK_MS = 5_000
const RETRY_CAP_MS = 1_000

/** What an operator may set of the sealed transport. */
export interface SealingSwitches {
  /** Empty for none. */
  readonly keyLogPath: string
  readonly offloadsOff: readonly Offload[]
  readonly chacha20Only: boolean
}

/** Whether this host seals, and how. */
export type SealingState =
  | { readonly kind: 'on'; readonly said: ConfigureSealingResponse }
  | { readonly kind: 'unavailable'; readonly problem: string }

/**
 * The forwarder's side of the shuttle's sealed transport: gives it this host's tunnel keys, which it keeps nowhere, and
 * hears how its connections are. As long as that has not worked no host is reached by the sealed carrier, and none by a
 * plain one instead.
 */
export class Sealing {
  readonly states: SealedStates = new SealedStates()
  readonly #options: SealingOptions
  readonly #configuring: Coalesced = new Coalesced(() => this.#configure())
  #state: SealingState | undefined
  #key: KeyObject | undefined
  /** The shuttle may have nothing of what it was given before. */
  #isShuttleNew = true
  /** It has not taken the newest. */
  #isBehind = false
  #previous: { readonly key: KeyObject; readonly untilMs: number } | undefined

  constructor(options: SealingOptions) {
    this.#options = options
    this.#key = options.tunnelKey()
  }

  /** Undefined on a host whose record does not say that it seals. */
  get state(): SealingState | undefined {
    return this.#state
  }

  /** Gives the shuttle what it needs, if this host is to seal; never throws. What it changes is in the tables after the next sync. */
  configure(): Promise<void> {
    return this.#configuring.run()
  }

  /** Resolves once the shuttle has what it was to get, or does not take it. */
  settled(): Promise<void> {
    return this.#configuring.idle()
  }

  /** The shuttle is there, and may be another one than before: gives it everything. */
  shuttleFound(): Promise<void> {
    this.#isShuttleNew = true
    return this.configure()
  }

  /** The identity of this host changed: its former tunnel key is answered to for a while. */
  async noteKeys(nowMs: number): Promise<void> {
    const key = this.#options.tunnelKey()
    if (!key || this.#key?.equals(key)) return
    if (this.#key) this.#previous = { key: this.#key, untilMs: nowMs + TUNNEL_KEY_OVERLAP_MS }
    this.#key = key
    await this.configure()
  }

  /** Hears the states of connections until the signal is aborted. */
  async watch(signal: AbortSignal): Promise<void> {
    for (let attempt = 1; !signal.aborted; attempt++) {
      if (this.#state?.kind === 'on') {
        try {
          this.states.begin()
          for await (const said of this.#options.client.watchSealed({}, { signal })) {
            this.states.apply(said)
            await this.#options.revocations.hear(said.revocations)
            attempt = 0
          }
        } catch {
          // The stream of misses tells that the shuttle is gone.
        }
        this.states.clear()
      }
      if (!signal.aborted) await pause(backOffMs(attempt, Math.random(), 50, RETRY_CAP_MS), signal)
    }
  }

  /** Ends keys whose time is over, and asks again a shuttle that did not seal, until the signal is aborted. */
  async keep(onChanged: () => void, signal: AbortSignal): Promise<void> {
    const { table, nowMs } = this.#options
    while (!signal.aborted) {
      await pause(LOOK_MS, signal)
      if (signal.aborted) return
      table.endTunnelKeys(nowMs())
      const isOver = this.#previous !== undefined && this.#previous.untilMs <= nowMs()
      if (isOver) this.#previous = undefined
      if (isOver || this.#isBehind) await untraced(() => this.configure())
      await this.#options.revocations.tellAgain()
      if (table.hasChanges) onChanged()
    }
  }

  async #configure(): Promise<void> {
    const { client, rows, table, switches, trustedMs, revocations, events } = this.#options
    const { self } = rows
    const key = this.#key
    // Without rows nothing is reached anyway.
    if (!self) return
    if (!self.canSeal || !key) {
      this.#state = undefined
      this.#isBehind = false
      table.setSealing(false)
      return
    }
    const { keyLogPath, offloadsOff, chacha20Only } = switches
    try {
      const said = await client.configureSealing(
        {
          privateKey: privateBytesOf(key),
          previousPrivateKey: this.#previous ? privateBytesOf(this.#previous.key) : Buffer.alloc(0),
          listenPort: self.sealedPort,
          keyLogPath,
          offloadsOff: [...offloadsOff],
          chacha20Only,
          trustedUnixMs: BigInt(Math.round(trustedMs() ?? 0)),
        },
        { timeoutMs: TIMEOUT_MS },
      )
      if (!said.publicKey.equals(publicKeyOf(key))) {
        throw new Error('the shuttle has taken another key than this host has')
      }
      this.#state = { kind: 'on', said }
      this.#isShuttleNew = false
      this.#isBehind = false
      table.setSealing(true)
      // The transport may be another one than before, which knows nothing of them.
      void revocations.tell()
      events.sealingConfigured(said.listenPort, said.keyLogged)
    } catch (error) {
      const { message, code } = asWeftError(error)
      const problem = code === 'unimplemented' ? 'the shuttle has no sealed transport' : message
      events.sealingUnavailable(problem)
      this.#isBehind = true
      // It goes on with what it has.
      if (this.#state?.kind === 'on' && !this.#isShuttleNew) return
      this.#state = { kind: 'unavailable', problem }
      this.states.clear()
      table.setSealing(false)
    }
  }
}

interface SealingOptions {
  readonly client: SealingClient
  readonly rows: HostRows
  readonly table: SwitchTable
  readonly tunnelKey: () => KeyObject | undefined
  readonly switches: SealingSwitches
  /** The time by which keys end, in milliseconds since 1970. */
  readonly nowMs: () => number
  /** The time that the control plane signed lately, as it is now; undefined where it is not known. */
  readonly trustedMs: () => number | undefined
  readonly revocations: Pick<RevocationPasser, 'hear' | 'tell' | 'tellAgain'>
  readonly events: Events
}
