import type { RecordsWorld } from '@weft/access'
import {
  type BucketCopy,
  type Bus,
  buckets,
  follow,
  keyTokens,
  recordKey,
  events as subjects,
} from '@weft/bus'
import { type KeyRefuser, refuseVoidKey } from '@weft/domain'
import { asWeftError } from '@weft/errors'
import { Record as StoredRecord } from '@weft/proto/weftline/config/v1/records.ts'
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
    damaged(key) {
      keys.add(key)
      change(rules.table.delete(key))
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

/** Keeps in step what the rules of access need of the VN database, and who is refused. */
export async function followWorld(
  bus: Bus,
  world: RecordsWorld,
  refuser: KeyRefuser,
  events: Events,
): Promise<AsyncDisposable> {
  const damaged = (key: string): void => {
    const [kind = '', id] = keyTokens(key)
    world.distrust(kind, Number(id))
  }
  return follow(await bus.openBucket(buckets.config, StoredRecord, { access: 'remote' }), {
    put({ key, value }) {
      if (value.kind?.$case !== keyTokens(key)[0]) return damaged(key)
      world.put(value)
      refuseVoidKey(value, refuser)
    },
    delete(key) {
      const [kind = '', id] = keyTokens(key)
      world.delete(kind, Number(id))
    },
    damaged,
    *keys() {
      for (const [kind, id] of world.entries()) yield recordKey(kind, id)
    },
    reset: (reason) => events.recordsLost(reason),
    caughtUp: () => undefined,
  })
}
