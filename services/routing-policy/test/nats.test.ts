import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Bus, connectBus } from '@weft/bus'
import { createLogger } from '@weft/telemetry'
import { eventually, startNats, type TestNats } from '@weft/testing'
import { openRules, putRule, ruleFor, startReplica } from './site.ts'

const blue = 5

test('while NATS is down decisions go on, and after its crash rules are taken over again', async () => {
  await using nats = await startNats()
  await using bus = await connectTo(nats)
  const rules = await openRules(bus)
  await putRule(rules, 1, { networkId: blue, name: 'before' })
  await using replicaBus = await connectTo(nats)
  await using replica = await startReplica(replicaBus)

  await nats.kill()
  await eventually(() => replicaBus.state === 'disconnected')
  assert.equal(await ruleFor(replica.client, blue), 'before')

  await nats.start()
  await eventually(() => bus.state === 'connected')
  await putRule(rules, 1, { networkId: blue, name: 'after' })
  await eventually(async () => (await ruleFor(replica.client, blue)) === 'after')
})

test('a replica that starts later has the rules that were stored before', async () => {
  await using nats = await startNats()
  await using bus = await connectTo(nats)
  await putRule(await openRules(bus), 1, { networkId: blue, name: 'stored' })

  await using replica = await startReplica(bus)

  assert.equal(await ruleFor(replica.client, blue), 'stored')
})

function connectTo(nats: TestNats): Promise<Bus> {
  const log = createLogger({ service: 'test', level: 'silent' })
  return connectBus({ servers: [nats.url], name: 'test', log })
}
