import {
  type Candidate,
  ConnectionState,
  OpenConnection,
} from '@weft/proto/weftline/common/v1/common.ts'
import { connectionKey } from './open-connections.ts'

/** Connections in one report, of some 130 bytes: 33 KiB. */
const REPORTED_MAX = 256
/** Connections that are reported at all: config keeps no more of a host. */
const CONNECTIONS_MAX = 1_024
/** Observed addresses in a report. */
const OBSERVED_MAX = 4
/** What has not changed is said again after this long. Config forgets it after 90 s. */
const SAY_AGAIN_MS = 20_000

/** What a report says. */
export interface Saying {
  readonly connections: OpenConnection[]
  readonly goneHostIds: number[]
  readonly observed: Candidate[]
}

interface Said {
  readonly hostId: number
  readonly bytes: Buffer
  readonly atMs: number
}

/** Decides what is to be said of the open connections: what has changed, what is gone, and now and then the rest. */
export class ConnectionReports {
  readonly #said: Map<string, Said> = new Map()
  #observedText = ''
  #observedAtMs = -Infinity

  /** What to say now; undefined if there is nothing. What it answers counts as said. */
  next(
    connections: readonly OpenConnection[],
    observed: readonly Candidate[],
    nowMs: number,
  ): Saying | undefined {
    const present = new Map(
      [...connections]
        .sort((a, b) => rank(a) - rank(b))
        .slice(0, CONNECTIONS_MAX)
        .map((connection) => [connectionKey(connection), connection]),
    )
    const goneHostIds = this.#takeGone(present)
    const due = this.#takeDue(present, nowMs)
    const seen = observed.slice(0, OBSERVED_MAX)
    const isObservedDue = this.#isObservedDue(seen, nowMs)
    if (due.length + goneHostIds.length === 0 && !isObservedDue) return undefined
    this.#observedText = textOf(seen)
    this.#observedAtMs = nowMs
    return { connections: due, goneHostIds, observed: seen }
  }

  /** Nobody may have heard what was said. */
  forget(): void {
    this.#said.clear()
    this.#observedAtMs = -Infinity
  }

  /** A host of which one carrier is gone is gone as a whole, and what is left is said anew. */
  #takeGone(present: ReadonlyMap<string, OpenConnection>): number[] {
    const gone = new Set<number>()
    for (const [key, { hostId }] of this.#said) if (!present.has(key)) gone.add(hostId)
    for (const [key, { hostId }] of this.#said) if (gone.has(hostId)) this.#said.delete(key)
    return [...gone]
  }

  #takeDue(present: ReadonlyMap<string, OpenConnection>, nowMs: number): OpenConnection[] {
    const due: { key: string; connection: OpenConnection; said: Said; order: number }[] = []
    for (const [key, connection] of present) {
      const before = this.#said.get(key)
      const bytes = Buffer.from(OpenConnection.encode(connection).finish())
      if (before?.bytes.equals(bytes) && nowMs - before.atMs < SAY_AGAIN_MS) continue
      const said = { hostId: connection.hostId, bytes, atMs: nowMs }
      due.push({ key, connection, said, order: before?.atMs ?? -Infinity })
    }
    // Whoever has waited longest goes first, so that each is said in time though others change all the time.
    const taken = due.sort((a, b) => a.order - b.order).slice(0, REPORTED_MAX)
    for (const { key, said } of taken) this.#said.set(key, said)
    return taken.map(({ connection }) => connection)
  }

  #isObservedDue(observed: readonly Candidate[], nowMs: number): boolean {
    if (textOf(observed) !== this.#observedText) return true
    return observed.length > 0 && nowMs - this.#observedAtMs >= SAY_AGAIN_MS
  }
}

/** Where not all are reported it is those that somebody uses. */
function rank({ state }: OpenConnection): number {
  return state === ConnectionState.CONNECTION_STATE_IDLE ? 1 : 0
}

function textOf(candidates: readonly Candidate[]): string {
  return candidates.map(({ address, port }) => `${address.toString('hex')}:${port}`).join(' ')
}
