/** Where an endpoint was observed last: one record of the bucket `locations`. */
export interface Location {
  readonly endpointId: number
  readonly networkId: number
  /** 4 or 16 bytes each. */
  readonly addresses: Buffer[]
  /** 0 once it was detached. */
  readonly hostId: number
  /** Fencing number: grows with every change of host. */
  readonly epoch: bigint
  readonly leaseId: string
  readonly observedAtUnixMs: bigint
  readonly hostSignature: Buffer
  /** Revision at which the record was written. */
  readonly revision: bigint
  readonly reportSequence: bigint
  readonly reporterHostId: number
  /** The report with its signature, as the host sent it; empty once it was detached. */
  readonly report: Buffer
}

/** This replica's copy of the observed locations, by endpoint. */
export class LocationTable {
  readonly #records = new Map<number, Location>()
  #newest = 0n
  /** The watch has delivered everything up to here; own writes may be ahead of it. */
  revision = 0n

  /** The revision up to which the store surely was written, as far as this table knows. */
  get known(): bigint {
    return this.#newest > this.revision ? this.#newest : this.revision
  }

  get(endpointId: number): Location | undefined {
    return this.#records.get(endpointId)
  }

  all(): IterableIterator<Location> {
    return this.#records.values()
  }

  /** Stores the record unless a newer one is there. Returns whether it did. */
  put(record: Location): boolean {
    const current = this.#records.get(record.endpointId)
    if (current !== undefined && current.revision >= record.revision) return false
    if (record.revision > this.#newest) this.#newest = record.revision
    const isOutdated = current?.revision === UNNUMBERED && supersedes(current, record)
    const kept = isOutdated ? { ...current, revision: record.revision } : record
    this.#records.set(record.endpointId, kept)
    return !isOutdated
  }

  /** Removes the record unless one newer than `revision` is there. Returns whether it did. */
  delete(endpointId: number, revision: bigint): boolean {
    const current = this.#records.get(endpointId)
    if (current === undefined || current.revision > revision) return false
    return this.#records.delete(endpointId)
  }

  /**
   * The store lost writes and numbers anew. What is known here stays, so that no epoch is given twice; only a record that
   * it does not supersede replaces it, whatever their revisions.
   */
  forgetRevisions(): void {
    this.revision = UNNUMBERED
    this.#newest = UNNUMBERED
    for (const [endpointId, record] of this.#records) {
      this.#records.set(endpointId, { ...record, revision: UNNUMBERED })
    }
  }
}

/** Revision of a record that the store may not hold: a write that replaces it expects none to be there. */
export const UNNUMBERED = 0n

function supersedes(a: Location, b: Location): boolean {
  if (a.epoch !== b.epoch) return a.epoch > b.epoch
  return a.reporterHostId === b.reporterHostId && a.reportSequence > b.reportSequence
}
