import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { createLogger, span, type TraceLine } from '@weft/telemetry'
import { startTelemetry } from '@weft/telemetry/start'
import { eventually, startDomainNats, temporaryFolder } from '@weft/testing'
import { connectBus, events } from '../src/index.ts'
import { text } from './text-codec.ts'

test('a request and what handles it are in the trace of the caller', async () => {
  await using folder = await temporaryFolder()
  await using nats = await startDomainNats()
  const traceFile = `${folder.path}/trace.jsonl`
  {
    await using _telemetry = await startTelemetry({ service: 's', logLevel: 'silent', traceFile })
    const log = createLogger({ service: 's', level: 'silent' })
    await using bus = await connectBus({
      servers: [nats.url],
      credentials: nats.wideCredentials(),
      name: 'test',
      log,
    })
    const codecs = { request: text, reply: text }
    const pattern = events.hostRenewed.pattern()
    await using _responder = bus.respond(pattern, codecs, (message) => message)
    const subject = events.hostRenewed.subject(1, 1)
    await eventually(() => bus.request(subject, codecs, 'is it there'))
    await span('outermost', {}, () => bus.request(subject, codecs, 'x'))
  }
  const lines = (await readFile(traceFile, 'utf8')).trim().split('\n')
  const spans = lines.map((line) => JSON.parse(line) as TraceLine)
  const outermost = spans.find(({ name }) => name === 'outermost')
  const request = spans.find(({ parentSpanId }) => parentSpanId === outermost?.spanId)
  const handler = spans.find(({ parentSpanId }) => parentSpanId === request?.spanId)
  assert.equal(request?.name, `request ${events.hostRenewed.subject(1, 1)}`)
  assert.equal(handler?.name, `receive ${events.hostRenewed.pattern()}`)
})
