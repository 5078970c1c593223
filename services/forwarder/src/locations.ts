import type { KeyObject } from 'node:crypto'
import { type Bus, events as busEvents } from '@weft/bus'
import { asWeftError, fromWire, UnavailableError, type WeftError } from '@weft/errors'
import { signRenewal, signReport } from '@weft/identity/host-signature'
import { ipToBytes, macToBytes } from '@weft/net'
import {
  LeaseRenewal,
  LocationChange,
  LocationReport,
  LocationReportReply,
} from '@weft/proto/weftline/location/v1/location.ts'
import { prefixToMessage } from './decode.ts'
import { type Claim, LocationClaims } from './domain/location-claims.ts'
import type { Events } from './events.ts'
import { pause } from './loop.ts'

/** Reports on their way at once: location-resolver takes no more of one host. */
const REPORTS_AT_ONCE = 8
const REPORT_TIMEOUT_MS = 2_000
/** Reports a second when everything is said once more: all hosts do so at the same time. */
const ANNOUNCE_PER_SECOND = 200
/** How often claims are looked at that are to be repeated. */
const TICK_MS = 100
const LEASE_TTL_MS = 15_000
const LEASE_RENEWAL_MS = 5_000

/** Answers by which location-resolver says that the claim is wrong: saying it again would change nothing. */
const REJECTIONS: ReadonlySet<string> = new Set([
  'endpoint-not-assigned',
  'endpoint-not-found',
  'endpoint-attached-elsewhere',
  'host-not-found',
  'invalid-argument',
])

interface Waiter {
  readonly sequence: bigint
  readonly resolve: () => void
  readonly reject: (error: WeftError) => void
}

/** Tells location-resolver what is attached here, until it has heard, and that this host lives. */
export class Locations {
  readonly claims: LocationClaims = new LocationClaims()
  readonly #hostId: number
  readonly #leaseId: string
  readonly #identityKey: () => KeyObject
  readonly #nowMs: () => number
  readonly #events: Events
  readonly #onRejected: (endpointId: number) => void
  readonly #waiters: Map<number, Waiter> = new Map()
  #bus: Bus | undefined
  #inFlight = 0
  #renewedAtMs = 0

  constructor(options: {
    readonly hostId: number
    readonly leaseId: string
    /** Signs what is said; another one after the host's keys were rotated. */
    readonly identityKey: () => KeyObject
    /** A clock that never goes back, across restarts too. */
    readonly nowMs: () => number
    readonly events: Events
    /** location-resolver says that an endpoint, which nobody waits for, is not ours. */
    readonly onRejected: (endpointId: number) => void
  }) {
    this.#hostId = options.hostId
    this.#leaseId = options.leaseId
    this.#identityKey = options.identityKey
    this.#nowMs = options.nowMs
    this.#events = options.events
    this.#onRejected = options.onRejected
  }

  /** Says it in the background. */
  say(claim: Claim): void {
    this.claims.add(claim, Date.now())
    this.#send()
  }

  /** Says it; resolves once it was acknowledged. Throws what location-resolver said against it, or `UnavailableError`. */
  async saidWithin(claim: Claim, timeoutMs: number): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.#waiters.set(claim.endpointId, { sequence: claim.sequence, resolve, reject })
    const timer = setTimeout(() => {
      const problem = `a location report was not acknowledged within ${timeoutMs} ms`
      reject(new UnavailableError({ service: 'location-resolver', address: 'the bus', problem }))
    }, timeoutMs)
    try {
      this.say(claim)
      await promise
    } finally {
      clearTimeout(timer)
      this.#waiters.delete(claim.endpointId)
    }
  }

  /** Sends reports and renews the lease over this bus until the signal is aborted. */
  async run(bus: Bus, signal: AbortSignal): Promise<void> {
    this.#bus = bus
    this.#announceAll()
    const unwatch = bus.onStateChange((state) => {
      if (state === 'connected') this.#announceAll()
    })
    let renewAtMs = 0
    while (!signal.aborted) {
      if (Date.now() >= renewAtMs) {
        this.#renew(bus)
        renewAtMs = Date.now() + LEASE_RENEWAL_MS
      }
      this.#send()
      await pause(TICK_MS, signal)
    }
    unwatch()
    this.#bus = undefined
  }

  #announceAll(): void {
    this.claims.announceAll(Date.now(), ANNOUNCE_PER_SECOND)
    this.#send()
  }

  #send(): void {
    const bus = this.#bus
    if (!bus) return
    for (const claim of this.claims.takeDue(Date.now(), REPORTS_AT_ONCE - this.#inFlight)) {
      this.#inFlight++
      void this.#report(bus, claim).finally(() => {
        this.#inFlight--
        this.#send()
      })
    }
  }

  async #report(bus: Bus, claim: Claim): Promise<void> {
    try {
      const { outcome } = await bus.request(
        busEvents.endpointReported.subject(this.#hostId, claim.endpointId),
        { request: LocationReport, reply: LocationReportReply },
        signReport(this.#reportOf(claim), this.#identityKey()),
        { timeoutMs: REPORT_TIMEOUT_MS },
      )
      if (outcome?.$case === 'error') throw fromWire(outcome.value)
      const location = outcome?.$case === 'location' ? outcome.value : undefined
      const isHere = location?.hostId === this.#hostId
      if (claim.change === 'attached' && !isHere) return this.#rejected(claim, undefined)
      this.#events.locationAcknowledged()
      if (this.claims.acknowledged(claim, location?.epoch ?? 0n)) {
        this.#waiterOf(claim)?.resolve()
      }
    } catch (error) {
      const known = asWeftError(error)
      if (REJECTIONS.has(known.code)) return this.#rejected(claim, known)
      this.#events.locationLost(claim.endpointId, known)
      this.claims.failed(claim, Date.now(), Math.random())
    }
  }

  #reportOf(claim: Claim): LocationReport {
    return {
      change:
        claim.change === 'attached'
          ? LocationChange.LOCATION_CHANGE_ATTACHED
          : LocationChange.LOCATION_CHANGE_DETACHED,
      endpointId: claim.endpointId,
      networkId: claim.networkId,
      addresses: claim.addresses.map(ipToBytes),
      hostId: this.#hostId,
      leaseId: this.#leaseId,
      observedAtUnixMs: BigInt(Date.now()),
      sequence: claim.sequence,
      hostSignature: Buffer.alloc(0),
      configRevision: claim.configRevision,
      mac: claim.sources ? macToBytes(claim.sources.mac) : Buffer.alloc(0),
      allowedPrefixes: (claim.sources?.allowedPrefixes ?? []).map(prefixToMessage),
    }
  }

  #rejected(claim: Claim, error: WeftError | undefined): void {
    const reason =
      error ??
      new UnavailableError({
        service: 'location-resolver',
        address: 'the bus',
        problem: `a later report than number ${claim.sequence} says that the endpoint is not here`,
      })
    this.#events.locationRejected(claim.endpointId, reason)
    const waiter = this.#waiterOf(claim)
    // Of an endpoint that is gone there is nothing more to say; one that is here and not ours is looked into.
    if (claim.change === 'detached') {
      this.claims.acknowledged(claim, 0n)
      waiter?.resolve()
    } else if (waiter) {
      waiter.reject(reason)
    } else {
      this.claims.failed(claim, Date.now(), Math.random())
      this.#onRejected(claim.endpointId)
    }
  }

  #waiterOf(claim: Claim): Waiter | undefined {
    const waiter = this.#waiters.get(claim.endpointId)
    return waiter?.sequence === claim.sequence ? waiter : undefined
  }

  #renew(bus: Bus): void {
    if (bus.state !== 'connected') return
    // One that is not later than the one before counts as said again by somebody else.
    this.#renewedAtMs = Math.max(this.#renewedAtMs + 1, this.#nowMs())
    const renewal = {
      hostId: this.#hostId,
      leaseId: this.#leaseId,
      leaseTtlMs: LEASE_TTL_MS,
      sentAtUnixMs: BigInt(this.#renewedAtMs),
      hostSignature: Buffer.alloc(0),
    }
    const subject = busEvents.hostRenewed.subject(this.#hostId, this.#hostId)
    bus.publish(subject, LeaseRenewal, signRenewal(renewal, this.#identityKey()))
  }
}
