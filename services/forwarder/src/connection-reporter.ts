import type { KeyObject } from 'node:crypto'
import { type Bus, events as busEvents } from '@weft/bus'
import { signConnections } from '@weft/identity/host-signature'
import type { Candidate, OpenConnection } from '@weft/proto/weftline/common/v1/common.ts'
import { ConnectionReport } from '@weft/proto/weftline/status/v1/status.ts'
import { ConnectionReports } from './domain/connection-reports.ts'
import { pause } from './loop.ts'

/** Reports are sent this often. */
const REPORT_MS = 5_000
/** And sooner where others see this host elsewhere than before: peers look for it there. Config looks at one report a second. */
const LOOK_MS = 1_500

/** Tells config how the open connections of this host are. Nobody answers: what is lost is said again. */
export class ConnectionReporter {
  readonly #options: ConnectionReporterOptions
  readonly #reports: ConnectionReports = new ConnectionReports()
  #sentAtMs = 0

  constructor(options: ConnectionReporterOptions) {
    this.#options = options
  }

  /** Reports over this bus until the signal is aborted. */
  async run(bus: Bus, signal: AbortSignal): Promise<void> {
    const { hostId, connections, observed, identityKey, nowMs } = this.#options
    const { everyMs = REPORT_MS } = this.#options
    const unwatch = bus.onStateChange(() => this.#reports.forget())
    let reportAtMs = Date.now() + everyMs
    let seen = observed()
    while (!signal.aborted) {
      await pause(Math.min(everyMs, LOOK_MS), signal)
      if (signal.aborted || bus.state !== 'connected') continue
      if (Date.now() < reportAtMs && observed() === seen) continue
      reportAtMs = Date.now() + everyMs
      seen = observed()
      const saying = this.#reports.next(connections(), observed(), Date.now())
      if (!saying) continue
      // One that is not later than the one before counts as said again by somebody else.
      this.#sentAtMs = Math.max(this.#sentAtMs + 1, nowMs())
      const report = {
        hostId,
        sentAtUnixMs: BigInt(this.#sentAtMs),
        ...saying,
        hostSignature: Buffer.alloc(0),
      }
      const subject = busEvents.connectionsReported.subject(hostId, hostId)
      bus.publish(subject, ConnectionReport, signConnections(report, identityKey()))
    }
    unwatch()
  }
}

interface ConnectionReporterOptions {
  readonly hostId: number
  readonly connections: () => readonly OpenConnection[]
  readonly observed: () => readonly Candidate[]
  /** Signs what is said; another one after the host's keys were rotated. */
  readonly identityKey: () => KeyObject
  /** A clock that never goes back, across restarts too. */
  readonly nowMs: () => number
  /** 5 s unless given. */
  readonly everyMs?: number
}
