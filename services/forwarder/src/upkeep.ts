import { type Asking, QUESTIONS_MAX } from './asking.ts'
import type { DataPlane } from './data-plane.ts'
import { actionFromFlow, flowFrom } from './decode.ts'
import type { Answer, Answers, Question } from './domain/answers.ts'
import type { Connections } from './domain/connections.ts'
import type { Facts } from './domain/decision-cache.ts'
import { pairKey } from './domain/resolution-cache.ts'
import type { SwitchTable } from './domain/switch-table.ts'
import type { Events } from './events.ts'
import { pause } from './loop.ts'

/** How often connections whose answers are old or our own are looked at; at most `QUESTIONS_MAX` at a time. */
const TICK_MS = 1_000
/** How often the connections are compared with the flows of the data plane, in ticks. */
const COMPARE_TICKS = 30

/** Keeps the answers of known connections fresh in the background. Until a better one comes, packets go on by the old one. */
export class Upkeep {
  readonly #hostId: number
  readonly #table: SwitchTable
  readonly #answers: Answers
  readonly #asking: Asking
  readonly #connections: Connections
  readonly #dataPlane: DataPlane
  readonly #events: Events

  constructor(options: {
    readonly hostId: number
    readonly table: SwitchTable
    readonly answers: Answers
    readonly asking: Asking
    readonly connections: Connections
    readonly dataPlane: DataPlane
    readonly events: Events
  }) {
    this.#hostId = options.hostId
    this.#table = options.table
    this.#answers = options.answers
    this.#asking = options.asking
    this.#connections = options.connections
    this.#dataPlane = options.dataPlane
    this.#events = options.events
  }

  async run(signal: AbortSignal): Promise<void> {
    for (let tick = 1; !signal.aborted; tick++) {
      await pause(TICK_MS, signal)
      try {
        if (tick % COMPARE_TICKS === 0) await this.compareFlows()
        await this.renew()
      } catch (error) {
        if (!signal.aborted) this.#events.flowsNotWritten(error)
      }
    }
  }

  /** Takes over flows that an earlier run of this process wrote, and forgets connections whose flows are gone. */
  async compareFlows(): Promise<void> {
    const pairs = new Set<string>()
    for (const { flow } of await this.#dataPlane.listFlows()) {
      if (!flow) continue
      const { sourceEndpointId, targetEndpointId } = flow
      pairs.add(pairKey(sourceEndpointId, targetEndpointId))
      if (this.#connections.get(sourceEndpointId, targetEndpointId)) continue
      const action = actionFromFlow(flow, this.#hostId)
      const facts = this.#factsOf(sourceEndpointId, targetEndpointId)
      if (action && facts) this.#connections.put(adopted(facts, action))
    }
    this.#connections.retain(pairs)
  }

  /** Asks anew for connections whose answer is old or our own, once both services answer, and changes the flows that are to change. */
  async renew(): Promise<void> {
    if (!this.#asking.resolver.isAnswering || !this.#asking.policy.isAnswering) return
    const now = Date.now()
    const questions = this.#connections
      .due(now, QUESTIONS_MAX)
      .map(({ facts }): Question => this.#answers.question(facts, now))
    if (questions.length === 0) return
    await this.#asking.fill(questions)
    const fresh: Answer[] = []
    for (const question of questions) {
      const conclusion = this.#answers.conclude(question, Date.now())
      if (conclusion.kind === 'answer') fresh.push(conclusion.answer)
      else this.#connections.forget(question.facts.source, question.facts.target)
    }
    const changed = fresh.filter((answer) => this.#connections.isChange(answer))
    if (changed.length > 0) {
      const revision = this.#dataPlane.revision
      await this.#dataPlane.applyFlows(changed.map((answer) => flowFrom(answer, revision)))
    }
    for (const answer of fresh) this.#connections.put(answer)
  }

  #factsOf(source: number, target: number): Facts | undefined {
    const network = this.#table.endpoint(source)?.networkId
    return network === undefined
      ? undefined
      : { network, source, target, ipProtocol: 0, sourcePort: 0, targetPort: 0 }
  }
}

/** A connection of which only its flow is known: it is asked about at once. */
function adopted(facts: Facts, action: Answer['action']): Answer {
  return {
    facts,
    action,
    protocol: '',
    rule: '',
    givenAtMs: Date.now(),
    horizonMs: 0,
    isStale: true,
  }
}
