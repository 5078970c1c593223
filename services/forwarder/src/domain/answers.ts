import {
  EncryptionUnavailableError,
  type ErrorInfo,
  NoCommonTrustedZoneError,
  TenantLockedError,
  toWire,
} from '@weft/errors'
import type { DecisionCache, Facts, GivenDecision } from './decision-cache.ts'
import type { GivenResolution, ResolutionCache } from './resolution-cache.ts'
import type { Join, SwitchTable } from './switch-table.ts'

/** A pair of endpoints that wants to talk, with the answers that are there already. */
export interface Question {
  readonly facts: Facts
  resolution: GivenResolution | undefined
  decision: GivenDecision | undefined
}

/** How the packets from one endpoint to another go, and why. */
export interface Answer {
  readonly facts: Facts
  readonly action: Action
  /** Routing protocol and the rule that chose it. */
  readonly protocol: string
  readonly rule: string
  readonly givenAtMs: number
  readonly horizonMs: number
  /** It is this host's own, because nobody could be asked. */
  readonly isStale: boolean
}

export type Action =
  | { readonly kind: 'same-host'; readonly targetHostId: number }
  | {
      readonly kind: 'direct'
      readonly targetHostId: number
      readonly carrier: 'vxlan' | 'sealed'
    }
  /** Nothing may be sent, and nothing is sent plain instead. */
  | { readonly kind: 'refused'; readonly error: ErrorInfo }

export type Conclusion =
  | { readonly kind: 'answer'; readonly answer: Answer }
  /** The answer is ahead of this host's rows: once they have caught up it can be used. */
  | { readonly kind: 'wait' }
  | { readonly kind: 'unresolved' }

/** The protocol for which every host knows enough by itself: it is used while routing-policy never answered. */
const PROTOCOL_WITHOUT_POLICY = 'shortest-path'

/** How long an answer of our own is good before somebody is asked again, in milliseconds. */
const OWN_HORIZON_MS = 5_000

const REFUSALS: ReadonlySet<string> = new Set(['no-common-trusted-zone', 'encryption-unavailable'])

/** Answers how endpoints are joined: from the caches, from what was asked, else from this host's own rows. */
export class Answers {
  readonly #table: SwitchTable
  readonly #resolutions: ResolutionCache
  readonly #decisions: DecisionCache

  constructor(table: SwitchTable, resolutions: ResolutionCache, decisions: DecisionCache) {
    this.#table = table
    this.#resolutions = resolutions
    this.#decisions = decisions
  }

  /** The question with what the caches know of it; what is undefined has to be asked. */
  question(facts: Facts, nowMs: number): Question {
    return {
      facts,
      resolution: this.#resolutions.get(facts.source, facts.target, nowMs),
      decision: this.#decisions.get(facts, nowMs),
    }
  }

  /** What follows from all that could be learnt. */
  conclude({ facts, resolution, decision }: Question, nowMs: number): Conclusion {
    const action = this.#action(facts, resolution)
    if (action.kind === 'wait' || action.kind === 'unresolved') return action
    const chosen = decision ?? this.#decisions.getExpired(facts)
    if (chosen?.decision.error) return { kind: 'unresolved' }
    if (action.isOwn) this.#resolutions.countStaleAnswer()
    if (!decision) this.#decisions.countStaleAnswer()
    const given = action.isOwn || !decision ? undefined : resolution
    return {
      kind: 'answer',
      answer: {
        facts,
        action: action.action,
        protocol: chosen?.decision.protocol ?? PROTOCOL_WITHOUT_POLICY,
        rule: chosen?.decision.rule ?? '',
        givenAtMs: given && decision ? Math.min(given.givenAtMs, decision.givenAtMs) : nowMs,
        horizonMs:
          given && decision ? Math.min(given.horizonMs, decision.horizonMs) : OWN_HORIZON_MS,
        isStale: given === undefined,
      },
    }
  }

  #action(
    facts: Facts,
    given: GivenResolution | undefined,
  ):
    | { kind: 'action'; action: Action; isOwn: boolean }
    | { kind: 'wait' }
    | { kind: 'unresolved' } {
    const own = this.#table.join(facts.source, facts.target)
    const resolution = given?.resolution
    if (resolution?.kind === 'error' && REFUSALS.has(resolution.error.code)) {
      return { kind: 'action', action: { kind: 'refused', error: resolution.error }, isOwn: false }
    }
    // A fencing number decides between two places of one endpoint.
    const isBehind =
      resolution?.kind === 'joined' &&
      own.kind === 'joined' &&
      own.targetEpoch > resolution.targetEpoch
    if (resolution?.kind !== 'joined' || isBehind) return this.#fromOwnRows(own)
    // The data plane takes no flow to where its own tables do not have the target; and whether a link may be plain nobody
    // else decides.
    if (
      own.kind !== 'joined' ||
      own.targetHostId !== resolution.targetHostId ||
      own.carrier !== resolution.carrier
    ) {
      return { kind: 'wait' }
    }
    return { kind: 'action', action: actionOf(resolution), isOwn: false }
  }

  #fromOwnRows(
    own: Join,
  ): { kind: 'action'; action: Action; isOwn: true } | { kind: 'unresolved' } {
    switch (own.kind) {
      case 'unknown':
        return { kind: 'unresolved' }
      case 'refused':
        return {
          kind: 'action',
          action: { kind: 'refused', error: this.#refusal(own) },
          isOwn: true,
        }
      case 'joined':
        return { kind: 'action', action: actionOf(own), isOwn: true }
    }
  }

  #refusal({ reason, network, target }: Extract<Join, { kind: 'refused' }>): ErrorInfo {
    const source = this.#table.hostName
    if (reason === 'tenant-locked') {
      const what = `host ${target.name} does not count in network ${network.name}`
      const problem = 'the tenant’s key does not vouch for its keys or its address'
      return toWire(new TenantLockedError({ tenant: network.tenant, what, problem }))
    }
    return toWire(
      reason === 'encryption-unavailable'
        ? new EncryptionUnavailableError({ network: network.name, source, target: target.name })
        : new NoCommonTrustedZoneError({ source, target: target.name }),
    )
  }
}

function actionOf(joined: {
  readonly targetHostId: number
  readonly carrier: 'none' | 'vxlan' | 'sealed'
}): Action {
  const { targetHostId, carrier } = joined
  return carrier === 'none'
    ? { kind: 'same-host', targetHostId }
    : { kind: 'direct', targetHostId, carrier }
}
