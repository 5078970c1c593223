import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Bus, buckets, type Codec, locationKey, memoryBus, recordKey } from '@weft/bus'
import { LocateRequest } from '@weft/proto/weftline/location/v1/location.ts'
import { eventually } from '@weft/testing'
import {
  ConfigRecords,
  errorCodeOf,
  locationOf,
  report,
  startReplica,
  storedLocation,
} from './site.ts'

/* What a disk or a defect leaves behind stops nothing, gives nobody a right, and takes no endpoint from where it is. */

test('a record that cannot be read stops no replica, and no endpoint counts as deleted by it', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  const web = await config.endpoint(blue, alpha, 'web')
  const db = await config.endpoint(blue, alpha, 'db')
  {
    await using _replica = await startReplica(bus)
    await report(bus, web, { sequence: 1n })
    await damage(bus, recordKey('endpoint', web.id))
    assert.equal(locationOf(await report(bus, db)).endpointId, db.id)
  }

  await using later = await startReplica(bus)

  const { locations } = await later.client.locate(LocateRequest.create())
  assert.deepEqual(
    locations.map(({ endpointId }) => endpointId),
    [db.id],
    'nobody knows whose the other one is',
  )
  assert.equal((await storedLocation(bus, web.id))?.hostId, alpha)
})

test('a host whose record cannot be read is refused', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  await using _replica = await startReplica(bus)
  const web = await config.endpoint(blue, alpha)
  assert.equal(locationOf(await report(bus, web, { sequence: 1n })).hostId, alpha)

  await damage(bus, recordKey('host', alpha))

  let sequence = 1n
  await eventually(async () => {
    const reply = await report(bus, web, { sequence: ++sequence })
    return reply.outcome?.$case === 'error' && errorCodeOf(reply) === 'host-revoked'
  })
})

test('a location that cannot be read is refused to be changed, and others go on', async () => {
  await using bus = memoryBus().connect()
  const config = await ConfigRecords.open(bus)
  const { alpha, blue } = await config.site()
  const web = await config.endpoint(blue, alpha, 'web')
  const db = await config.endpoint(blue, alpha, 'db')
  await damage(bus, locationKey(web.id), buckets.locations)

  await using _replica = await startReplica(bus)

  assert.equal(errorCodeOf(await report(bus, web)), 'internal')
  assert.equal(locationOf(await report(bus, db)).endpointId, db.id)
})

const raw: Codec<Uint8Array> = {
  encode: (bytes) => ({ finish: () => bytes }),
  decode: (bytes) => bytes,
}

/** Puts in place of a value what is none. */
async function damage(bus: Bus, key: string, shape = buckets.config): Promise<void> {
  const bucket = await bus.openBucket(shape, raw)
  await bucket.put(key, Buffer.from('{"type":"io.nats.jetstream.api.v1"}'))
}
