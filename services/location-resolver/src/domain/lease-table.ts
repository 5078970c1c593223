/** A host's word that it lives, which renews all its claims. */
export interface Lease {
  readonly hostId: number
  readonly leaseId: string
  readonly ttlMs: number
  /** By the host's clock, which it never sets back for this. */
  readonly sentAtUnixMs: bigint
}

/**
 * When each host last said that it lives, as this replica heard it. A claim does not end by silence: while renewals
 * cannot arrive nobody else can claim the endpoint either, so only a higher epoch ends one.
 */
export class LeaseTable {
  readonly #leases = new Map<number, { readonly lease: Lease; readonly heardAtMs: number }>()

  /** Takes a renewal, unless it is not later than the last one: then somebody says it once more. Returns whether it did. */
  renew(lease: Lease, nowMs: number): boolean {
    const known = this.#leases.get(lease.hostId)
    if (known && lease.sentAtUnixMs <= known.lease.sentAtUnixMs) return false
    this.#leases.set(lease.hostId, { lease, heardAtMs: nowMs })
    return true
  }

  forget(hostId: number): void {
    this.#leases.delete(hostId)
  }

  /** The host's lease with its age in milliseconds; undefined if this replica never heard of one. */
  find(hostId: number, nowMs: number): { lease: Lease; ageMs: number } | undefined {
    const known = this.#leases.get(hostId)
    return known && { lease: known.lease, ageMs: nowMs - known.heardAtMs }
  }

  /** How many hosts keep their lease and how many let it run out. */
  count(nowMs: number): { fresh: number; overdue: number } {
    let fresh = 0
    for (const { lease, heardAtMs } of this.#leases.values()) {
      if (nowMs - heardAtMs <= lease.ttlMs) fresh++
    }
    return { fresh, overdue: this.#leases.size - fresh }
  }
}
