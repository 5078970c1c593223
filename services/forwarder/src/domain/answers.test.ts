import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { Answers, type Conclusion } from './answers.ts'
import { Connections } from './connections.ts'
import { type Decision, DecisionCache, type Facts, type GivenDecision } from './decision-cache.ts'
import { HostRows } from './host-rows.ts'
import { Ports } from './ports.ts'
import { type GivenResolution, type Resolution, ResolutionCache } from './resolution-cache.ts'
import { endpointOf, HERE, networkOf, peerOf, put, selfOf } from './samples.ts'
import { SwitchTable } from './switch-table.ts'

const NOW = 1_000_000
const facts: Facts = {
  network: 1,
  source: 10,
  target: 20,
  ipProtocol: 6,
  sourcePort: 1,
  targetPort: 80,
}
const direct: Resolution = {
  kind: 'joined',
  mechanism: 'direct',
  carrier: 'vxlan',
  targetHostId: 2,
  targetEpoch: 1n,
}
const byDefault: Decision = {
  protocol: 'shortest-path',
  rule: 'default',
  dependsOn: ['network', 'source', 'target'],
  error: undefined,
}

describe('concluding from answers', () => {
  test('answers of both services make an answer that is not stale', () => {
    const { answers } = world()

    const { answer } = answered(answers.conclude(question(given(direct), decided(byDefault)), NOW))

    assert.deepEqual(answer.action, { kind: 'direct', targetHostId: 2, carrier: 'vxlan' })
    assert.equal(answer.rule, 'default')
    assert.equal(answer.isStale, false)
  })

  test('nobody answers: the own rows do, and it is counted', () => {
    const { answers, resolutions, decisions } = world()

    const { answer } = answered(answers.conclude(question(undefined, undefined), NOW))

    assert.equal(answer.action.kind, 'direct')
    assert.equal(answer.isStale, true)
    assert.equal(resolutions.status(NOW).staleAnswers, 1)
    assert.equal(decisions.status(NOW).staleAnswers, 1)
  })

  test('nobody answers: the decision that was given before is used again, however old', () => {
    const { answers, decisions } = world()
    decisions.put(facts, { ...decided({ ...byDefault, protocol: 'older' }), horizonMs: 1 })

    const { answer } = answered(answers.conclude(question(undefined, undefined), NOW + 10_000))

    assert.equal(answer.protocol, 'older')
  })

  test('an answer that is behind the own rows is not used', () => {
    const { answers, rows, table } = world()
    const moved = endpointOf(20, { hostId: 3, epoch: 2n })
    rows.apply(put({ kind: 'endpoint', value: moved }, 9n, 9n))
    table.touch({ kind: 'endpoint', id: 20 })

    const { answer } = answered(answers.conclude(question(given(direct), decided(byDefault)), NOW))

    assert.deepEqual(answer.action, { kind: 'direct', targetHostId: 3, carrier: 'vxlan' })
  })

  test('an answer that is ahead of the own rows waits for them', () => {
    const { answers } = world()
    const ahead: Resolution = { ...direct, targetHostId: 3, targetEpoch: 2n }

    assert.equal(answers.conclude(question(given(ahead), decided(byDefault)), NOW).kind, 'wait')
  })

  test('a refusal of the resolver is a refusal, with its reason', () => {
    const { answers } = world()
    const error = { code: 'no-common-trusted-zone', message: 'apart', facts: {}, remedy: '' }

    const { answer } = answered(
      answers.conclude(question(given({ kind: 'error', error }), decided(byDefault)), NOW),
    )

    assert.deepEqual(answer.action, { kind: 'refused', error })
  })

  test('a target that no row has stays unresolved', () => {
    const { answers } = world()
    const unknown = { ...question(undefined, undefined), facts: { ...facts, target: 99 } }

    assert.equal(answers.conclude(unknown, NOW).kind, 'unresolved')
  })

  test('a decision that is an error leaves the connection unresolved', () => {
    const { answers } = world()
    const error = { code: 'internal', message: 'broken', facts: {}, remedy: '' }
    const broken = decided({ ...byDefault, error })

    assert.equal(answers.conclude(question(given(direct), broken), NOW).kind, 'unresolved')
  })
})

describe('the resolution cache', () => {
  test('an answer is used until its horizon', () => {
    const cache = new ResolutionCache()
    cache.put(10, 20, given(direct))

    assert.equal(cache.get(10, 20, NOW + 60_000)?.resolution, direct)
    assert.equal(cache.get(10, 20, NOW + 60_001), undefined)
    const { hits, misses, entries, oldestAgeMs } = cache.status(NOW + 5)
    assert.deepEqual([hits, misses, entries, oldestAgeMs], [1, 1, 1, 5])
  })

  test('an error is believed for a second', () => {
    const cache = new ResolutionCache()
    const error = { code: 'endpoint-not-located', message: '', facts: {}, remedy: '' }
    cache.put(10, 20, given({ kind: 'error', error }))

    assert.notEqual(cache.get(10, 20, NOW + 1_000), undefined)
    assert.equal(cache.get(10, 20, NOW + 1_001), undefined)
  })

  test('an endpoint that moved takes its answers with it, in both directions, and no others', () => {
    const cache = new ResolutionCache()
    for (const [source, target] of [
      [10, 20],
      [20, 10],
      [10, 30],
    ] as const) {
      cache.put(source, target, given(direct))
    }

    cache.dropEndpoint(20)

    assert.deepEqual(
      [cache.get(10, 20, NOW), cache.get(20, 10, NOW), cache.get(10, 30, NOW)?.resolution],
      [undefined, undefined, direct],
    )
  })

  test('a full cache forgets what was used least recently', () => {
    const cache = new ResolutionCache(2)
    cache.put(1, 2, given(direct))
    cache.put(1, 3, given(direct))
    cache.get(1, 2, NOW)
    cache.put(1, 4, given(direct))

    assert.equal(cache.get(1, 3, NOW), undefined)
    assert.notEqual(cache.get(1, 2, NOW), undefined)
    cache.dropEndpoint(1)
    assert.equal(cache.status(NOW).entries, 0)
  })
})

describe('the decision cache', () => {
  test('one answer covers every connection that agrees in the facts on which it depends', () => {
    const cache = new DecisionCache()
    cache.put(facts, decided(byDefault))

    assert.notEqual(cache.get({ ...facts, targetPort: 443, ipProtocol: 17 }, NOW), undefined)
    assert.equal(cache.get({ ...facts, target: 21 }, NOW), undefined)
  })

  test('a rule that looks at ports adds them only to its own answers', () => {
    const cache = new DecisionCache()
    cache.put(facts, decided({ ...byDefault, dependsOn: ['network', 'targetPort'] }))
    const other = { ...facts, network: 2 }
    cache.put(other, decided(byDefault))

    assert.equal(cache.get({ ...facts, targetPort: 443 }, NOW), undefined)
    assert.notEqual(cache.get({ ...other, targetPort: 443 }, NOW), undefined)
  })

  test('a newer revision of the rules voids all older answers, and an older one is not taken', () => {
    const cache = new DecisionCache()
    cache.put(facts, decided(byDefault))
    cache.announceRevision(8n)
    cache.put(facts, decided(byDefault))

    assert.equal(cache.get(facts, NOW), undefined)
    assert.equal(cache.status(NOW).revision, 8n)
  })
})

describe('connections', () => {
  test('those whose answer is stale, old or a refusal are due', () => {
    const connections = new Connections()
    const { answers } = world()
    const { answer } = answered(answers.conclude(question(given(direct), decided(byDefault)), NOW))
    const error = { code: 'no-common-trusted-zone', message: '', facts: {}, remedy: '' }
    connections.put(answer)
    connections.put({ ...answer, facts: { ...facts, target: 21 }, isStale: true })
    connections.put({
      ...answer,
      facts: { ...facts, target: 22 },
      action: { kind: 'refused', error },
    })
    const targets = (nowMs: number) =>
      connections.due(nowMs, 10).map(({ facts: { target } }) => target)

    assert.deepEqual(targets(NOW), [21])
    assert.deepEqual(targets(NOW + 5_001), [21, 22])
    assert.deepEqual(targets(NOW + 60_001), [20, 21, 22])
  })

  test('only another action is a change', () => {
    const connections = new Connections()
    const { answers } = world()
    const { answer } = answered(answers.conclude(question(given(direct), decided(byDefault)), NOW))

    assert.equal(connections.isChange(answer), true)
    connections.put(answer)
    assert.equal(connections.isChange({ ...answer, isStale: true }), false)
    connections.retain(new Set())
    assert.equal(connections.size, 0)
  })
})

function world() {
  const rows = new HostRows()
  const ports = new Ports()
  rows.apply(put({ kind: 'self', value: selfOf() }, 1n, 1n))
  rows.apply(put({ kind: 'network', value: networkOf(1) }, 1n, 1n))
  for (const id of [2, 3]) rows.apply(put({ kind: 'peer', value: peerOf(id) }, 1n, 1n))
  rows.apply(put({ kind: 'endpoint', value: endpointOf(20) }, 1n, 1n))
  ports.set({
    endpoint: endpointOf(10, { hostId: HERE }),
    network: networkOf(1),
    attachment: { kind: 'tap', device: 'tap0' },
    attachedAtUnixMs: 0,
    assignedRevision: 1n,
    sequence: 1n,
  })
  const table = new SwitchTable(HERE, rows, ports)
  const resolutions = new ResolutionCache()
  const decisions = new DecisionCache()
  return {
    rows,
    table,
    resolutions,
    decisions,
    answers: new Answers(table, resolutions, decisions),
  }
}

function question(resolution: GivenResolution | undefined, decision: GivenDecision | undefined) {
  return { facts, resolution, decision }
}

function given(resolution: Resolution): GivenResolution {
  return { resolution, locationRevision: 1n, configRevision: 1n, givenAtMs: NOW, horizonMs: 60_000 }
}

function decided(decision: Decision): GivenDecision {
  return { decision, revision: 7n, givenAtMs: NOW, horizonMs: 60_000 }
}

function answered(conclusion: Conclusion) {
  assert.equal(conclusion.kind, 'answer')
  return conclusion
}
