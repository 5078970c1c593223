import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import type { Credentials } from '@weft/identity'
import { createLogger } from '@weft/telemetry'
import { eventually, startDomainNats, type TestDomainNats } from '@weft/testing'
import type { NatsBus } from '../src/connect.ts'
import { type Bus, buckets, connectBus, events, keepMirror } from '../src/index.ts'
import {
  type AccountName,
  accountNames,
  accountOf,
  type BucketName,
  type BusPrincipal,
  permissionsOf,
  servicePolicy,
} from '../src/policy.ts'
import { jetStreamApi, keySubject, streamName } from '../src/server-subjects.ts'
import { RawClient } from './raw-client.ts'
import { text } from './text-codec.ts'

/*
 * Allow-lists say nothing of the subjects to which a client has the server publish: the reply subject of its questions and
 * the deliver subject of its consumers. So whatever somebody may publish is published here, each time with every place in a
 * bucket and every call of JetStream as its reply and its deliver subject; and no other account has changed afterwards.
 */

const log = createLogger({ service: 'test', level: 'silent' })
const service = (name: keyof typeof servicePolicy): BusPrincipal => ({
  kind: 'service',
  name,
  replica: '1',
})
const host: BusPrincipal = { kind: 'host', id: 7 }
/** A busy machine may take longer than the second that the client has by default. */
const PATIENT = { timeout: 20_000 }
const bucketNames = Object.keys(buckets) as BucketName[]
/** The key of each bucket that is there, and that a forger would like to change. */
const KEYS = {
  config: 'user.1',
  hosts: 'host.7.self.7',
  audit: 'entry.config-1.1',
  locations: 'endpoint.1',
  rules: 'network.1.1',
} as const

describe('what somebody has the server publish', () => {
  const stack = new AsyncDisposableStack()
  let nats: TestDomainNats
  const watchers = new Map<AccountName, NatsBus>()

  before(async () => {
    nats = stack.use(await startDomainNats())
    for (const account of accountNames) {
      const bus = await connect(nats, nats.wideCredentials(account))
      watchers.set(account, stack.use(bus) as NatsBus)
    }
    await fill()
    const control = stack.use(await connect(nats, nats.credentials(service('config'))))
    const hostsAdmin = stack.use(await connect(nats, nats.credentials({ kind: 'hosts-admin' })))
    stack.use(keepMirror({ control, hostsAdmin, shape: buckets.hosts, log }))
    await eventually(async () => (await stateOf('hosts')).includes('"last_seq":1'))
  })
  after(() => stack.disposeAsync())

  for (const principal of [
    service('location-resolver'),
    service('routing-policy'),
    service('config'),
    host,
    { kind: 'hosts-admin' } as const,
  ]) {
    const who = principal.kind === 'service' ? principal.name : principal.kind
    test(`for ${who} changes nothing in another account`, async () => {
      await using client = await RawClient.as(nats.url, nats.credentials(principal))
      const own = accountOf(principal)
      // What config writes for hosts is copied to their account: that is what the copy is for.
      const others = accountNames.filter(
        (name) => name !== own && !(own === 'control' && name === 'hosts'),
      )
      const before = await settledStates(others)
      const errors = client.errors.length
      let count = 0
      for (const { subject, payload, reply } of cells(principal)) {
        client.publish(subject, payload, reply)
        count++
      }
      await client.settled()
      await delay(500)
      assert(count > 100, 'there are cells')
      // Those replies the server refuses by itself.
      const refused = client.errors
        .slice(errors)
        .filter((error) => !/Publish with Reply of "(\$JS\.ACK|_R_)\./.test(error))
      assert.deepEqual(refused, [], 'all of them are allowed')
      assert.deepEqual(await Promise.all(others.map(stateOf)), before)
    })
  }

  test('for a service is stored in its own account: the server looks at no reply subject', async () => {
    await using client = await RawClient.as(nats.url, nats.credentials(service('routing-policy')))
    const before = await stateOf('routing')
    client.publish(jetStreamApi.streamInfo('rules'), '', keySubject('rules', KEYS.rules))
    await eventually(async () => (await stateOf('routing')) !== before)
  })

  test('for a host and a resolver that work together changes nothing in another account', async () => {
    await using accomplice = await RawClient.as(
      nats.url,
      nats.credentials(service('location-resolver')),
    )
    await using client = await RawClient.as(nats.url, nats.credentials(host))
    const filter = keySubject('hosts', 'host.7.>')
    const request = consumerRequest('hosts', 'evil', filter, keySubject('config', KEYS.config))
    accomplice.answer = request
    accomplice.write(`SUB ${events.endpointReported.pattern()} 1\r\n`)
    await accomplice.settled()
    const others = accountNames.filter((name) => name !== 'location' && name !== 'hosts')
    const before = await Promise.all(others.map(stateOf))
    for (const reply of [
      `JS.control.CONSUMER.CREATE.KV_hosts.evil.${filter}`,
      'JS.control.CONSUMER.CREATE.KV_hosts',
    ]) {
      client.publish(events.endpointReported.subject(7, 1), 'x', reply)
    }
    await eventually(() => accomplice.messages.length >= 2)
    await delay(500)
    assert.deepEqual(await Promise.all(others.map(stateOf)), before)
  })

  /** A record in each bucket, in the account of its service. */
  async function fill(): Promise<void> {
    for (const name of bucketNames) {
      const keeper = Object.values(servicePolicy).find(({ keeps }) => keeps.includes(name))
      const bus = watchers.get(keeper?.account ?? 'system')
      const bucket = await bus?.openBucket(buckets[name], text)
      await bucket?.put(KEYS[name], 'as it was')
    }
  }

  /** Of accounts in which nothing happens any more of what was begun in them before. */
  async function settledStates(accounts: readonly AccountName[]): Promise<string[]> {
    let states = await Promise.all(accounts.map(stateOf))
    await eventually(async () => {
      const before = states
      await delay(300)
      states = await Promise.all(accounts.map(stateOf))
      return states.every((state, index) => state === before[index])
    }, 20_000)
    return states
  }

  /** Every stream of an account with its last message and its consumers. */
  async function stateOf(account: AccountName): Promise<string> {
    if (account === 'system') return ''
    const connection = watchers.get(account)?.host.connection
    assert(connection)
    const ask = async (call: string, request: object = {}) =>
      (await connection.request(`$JS.API.${call}`, JSON.stringify(request), PATIENT)).json<{
        readonly streams?: readonly { config: { name: string }; state: { last_seq: number } }[]
        readonly consumers?: readonly { readonly name: string }[]
      }>()
    const { streams = [] } = await ask('STREAM.LIST')
    const found = streams.map(async ({ config, state: { last_seq } }) => {
      const { consumers = [] } = await ask(`CONSUMER.LIST.${config.name}`)
      return { name: config.name, last_seq, consumers: consumers.map(({ name }) => name) }
    })
    return JSON.stringify((await Promise.all(found)).sort((a, b) => (a.name < b.name ? -1 : 1)))
  }
})

test('a service that makes the stream of its bucket as it likes reaches no other account by it', async () => {
  await using nats = await startDomainNats()
  await using config = await connect(nats, nats.credentials(service('config')))
  const records = await config.openBucket(buckets.config, text)
  await records.put(KEYS.config, 'as it was')
  await using client = await RawClient.as(nats.url, nats.credentials(service('location-resolver')))
  const evil = consumerRequest(
    'config',
    'evil',
    keySubject('config', '>'),
    keySubject('config', KEYS.config),
  )
  const targets = [
    keySubject('config', KEYS.config),
    'JS.remote.CONSUMER.CREATE.KV_config.evil.$KV.config.>',
    'JS.control.CONSUMER.CREATE.KV_config.evil.$KV.config.>',
    'stored.config.user.1',
  ]
  for (const [index, target] of targets.entries()) {
    const stream = {
      name: streamName('locations'),
      storage: 'memory',
      subjects: [keySubject('locations', '>')],
      republish: { src: keySubject('locations', '>'), dest: target },
      sources: [
        {
          name: 'KV_config',
          external: { api: index % 2 ? 'JS.remote' : '$JS.API', deliver: '$KV.config' },
        },
      ],
    }
    client.publish(jetStreamApi.streamCreate('locations'), JSON.stringify(stream))
    client.publish(keySubject('locations', `endpoint.${index}`), evil)
  }
  await client.settled()
  await delay(500)
  assert.deepEqual(client.errors, [])
  assert.equal(await records.lastRevision(), 1n)
  assert.equal((await records.get(KEYS.config))?.value, 'as it was')
})

test('a host that asks for 2,000 consumers has four', async () => {
  await using nats = await startDomainNats()
  await using control = await connect(nats, nats.credentials(service('config')))
  await using hostsAdmin = await connect(nats, nats.credentials({ kind: 'hosts-admin' }))
  await (await control.openBucket(buckets.hosts, text)).put(KEYS.hosts, 'row')
  await using _mirror = keepMirror({ control, hostsAdmin, shape: buckets.hosts, log })
  const wide = (await connect(nats, nats.wideCredentials('hosts'))) as NatsBus
  await using _closed = wide
  await eventually(() => wide.host.jetStream.streamInfo('hosts'))
  await using client = await RawClient.as(nats.url, nats.credentials(host))
  const filter = keySubject('hosts', 'host.7.>')
  client.write('SUB _INBOX.host.7.> 1\r\n')
  for (let index = 0; index < 2000; index++) {
    const name = index % 2 ? `host-7-${index}` : `host-7-${(index / 2) % 8}`
    const request = consumerRequest('hosts', name, filter, '_INBOX.host.7.rows', {
      durable_name: index % 4 ? undefined : name,
    })
    client.publish(jetStreamApi.consumerCreate('hosts', name, filter), request, '_INBOX.host.7.a')
  }
  await client.settled()
  const answer = await eventually(async () => {
    const { consumers } = (
      await wide.host.connection.request('$JS.API.CONSUMER.NAMES.KV_hosts', '{}')
    ).json<{ readonly consumers: readonly string[] }>()
    return consumers.length > 0 && consumers
  })
  assert.deepEqual([...answer].sort(), ['host-7-0', 'host-7-1', 'host-7-2', 'host-7-3'])
})

function connect(nats: TestDomainNats, credentials: Credentials): Promise<Bus> {
  return connectBus({ servers: [nats.url], credentials, name: 'test', log })
}

/** All that a principal may publish, with each target. */
function* cells(
  principal: BusPrincipal,
): Generator<{ readonly subject: string; readonly payload: string; readonly reply: string }> {
  for (const pattern of permissionsOf(principal).publish) {
    for (const target of targets()) {
      for (const payload of ['', '{}', ...requestsFor(pattern, target)]) {
        yield { subject: literal(pattern), payload, reply: target }
      }
    }
  }
}

/** Where it would do harm to publish something: into a bucket, or what the server takes for a question. */
function targets(): string[] {
  const found: string[] = []
  for (const name of bucketNames) {
    found.push(keySubject(name, KEYS[name]), keySubject(name, 'user.2'))
    for (const prefix of ['$JS.API', 'JS.control', 'JS.remote']) {
      found.push(
        `${prefix}.CONSUMER.CREATE.${streamName(name)}`,
        `${prefix}.CONSUMER.CREATE.${streamName(name)}.evil.${keySubject(name, '>')}`,
        `${prefix}.STREAM.INFO.${streamName(name)}`,
        `${prefix}.STREAM.MSG.GET.${streamName(name)}`,
        `${prefix}.DIRECT.GET.${streamName(name)}`,
        `${prefix}.STREAM.PURGE.${streamName(name)}`,
      )
    }
    found.push(`$JS.FC.${streamName(name)}.evil.x`, `stored.${name}.${KEYS[name]}`)
    found.push(`mirror.${name}.x`, `$JS.ACK.${streamName(name)}.evil.1.1.1.1.1`)
  }
  return [...found, '_R_.x', '$SYS.REQ.CLAIMS.UPDATE']
}

/** Requests that mean something on that subject. */
function requestsFor(pattern: string, target: string): string[] {
  const [, bucket = ''] = /KV_(\w+)/.exec(pattern) ?? []
  if (pattern.includes('.CONSUMER.CREATE.')) {
    const [, name = '', filter = ''] = /KV_\w+\.([^.]+)\.(.+)$/.exec(literal(pattern)) ?? []
    return [consumerRequest(bucket, name, filter, target)]
  }
  if (pattern.includes('.DIRECT.GET.')) {
    return [JSON.stringify({ seq: 1, next_by_subj: keySubject(bucket, '>'), batch: 10 })]
  }
  if (pattern.includes('.MSG.GET.')) return ['{"seq":1}']
  // Stored, it is what a consumer of it would be given.
  return [consumerRequest('config', 'evil', keySubject('config', '>'), target)]
}

function consumerRequest(
  bucket: string,
  name: string,
  filter: string,
  deliverSubject: string,
  changes: object = {},
): string {
  const config = {
    name,
    filter_subject: filter,
    deliver_subject: deliverSubject,
    deliver_policy: 'last_per_subject',
    ack_policy: 'none',
    ...changes,
  }
  return JSON.stringify({ stream_name: streamName(bucket), config })
}

/** A subject that the pattern allows; a filter at its end stays as it is. */
function literal(pattern: string): string {
  const named = pattern.replaceAll('*', 'evil')
  return named.includes('.CONSUMER.CREATE.') ? named : named.replace(/>$/, 'user.2')
}
