import type { IpAddress, MacAddress, Prefix } from '@weft/net'
import { backOffMs } from './back-off.ts'

/** What this host has to say about an endpoint's place. */
export interface Claim {
  readonly change: 'attached' | 'detached'
  readonly endpointId: number
  readonly networkId: number
  readonly addresses: readonly IpAddress[]
  /** What else an attached endpoint sends from. */
  readonly sources?: { readonly mac: MacAddress; readonly allowedPrefixes: readonly Prefix[] }
  /** Grows with every claim of the host: an older one that comes late changes nothing. */
  readonly sequence: bigint
  /** Revision of the VN database at which the endpoint was seen assigned to this host; 0 for a detached one. */
  readonly configRevision: bigint
}

interface Pending {
  readonly claim: Claim
  attempt: number
  dueAtMs: number
  inFlight: boolean
}

/**
 * What this host has said about places and what was acknowledged. A claim is repeated until it is acknowledged; a later
 * claim for the same endpoint takes its place.
 */
export class LocationClaims {
  readonly #claims: Map<number, Claim> = new Map()
  readonly #pending: Map<number, Pending> = new Map()
  /** Fencing number of each endpoint's acknowledged place. */
  readonly epochs: Map<number, bigint> = new Map()

  get pendingCount(): number {
    return this.#pending.size
  }

  /** Takes over a claim, to be said from `nowMs` on. */
  add(claim: Claim, nowMs: number): void {
    this.#claims.set(claim.endpointId, claim)
    this.epochs.delete(claim.endpointId)
    this.#pending.set(claim.endpointId, { claim, attempt: 0, dueAtMs: nowMs, inFlight: false })
  }

  /** Says everything once more, `perSecond` claims a second: nobody knows what was lost meanwhile. */
  announceAll(nowMs: number, perSecond: number): void {
    let index = 0
    for (const claim of this.#claims.values()) {
      const dueAtMs = nowMs + (index++ * 1_000) / perSecond
      this.#pending.set(claim.endpointId, { claim, attempt: 0, dueAtMs, inFlight: false })
    }
  }

  /** Claims to be said now; each is handed out once until `failed` or its time has come again. */
  takeDue(nowMs: number, countMax: number): Claim[] {
    const due: Claim[] = []
    for (const pending of this.#pending.values()) {
      if (due.length === countMax) break
      if (pending.inFlight || pending.dueAtMs > nowMs) continue
      pending.inFlight = true
      pending.attempt++
      due.push(pending.claim)
    }
    return due
  }

  /** The claim is known. Returns false if a later one has taken its place. */
  acknowledged(claim: Claim, epoch: bigint): boolean {
    if (this.#claims.get(claim.endpointId)?.sequence !== claim.sequence) return false
    this.#pending.delete(claim.endpointId)
    if (claim.change === 'detached') this.#claims.delete(claim.endpointId)
    else this.epochs.set(claim.endpointId, epoch)
    return true
  }

  failed(claim: Claim, nowMs: number, random: number): void {
    const pending = this.#pending.get(claim.endpointId)
    if (pending?.claim.sequence !== claim.sequence) return
    pending.inFlight = false
    pending.dueAtMs = nowMs + backOffMs(pending.attempt, random)
  }

  /** Nothing more is to be said about the endpoint. */
  withdraw(endpointId: number): void {
    this.#claims.delete(endpointId)
    this.#pending.delete(endpointId)
    this.epochs.delete(endpointId)
  }
}
