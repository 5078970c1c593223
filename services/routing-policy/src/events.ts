import type { WeftError } from '@weft/errors'
import { counter, gauge, type Logger, SparseLog } from '@weft/telemetry'

const decisions = counter({
  name: 'weft_routing_decisions_total',
  help: 'Decisions by routing protocol, or the code of the error',
  labels: ['outcome'],
})

const changes = counter({
  name: 'weft_routing_rule_changes_total',
  help: 'Changes of the rule table that were taken over, by kind',
  labels: ['kind'],
})

const revocations = counter({
  name: 'weft_routing_revocations_refused_total',
  help: 'Messages about void keys that the directory did not sign',
})

const rules = gauge({ name: 'weft_routing_rules', help: 'Rules in the table, without the default' })

/** What happens here that somebody may want to hear of. */
export class Events {
  readonly #log: Logger
  readonly #warnings: SparseLog

  constructor(log: Logger) {
    this.#log = log
    this.#warnings = new SparseLog(log)
  }

  decided(protocol: string): void {
    decisions.add(1, { outcome: protocol })
  }

  questionRefused(error: WeftError): void {
    decisions.add(1, { outcome: error.code })
    this.#log.debug({ code: error.code, facts: error.facts }, 'a question was refused')
  }

  ruleTaken(key: string): void {
    changes.add(1, { kind: 'put' })
    this.#log.info({ key }, 'a rule was taken over')
  }

  ruleDropped(key: string): void {
    changes.add(1, { kind: 'delete' })
    this.#log.info({ key }, 'a rule was dropped')
  }

  /** Connections that it is meant for fall to the rules behind it. */
  ruleUnusable(key: string, error: WeftError): void {
    changes.add(1, { kind: 'unusable' })
    this.#log.error({ key, code: error.code, facts: error.facts }, 'a stored rule cannot be used')
  }

  /** The rules that are known stay in force. */
  storeLostWrites(reason: string): void {
    this.#log.error({ reason }, 'the bucket of rules lost writes: known rules stay in force')
  }

  /** What is known of tenants, hosts and users stays in force. */
  recordsLost(reason: string): void {
    this.#log.error({ reason }, 'the bucket of the VN database lost writes: known records are kept')
  }

  revocationsRefused(error: WeftError): void {
    revocations.add(1, {})
    this.#warnings.warn(
      'revocations',
      { code: error.code, facts: error.facts },
      'a message about void keys was refused',
    )
  }

  /** Shows the size of the table until the returned function is called. */
  observeSize(read: () => number): () => void {
    return rules.observe((report) => report(read(), {}))
  }
}
