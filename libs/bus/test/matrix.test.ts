import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { serviceNames } from '@weft/identity'
import { startDomainNats, type TestDomainNats } from '@weft/testing'
import {
  type BucketName,
  type BusPrincipal,
  type BusService,
  type EventName,
  inboxPrefixOf,
  isCovered,
  permissionsOf,
} from '../src/policy.ts'
import { jetStreamApi, keySubject, remoteReading, streamName } from '../src/server-subjects.ts'
import { buckets, events, hostRowKey, hostRowPrefix } from '../src/subjects.ts'
import { RawClient } from './raw-client.ts'

/*
 * Every cell of (who, what, subject) on a real server: what the policy does not allow is refused, what it allows is not. The
 * subjects are made from all events and buckets there are, so that a new one has its cells at once.
 */

const services = serviceNames.filter((name): name is BusService => name !== 'nats')

const principals: readonly BusPrincipal[] = [
  ...services.map((name): BusPrincipal => ({ kind: 'service', name, replica: '1' })),
  { kind: 'host', id: 7 },
  { kind: 'host', id: 5 },
  { kind: 'hosts-admin' },
  { kind: 'system' },
]

const operations = ['publish', 'request', 'subscribe', 'subscribe in a queue'] as const
type Operation = (typeof operations)[number]

describe('the policy on a real server', () => {
  let nats: TestDomainNats
  before(async () => {
    nats = await startDomainNats()
  })
  after(() => nats[Symbol.asyncDispose]())

  for (const principal of principals) {
    const who = nameOf(principal)
    test(`${who} may do what its row says, and nothing else`, async () => {
      await using client = await RawClient.as(nats.url, nats.credentials(principal))
      const { publish, subscribe } = permissionsOf(principal)
      const inbox = `${inboxPrefixOf(principal)}.matrix`
      const cells = operations.flatMap((operation) =>
        subjects().map((subject) => ({ operation, subject })),
      )

      const refusals = await Promise.all(
        cells.map(({ operation, subject }) => client.isRefused(wire(operation, subject, inbox))),
      )

      const allowedCount = refusals.filter((isRefused) => !isRefused).length
      assert(allowedCount > 0 && allowedCount < cells.length)
      const wrong = cells.filter(({ operation, subject }, index) => {
        const allowed = operation === 'publish' || operation === 'request' ? publish : subscribe
        return isCovered(allowed, subject) === refusals[index]
      })
      assert.deepEqual(wrong, [])
    })
  }
})

/** Subjects of every family: literal, with wildcards, of everybody. */
function subjects(): string[] {
  const found = new Set(['>', '*', '*.>', '$KV.>', '$JS.>', '$JS.API.>', '$JS.API.*', '$SYS.>'])
  for (const subject of ['$JS.API.INFO', '$JS.API.STREAM.LIST', '$JS.API.STREAM.NAMES']) {
    found.add(subject)
  }
  for (const name of Object.keys(events) as EventName[]) {
    const kind = events[name]
    found.add(kind.pattern())
    for (const sender of ['7', '5', 'config-1', 'routing-policy-1']) {
      found.add(kind.subject(sender, sender))
      found.add(kind.pattern({ sender }))
      found.add(kind.pattern({ sender, id: 1 }))
    }
    found.add(kind.pattern({ id: 7 }))
    found.add(kind.subject(7, 7).replace(/7\.7$/, '>'))
    found.add(kind.subject(7, 7).replace(/7$/, '>'))
    found.add(`${kind.subject(7, 7)}.more`)
  }
  for (const bucket of Object.keys(buckets) as BucketName[]) {
    const { name } = buckets[bucket]
    const stream = streamName(name)
    for (const key of ['>', 'a', 'a.b', hostRowKey(7, 'self', 7), `${hostRowPrefix(5)}.>`]) {
      found.add(keySubject(name, key))
      found.add(jetStreamApi.consumerCreate(name, 'matrix', keySubject(name, key)))
    }
    found.add(jetStreamApi.streamCreate(name))
    found.add(jetStreamApi.streamInfo(name))
    found.add(jetStreamApi.streamDelete(name))
    found.add(jetStreamApi.messageGet(name))
    found.add(jetStreamApi.flowControl(name))
    found.add(jetStreamApi.flowControl(name).replace('>', 'a.b'))
    for (const call of [
      `STREAM.UPDATE.${stream}`,
      `STREAM.PURGE.${stream}`,
      `STREAM.MSG.DELETE.${stream}`,
      `STREAM.SNAPSHOT.${stream}`,
      `STREAM.RESTORE.${stream}`,
      `STREAM.LEADER.STEPDOWN.${stream}`,
      `STREAM.PEER.REMOVE.${stream}`,
      `DIRECT.GET.${stream}`,
      `DIRECT.GET.${stream}.${keySubject(name, 'a')}`,
      `CONSUMER.CREATE.${stream}`,
      `CONSUMER.CREATE.${stream}.matrix`,
      `CONSUMER.DURABLE.CREATE.${stream}.matrix`,
      `CONSUMER.MSG.NEXT.${stream}.matrix`,
      `CONSUMER.DELETE.${stream}.matrix`,
      `CONSUMER.INFO.${stream}.matrix`,
      `CONSUMER.LIST.${stream}`,
      `CONSUMER.NAMES.${stream}`,
      `CONSUMER.PAUSE.${stream}.matrix`,
    ]) {
      found.add(`$JS.API.${call}`)
    }
    found.add(`$JS.ACK.${stream}.matrix.1.1.1.1.1`)
    for (const question of [
      ...remoteReading.exportedQuestions(name),
      ...remoteReading.exportedReads(name),
    ]) {
      found.add(remoteReading.importedAs(question))
    }
    found.add(remoteReading.stored(name, '>'))
    found.add(remoteReading.stored(name, 'a.b'))
    for (const consumer of ['host-7-0', 'host-7-4', 'host-5-0', 'host-7-']) {
      found.add(jetStreamApi.consumerCreate(name, consumer, keySubject(name, 'host.7.>')))
      found.add(jetStreamApi.consumerDelete(name, consumer))
    }
    found.add(`mirror.${name}.x`)
    found.add(`mirror.${name}.>`)
  }
  found.add('$JS.API.ACCOUNT.PURGE.A')
  found.add('JS.control.>')
  found.add('JS.remote.>')
  found.add('JS.control.CONSUMER.CREATE.KV_hosts')
  found.add('JS.control.CONSUMER.CREATE.KV_hosts.x.$KV.hosts.>')
  found.add('$SYS.REQ.CLAIMS.UPDATE')
  found.add('$SYS.REQ.CLAIMS.DELETE')
  found.add('$SYS.REQ.ACCOUNT.PING.CONNZ')
  found.add('$SYS.REQ.SERVER.PING')
  found.add('$SYS.REQ.SERVER.PING.CONNZ')
  found.add('$SYS.REQ.USER.INFO')
  found.add('$SYS.ACCOUNT.A.CONNECT')
  found.add('_R_.>')
  found.add('_R_.x.y')
  for (const prefix of ['_INBOX', '_INBOX.host', '_INBOX.service', '_INBOX_7']) {
    found.add(`${prefix}.>`)
    found.add(`${prefix}.*`)
  }
  for (const principal of principals) {
    const prefix = inboxPrefixOf(principal)
    for (const end of ['', '.x', '.x.y', '.>', '.*', '0.x']) found.add(prefix + end)
  }
  return [...found]
}

function wire(operation: Operation, subject: string, inbox: string): string {
  switch (operation) {
    case 'publish':
      return `PUB ${subject} 0\r\n\r\n`
    case 'request':
      return `PUB ${subject} ${inbox} 0\r\n\r\n`
    case 'subscribe':
      return `SUB ${subject} 9\r\nUNSUB 9\r\n`
    case 'subscribe in a queue':
      return `SUB ${subject} workers 9\r\nUNSUB 9\r\n`
  }
}

function nameOf(principal: BusPrincipal): string {
  if (principal.kind === 'service') return principal.name
  return principal.kind === 'host' ? `host ${principal.id}` : principal.kind
}
