import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { type Bus, buckets, connectBus } from '@weft/bus'
import { AuditRecord } from '@weft/proto/weftline/audit/v1/audit.ts'
import { createLogger } from '@weft/telemetry'
import { eventually, startDomainNats, type TestDomainNats } from '@weft/testing'
import { action, startAudit } from './audit-site.ts'

const log = createLogger({ service: 'test', level: 'silent' })

test('actions of 100 callers are recorded in one chain, whose copies on disk and in the real store are the same', async (context) => {
  await using nats = await startDomainNats()
  await using bus = await connectAsConfig(nats)
  await using site = await startAudit({ bus })
  await site.audit.intent(action())
  const startedAt = performance.now()

  await Promise.all(
    Array.from({ length: 100 }, async (_, caller) => {
      for (let index = 0; index < 20; index++) {
        const intent = await site.audit.intent(action({ object: `${caller}/${index}` }))
        intent.done({ revisionBefore: 0n, revisionAfter: 1n })
      }
    }),
  )

  report(context, '2,000 intents', startedAt)
  await site.stop()
  const { findings, entries, unknownOutcomes } = await site.verify()
  assert.deepEqual(findings, [])
  assert.deepEqual(unknownOutcomes, [1n])
  assert.equal(entries.length, 4_001)
  const fill = await (await bus.openBucket(buckets.audit, AuditRecord)).fill()
  assert.equal(fill.sizeMaxBytes, buckets.audit.sizeMaxBytes)
  assert(fill.sizeBytes > 4_001 * 200)
})

test('while the server is killed and started again, nothing is promised that is not recorded', async () => {
  await using nats = await startDomainNats()
  await using bus = await connectAsConfig(nats)
  await using site = await startAudit({ bus })
  const promised: string[] = []
  let refused = 0
  const stop = new AbortController()
  const callers = Array.from({ length: 20 }, async (_, caller) => {
    for (let index = 0; !stop.signal.aborted; index++) {
      const object = `${caller}/${index}`
      try {
        await site.audit.intent(action({ object }))
        promised.push(object)
      } catch {
        refused++
        await delay(20)
      }
    }
  })

  await eventually(() => promised.length > 100)
  await nats.kill()
  await eventually(() => refused > 0)
  const before = promised.length
  await nats.start()
  await eventually(() => promised.length > before + 100)
  stop.abort()
  await Promise.all(callers)
  await site.stop()

  const { findings, entries } = await site.verify()
  assert.deepEqual(findings, [])
  const recorded = new Set(entries.map(({ object }) => object))
  assert.deepEqual(
    promised.filter((object) => !recorded.has(object)),
    [],
  )
})

function connectAsConfig(nats: TestDomainNats): Promise<Bus> {
  const credentials = nats.credentials({ kind: 'service', name: 'config', replica: 'test' })
  return connectBus({ servers: [nats.url], credentials, name: 'config-test', log })
}

function report(context: TestContext, what: string, startedAt: number): void {
  context.diagnostic(`${what}: ${Math.round(performance.now() - startedAt)} ms`)
}
