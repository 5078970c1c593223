import assert from 'node:assert/strict'
import { test } from 'node:test'
import { serviceNames } from '@weft/identity'
import {
  type BucketName,
  type BusPrincipal,
  type BusService,
  crossings,
  type EventName,
  hostPolicy,
  inboxPrefixOf,
  isCovered,
  permissionsOf,
  servicePolicy,
} from './policy.ts'
import { buckets, events } from './subjects.ts'

const services = serviceNames.filter((name): name is BusService => name !== 'nats')
const everybody: readonly BusPrincipal[] = [
  ...services.map((name): BusPrincipal => ({ kind: 'service', name, replica: '1' })),
  { kind: 'host', id: 7 },
  { kind: 'hosts-admin' },
  { kind: 'system' },
]

test('every event has somebody who may say it', () => {
  const rows = Object.values(servicePolicy)
  for (const name of Object.keys(events) as EventName[]) {
    const isSaid = [...rows, hostPolicy].some(({ publishes }) => publishes.includes(name))
    const isAsked = hostPolicy.asks.includes(name) && rows.some((row) => row.answers.includes(name))
    assert(isSaid || isAsked, `${name} has no row in the policy: nobody may publish it`)
  }
})

test('every bucket has a service that reads it', () => {
  for (const name of Object.keys(buckets) as BucketName[]) {
    const isRead = Object.values(servicePolicy).some(
      ({ keeps, reads }) => keeps.includes(name) || reads.includes(name),
    )
    assert(isRead, `${name} has no row in the policy: nobody may read it`)
  }
})

test('a host may speak for itself, watch its own rows and hear announcements, and that is all', () => {
  assert.deepEqual(permissionsOf({ kind: 'host', id: 7 }), {
    publish: [
      'weft.v1.location.endpoint.reported.7.*',
      'weft.v1.location.host.renewed.7.*',
      'weft.v1.status.connections.reported.7.*',
      ...[0, 1, 2, 3].flatMap((index) => [
        `$JS.API.CONSUMER.CREATE.KV_hosts.host-7-${index}.$KV.hosts.host.7.>`,
        `$JS.API.CONSUMER.DELETE.KV_hosts.host-7-${index}`,
      ]),
      '$JS.FC.KV_hosts.>',
    ],
    subscribe: [
      'weft.v1.routing.rules.changed.*.*',
      'weft.v1.identity.key.revoked.*.*',
      '_INBOX.host.7.>',
    ],
  })
})

test('only one service writes each bucket, and nobody but config writes records, rows and audit', () => {
  const writers = (bucket: string): string[] =>
    everybody
      .filter((principal) => isCovered(permissionsOf(principal).publish, `$KV.${bucket}.a`))
      .map((principal) => (principal.kind === 'service' ? principal.name : principal.kind))
  assert.deepEqual(writers('config'), ['config'])
  assert.deepEqual(writers('hosts'), ['config'])
  assert.deepEqual(writers('audit'), ['config'])
  assert.deepEqual(writers('locations'), ['location-resolver'])
  assert.deepEqual(writers('rules'), [])
})

test('nobody has a right that covers a family of the server or the inboxes of others', () => {
  const families = ['>', '$JS.>', '$JS.API.>', '$SYS.>', '$KV.>', '_INBOX.>', '_INBOX.host.>']
  for (const principal of everybody) {
    const { publish, subscribe } = permissionsOf(principal)
    for (const family of families) {
      assert(!isCovered([...publish, ...subscribe], family), `${principal.kind} ${family}`)
    }
    assert(publish.length > 0 && subscribe.length > 0, 'to nats-server an empty list allows all')
    const others = everybody.filter((other) => other !== principal).map(inboxPrefixOf)
    for (const prefix of others) assert(!isCovered(subscribe, `${prefix}.x`), principal.kind)
  }
})

test('what crosses between accounts is told, or a question that changes nothing', () => {
  assert.deepEqual(
    crossings().map(({ kind, from, to, subject }) => `${kind}, ${from} to ${to}: ${subject}`),
    [
      'service, location to hosts: weft.v1.location.endpoint.reported.*.*',
      'stream, hosts to location: weft.v1.location.host.renewed.*.*',
      'stream, hosts to control: weft.v1.status.connections.reported.*.*',
      'stream, routing to hosts: weft.v1.routing.rules.changed.*.*',
      'stream, control to hosts: weft.v1.identity.key.revoked.*.*',
      'service, control to hosts: $JS.API.CONSUMER.CREATE.KV_hosts',
      'service, control to hosts: $JS.API.CONSUMER.CREATE.KV_hosts.>',
      'service, control to hosts: $JS.FC.KV_hosts.>',
      'stream, control to hosts: mirror.hosts.>',
      'service, location to control: $JS.API.STREAM.INFO.KV_locations',
      'service, location to control: $JS.API.STREAM.MSG.GET.KV_locations',
      'service-of-many, location to control: $JS.API.DIRECT.GET.KV_locations',
      'stream, location to control: stored.locations.>',
      ...['location', 'routing'].flatMap((to) => [
        `stream, control to ${to}: weft.v1.identity.key.revoked.*.*`,
        `service, control to ${to}: $JS.API.STREAM.INFO.KV_config`,
        `service, control to ${to}: $JS.API.STREAM.MSG.GET.KV_config`,
        `service-of-many, control to ${to}: $JS.API.DIRECT.GET.KV_config`,
        `stream, control to ${to}: stored.config.>`,
      ]),
    ],
  )
})

test('every service and every bucket has one account, and no two services share one', () => {
  const accounts = Object.values(servicePolicy).map(({ account }) => account)
  assert.equal(new Set(accounts).size, accounts.length)
  for (const name of Object.keys(buckets) as BucketName[]) {
    const keepers = Object.values(servicePolicy).filter(({ keeps }) => keeps.includes(name))
    assert.equal(keepers.length, 1, name)
  }
})

test('no host id and no replica can widen a right', () => {
  for (const replica of ['*', '>', 'a.b', '', ' ']) {
    assert.throws(() => permissionsOf({ kind: 'service', name: 'config', replica }), RangeError)
  }
  assert.throws(() => permissionsOf({ kind: 'host', id: 1.5 }), RangeError)
})

test('a subject is covered by whole tokens', () => {
  assert(isCovered(['a.*'], 'a.b'))
  assert(isCovered(['a.>'], 'a.b.c'))
  assert(isCovered(['a.>'], 'a.>'))
  assert(isCovered(['a.*'], 'a.*'))
  assert(isCovered(['x', 'a.b'], 'a.b'))
  for (const subject of ['a', 'a.b.c', 'b.b', '>', 'a.b.>']) assert(!isCovered(['a.*'], subject))
  for (const subject of ['a', 'ab.c', '>', '*.b']) assert(!isCovered(['a.>'], subject), subject)
  assert(!isCovered([], 'a'))
})
