import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Bucket, buckets, memoryBus, recordKey } from '@weft/bus'
import { DeadlineExceededError, OverloadedError, UnknownOutcomeError } from '@weft/errors'
import { Record as StoredRecord, Tenant } from '@weft/proto/weftline/config/v1/records.ts'
import { createLogger } from '@weft/telemetry'
import { Commits, QUEUE_MAX } from '../src/commits.ts'
import type { Database } from '../src/domain/database.ts'
import type { Caller, Plan } from '../src/domain/requests/plan.ts'
import { createTenant, deleteTenant } from '../src/domain/requests/tenants.ts'
import { Events } from '../src/events.ts'
import { Replica } from '../src/replica.ts'
import { followRecords } from '../src/subscriptions.ts'

/** What happens to the next write: it is made but the answer is lost, or it is lost itself. */
type Fault = 'answer-lost' | 'write-lost'

/** A replica whose bucket fails as it is told. */
async function startReplica() {
  await using opened = new AsyncDisposableStack()
  const bus = opened.use(memoryBus().connect())
  const bucket = await bus.openBucket(buckets.config, StoredRecord)
  const faults: Fault[] = []
  const writes: Pick<Bucket<StoredRecord>, 'put' | 'delete'> = {
    put: (...args) => fail(() => bucket.put(...args)),
    delete: (...args) => fail(() => bucket.delete(...args)),
  }
  const fail = async <T>(write: () => Promise<T>): Promise<T> => {
    const fault = faults.shift()
    const result = fault === 'write-lost' ? undefined : await write()
    if (result !== undefined && fault === undefined) return result
    throw new UnknownOutcomeError({ what: 'a write', problem: fault ?? 'none' })
  }
  const faulty: Bucket<StoredRecord> = {
    name: bucket.name,
    get: (key) => bucket.get(key),
    lastRevision: () => bucket.lastRevision(),
    fill: () => bucket.fill(),
    watch: (prefix, options) => bucket.watch(prefix, options),
    ...writes,
  }
  const replica = new Replica()
  const events = new Events(createLogger({ service: 'config', level: 'silent' }))
  opened.use(await followRecords(faulty, replica, events))
  const commits = opened.use(new Commits(faulty, replica, events))
  const running = opened.move()
  return {
    bucket,
    faults,
    replica,
    commits,
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  }
}

function commit<T>(
  commits: Commits,
  key: string,
  plan: (database: Database, caller: Caller) => Plan<T>,
  signal: AbortSignal = new AbortController().signal,
): Promise<T> {
  const caller: Caller = {
    idempotencyKey: key,
    writtenBy: 'test',
    nowUnixMs: 0,
    random: (sizeBytes) => new Uint8Array(sizeBytes),
  }
  return commits.commit({
    what: 'the request',
    idempotencyKey: key,
    signal,
    plan: (database) => plan(database, caller),
  })
}

const create =
  (name: string) =>
  (database: Database, caller: Caller): Plan<Tenant> =>
    createTenant(database, { idempotencyKey: '', name, labels: {} }, caller)

const remove =
  (name: string) =>
  (database: Database): Plan<boolean> =>
    deleteTenant(database, { idempotencyKey: '', name })

test('a write whose answer is lost is found again and made once', async () => {
  await using site = await startReplica()
  site.faults.push('answer-lost')

  const tenant = await commit(site.commits, 'k', create('acme'))

  assert.equal(tenant.name, 'acme')
  assert.equal(tenant.meta?.revision, 1n)
  assert.equal(await site.bucket.lastRevision(), 1n)
})

test('a write that is lost is made again, once', async () => {
  await using site = await startReplica()
  site.faults.push('write-lost', 'write-lost')

  const tenant = await commit(site.commits, 'k', create('acme'))

  assert.equal(tenant.id, 1)
  assert.equal(await site.bucket.lastRevision(), 1n)
})

test('a removal whose answer is lost is reported as made', async () => {
  await using site = await startReplica()
  await commit(site.commits, 'k1', create('acme'))
  site.faults.push('answer-lost')

  assert.equal(await commit(site.commits, 'k2', remove('acme')), true)
  assert.equal(site.replica.database.counts.tenant, 0)
  assert.equal(await commit(site.commits, 'k3', remove('acme')), false)
})

test('what another replica wrote a moment ago is not answered as missing', async () => {
  await using site = await startReplica()
  const value = Tenant.create({ id: 1, name: 'acme', meta: { revision: 1n } })
  const written = site.bucket.put(
    recordKey('tenant', 1),
    StoredRecord.create({ kind: { $case: 'tenant', value } }),
  )

  // Planned at once, before the replica can have heard of the write.
  const removed = commit(site.commits, 'k', remove('acme'))

  await written
  assert.equal(await removed, true)
})

test('requests beyond the queue are refused at once, and those in it are answered', async () => {
  await using site = await startReplica()
  // One is at work, the others wait.
  const accepted = Array.from({ length: QUEUE_MAX + 1 }, (_, index) =>
    commit(site.commits, `k${index}`, create(`t${index}`)),
  )

  await assert.rejects(commit(site.commits, 'more', create('more')), OverloadedError)

  await Promise.all(accepted)
  assert.equal(site.replica.database.counts.tenant, QUEUE_MAX + 1)
})

test('a request whose caller is gone before its turn writes nothing', async () => {
  await using site = await startReplica()
  const caller = new AbortController()
  const first = commit(site.commits, 'k1', create('one'))
  const second = commit(site.commits, 'k2', create('two'), caller.signal)
  caller.abort()

  await assert.rejects(second, DeadlineExceededError)
  await first
  assert.equal(await site.bucket.lastRevision(), 1n)
})
