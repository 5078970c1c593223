import {
  type Bus,
  buckets,
  events as busEvents,
  hostRowPrefix,
  keyTokens,
  type WatchEvent,
} from '@weft/bus'
import type { SignedHostRow } from '@weft/proto/weftline/config/v1/rows.ts'
import { RulesChanged } from '@weft/proto/weftline/routing/v1/routing.ts'
import type { DecisionCache } from './domain/decision-cache.ts'
import type { HostRows, RowsTouched } from './domain/host-rows.ts'
import { type RowChange, RowKind } from './domain/rows.ts'
import type { Events } from './events.ts'
import { type RowGate, untrustedRows } from './row-gate.ts'

/** Watches the rows of this host, and nothing else of the bucket, until the signal is aborted. */
export async function watchRows(options: {
  readonly bus: Bus
  readonly hostId: number
  readonly rows: HostRows
  readonly gate: RowGate
  /** The time by which rights end, in milliseconds since 1970. */
  readonly nowMs: () => number
  readonly events: Events
  /** Called after each batch with what it changed, which may be nothing. */
  readonly onTouched: (touched: readonly RowsTouched[]) => void
  readonly signal: AbortSignal
}): Promise<void> {
  const { bus, hostId, rows, events, onTouched, signal } = options
  const bucket = await bus.openBucket(buckets.hosts, untrustedRows, { access: 'watch' })
  rows.beginResync()
  events.resyncBegun('started')
  for await (const batch of bucket.watch(hostRowPrefix(hostId), { signal })) {
    const touched: RowsTouched[] = []
    for (const event of batch) {
      const wasResyncing = rows.isResyncing
      const changed = take(event, options)
      touched.push(...changed)
      if (wasResyncing && !rows.isResyncing) events.resyncEnded({ rows: rows.size })
    }
    onTouched(touched)
  }
}

/** Drops answers that newer rules make void. */
export function watchRules(bus: Bus, decisions: DecisionCache): AsyncDisposable {
  return bus.subscribe(
    busEvents.rulesChanged.pattern(),
    RulesChanged,
    ({ revision }) => decisions.announceRevision(revision),
    { onOverflow: () => decisions.clear() },
  )
}

function take(
  event: WatchEvent<SignedHostRow>,
  options: {
    readonly rows: HostRows
    readonly gate: RowGate
    readonly nowMs: () => number
    readonly events: Events
  },
): RowsTouched[] {
  const { rows, gate, nowMs, events } = options
  switch (event.kind) {
    case 'put': {
      const admission = gate.admit(event.value, event.key)
      if (admission.kind === 'unknown') return []
      if (admission.kind === 'refused') {
        events.rowRefused(admission.reason, event.key)
        return []
      }
      const { change } = admission
      if (change.notAfterMs <= nowMs()) {
        events.rowRefused('expired', event.key)
        return []
      }
      if (rows.isOutdated(change)) events.rowRefused('replayed', event.key)
      return rows.apply(change)
    }
    case 'delete': {
      const change = deletionOf(event.key)
      return change ? rows.apply(change) : []
    }
    // Not with this codec: it reads everything, and the gate refuses.
    case 'damaged':
      return []
    case 'snapshot-end':
      return rows.endSnapshot()
    case 'reset':
      events.resyncBegun(event.reason)
      rows.beginResync()
      return []
  }
}

/** The deletion that a key `host.<id>.<kind>.<id>` says; undefined for a kind that this version does not know. */
function deletionOf(key: string): RowChange | undefined {
  const [, , kind, id] = keyTokens(key)
  const rowKind = Object.values(RowKind).find((candidate) => candidate === kind)
  if (!rowKind) return undefined
  return { kind: 'delete', rowKind, id: rowKind === RowKind.Self ? 0 : Number(id) }
}
