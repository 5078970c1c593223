import assert from 'node:assert/strict'
import { test } from 'node:test'
import { memoryBus, ruleKey, events as subjects } from '@weft/bus'
import {
  asWeftError,
  CertificateRefusedError,
  InvalidArgumentError,
  PermissionDeniedError,
} from '@weft/errors'
import { Host, Role } from '@weft/proto/weftline/config/v1/records.ts'
import {
  ConnectionFacts,
  Fact,
  ListRulesRequest,
  RulesChanged,
} from '@weft/proto/weftline/routing/v1/routing.ts'
import { eventually } from '@weft/testing'
import {
  connectAs,
  decide,
  domain,
  openRules,
  putNetwork,
  putRecord,
  putRule,
  putUser,
  putVoidKey,
  type RoutingClient,
  ruleFor,
  startReplica,
} from './site.ts'

const blue = 5
const red = 6
const flowKey = [Fact.FACT_NETWORK, Fact.FACT_SOURCE, Fact.FACT_TARGET]

test('without rules every connection travels by the shortest path, whatever its ports', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)

  const { decisions, revision, horizonMs } = await decide(replica.client, [blue])

  assert.equal(decisions[0]?.protocol, 'shortest-path')
  assert.equal(decisions[0].rule, 'default')
  assert.deepEqual(decisions[0].dependsOn, flowKey)
  assert.equal(revision, 0n)
  assert.equal(horizonMs, 60_000n)
})

test('a stored rule decides in its network only, and names what it looked at', async () => {
  await using bus = memoryBus().connect()
  const rules = await openRules(bus)
  const match = ConnectionFacts.create({ targetPort: 443 })
  const dependsOn = [Fact.FACT_TARGET_PORT]
  const revision = await putRule(rules, 1, { networkId: blue, name: 'tls', match, dependsOn })
  await using replica = await startReplica(bus)

  const response = await decide(replica.client, [blue, red])

  const [inBlue, inRed] = response.decisions
  assert.equal(inBlue?.rule, 'tls')
  assert.deepEqual(inBlue.dependsOn, [...flowKey, Fact.FACT_TARGET_PORT])
  assert.equal(inRed?.rule, 'default')
  assert.deepEqual(inRed.dependsOn, flowKey)
  assert.equal(response.revision, revision)
})

test('a change of a rule is announced for its network, with the revision that answers have then', async () => {
  await using bus = memoryBus().connect()
  const rules = await openRules(bus)
  await putRule(rules, 1, { networkId: red })
  await using replica = await startReplica(bus)
  const announced: RulesChanged[] = []
  await using _subscription = bus.subscribe(
    subjects.rulesChanged.pattern(),
    RulesChanged,
    (message) => {
      announced.push(message)
    },
  )

  const revision = await putRule(rules, 2, { networkId: blue, name: 'own' })

  await eventually(() => announced.length > 0)
  assert.deepEqual(
    announced.map(({ networkId, revision }) => ({ networkId, revision })),
    [{ networkId: blue, revision }],
  )
  assert.equal(await ruleFor(replica.client, blue), 'own')
})

test('a removed rule decides no more', async () => {
  await using bus = memoryBus().connect()
  const rules = await openRules(bus)
  await putRule(rules, 1, { networkId: blue, name: 'own' })
  await using replica = await startReplica(bus)
  assert.equal(await ruleFor(replica.client, blue), 'own')

  await rules.delete(ruleKey(blue, 1))

  await eventually(async () => (await ruleFor(replica.client, blue)) === 'default')
})

test('a rule that cannot be used is left out, also where it replaces one that could', async () => {
  await using bus = memoryBus().connect()
  const rules = await openRules(bus)
  await putRule(rules, 1, { networkId: blue, name: 'own' })
  await using replica = await startReplica(bus)

  await putRule(rules, 1, { networkId: blue, name: 'own', dependsOn: [Fact.FACT_APPLICATION] })

  await eventually(async () => (await ruleFor(replica.client, blue)) === 'default')
})

test('rules are listed in the order in which they are tried', async () => {
  await using bus = memoryBus().connect()
  const rules = await openRules(bus)
  await putRule(rules, 1, { networkId: 0, name: 'general' })
  await putRule(rules, 2, { networkId: blue, name: 'second', order: 2 })
  await putRule(rules, 3, { networkId: blue, name: 'first', order: 1 })
  await using replica = await startReplica(bus)

  const response = await replica.client.listRules(ListRulesRequest.create())

  assert.deepEqual(
    response.rules.map(({ name }) => name),
    ['first', 'second', 'general', 'default'],
  )
})

test('a question without a network gets an error of its own', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)

  const { decisions } = await decide(replica.client, [0, blue])

  assert.equal(decisions[0]?.error?.code, 'invalid-argument')
  assert.equal(decisions[1]?.error, undefined)
  assert.equal(decisions[1]?.protocol, 'shortest-path')
})

test('too many questions at once are refused', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)

  const tooMany = decide(replica.client, Array<number>(257).fill(blue))

  await assert.rejects(tooMany, InvalidArgumentError)
})

test('everybody is answered about the tenants that are theirs, and sees no rules of others', async () => {
  await using bus = memoryBus().connect()
  const rules = await openRules(bus)
  await putNetwork(bus, blue, 1)
  await putNetwork(bus, red, 2)
  await putUser(bus, 7, { tenantId: 1, role: Role.ROLE_SUBSCRIBER })
  await putRecord(bus, { $case: 'host', value: Host.create({ id: 3, tenantIds: [1] }) })
  await putRule(rules, 1, { networkId: 0, name: 'general' })
  await putRule(rules, 2, { networkId: blue, name: 'own' })
  await putRule(rules, 3, { networkId: red, name: 'of another' })
  await using replica = await startReplica(bus)
  await using subscriber = connectAs({ kind: 'user', id: 7 }, replica.address)
  await using host = connectAs({ kind: 'host', id: 3 }, replica.address)

  const { rules: seen } = await subscriber.listRules(ListRulesRequest.create())

  assert.deepEqual(
    seen.map(({ name }) => name),
    ['own', 'general', 'default'],
  )
  assert.equal(await ruleFor(subscriber, blue), 'own')
  assert.equal(await ruleFor(host, blue), 'own')
  await assert.rejects(decide(subscriber, [red]), PermissionDeniedError)
  await assert.rejects(decide(host, [blue, red]), PermissionDeniedError)
  await assert.rejects(host.listRules(ListRulesRequest.create()), PermissionDeniedError)
})

test('whose key is void by the VN database is refused, also by a replica that nobody told', async () => {
  await using bus = memoryBus().connect()
  const eve = { kind: 'user', id: 7 } as const
  const credentials = domain.credentials(eve)
  await putNetwork(bus, blue, 4)
  await putUser(bus, eve.id, { tenantId: 4, role: Role.ROLE_SUBSCRIBER })
  await using first = await startReplica(bus)
  await using client = connectAs(eve, first.address, credentials)
  assert.equal((await decide(client, [blue])).decisions.length, 1)

  await putVoidKey(bus, 99, credentials.publicKey)

  const isOut = async (asked: RoutingClient): Promise<boolean> => {
    const error = await decide(asked, [blue]).then(() => undefined, asWeftError)
    return error instanceof CertificateRefusedError
  }
  await eventually(() => isOut(client))
  await using second = await startReplica(bus)
  await using again = connectAs(eve, second.address, credentials)
  assert.equal(await isOut(again), true)
})
