import { isEqual } from './equal.ts'
import type { TableChange } from './switch-table.ts'

type Put = Extract<TableChange, { readonly value: unknown }>

/** What the data plane has, as far as this process wrote it. */
export class InForce {
  readonly #entries: Map<string, Put> = new Map()

  /** The data plane took these. */
  note(changes: readonly TableChange[], isReplace: boolean): void {
    if (isReplace) this.#entries.clear()
    for (const change of changes) {
      if ('value' in change) this.#entries.set(keyOf(change), change)
      else this.#entries.delete(keyOf(change))
    }
  }

  forget(): void {
    this.#entries.clear()
  }

  /**
   * What has to go so that nothing stays that these changes, which the data plane refused, would have taken away: also
   * endpoints and peers that are others by them, for what is in force may be what was revoked.
   */
  leftovers(refused: readonly TableChange[], isReplace: boolean): TableChange[] {
    const wanted = new Map(refused.map((change) => [keyOf(change), change]))
    const networks = new Set<number>()
    const isLeft = (entry: Put): boolean => {
      const change = wanted.get(keyOf(entry))
      if (!change) return isReplace
      if (!('value' in change)) return true
      return entry.kind !== 'put-network' && !isEqual(entry.value, change.value)
    }
    const gone = new Map<string, TableChange>()
    for (const [key, entry] of this.#entries) {
      if (!isLeft(entry)) continue
      gone.set(key, deletionOf(entry))
      if (entry.kind === 'put-network') networks.add(entry.value.id)
    }
    // A network does not go without what is in it.
    for (const [key, entry] of this.#entries) {
      if (entry.kind === 'put-endpoint' && networks.has(entry.value.networkId)) {
        gone.set(key, deletionOf(entry))
      }
    }
    return [...gone.values()]
  }
}

function deletionOf(entry: Put): TableChange {
  switch (entry.kind) {
    case 'put-network':
      return { kind: 'delete-network', id: entry.value.id }
    case 'put-endpoint':
      return { kind: 'delete-endpoint', id: entry.value.id }
    case 'put-peer':
      return { kind: 'delete-peer', id: entry.value.hostId, carrier: entry.value.carrier }
  }
}

function keyOf(change: TableChange): string {
  switch (change.kind) {
    case 'put-network':
      return `network ${change.value.id}`
    case 'put-endpoint':
      return `endpoint ${change.value.id}`
    case 'put-peer':
      return `peer ${change.value.hostId} ${change.value.carrier}`
    case 'delete-network':
      return `network ${change.id}`
    case 'delete-endpoint':
      return `endpoint ${change.id}`
    case 'delete-peer':
      return `peer ${change.id} ${change.carrier}`
  }
}
