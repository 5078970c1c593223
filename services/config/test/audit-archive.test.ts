import assert from 'node:assert/strict'
import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { type Bus, buckets, connectBus } from '@weft/bus'
import { AuditRecord } from '@weft/proto/weftline/audit/v1/audit.ts'
import { createLogger } from '@weft/telemetry'
import { startDomainNats, temporaryFolder } from '@weft/testing'
import { furnish, Subscriber, site, startReplica } from './site.ts'

const log = createLogger({ service: 'test', level: 'silent' })

test('an audit log that was exported makes room: its stream is removed while nats-server is down, and nothing else goes', async () => {
  await using nats = await startDomainNats({ domain: site.domain, operator: site.operator })
  await using folder = await temporaryFolder()
  const auditFolder = join(folder.path, 'audit')
  const connect = (): Promise<Bus> =>
    connectBus({ servers: [nats.url], credentials: nats.wideCredentials(), name: 'test', log })
  {
    await using bus = await connect()
    await using before = await startReplica(bus, { auditFolder })
    await furnish(before)
    assert((await bytesOf(bus)) > 1_000)
  }
  await nats.kill()

  const [stream, ...others] = (await readdir(nats.storeFolder, { recursive: true })).filter(
    (path) => path.endsWith('/streams/KV_audit'),
  )
  assert(stream && others.length === 0)
  await rm(join(nats.storeFolder, stream), { recursive: true })
  await nats.start()

  await using bus = await connect()
  await using after = await startReplica(bus, { auditFolder })
  assert((await bytesOf(bus)) < 1_000)
  const { tenant } = await after.client.getTenant({ name: 'acme' })
  assert.equal(tenant?.name, 'acme')
  await new Subscriber(after).tenant('other')
  // What was exported can be compared with the files still.
  const files = (await readdir(auditFolder)).filter((file) => file.endsWith('.audit'))
  assert.equal(files.length, 2)
})

async function bytesOf(bus: Bus): Promise<number> {
  return (await (await bus.openBucket(buckets.audit, AuditRecord)).fill()).sizeBytes
}
