import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Bus, buckets, type Codec, hostRowKey, memoryBus, recordKey } from '@weft/bus'
import { asWeftError, ExitCode } from '@weft/errors'
import {
  CreateTenantRequest,
  GetEndpointRequest,
  GetServerInfoRequest,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import { RevokedKey, Record as StoredRecord } from '@weft/proto/weftline/config/v1/records.ts'
import { eventually } from '@weft/testing'
import { connectAs, credentialsOf, furnish, openRows, rowsOf, startReplica } from './site.ts'

/* What a disk or a defect leaves behind stops nothing, and gives nobody a right. */

test('a record that cannot be read stops no replica, and an endpoint is still as it was', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const web = await (await furnish(replica)).endpoint('blue', 'web')

  const revision = await damage(bus, recordKey('endpoint', web.id))

  await eventually(async () => (await infoOf(replica)).revision >= revision)
  const request = GetEndpointRequest.create({ key: { $case: 'id', value: web.id } })
  assert.deepEqual((await replica.client.getEndpoint(request)).endpoint, web)
  const tenant = { idempotencyKey: 'a', name: 'other' }
  await replica.client.createTenant(CreateTenantRequest.create(tenant))
  await using later = await startReplica(bus)
  assert.equal((await infoOf(later)).revision, (await infoOf(replica)).revision)
})

test('a user whose record cannot be read has no rights, and the domain gets no new owner for it', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const records = await bus.openBucket(buckets.config, StoredRecord)

  const revision = await damage(bus, recordKey('user', 1))

  await eventually(async () => {
    const error = await infoOf(replica).then(() => undefined, asWeftError)
    return error && error.exitCode !== ExitCode.Ok
  })
  await using later = await startReplica(bus)
  await assert.rejects(infoOf(later))
  assert.equal(await records.lastRevision(), revision)
})

test('a host whose record cannot be read is refused', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const alpha = await (await furnish(replica)).host('alpha')
  await using client = connectAs(credentialsOf(alpha), replica.address)
  const own = { key: { $case: 'id', value: alpha.id } } as const
  assert.equal((await client.getHost(own)).host?.id, alpha.id)

  await damage(bus, recordKey('host', alpha.id))

  await eventually(() =>
    client.getHost(own).then(
      () => false,
      () => true,
    ),
  )
  await using later = await startReplica(bus)
  await using other = connectAs(credentialsOf(alpha), later.address)
  await assert.rejects(other.getHost(own))
})

test('a key that was void stays void when its record cannot be read any more', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const alpha = await (await furnish(replica)).host('alpha')
  const records = await bus.openBucket(buckets.config, StoredRecord)
  const key = recordKey('revokedKey', Number(await records.lastRevision()) + 1)
  const { identityKey } = alpha
  const value = RevokedKey.create({ id: 1, identityKey, hostId: alpha.id, revokedAtUnixMs: 1n })
  await records.put(key, { kind: { $case: 'revokedKey', value } })
  await using client = connectAs(credentialsOf(alpha), replica.address)
  const ask = (): Promise<unknown> => client.getHost({ key: { $case: 'id', value: alpha.id } })
  await eventually(() =>
    ask().then(
      () => false,
      () => true,
    ),
  )

  const revision = await damage(bus, key)

  await eventually(async () => (await infoOf(replica)).revision >= revision)
  await assert.rejects(ask())
})

test('a row that cannot be read is written again', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const alpha = await (await furnish(replica)).host('alpha')
  const rows = await openRows(bus)
  const isThere = async (): Promise<boolean> =>
    (await rowsOf(rows, alpha.id)).has(`self.${alpha.id}`)
  await eventually(isThere)

  const revision = await damage(bus, hostRowKey(alpha.id, 'self', alpha.id), buckets.hosts)

  await eventually(async () => {
    const entry = await rows.get(hostRowKey(alpha.id, 'self', alpha.id)).catch(() => undefined)
    return entry !== undefined && entry.revision > revision
  })
  assert(await isThere())
})

const raw: Codec<Uint8Array> = {
  encode: (bytes) => ({ finish: () => bytes }),
  decode: (bytes) => bytes,
}

/** Puts in place of a value what is none. Answers the revision of that. */
async function damage(bus: Bus, key: string, shape = buckets.config): Promise<bigint> {
  const bucket = await bus.openBucket(shape, raw)
  return (await bucket.put(key, Buffer.from('{"type":"io.nats.jetstream.api.v1"}'))).revision
}

function infoOf({ client }: { readonly client: ReturnType<typeof connectAs> }) {
  return client.getServerInfo(GetServerInfoRequest.create())
}
