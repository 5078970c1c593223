import assert from 'node:assert/strict'
import { test } from 'node:test'
import { InvalidArgumentError } from '@weft/errors'
import { ConnectionFacts, Fact, Rule } from '@weft/proto/weftline/routing/v1/routing.ts'
import { connectionFromMessage, ruleFromMessage, ruleToMessage } from './messages.ts'

const stored: Rule = Rule.create({
  name: 'voice',
  networkId: 5,
  match: { networkId: 5, targetPort: 5060 },
  dependsOn: [Fact.FACT_TARGET_PORT],
  protocol: 'shortest-path',
  order: 3,
})

test('a stored rule is listed as it was stored', () => {
  assert.deepEqual(ruleToMessage(ruleFromMessage(stored)), stored)
})

test('a rule that names a fact which cannot be compared is not used', () => {
  for (const fact of [Fact.FACT_APPLICATION, Fact.FACT_UNSPECIFIED]) {
    assert.throws(() => ruleFromMessage({ ...stored, dependsOn: [fact] }), InvalidArgumentError)
  }
})

test('a rule without a name or a protocol is not used', () => {
  assert.throws(() => ruleFromMessage({ ...stored, name: '' }), InvalidArgumentError)
  assert.throws(() => ruleFromMessage({ ...stored, protocol: '' }), InvalidArgumentError)
})

test('a question without a part of the flow key is refused by the name of that part', () => {
  const facts = ConnectionFacts.create({ networkId: 5, sourceEndpointId: 11, targetEndpointId: 12 })

  for (const [field, name] of [
    ['networkId', 'network_id'],
    ['sourceEndpointId', 'source_endpoint_id'],
    ['targetEndpointId', 'target_endpoint_id'],
  ] as const) {
    assert.throws(() => connectionFromMessage({ ...facts, [field]: 0 }), {
      constructor: InvalidArgumentError,
      message: `${name}: it is not set`,
    })
  }
})
