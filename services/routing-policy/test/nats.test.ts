import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Bus, connectBus } from '@weft/bus'
import { createLogger } from '@weft/telemetry'
import { eventually, startDomainNats, type TestDomainNats } from '@weft/testing'
import { domain, openRules, putRule, ruleFor, startReplica } from './site.ts'

const blue = 5
const log = createLogger({ service: 'test', level: 'silent' })

test('while NATS is down decisions go on, and after its crash rules are taken over again', async () => {
  await using nats = await startDomainNats({ domain })
  await using bus = await connectTo(nats, 'control')
  await using rulesBus = await connectTo(nats, 'routing')
  const rules = await openRules(rulesBus)
  await putRule(rules, 1, { networkId: blue, name: 'before' })
  await using replicaBus = await connectAsPolicy(nats)
  await using replica = await startReplica(replicaBus, bus)

  await nats.kill()
  await eventually(() => replicaBus.state === 'disconnected')
  assert.equal(await ruleFor(replica.client, blue), 'before')

  await nats.start()
  await eventually(() => rulesBus.state === 'connected')
  await putRule(rules, 1, { networkId: blue, name: 'after' })
  await eventually(async () => (await ruleFor(replica.client, blue)) === 'after')
})

test('a replica that starts later has the rules that were stored before', async () => {
  await using nats = await startDomainNats({ domain })
  await using bus = await connectTo(nats, 'control')
  await using rulesBus = await connectTo(nats, 'routing')
  await putRule(await openRules(rulesBus), 1, { networkId: blue, name: 'stored' })

  await using replicaBus = await connectAsPolicy(nats)
  await using replica = await startReplica(replicaBus, bus)

  assert.equal(await ruleFor(replica.client, blue), 'stored')
})

/** As somebody who may do everything in an account. */
function connectTo(nats: TestDomainNats, account: 'control' | 'routing'): Promise<Bus> {
  const credentials = nats.wideCredentials(account)
  return connectBus({ servers: [nats.url], credentials, name: 'test', log })
}

function connectAsPolicy(nats: TestDomainNats): Promise<Bus> {
  const principal = { kind: 'service', name: 'routing-policy', replica: '1' } as const
  const credentials = nats.credentials(principal)
  return connectBus({ servers: [nats.url], credentials, name: 'routing-policy', log })
}
