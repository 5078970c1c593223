import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer, get } from 'node:http'
import { describe, test } from 'node:test'
import { AddressTakenError, PortInUseError } from '@weft/errors'
import { temporaryFolder } from '@weft/testing'
import {
  counter,
  createLogger,
  gauge,
  histogram,
  injectTrace,
  observedCounter,
  span,
  type TraceLine,
  untraced,
  withTraceOf,
} from '../src/index.ts'
import { startTelemetry } from '../src/start.ts'

describe('logs', () => {
  test('are JSON lines with service, level as a word and facts, without secrets', () => {
    const lines: string[] = []
    const log = createLogger({ service: 's', stream: { write: (line) => void lines.push(line) } })
    log.child({ host: 7 }).info({ token: 't', peer: { password: 'p', name: 'n' } }, 'hello')
    log.debug('not at this level')
    assert.equal(lines.length, 1)
    const { time, pid, ...line } = JSON.parse(lines[0] ?? '')
    assert.match(time, /^\d{4}-\d\d-\d\dT/)
    assert.equal(pid, process.pid)
    assert.deepEqual(line, {
      level: 'info',
      service: 's',
      host: 7,
      token: '[Redacted]',
      peer: { password: '[Redacted]', name: 'n' },
      msg: 'hello',
    })
  })
})

describe('metrics', () => {
  const made = counter<'kind'>({ name: 'trial_made_total', help: 'Made', labels: ['kind'] })
  const seconds = histogram({ name: 'trial_seconds', help: 'Time', buckets: [0.1, 1] })
  const depth = gauge<'queue'>({ name: 'trial_depth', help: 'Depth' })
  const packets = observedCounter({ name: 'trial_packets_total', help: 'Packets' })

  test('are served in the text format of Prometheus, also those declared before the start', async () => {
    made.add(1, { kind: 'before telemetry started, so lost' })
    await using folder = await temporaryFolder()
    const listens = ['127.0.0.1:0', `unix:${folder.path}/metrics.sock`]
    for (const metricsListen of listens) {
      await using telemetry = await startTelemetry({
        service: 's',
        logLevel: 'silent',
        metricsListen,
      })
      made.add(2, { kind: 'a' })
      made.add(1, { kind: 'a' })
      seconds.record(0.5, {})
      let queue = 'q'
      const stop = depth.observe((report) => report(4, { queue }))
      const stopPackets = packets.observe((report) => report(9, {}))
      const text = await scrape(telemetry.metricsAddress ?? '')
      assert.match(text, /^trial_made_total\{kind="a"\} 3$/m)
      assert.doesNotMatch(text, /before telemetry/)
      assert.match(text, /^trial_seconds_bucket\{le="0.1"\} 0$/m)
      assert.match(text, /^trial_seconds_bucket\{le="1"\} 1$/m)
      assert.match(text, /^trial_depth\{queue="q"\} 4$/m)
      assert.match(text, /^trial_packets_total 9$/m)
      assert.match(text, /^process_resident_memory_bytes [0-9]{7,}$/m)
      queue = 'other'
      const later = await scrape(telemetry.metricsAddress ?? '')
      assert.doesNotMatch(later, /queue="q"/, 'a series that is not reported any more is gone')
      assert.match(later, /^trial_depth\{queue="other"\} 4$/m)
      stop()
      stopPackets()
      assert.doesNotMatch(await scrape(telemetry.metricsAddress ?? ''), /trial_depth|trial_packets/)
    }
  })

  test('on a port that is taken say so', async () => {
    const squatter = createServer().listen(0, '127.0.0.1')
    await once(squatter, 'listening')
    const { port } = squatter.address() as { port: number }
    await assert.rejects(
      startTelemetry({ service: 's', logLevel: 'silent', metricsListen: `127.0.0.1:${port}` }),
      PortInUseError,
    )
    squatter.close()
  })
})

describe('traces', () => {
  test('join spans across headers and tell errors, in the trace file', async () => {
    await using folder = await temporaryFolder()
    const traceFile = `${folder.path}/trace.jsonl`
    {
      await using _telemetry = await startTelemetry({ service: 's', logLevel: 'silent', traceFile })
      const headers = new Map<string, string>()
      await span('caller', { 'weft.host': 7 }, () => {
        injectTrace((name, value) => headers.set(name, value))
      })
      const failing = withTraceOf(
        (name) => headers.get(name),
        () =>
          span('callee', {}, async () => {
            throw new AddressTakenError({ address: 'a', network: 'n', holder: 'h' })
          }),
      )
      await assert.rejects(failing, AddressTakenError)
      let passedOn = ''
      await untraced(() =>
        span('unrecorded', {}, () => {
          injectTrace((_name, value) => {
            passedOn = value
          })
        }),
      )
      await withTraceOf(
        () => passedOn,
        () => span('unrecorded elsewhere', {}, () => {}),
      )
    }
    const lines = (await readFile(traceFile, 'utf8')).trim().split('\n')
    assert.equal(lines.length, 2)
    const [caller, callee] = lines.map((line) => JSON.parse(line) as TraceLine)
    assert.equal(caller?.name, 'caller')
    assert.equal(caller.attributes['weft.host'], 7)
    assert.equal(caller.parentSpanId, undefined)
    assert.equal(callee?.traceId, caller.traceId)
    assert.equal(callee.parentSpanId, caller.spanId)
    assert.equal(callee.attributes['error.type'], 'address-taken')
    assert.match(callee.error ?? '', /taken/)
    assert(callee.endUs >= callee.startUs)
  })

  test('are passed through without a cost when nobody reads them', async () => {
    assert.equal(await span('untold', {}, async () => 7), 7)
    injectTrace(() => assert.fail('there is no trace to inject'))
  })
})

async function scrape(address: string): Promise<string> {
  const request = address.startsWith('unix:')
    ? get({ socketPath: address.slice('unix:'.length), path: '/metrics', agent: false })
    : get(`http://${address}/metrics`, { agent: false })
  const [response] = await once(request, 'response')
  let text = ''
  for await (const chunk of response) text += chunk
  return text
}
