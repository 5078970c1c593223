import type { HandleMissesRequest, Miss } from '@weft/proto/weftline/shuttle/v1/shuttle.ts'
import { span } from '@weft/telemetry'
import type { Asking } from './asking.ts'
import { flowFrom } from './decode.ts'
import type { Answers, Question } from './domain/answers.ts'
import type { Connections } from './domain/connections.ts'
import type { SwitchTable } from './domain/switch-table.ts'
import type { Events } from './events.ts'

/** How long a miss waits for rows that an answer is ahead of, in milliseconds. The shuttle holds packets for longer. */
const ROWS_WAIT_MS = 1_000

/** Misses that wait for rows; beyond it they stay unresolved at once. Sum: 4,096 of some 500 bytes are 2 MB. */
const WAITING_MAX = 4_096

type Reply = (answers: HandleMissesRequest) => void

interface Asked {
  readonly miss: Miss
  readonly question: Question
}

interface Waiting extends Asked {
  readonly reply: Reply
  readonly untilMs: number
}

/** Answers first packets: at once what the caches know, the rest when the services have been asked. */
export class Misses {
  readonly #table: SwitchTable
  readonly #answers: Answers
  readonly #asking: Asking
  readonly #connections: Connections
  readonly #tableRevision: () => bigint
  readonly #events: Events
  #waiting: Waiting[] = []
  #timer: NodeJS.Timeout | undefined

  constructor(options: {
    readonly table: SwitchTable
    readonly answers: Answers
    readonly asking: Asking
    readonly connections: Connections
    /** Revision of the tables in force. */
    readonly tableRevision: () => bigint
    readonly events: Events
  }) {
    this.#table = options.table
    this.#answers = options.answers
    this.#asking = options.asking
    this.#connections = options.connections
    this.#tableRevision = options.tableRevision
    this.#events = options.events
  }

  get waitingCount(): number {
    return this.#waiting.length
  }

  /** Answers one batch. `reply` may be called several times: what is known does not wait for what is not. */
  async handle(misses: readonly Miss[], reply: Reply): Promise<void> {
    const startedAtMs = performance.now()
    const known: Asked[] = []
    const open: Asked[] = []
    const unresolved: Miss[] = []
    const now = Date.now()
    for (const miss of misses) {
      const source = this.#table.endpoint(miss.sourceEndpointId)
      if (source?.hostId !== this.#table.hostId) {
        unresolved.push(miss)
        continue
      }
      const question = this.#answers.question(
        {
          network: source.networkId,
          source: miss.sourceEndpointId,
          target: miss.targetEndpointId,
          ipProtocol: miss.ipProtocol,
          sourcePort: miss.sourcePort,
          targetPort: miss.targetPort,
        },
        now,
      )
      ;(question.resolution && question.decision ? known : open).push({ miss, question })
    }
    if (known.length + unresolved.length > 0) {
      this.#conclude(known, unresolved, reply, startedAtMs, false)
    }
    if (open.length === 0) return
    await span('answer misses', { 'weft.misses': open.length }, () =>
      this.#asking.fill(open.map(({ question }) => question)),
    )
    this.#conclude(open, [], reply, startedAtMs, true)
  }

  /** Newer tables are in force: what waited for them is looked at again. */
  tablesApplied(): void {
    if (this.#waiting.length === 0) return
    const waiting = this.#waiting
    this.#waiting = []
    const now = Date.now()
    for (const { miss, question, reply, untilMs } of waiting) {
      const conclusion = this.#answers.conclude(question, now)
      if (conclusion.kind === 'wait' && now < untilMs) {
        this.#waiting.push({ miss, question, reply, untilMs })
      } else if (conclusion.kind === 'answer') {
        this.#connections.put(conclusion.answer)
        reply({ flows: [flowFrom(conclusion.answer, this.#tableRevision())], unresolved: [] })
      } else {
        reply({ flows: [], unresolved: [miss] })
      }
    }
    this.#armTimer()
  }

  #conclude(
    asked: readonly Asked[],
    unresolved: Miss[],
    reply: Reply,
    startedAtMs: number,
    wasAsked: boolean,
  ): void {
    const answers: HandleMissesRequest = { flows: [], unresolved }
    const now = Date.now()
    let own = 0
    let refused = 0
    for (const { miss, question } of asked) {
      const conclusion = this.#answers.conclude(question, now)
      if (conclusion.kind === 'answer') {
        this.#connections.put(conclusion.answer)
        answers.flows.push(flowFrom(conclusion.answer, this.#tableRevision()))
        if (conclusion.answer.action.kind === 'refused') refused++
        else if (conclusion.answer.isStale) own++
      } else if (conclusion.kind === 'wait' && this.#waiting.length < WAITING_MAX) {
        this.#waiting.push({ miss, question, reply, untilMs: now + ROWS_WAIT_MS })
      } else {
        answers.unresolved.push(miss)
      }
    }
    if (answers.flows.length + answers.unresolved.length > 0) reply(answers)
    this.#armTimer()
    this.#events.missesAnswered({
      answered: answers.flows.length - own - refused,
      own,
      refused,
      unresolved: answers.unresolved.length,
      wasAsked,
      durationMs: performance.now() - startedAtMs,
    })
  }

  #armTimer(): void {
    if (this.#waiting.length === 0 || this.#timer) return
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.tablesApplied()
    }, ROWS_WAIT_MS)
    this.#timer.unref()
  }
}
