import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Carrier } from '@weft/proto/weftline/common/v1/common.ts'
import { ApplyTablesRequest, type TableChange } from '@weft/proto/weftline/shuttle/v1/shuttle.ts'
import { tableChunks } from './index.ts'

const step = { baseRevision: 3n, revision: 4n, localHostId: 1 }

test('no changes still make one chunk, which says the step', async () => {
  assert.deepEqual(await Array.fromAsync(tableChunks(step, [])), [{ ...step, changes: [] }])
})

test('many changes make chunks below 256 KiB that hold them all in order', async () => {
  const changes = Array.from({ length: 10_000 }, (_, index) => putEndpoint(index + 1))
  const chunks = await Array.fromAsync(tableChunks(step, changes))
  assert.ok(chunks.length > 1)
  for (const chunk of chunks) {
    assert.ok(ApplyTablesRequest.encode(chunk).finish().length <= 256 * 1024)
    assert.equal(chunk.revision, step.revision)
  }
  assert.deepEqual(
    chunks.flatMap((chunk) => chunk.changes),
    changes,
  )
})

function putEndpoint(endpointId: number): TableChange {
  return {
    change: {
      $case: 'putEndpoint',
      value: {
        endpointId,
        networkId: 1,
        mac: Buffer.from([2, 0, 0, 0, endpointId >> 8, endpointId & 0xff]),
        addresses: [Buffer.from([10, 20, endpointId >> 8, endpointId & 0xff])],
        allowedPrefixes: [],
        hostId: 2,
      },
    },
    deletePeerCarrier: Carrier.CARRIER_UNSPECIFIED,
  }
}
