import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { ROOT } from '../../check/repository.ts'
import { routedLab } from '../support/blue.ts'
import { at } from '../support/lab.ts'

/** Ours; nats-server has an endpoint of its own, and the keeper of the logs has nothing to tell. */
const WATCHED = /^(?:config|location-resolver|routing-policy|forwarder@|shuttle@)/

test('every process of ours has Prometheus metrics', async () => {
  const lab = await routedLab()
  const watched = lab.processes().filter(({ name }) => WATCHED.test(name))
  assert.ok(watched.length >= 9)
  for (const { name, metricsListen } of watched) {
    const text = await at(lab, 'control').mustRun([
      'curl',
      '-sS',
      `http://${metricsListen}/metrics`,
    ])
    assert.match(text, /^# TYPE \w+ (?:counter|gauge|histogram)$/m, name)
    assert.match(text, /^weft_\w+/m, name)
  }
})

test('every process of ours logs JSON, one object a line', async () => {
  const lab = await routedLab()
  for (const { name, logFile } of lab.processes().filter((process) => WATCHED.test(process.name))) {
    const lines = readFileSync(logFile, 'utf8').trimEnd().split('\n')
    for (const line of lines) assert.doesNotThrow(() => JSON.parse(line), `${name}: ${line}`)
  }
})

test('`buf curl` finds the services by reflection, and their health', async () => {
  const lab = await routedLab()
  const address = lab.context.control?.replace('unix:', '') ?? ''
  const curl = (method: string, data = '{}'): Promise<string> =>
    at(lab, 'control').mustRun([
      ...[
        join(ROOT, 'node_modules/.bin/buf'),
        'curl',
        '--protocol',
        'grpc',
        '--http2-prior-knowledge',
      ],
      ...['--unix-socket', address, '-d', data, `http://localhost/${method}`],
    ])
  const network = JSON.parse(
    await curl(
      'weftline.config.v1.ConfigService/GetNetwork',
      '{"name":{"tenant":"lab","network":"blue"}}',
    ),
  )
  assert.equal(network.network.name, 'blue')
  const health = JSON.parse(await curl('grpc.health.v1.Health/Check'))
  assert.equal(health.status, 'SERVING')
})
