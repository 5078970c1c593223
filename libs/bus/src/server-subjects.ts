/*
 * Subjects that nats-server itself answers or names (server/jetstream_api.go, server/stream.go, server/events.go), for the
 * calls that we make of it. What a caller may not ask for stands nowhere here.
 */

/** The stream of a bucket, as NATS KV names it. */
export function streamName(bucket: string): string {
  return `KV_${bucket}`
}

/** Where the value of a key is published and stored. */
export function keySubject(bucket: string, key: string): string {
  return `$KV.${bucket}.${key}`
}

/** Where JetStream is asked; `bucket`, `consumer` and `filter` may be wildcards in an allow-list. */
export const jetStreamApi: {
  readonly streamCreate: (bucket: string) => string
  readonly streamInfo: (bucket: string) => string
  readonly streamDelete: (bucket: string) => string
  /** One message, from the leader. */
  readonly messageGet: (bucket: string) => string
  /** Many messages, from any server that has the stream, which may be behind the leader. */
  readonly directGet: (bucket: string) => string
  /** The filter is a part of the subject, and the server refuses a request that says another one inside. */
  readonly consumerCreate: (bucket: string, consumer: string, filter: string) => string
  readonly consumerDelete: (bucket: string, consumer: string) => string
  /** Answered by a reader to get on: the server makes up the last two tokens. */
  readonly flowControl: (bucket: string) => string
} = {
  streamCreate: (bucket) => `$JS.API.STREAM.CREATE.${streamName(bucket)}`,
  streamInfo: (bucket) => `$JS.API.STREAM.INFO.${streamName(bucket)}`,
  streamDelete: (bucket) => `$JS.API.STREAM.DELETE.${streamName(bucket)}`,
  messageGet: (bucket) => `$JS.API.STREAM.MSG.GET.${streamName(bucket)}`,
  directGet: (bucket) => `$JS.API.DIRECT.GET.${streamName(bucket)}`,
  consumerCreate: (bucket, consumer, filter) =>
    `$JS.API.CONSUMER.CREATE.${streamName(bucket)}.${consumer}.${filter}`,
  consumerDelete: (bucket, consumer) => `$JS.API.CONSUMER.DELETE.${streamName(bucket)}.${consumer}`,
  flowControl: (bucket) => `$JS.FC.${streamName(bucket)}.>`,
}

/**
 * How a service reads a bucket of another account: it asks questions that change nothing, wherever it wants the answers to
 * go, and hears of every message once that is stored. It makes no consumer there: the server would publish for it what and
 * where it likes.
 */
export const remoteReading: {
  /** Where a message that was stored is told; `key` may be a wildcard. */
  readonly stored: (bucket: string, key: string) => string
  /** What the account that has the bucket exports, each with one answer … */
  readonly exportedQuestions: (bucket: string) => readonly string[]
  /** … or with many … */
  readonly exportedReads: (bucket: string) => readonly string[]
  /** … and under which subject others find it: `$JS.API` there is their own. */
  readonly importedAs: (exported: string) => string
} = {
  stored: (bucket, key) => `stored.${bucket}.${key}`,
  exportedQuestions: (bucket) => [jetStreamApi.streamInfo(bucket), jetStreamApi.messageGet(bucket)],
  exportedReads: (bucket) => [jetStreamApi.directGet(bucket)],
  importedAs: (exported) => exported.replace(/^\$JS\.API\./, 'JS.remote.'),
}

/**
 * How the account of the hosts mirrors a bucket of the control plane: under `prefix` it asks for the one consumer that
 * feeds the mirror, and on `deliver` it is fed. No host may publish or subscribe to any of it.
 */
export const mirrorSubjects: {
  readonly prefix: string
  readonly deliver: (bucket: string) => string
  /** What the account that has the bucket exports … */
  readonly exportedServices: (bucket: string) => readonly string[]
  /** … and under which subject the other one finds it. */
  readonly importedAs: (exported: string) => string
} = {
  prefix: 'JS.control',
  deliver: (bucket) => `mirror.${bucket}`,
  exportedServices: (bucket) => [
    `$JS.API.CONSUMER.CREATE.${streamName(bucket)}`,
    `$JS.API.CONSUMER.CREATE.${streamName(bucket)}.>`,
    `$JS.FC.${streamName(bucket)}.>`,
  ],
  importedAs: (exported) => exported.replace(/^\$JS\.API\./, 'JS.control.'),
}

/** Answers to what came through a service import: the server maps each to the asker's own reply subject, once. */
export const IMPORTED_REPLIES = '_R_.>'

/** Where the system account takes a new JWT of an account. */
export const CLAIMS_UPDATE = '$SYS.REQ.CLAIMS.UPDATE'
