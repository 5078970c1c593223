import {
  type Bus,
  buckets,
  events as busEvents,
  hostRowPrefix,
  keyTokens,
  type WatchEvent,
} from '@weft/bus'
import { HostRow } from '@weft/proto/weftline/config/v1/rows.ts'
import { RulesChanged } from '@weft/proto/weftline/routing/v1/routing.ts'
import { rowFromMessage } from './decode.ts'
import type { DecisionCache } from './domain/decision-cache.ts'
import type { HostRows, RowsTouched } from './domain/host-rows.ts'
import { type RowChange, RowKind } from './domain/rows.ts'
import type { Events } from './events.ts'

/** Watches the rows of this host, and nothing else of the bucket, until the signal is aborted. */
export async function watchRows(options: {
  readonly bus: Bus
  readonly hostId: number
  readonly rows: HostRows
  readonly events: Events
  /** What a batch changed, and whether rows are complete after it. */
  readonly onTouched: (touched: readonly RowsTouched[]) => void
  readonly signal: AbortSignal
}): Promise<void> {
  const { bus, hostId, rows, events, onTouched, signal } = options
  const bucket = await bus.openBucket(buckets.hosts, HostRow)
  rows.beginResync()
  events.resyncBegun('started')
  for await (const batch of bucket.watch(hostRowPrefix(hostId), { signal })) {
    const touched: RowsTouched[] = []
    for (const event of batch) {
      const wasResyncing = rows.isResyncing
      const changed = take(event, rows, events)
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

function take(event: WatchEvent<HostRow>, rows: HostRows, events: Events): RowsTouched[] {
  switch (event.kind) {
    case 'put': {
      const change = rowFromMessage(event.value)
      return change ? rows.apply(change) : []
    }
    case 'delete': {
      const change = deletionOf(event.key)
      return change ? rows.apply(change) : []
    }
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
