import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { createLogger } from '@weft/telemetry'
import { eventually, startDomainNats, type TestDomainNats } from '@weft/testing'
import type { NatsBus } from '../src/connect.ts'
import {
  type Bucket,
  type Bus,
  buckets,
  connectBus,
  events,
  hostRowKey,
  keepMirror,
  recordKey,
} from '../src/index.ts'
import { type BusPrincipal, hostConsumerNames } from '../src/policy.ts'
import { jetStreamApi, keySubject } from '../src/server-subjects.ts'
import { RawClient, type RawMessage } from './raw-client.ts'
import { text } from './text-codec.ts'

/*
 * A host chooses two subjects that its allow-list says nothing about: the reply subject of what it publishes, and the deliver
 * subject of its consumers. The server publishes to them in the name of nobody, in the account of the hosts. So nothing may
 * be stored there, and whoever hears something there believes what is signed, and nothing else.
 */

const log = createLogger({ service: 'test', level: 'silent' })
const ownFilter = keySubject('hosts', 'host.7.>')
const [CONSUMER = ''] = hostConsumerNames(7)
const ownReport = events.endpointReported.subject(7, 1)

describe('what host 7 has the server publish', () => {
  const stack = new AsyncDisposableStack()
  let nats: TestDomainNats
  let rows: Bucket<string>
  /** Hear everything in the accounts of the services. */
  let services: RawClient[]
  let hosts: RawClient
  let forger: RawClient
  let victim: RawClient
  let connections: NatsBus[]

  before(async () => {
    nats = stack.use(await startDomainNats())
    const config = stack.use(await connect({ kind: 'service', name: 'config', replica: '1' }))
    const hostsAdmin = stack.use(await connect({ kind: 'hosts-admin' }))
    const resolver = stack.use(
      await connect({ kind: 'service', name: 'location-resolver', replica: '1' }),
    )
    const records = await config.openBucket(buckets.config, text)
    await records.put(recordKey('host', 7), 'host 7')
    await (await resolver.openBucket(buckets.locations, text)).put('endpoint.1', 'at 7')
    await (await config.openBucket(buckets.audit, text)).put('entry.config-1.1', 'first')
    rows = await config.openBucket(buckets.hosts, text)
    await rows.put(hostRowKey(7, 'self', 7), 'row of 7')
    await rows.put(hostRowKey(5, 'self', 5), 'row of 5')
    stack.use(keepMirror({ control: config, hostsAdmin, shape: buckets.hosts, log }))
    const codecs = { request: text, reply: text }
    const pattern = events.endpointReported.pattern()
    stack.use(
      resolver.respond(pattern, codecs, (message, { subject }) => {
        const sender = events.endpointReported.parse(subject)?.sender
        return `answer to ${message} of ${sender}`
      }),
    )
    connections = [config as NatsBus, hostsAdmin as NatsBus, resolver as NatsBus]
    forger = stack.use(await RawClient.as(nats.url, nats.credentials({ kind: 'host', id: 7 })))
    victim = stack.use(await RawClient.as(nats.url, nats.credentials({ kind: 'host', id: 5 })))
    // These hear everything, to show what went where.
    services = []
    for (const account of ['control', 'location', 'routing'] as const) {
      services.push(stack.use(await RawClient.as(nats.url, nats.wideCredentials(account))))
    }
    hosts = stack.use(await RawClient.as(nats.url, nats.wideCredentials('hosts')))
    for (const client of services) client.write('SUB > 1\r\n')
    hosts.write('SUB > 1\r\n')
    forger.write('SUB _INBOX.host.7.> 1\r\n')
    victim.write(`SUB _INBOX.host.5.> 1\r\n`)
    await Promise.all([...services, hosts, forger, victim].map((client) => client.settled()))
    await eventually(async () => (await lastRevisions())[1] === 2)
  })
  after(() => stack.disposeAsync())

  /** Subjects where it would do harm to be heard or stored. */
  const targets = [
    keySubject('hosts', hostRowKey(5, 'self', 5)),
    keySubject('hosts', hostRowKey(7, 'self', 7)),
    keySubject('config', recordKey('host', 7)),
    keySubject('locations', 'endpoint.1'),
    keySubject('audit', 'entry.config-1.1'),
    jetStreamApi.streamDelete('hosts'),
    '$JS.API.STREAM.PURGE.KV_hosts',
    'JS.control.CONSUMER.CREATE.KV_hosts.x.y',
    'mirror.hosts.x',
    '$SYS.REQ.CLAIMS.UPDATE',
    '_INBOX.service.config.1.x',
    '_R_.x',
  ]

  for (const target of targets) {
    test(`a reply that was asked to go to ${target} changes no bucket and is heard by no service`, async () => {
      const before = await state()
      const heard = counts()
      forger.publish(ownReport, 'forged', target)
      forgeConsumer('_INBOX.host.7.r', target)
      await forger.settled()
      await delay(50)
      assert.deepEqual(await state(), before)
      assertOnlyReports(heardSince(heard), target)
    })

    test(`a consumer that was asked to deliver to ${target} changes no bucket and is heard by no service`, async () => {
      const before = await state()
      const heard = counts()
      forgeConsumer(target, '_INBOX.host.7.d')
      await forger.settled()
      await delay(50)
      assert.deepEqual(await state(), before)
      assertOnlyReports(heardSince(heard), target)
    })
  }

  test('in the account of the hosts the server did publish where the forger wanted', async () => {
    const [row = ''] = targets
    const heard = hosts.messages.filter(({ subject }) => subject === row)
    assert(heard.length >= 2, 'else the tests before show nothing')
  })

  test('a forged announcement says no more than what a service answered the forger', async () => {
    const announcement = events.rulesChanged.subject('routing-policy-1', 1)
    victim.write(`SUB ${events.rulesChanged.pattern()} 2\r\n`)
    await victim.settled()
    const heard = counts()
    forgeConsumer(announcement)
    forger.publish(ownReport, 'forged', announcement)
    await eventually(() => victim.messages.length > 0)
    const answer = { subject: announcement, payload: 'answer to forged of 7' }
    assert.deepEqual(victim.messages, [answer])
    assertOnlyReports(heardSince(heard), announcement)
    victim.messages.length = 0
  })

  test('what goes to a subject of another host reaches the services as what it is, not as signed by that host', async () => {
    const other = events.endpointReported.subject(5, 9)
    const renewal = events.hostRenewed.subject(5, 5)
    const connections = events.connectionsReported.subject(5, 5)
    const aims = [other, renewal, connections]
    const heard = counts()
    for (const target of aims) {
      forgeConsumer(target, '_INBOX.host.7.d')
      await forger.settled()
      await delay(100)
    }
    // The host chooses the subject, but of the words only those that it was sent: a row of its own.
    for (const { subject, payload } of heardSince(heard)) {
      if (aims.some((target) => target === subject)) {
        assert.equal(payload, 'row of 7', subject)
      }
    }
  })

  test('a consumer shows nothing but rows of the host, whatever its request says', async () => {
    const seen = forger.messages.length
    const refused = forger.errors.length
    const requests = [
      { filter_subject: keySubject('hosts', 'host.5.>') },
      { filter_subject: keySubject('hosts', '>') },
      { filter_subject: undefined, filter_subjects: [keySubject('hosts', 'host.5.>')] },
      { filter_subject: ownFilter, filter_subjects: [keySubject('hosts', 'host.5.>')] },
      { filter_subject: undefined },
      { deliver_policy: 'all', filter_subject: keySubject('hosts', 'host.5.self.5') },
    ]
    for (const changes of requests) {
      forgeConsumer('_INBOX.host.7.other', '_INBOX.host.7.answer', changes)
    }
    const unnamed = JSON.stringify({ stream_name: 'KV_hosts', config: {} })
    forger.publish('$JS.API.CONSUMER.CREATE.KV_hosts', unnamed)
    forger.publish('$JS.API.CONSUMER.DURABLE.CREATE.KV_hosts.x', unnamed)
    await forger.settled()
    await delay(100)
    const after = forger.messages.slice(seen)
    assert(after.length > 0, 'the server answers')
    assert(!after.some(({ payload }) => payload.includes('row of 5')))
    const refusals = forger.errors.slice(refused)
    assert.equal(refusals.length, 2, 'what names no filter in its subject is not for hosts')
  })

  test('no other host hears what the forger asked for', () => {
    assert.deepEqual(victim.messages, [])
  })

  test('whoever asks properly is answered, only in its own inbox', async () => {
    const seen = forger.messages.length
    forger.publish(ownReport, 'honest', '_INBOX.host.7.answer')
    await eventually(() => forger.messages.length > seen)
    assert.deepEqual(forger.messages.slice(seen), [
      { subject: '_INBOX.host.7.answer', payload: 'answer to honest of 7' },
    ])
  })

  /** How much each of the services has heard. */
  function counts(): number[] {
    return services.map(({ messages }) => messages.length)
  }

  function heardSince(before: readonly number[]): readonly RawMessage[] {
    return services.flatMap(({ messages }, index) => messages.slice(before[index]))
  }

  /** Asks for a consumer in place of the one before: a host has few names for them. */
  function forgeConsumer(deliverSubject: string, reply = '', changes: object = {}): void {
    forger.publish(jetStreamApi.consumerDelete('hosts', CONSUMER))
    const request = consumerRequest(deliverSubject, changes)
    forger.publish(jetStreamApi.consumerCreate('hosts', CONSUMER, ownFilter), request, reply)
  }

  /** Every bucket as its server sees it: last revisions, and values that a forger would like to change. */
  async function state(): Promise<unknown> {
    return [await lastRevisions(), (await rows.get(hostRowKey(5, 'self', 5)))?.value]
  }

  async function lastRevisions(): Promise<number[]> {
    const [config, hostsAdmin, resolver] = connections
    assert(config && hostsAdmin && resolver)
    const all = [
      config.host.jetStream.streamInfo('hosts'),
      hostsAdmin.host.jetStream.streamInfo('hosts'),
      resolver.host.jetStream.streamInfo('locations'),
      ...['config', 'audit'].map((name) => config.host.jetStream.streamInfo(name)),
    ]
    return (await Promise.all(all)).map((info) => info.state.last_seq)
  }

  function connect(principal: BusPrincipal): Promise<Bus> {
    const credentials = nats.credentials(principal)
    return connectBus({ servers: [nats.url], credentials, name: principal.kind, log })
  }
})

function consumerRequest(deliverSubject: string, changes: object): string {
  const config = {
    name: CONSUMER,
    filter_subject: ownFilter,
    deliver_subject: deliverSubject,
    deliver_policy: 'last_per_subject',
    ack_policy: 'none',
    ...changes,
  }
  return JSON.stringify({ stream_name: 'KV_hosts', config })
}

/** The reports themselves, the questions of this test, and nothing on a subject that the forger chose. */
function assertOnlyReports(
  messages: readonly { readonly subject: string }[],
  target: string,
): void {
  const wrong = messages.filter(({ subject }) => subject === target)
  assert.deepEqual(wrong, [])
}
