import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { connect, HealthService, ServingStatus } from '@weft/rpc'
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

test('`buf curl` finds the services by reflection', async () => {
  const lab = await routedLab()
  const socket = lab.context.control?.replace('unix:', '') ?? ''
  const answer = await at(lab, 'control').mustRun([
    ...[join(ROOT, 'node_modules/.bin/buf'), 'curl', '--protocol', 'grpc'],
    ...['--http2-prior-knowledge', '--unix-socket', socket],
    ...['-d', '{"name":{"tenant":"lab","network":"blue"}}'],
    'http://localhost/weftline.config.v1.ConfigService/GetNetwork',
  ])
  const { network } = JSON.parse(answer) as { network: { name: string } }
  assert.equal(network.name, 'blue')
})

test('the control server and the hosts answer the health check of gRPC', async () => {
  const lab = await routedLab()
  for (const target of [lab.context.control ?? '', ...Object.values(lab.context.hosts)]) {
    await using client = connect(target, HealthService)
    assert.equal((await client.check({ service: '' })).status, ServingStatus.Serving, target)
  }
})
