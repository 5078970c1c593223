import { type BucketCopy, type Bus, buckets, follow, events as subjects } from '@weft/bus'
import { asWeftError } from '@weft/errors'
import { Rule, RulesChanged } from '@weft/proto/weftline/routing/v1/routing.ts'
import type { RuleTable } from './domain/rule-table.ts'
import type { Events } from './events.ts'
import { ruleFromMessage } from './messages.ts'

/** The rule table with the revision that it has reached. */
export interface Rules {
  readonly table: RuleTable
  revision: bigint
}

/** Fills the table from the bucket `rules` and keeps it in step; announces what changes after that. */
export async function followRules(
  bus: Bus,
  replicaId: string,
  rules: Rules,
  events: Events,
): Promise<AsyncDisposable> {
  const keys = new Set<string>()
  const changedNetworks = new Set<number>()
  const change = (networkIds: readonly number[]): void => {
    for (const id of networkIds) changedNetworks.add(id)
  }
  let isFilled = false
  const copy: BucketCopy<Rule> = {
    put({ key, value }) {
      keys.add(key)
      try {
        change(rules.table.put(key, ruleFromMessage(value)))
        events.ruleTaken(key)
      } catch (error) {
        change(rules.table.delete(key))
        events.ruleUnusable(key, asWeftError(error))
      }
    },
    delete(key) {
      if (!keys.delete(key)) return
      change(rules.table.delete(key))
      events.ruleDropped(key)
    },
    keys: () => keys,
    reset: (reason) => events.storeLostWrites(reason),
    caughtUp(revision) {
      rules.revision = revision
      if (isFilled) {
        for (const networkId of changedNetworks) {
          const subject = subjects.rulesChanged.subject(replicaId, networkId)
          bus.publish(subject, RulesChanged, RulesChanged.create({ revision, networkId }))
        }
      }
      isFilled = true
      changedNetworks.clear()
    },
  }
  return follow(await bus.openBucket(buckets.rules, Rule), copy)
}
