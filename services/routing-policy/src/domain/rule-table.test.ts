import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  type Connection,
  type Decision,
  defaultRule,
  facts,
  type Rule,
  RuleTable,
} from './rule-table.ts'

test('an empty table answers with the default rule, which depends on the flow key', () => {
  const decision = new RuleTable().decide(web)

  assert.deepEqual(decision, {
    protocol: 'shortest-path',
    rule: 'default',
    dependsOn: ['networkId', 'sourceEndpointId', 'targetEndpointId'],
  })
})

test('a rule adds the facts that it names, and only in its network', () => {
  const table = tableOf([rule({ name: 'voice', networkId: 5, dependsOn: ['targetPort'] })])

  assert.equal(table.decide({ ...web, networkId: 5 }).dependsOn.includes('targetPort'), true)
  assert.equal(table.decide({ ...web, networkId: 6 }).dependsOn.includes('targetPort'), false)
})

test('a rule of the network is tried before the rules for every network', () => {
  const table = tableOf([
    rule({ name: 'general', networkId: 0, order: 1, protocol: 'general' }),
    rule({ name: 'own', networkId: 5, order: 9, protocol: 'own' }),
  ])

  assert.equal(table.decide({ ...web, networkId: 5 }).protocol, 'own')
  assert.equal(table.decide({ ...web, networkId: 6 }).protocol, 'general')
})

test('a fact that is not reached because an earlier one differs adds nothing', () => {
  const udpPort = rule({
    name: 'udp-53',
    networkId: 5,
    dependsOn: ['ipProtocol', 'targetPort'],
    match: { ...web, ipProtocol: 17, targetPort: 53 },
  })

  const decision = tableOf([udpPort]).decide({ ...web, networkId: 5, ipProtocol: 6 })

  assert.deepEqual(decision.dependsOn, [...defaultRule.dependsOn, 'ipProtocol'])
})

test('a replaced rule is forgotten in the network it has left', () => {
  const table = tableOf([rule({ name: 'moves', networkId: 5, protocol: 'other' })])

  const changed = table.put('0', rule({ name: 'moves', networkId: 6, protocol: 'other' }))

  assert.deepEqual(changed, [5, 6])
  assert.equal(table.decide({ ...web, networkId: 5 }).rule, 'default')
  assert.equal(table.decide({ ...web, networkId: 6 }).rule, 'moves')
  assert.deepEqual(table.delete('0'), [6])
  assert.deepEqual(table.list(), [defaultRule])
})

test('the list is in the order in which rules are tried', () => {
  const table = tableOf([
    rule({ name: 'general', networkId: 0 }),
    rule({ name: 'b', networkId: 7, order: 2 }),
    rule({ name: 'c', networkId: 7, order: 1 }),
    rule({ name: 'a', networkId: 7, order: 2 }),
  ])

  assert.deepEqual(
    table.list().map(({ name }) => name),
    ['c', 'a', 'b', 'general', 'default'],
  )
})

test('for any table and connection the decision is that of the first rule that matches', () => {
  fc.assert(
    fc.property(anyRules, anyConnection, (rules, connection) => {
      assert.equal(tableOf(rules).decide(connection).rule, firstMatch(rules, connection).name)
    }),
  )
})

test('connections that agree in the facts of a decision get the same decision', () => {
  fc.assert(
    fc.property(anyRules, anyConnection, anyConnection, (rules, one, other) => {
      const table = tableOf(rules)
      const decision = table.decide(one)
      const agreeing = { ...other, ...valuesOf(one, decision) }

      assert.deepEqual(table.decide(agreeing), decision)
    }),
  )
})

test('a decision depends on no fact that neither the flow key nor a rule for its network names', () => {
  fc.assert(
    fc.property(anyRules, anyConnection, (rules, connection) => {
      const named = rules
        .filter(({ networkId }) => networkId === 0 || networkId === connection.networkId)
        .flatMap(({ dependsOn }) => dependsOn)

      const { dependsOn } = tableOf(rules).decide(connection)

      const allowed = new Set([...named, ...defaultRule.dependsOn])
      assert.deepEqual(
        dependsOn.filter((fact) => !allowed.has(fact)),
        [],
      )
    }),
  )
})

test('a table that was changed step by step answers like one that was made at once', () => {
  const anyStep = fc.record({ key: fc.nat(3).map(String), rule: fc.option(fc.nat(9)) })
  fc.assert(
    fc.property(anyRules, fc.array(anyStep), anyConnection, (rules, steps, connection) => {
      const table = new RuleTable()
      const living = new Map<string, Rule>()
      for (const { key, rule } of steps) {
        const next = rule === null ? undefined : rules[rule]
        if (next === undefined) {
          table.delete(key)
          living.delete(key)
        } else {
          table.put(key, { ...next, name: key })
          living.set(key, { ...next, name: key })
        }
      }

      assert.deepEqual(table.decide(connection), tableOf([...living.values()]).decide(connection))
      assert.equal(table.size, living.size)
    }),
  )
})

const web: Connection = {
  networkId: 5,
  sourceEndpointId: 11,
  targetEndpointId: 12,
  ipProtocol: 6,
  sourcePort: 40_000,
  targetPort: 443,
}

// Few values, so that rules often match and connections often agree.
const anyConnection: fc.Arbitrary<Connection> = fc.record({
  networkId: fc.integer({ min: 1, max: 3 }),
  sourceEndpointId: fc.nat(2),
  targetEndpointId: fc.nat(2),
  ipProtocol: fc.constantFrom(6, 17),
  sourcePort: fc.nat(2),
  targetPort: fc.nat(2),
})

const anyRules: fc.Arbitrary<Rule[]> = fc
  .array(
    fc.record({
      networkId: fc.nat(3),
      order: fc.nat(3),
      match: anyConnection,
      dependsOn: fc.subarray([...facts]),
      protocol: fc.constantFrom('shortest-path', 'spray'),
    }),
    { maxLength: 10 },
  )
  .map((rules) => rules.map((some, index) => ({ ...some, name: `rule-${index}` })))

function rule(some: Partial<Rule>): Rule {
  return { ...defaultRule, name: 'rule', order: 1, dependsOn: [], ...some }
}

function tableOf(rules: readonly Rule[]): RuleTable {
  const table = new RuleTable()
  for (const [index, some] of rules.entries()) table.put(String(index), some)
  return table
}

/** The table's meaning, written a second time in the plainest way. */
function firstMatch(rules: readonly Rule[], connection: Connection): Rule {
  const own = rules.filter(({ networkId }) => networkId === connection.networkId)
  const general = rules.filter(({ networkId }) => networkId === 0)
  const byOrder = (a: Rule, b: Rule): number => a.order - b.order || a.name.localeCompare(b.name)
  const tried = [...own.sort(byOrder), ...general.sort(byOrder)]
  const matches = (some: Rule): boolean =>
    some.dependsOn.every((fact) => some.match[fact] === connection[fact])
  return tried.find(matches) ?? defaultRule
}

function valuesOf(connection: Connection, { dependsOn }: Decision): Partial<Connection> {
  return Object.fromEntries(dependsOn.map((fact) => [fact, connection[fact]]))
}
