import type { Mechanism as MechanismType } from '@weft/proto/weftline/common/v1/common.ts'
import { Mechanism } from '@weft/proto/weftline/common/v1/common.ts'
import type { LocationServiceService } from '@weft/proto/weftline/location/v1/location.ts'
import type { RoutingServiceService } from '@weft/proto/weftline/routing/v1/routing.ts'
import type { Client } from '@weft/rpc'
import { decisionFrom, resolutionFrom } from './decode.ts'
import type { Dependency } from './dependency.ts'
import type { Question } from './domain/answers.ts'
import type { DecisionCache } from './domain/decision-cache.ts'
import type { ResolutionCache } from './domain/resolution-cache.ts'
import type { SwitchTable } from './domain/switch-table.ts'

/** Questions in one call: the most that both services take. */
export const QUESTIONS_MAX = 256

/** How long first packets wait for a service before they go by this host's own rows, in milliseconds. */
const ANSWER_TIMEOUT_MS = 300

/** Asks location-resolver and routing-policy what the caches do not know. */
export class Asking {
  readonly resolver: Dependency
  readonly policy: Dependency
  readonly #resolverClient: Client<LocationServiceService>
  readonly #policyClient: Client<RoutingServiceService>
  readonly #table: SwitchTable
  readonly #resolutions: ResolutionCache
  readonly #decisions: DecisionCache

  constructor(options: {
    readonly resolver: Dependency
    readonly policy: Dependency
    readonly resolverClient: Client<LocationServiceService>
    readonly policyClient: Client<RoutingServiceService>
    readonly table: SwitchTable
    readonly resolutions: ResolutionCache
    readonly decisions: DecisionCache
  }) {
    this.resolver = options.resolver
    this.policy = options.policy
    this.#resolverClient = options.resolverClient
    this.#policyClient = options.policyClient
    this.#table = options.table
    this.#resolutions = options.resolutions
    this.#decisions = options.decisions
  }

  /** Fills in what is missing, as far as somebody answers: both services at once, and neither while it is known to be silent. */
  async fill(questions: readonly Question[]): Promise<void> {
    const calls: Promise<void>[] = []
    for (let start = 0; start < questions.length; start += QUESTIONS_MAX) {
      const batch = questions.slice(start, start + QUESTIONS_MAX)
      const unresolved = batch.filter(({ resolution }) => !resolution)
      const undecided = batch.filter(({ decision }) => !decision)
      if (unresolved.length > 0 && this.resolver.isAnswering) calls.push(this.#resolve(unresolved))
      if (undecided.length > 0 && this.policy.isAnswering) calls.push(this.#decide(undecided))
    }
    // A service that does not answer is noted by its dependency, and its questions stay open.
    await Promise.allSettled(calls)
  }

  async #resolve(questions: readonly Question[]): Promise<void> {
    const queries = questions.map(({ facts }) => ({
      sourceEndpointId: facts.source,
      targetEndpointId: facts.target,
    }))
    const minimum = this.#table.endpointRevisions(queries.map((query) => query.targetEndpointId))
    const response = await this.resolver.ask(() =>
      this.#resolverClient.resolve(
        // Rows that are here already were derived from these revisions: an answer from before them would be useless.
        { queries, locationRevisionMin: minimum.location, configRevisionMin: minimum.config },
        { timeoutMs: ANSWER_TIMEOUT_MS },
      ),
    )
    const givenAtMs = Date.now()
    for (const [index, question] of questions.entries()) {
      const message = response.resolutions[index]
      if (!message) continue
      question.resolution = {
        resolution: resolutionFrom(message),
        locationRevision: response.locationRevision,
        configRevision: response.configRevision,
        givenAtMs,
        horizonMs: Number(response.horizonMs),
      }
      this.#resolutions.put(question.facts.source, question.facts.target, question.resolution)
    }
  }

  async #decide(questions: readonly Question[]): Promise<void> {
    const connections = questions.map(({ facts }) => ({
      networkId: facts.network,
      sourceEndpointId: facts.source,
      targetEndpointId: facts.target,
      mechanism: this.#mechanismOf(facts.source, facts.target),
      ipProtocol: facts.ipProtocol,
      sourcePort: facts.sourcePort,
      targetPort: facts.targetPort,
    }))
    const response = await this.policy.ask(() =>
      this.#policyClient.decide({ connections }, { timeoutMs: ANSWER_TIMEOUT_MS }),
    )
    const givenAtMs = Date.now()
    for (const [index, question] of questions.entries()) {
      const message = response.decisions[index]
      if (!message) continue
      question.decision = {
        decision: decisionFrom(message),
        revision: response.revision,
        givenAtMs,
        horizonMs: Number(response.horizonMs),
      }
      this.#decisions.put(question.facts, question.decision)
    }
  }

  /** As this host's rows have it: both services are asked at once, so the resolver's answer is not there yet. */
  #mechanismOf(source: number, target: number): MechanismType {
    const join = this.#table.join(source, target)
    if (join.kind !== 'joined') return Mechanism.MECHANISM_UNSPECIFIED
    return join.mechanism === 'same-host'
      ? Mechanism.MECHANISM_SAME_HOST
      : Mechanism.MECHANISM_DIRECT
  }
}
