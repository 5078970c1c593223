import type { BucketShape } from './bus.ts'
import { type Id, token } from './token.ts'

declare const subjectBrand: unique symbol
declare const patternBrand: unique symbol

/** What a message is published to. Only this file makes them. */
export type Subject = string & { readonly [subjectBrand]: true }
/** What a subscriber listens to: a subject in which tokens may be wildcards. */
export type SubjectPattern = string & { readonly [patternBrand]: true }

/** One kind of event: `weft.v1.<domain>.<noun>.<past-tense>.<sender>.<id>`. The sender's id is a token so that an allow-list per host can be written; a subject is no proof of its sender. */
export interface EventKind {
  subject(sender: Id, id: Id): Subject
  /** All senders and ids, unless given. */
  pattern(only?: { readonly sender?: Id; readonly id?: Id }): SubjectPattern
  /** The sender and id of a subject of this kind; undefined for any other. */
  parse(subject: string): { readonly sender: string; readonly id: string } | undefined
}

/** Every event of Weftline. */
export const events: {
  readonly endpointReported: EventKind
  readonly hostRenewed: EventKind
  readonly endpointMoved: EventKind
  readonly rulesChanged: EventKind
  readonly keyRevoked: EventKind
  readonly connectionsReported: EventKind
} = {
  /** A host says that an endpoint is or is no longer there: `LocationReport`, answered by `LocationReportReply`. Id: the endpoint's. */
  endpointReported: eventKind('location', 'endpoint', 'reported'),
  /** A host says that it lives: `LeaseRenewal`. Id: the host's. */
  hostRenewed: eventKind('location', 'host', 'renewed'),
  /** The resolver stored a new location: `Location`. Id: the endpoint's. */
  endpointMoved: eventKind('location', 'endpoint', 'moved'),
  /** The rules of a network changed. Id: the network's. */
  rulesChanged: eventKind('routing', 'rules', 'changed'),
  /** Keys of hosts and users are void: `Signed` `Revocations` with those of the last 8 days, of more than 1,000 not all. Id: their number. */
  keyRevoked: eventKind('identity', 'key', 'revoked'),
  /** A host says how its open connections are: `ConnectionReport`. Id: the host's. */
  connectionsReported: eventKind('status', 'connections', 'reported'),
}

/** Every kind of record in the bucket `config`. */
export type RecordKind =
  | 'tenant'
  | 'zone'
  | 'host'
  | 'network'
  | 'endpoint'
  | 'token'
  | 'user'
  | 'revokedKey'
  | 'statement'

/** Key of a record in the bucket `config`. */
export function recordKey(kind: RecordKind, id: number): string {
  return `${kind}.${id}`
}

/** Key of an endpoint in the bucket `locations`. */
export function locationKey(endpointId: number): string {
  return `endpoint.${endpointId}`
}

/** Prefix of all rows of a host in the bucket `hosts`; a forwarder watches this and nothing else. */
export function hostRowPrefix(hostId: number): string {
  return `host.${hostId}`
}

/** Key of one row of a host. */
export function hostRowKey(
  hostId: number,
  kind: 'statement' | 'network' | 'endpoint' | 'peer' | 'self',
  id: number,
): string {
  return `${hostRowPrefix(hostId)}.${kind}.${id}`
}

/** Prefix of all rules of a network in the bucket `rules`. */
function rulePrefix(networkId: number): string {
  return `network.${networkId}`
}

/** Key of one rule. */
export function ruleKey(networkId: number, ruleId: number): string {
  return `${rulePrefix(networkId)}.${ruleId}`
}

/** Prefix of all entries of a chain in the bucket `audit`. */
function auditEntryPrefix(writer: string): string {
  return `entry.${token(writer)}`
}

/** Key of one entry of a chain; its number counts from 1. */
export function auditEntryKey(writer: string, number: bigint): string {
  return `${auditEntryPrefix(writer)}.${number}`
}

/** Prefix of the heads of all chains. */
export const AUDIT_HEAD_PREFIX = 'head'

/** Key of the signed head of a chain. */
export function auditHeadKey(writer: string): string {
  return `${AUDIT_HEAD_PREFIX}.${token(writer)}`
}

/** Key of the lease by which one replica of a service at most does the work named `role`, in the bucket that the work writes. */
export function leaseKey(service: string, role: string): string {
  return `${service}.${role}`
}

const MIB = 1024 * 1024

/** Every bucket of Weftline. */
export const buckets: {
  readonly config: BucketShape
  readonly locations: BucketShape
  readonly hosts: BucketShape
  readonly rules: BucketShape
  readonly audit: BucketShape
} = {
  /** 1,000,000 endpoints of about 250 bytes and as much again for what the store adds. */
  config: shape('config', 'the VN database, one record a message', 'file', 1024 * MIB),
  locations: shape('locations', 'where endpoints were observed', 'file', 1024 * MIB),
  /** Derived: 10,000 hosts with 1,000 rows of 200 bytes. */
  hosts: shape('hosts', 'what each host needs to know', 'memory', 2048 * MIB),
  rules: shape('rules', 'rules that choose a routing protocol', 'file', 64 * MIB),
  /** 2,000,000 entries of about 600 bytes with their headers, and about as many heads of 400; at 1,000 a day that is five years. */
  audit: { ...shape('audit', 'who did what', 'file', 2048 * MIB), keeps: 'every-value' },
}

/** Splits a key into its tokens. */
export function keyTokens(key: string): string[] {
  return key.split('.')
}

/** Says whether a key may be stored: 1 to 16 tokens of letters, digits, `-`, `_`, `=`, `/`. */
export function isKey(key: string): boolean {
  return /^[\w=/-]+(\.[\w=/-]+){0,15}$/.test(key)
}

/** True if the key has the prefix's tokens and more after them. */
export function isUnderPrefix(key: string, prefix: string): boolean {
  return prefix === '' || key.startsWith(`${prefix}.`)
}

function shape(
  name: string,
  description: string,
  storage: BucketShape['storage'],
  sizeMaxBytes: number,
): BucketShape {
  return {
    name,
    description,
    storage,
    keeps: 'last-value',
    sizeMaxBytes,
    valueMaxBytes: 64 * 1024,
    duplicateWindowMs: 120_000,
    deletionTtlMs: 600_000,
  }
}

function eventKind(domain: string, noun: string, verb: string): EventKind {
  const prefix = `weft.v1.${domain}.${noun}.${verb}.`
  return {
    subject: (sender, id) => `${prefix}${token(sender)}.${token(id)}` as Subject,
    pattern: (only = {}) => {
      const sender = only.sender === undefined ? '*' : token(only.sender)
      const id = only.id === undefined ? '*' : token(only.id)
      return `${prefix}${sender}.${id}` as SubjectPattern
    },
    parse: (subject) => {
      if (!subject.startsWith(prefix)) return undefined
      const [sender, id, ...rest] = subject.slice(prefix.length).split('.')
      return sender && id && rest.length === 0 ? { sender, id } : undefined
    },
  }
}
