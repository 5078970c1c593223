import { InternalError } from '@weft/errors'
import type { ServiceName } from '@weft/identity'
import type { BucketShape } from './bus.ts'
import {
  CLAIMS_UPDATE,
  IMPORTED_REPLIES,
  jetStreamApi,
  keySubject,
  mirrorSubjects,
  remoteReading,
} from './server-subjects.ts'
import { buckets, type EventKind, events, hostRowPrefix } from './subjects.ts'
import { token } from './token.ts'

/*
 * Who may do what on the bus: the one policy. Users, accounts, and what accounts exchange are all made from it. There are
 * allow-lists only: what does not stand here nobody may do.
 */

/** Services that have business on the bus. */
export type BusService = Exclude<ServiceName, 'nats'>

/** Somebody who logs in to the bus. */
export type BusPrincipal =
  /** A service. Its replicas may share a name such as `1`: the random ends of their inboxes tell their answers apart. */
  | { readonly kind: 'service'; readonly name: BusService; readonly replica: string }
  | { readonly kind: 'host'; readonly id: number }
  /** Keeps the copies that hosts read, for config. */
  | { readonly kind: 'hosts-admin' }
  /** Tells the servers of revoked users, for config. */
  | { readonly kind: 'system' }

/**
 * An account for each plane. Whoever may ask the server for anything may have it publish the answer to any subject of the
 * same account (`reply`, `deliver_subject`), allow-list or not: so no two services share one, and every bucket is in that of
 * the service that writes it. `hosts`: hosts, and copies of what they may read; nothing is stored on what a host says.
 * `system`: the server's own.
 */
export const accountNames = ['control', 'location', 'routing', 'hosts', 'system'] as const
export type AccountName = (typeof accountNames)[number]

/** Who logs in as a member of the domain. */
type MemberPrincipal = Extract<BusPrincipal, { readonly kind: 'service' | 'host' }>
/** The accounts of members. */
type MemberAccount = Exclude<AccountName, 'system'>

/** What a user may publish and subscribe to: subjects with wildcards. */
export interface Permissions {
  readonly publish: readonly string[]
  readonly subscribe: readonly string[]
}

/** What a service does with events and buckets. */
interface ServiceRow {
  /** Its own: no other service is in there. */
  readonly account: MemberAccount
  readonly publishes: readonly EventName[]
  /** Of other services and of hosts. */
  readonly hears: readonly EventName[]
  /** Requests. */
  readonly answers: readonly EventName[]
  /** Buckets in its account: made and read. */
  readonly keeps: readonly BucketName[]
  /** Some of those. */
  readonly writes: readonly BucketName[]
  /** Buckets of other accounts. */
  readonly reads: readonly BucketName[]
}

/** What a host does, each only for itself. */
interface HostRow {
  /** With an answer. */
  readonly asks: readonly EventName[]
  readonly publishes: readonly EventName[]
  /** What services tell all hosts. */
  readonly hears: readonly EventName[]
  /** From a copy, and only what is under its own prefix. */
  readonly reads: readonly BucketName[]
}

/** Hosts of a domain. */
const HOSTS_MAX = 10_000
/** Names that a host has for its consumers: one for its watch, and others while one is set up anew. */
const HOST_CONSUMER_NAMES = 4
/** Consumers of the copies that hosts read: all hosts together cannot make more, so none takes any from another. */
export const HOST_CONSUMERS_MAX: number = HOSTS_MAX * HOST_CONSUMER_NAMES

export type EventName = keyof typeof events
export type BucketName = keyof typeof buckets

/** Every service's row. */
export const servicePolicy: { readonly [name in BusService]: ServiceRow } = {
  config: {
    account: 'control',
    publishes: ['keyRevoked'],
    hears: ['keyRevoked', 'connectionsReported'],
    answers: [],
    keeps: ['config', 'hosts', 'audit'],
    writes: ['config', 'hosts', 'audit'],
    reads: ['locations'],
  },
  'location-resolver': {
    account: 'location',
    publishes: ['endpointMoved'],
    hears: ['hostRenewed', 'keyRevoked'],
    answers: ['endpointReported'],
    keeps: ['locations'],
    writes: ['locations'],
    reads: ['config'],
  },
  'routing-policy': {
    account: 'routing',
    publishes: ['rulesChanged'],
    hears: ['keyRevoked'],
    answers: [],
    keeps: ['rules'],
    writes: [],
    reads: ['config'],
  },
}

/** The row of every host. */
export const hostPolicy: HostRow = {
  asks: ['endpointReported'],
  publishes: ['hostRenewed', 'connectionsReported'],
  hears: ['rulesChanged', 'keyRevoked'],
  reads: ['hosts'],
}

/** The account that a principal belongs to. */
export function accountOf(principal: MemberPrincipal): MemberAccount
export function accountOf(principal: BusPrincipal): AccountName
export function accountOf(principal: BusPrincipal): AccountName {
  switch (principal.kind) {
    case 'service':
      return servicePolicy[principal.name].account
    case 'host':
    case 'hosts-admin':
      return 'hosts'
    case 'system':
      return 'system'
  }
}

/** Whether services of other accounts read the bucket of this name. */
export function isReadRemotely(bucket: string): boolean {
  return rows().some(({ reads }) => reads.some((name) => buckets[name].name === bucket))
}

/** The names that the consumers of a host may have. */
export function hostConsumerNames(id: number): string[] {
  return Array.from({ length: HOST_CONSUMER_NAMES }, (_, index) => `host-${token(id)}-${index}`)
}

/** What begins every inbox of a principal. */
export function inboxPrefixOf(principal: BusPrincipal): string {
  switch (principal.kind) {
    case 'service':
      return `_INBOX.service.${token(principal.name)}.${token(principal.replica)}`
    case 'host':
      return `_INBOX.host.${token(principal.id)}`
    default:
      return `_INBOX.${principal.kind}`
  }
}

/** All that a principal may do. */
export function permissionsOf(principal: BusPrincipal): Permissions {
  const inbox = `${inboxPrefixOf(principal)}.>`
  switch (principal.kind) {
    case 'service':
      return serviceRights(servicePolicy[principal.name], inbox)
    case 'host':
      return hostRights(principal.id, inbox)
    case 'hosts-admin':
      return {
        publish: hostPolicy.reads.flatMap((name) => [
          jetStreamApi.streamInfo(buckets[name].name),
          jetStreamApi.streamCreate(buckets[name].name),
          jetStreamApi.streamDelete(buckets[name].name),
        ]),
        subscribe: [inbox],
      }
    case 'system':
      return { publish: [CLAIMS_UPDATE], subscribe: [inbox] }
  }
}

/** Something that crosses from one account into another. */
export interface Crossing {
  readonly name: string
  readonly from: AccountName
  readonly to: AccountName
  /**
   * `service`: `to` asks and `from` answers, once or (`service-of-many`) many times; the server maps each answer to the reply
   * subject of its question, in the account of the asker. `stream`: `from` publishes and `to` hears.
   */
  readonly kind: 'service' | 'service-of-many' | 'stream'
  readonly subject: string
  /** Under which subject `to` sees it, if it is another. */
  readonly as?: string
}

/** All that crosses between accounts. */
export function crossings(): Crossing[] {
  return [...hostCrossings(), ...rows().flatMap(serviceCrossings)]
}

/** What hosts say and hear. */
function hostCrossings(): Crossing[] {
  const to = 'hosts'
  const found: Crossing[] = []
  for (const name of hostPolicy.asks) {
    const answerers = rows().filter(({ answers }) => answers.includes(name))
    for (const { account: from } of answerers) {
      found.push({ name, kind: 'service', from, to, subject: all(name) })
    }
  }
  for (const name of hostPolicy.publishes) {
    const hearers = rows().filter(({ hears }) => hears.includes(name))
    for (const { account } of hearers) {
      found.push({ name, kind: 'stream', from: 'hosts', to: account, subject: all(name) })
    }
  }
  for (const name of hostPolicy.hears) {
    for (const from of publishersOf(name)) {
      found.push({ name, kind: 'stream', from, to, subject: all(name) })
    }
  }
  for (const bucket of hostPolicy.reads) {
    const { name } = buckets[bucket]
    const from = keeperOf(bucket)
    for (const subject of mirrorSubjects.exportedServices(name)) {
      const as = mirrorSubjects.importedAs(subject)
      found.push({ name: 'mirror', kind: 'service', from, to, subject, as })
    }
    const subject = `${mirrorSubjects.deliver(name)}.>`
    found.push({ name: 'mirror', kind: 'stream', from, to, subject })
  }
  return found
}

/** What a service hears and reads of other services. */
function serviceCrossings({ account: to, hears, reads }: ServiceRow): Crossing[] {
  const found: Crossing[] = []
  for (const name of hears) {
    for (const from of publishersOf(name)) {
      if (from !== to) found.push({ name, kind: 'stream', from, to, subject: all(name) })
    }
  }
  for (const bucket of reads) {
    const { name } = buckets[bucket]
    const from = keeperOf(bucket)
    const ask = (kind: 'service' | 'service-of-many') => (subject: string) => {
      const as = remoteReading.importedAs(subject)
      found.push({ name: `read ${name}`, kind, from, to, subject, as })
    }
    remoteReading.exportedQuestions(name).forEach(ask('service'))
    remoteReading.exportedReads(name).forEach(ask('service-of-many'))
    const subject = remoteReading.stored(name, '>')
    found.push({ name: `read ${name}`, kind: 'stream', from, to, subject })
  }
  return found
}

function rows(): ServiceRow[] {
  return Object.values(servicePolicy)
}

/** Accounts of the services that publish an event. */
function publishersOf(name: EventName): AccountName[] {
  return rows()
    .filter(({ publishes }) => publishes.includes(name))
    .map(({ account }) => account)
}

/** The account that a bucket is in. */
function keeperOf(bucket: BucketName): AccountName {
  const keeper = rows().find(({ keeps }) => keeps.includes(bucket))
  if (!keeper) throw new InternalError(`nobody keeps the bucket ${bucket}`)
  return keeper.account
}

function serviceRights(row: ServiceRow, inbox: string): Permissions {
  const keeps = row.keeps.map((name) => buckets[name])
  const writes = row.writes.map((name) => buckets[name])
  const reads = row.reads.map((name) => buckets[name].name)
  return {
    publish: [
      ...row.publishes.map(all),
      ...keeps.flatMap(keepingRights),
      ...writes.map(({ name }) => keySubject(name, '>')),
      ...reads.flatMap(remoteReadingRights),
      ...(row.answers.length > 0 ? [IMPORTED_REPLIES] : []),
    ],
    subscribe: [
      ...row.hears.map(all),
      ...row.answers.map(all),
      ...reads.map((name) => remoteReading.stored(name, '>')),
      inbox,
    ],
  }
}

function remoteReadingRights(bucket: string): string[] {
  const asked = [...remoteReading.exportedQuestions(bucket), ...remoteReading.exportedReads(bucket)]
  return asked.map(remoteReading.importedAs)
}

/** Whoever keeps a bucket makes it if it is not there: it may be in memory, and a restart of its server loses it. */
function keepingRights({ name }: BucketShape): string[] {
  return [
    jetStreamApi.streamInfo(name),
    jetStreamApi.streamCreate(name),
    jetStreamApi.messageGet(name),
    jetStreamApi.consumerCreate(name, '*', keySubject(name, '>')),
    jetStreamApi.flowControl(name),
  ]
}

function hostRights(id: number, inbox: string): Permissions {
  const own = [...hostPolicy.asks, ...hostPolicy.publishes].map((name) =>
    events[name].pattern({ sender: id }),
  )
  const rows = hostPolicy.reads.flatMap((bucket) => {
    const { name } = buckets[bucket]
    const prefix = keySubject(name, `${hostRowPrefix(id)}.>`)
    return [
      ...hostConsumerNames(id).flatMap((consumer) => [
        jetStreamApi.consumerCreate(name, consumer, prefix),
        jetStreamApi.consumerDelete(name, consumer),
      ]),
      jetStreamApi.flowControl(name),
    ]
  })
  return { publish: [...own, ...rows], subscribe: [...hostPolicy.hears.map(all), inbox] }
}

function all(name: EventName): string {
  const kind: EventKind = events[name]
  return kind.pattern()
}

/**
 * Says whether an allow-list covers all that a subject with wildcards stands for, as nats-server judges it: to it a `*` at the
 * end covers `>` as well. So nothing that we use lies below a subject that somebody is allowed with a `*` at the end.
 */
export function isCovered(allowed: readonly string[], subject: string): boolean {
  return allowed.some((pattern) => covers(pattern.split('.'), subject.split('.')))
}

function covers(pattern: readonly string[], subject: readonly string[]): boolean {
  for (const [index, token] of pattern.entries()) {
    const other = subject[index]
    if (other === undefined) return false
    if (token === '>') return true
    if (token !== '*' && token !== other) return false
  }
  return pattern.length === subject.length
}
