import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { span, type TraceLine } from '@weft/telemetry'
import { startTelemetry } from '@weft/telemetry/start'
import { temporaryFolder } from '@weft/testing'
import { connect, implement, serve } from '../src/index.ts'
import { Echo } from './echo.ts'
import { clientSecurity, echoAccess, log, serverSecurity } from './site.ts'

test('a call and its handler are in the trace of the caller', async () => {
  await using folder = await temporaryFolder()
  const traceFile = `${folder.path}/trace.jsonl`
  {
    await using _telemetry = await startTelemetry({ service: 's', logLevel: 'silent', traceFile })
    const echo = implement(
      Echo,
      {
        one: async (request) => span('in the handler', {}, () => request),
        collect: async () => '',
        split: async function* (request) {
          yield span('in the stream', {}, () => request)
        },
        each: async function* () {},
      },
      echoAccess,
    )
    await using server = await serve({
      listen: ['127.0.0.1:0'],
      services: [echo],
      log,
      security: serverSecurity,
    })
    await using client = connect(server.addresses[0] ?? '', Echo, { security: clientSecurity })
    await span('outermost', {}, async () => {
      await client.one('x')
      for await (const _message of client.split('x')) continue
    })
  }
  const lines = (await readFile(traceFile, 'utf8')).trim().split('\n')
  const spans = lines.map((line) => JSON.parse(line) as TraceLine)
  assert.equal(new Set(spans.map(({ traceId }) => traceId)).size, 1)
  const parents = new Map(spans.map(({ spanId, name }) => [spanId, name]))
  const tree = spans.map(({ name, parentSpanId }) => `${parents.get(parentSpanId ?? '')} > ${name}`)
  assert.deepEqual(
    new Set(tree),
    new Set([
      'undefined > outermost',
      'outermost > test.Echo/One',
      'test.Echo/One > test.Echo/One',
      'test.Echo/One > in the handler',
      'outermost > in the stream',
    ]),
  )
})
