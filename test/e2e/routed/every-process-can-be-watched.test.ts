import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'node:test'
import { openCredentials } from '@weft/domain'
import type { Lab } from '@weft/lab'
import { type ClientSecurity, connect, HealthService, ServingStatus } from '@weft/rpc'
import { createLogger } from '@weft/telemetry'
import { ROOT } from '../../check/repository.ts'
import { routedLab } from '../support/blue.ts'
import { at } from '../support/lab.ts'

/** Ours; nats-server has an endpoint of its own, and the keeper of the logs has nothing to tell. */
const WATCHED = /^(?:config|location-resolver|routing-policy|forwarder@|shuttle@)/

const log = createLogger({ service: 'test', level: 'silent' })

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
  await using folder = await ownerPem(lab)
  const answer = await at(lab, 'control').mustRun([
    ...[join(ROOT, 'node_modules/.bin/buf'), 'curl', '--protocol', 'grpc'],
    // Our certificates say who somebody is, not where: buf looks for the name of a machine and finds none.
    ...['--insecure', '--unix-socket', socket],
    ...['--cert', join(folder.path, 'chain.pem'), '--key', join(folder.path, 'key.pem')],
    ...['-d', '{"name":{"tenant":"lab","network":"blue"}}'],
    'https://localhost/weftline.config.v1.ConfigService/GetNetwork',
  ])
  const { network } = JSON.parse(answer) as { network: { name: string } }
  assert.equal(network.name, 'blue')
})

test('the control server and the hosts answer the health check of gRPC', async () => {
  const lab = await routedLab()
  await using owner = await openCredentials({ folder: lab.context.identity ?? '', log })
  const asOwner = { kind: 'mutual-tls', credentials: owner, peer: 'config' } as const
  const targets: readonly (readonly [string, ClientSecurity])[] = [
    [lab.context.control ?? '', asOwner],
    ...Object.values(lab.context.hosts).map((target) => [target, { kind: 'socket-mode' }] as const),
  ]
  for (const [target, security] of targets) {
    await using client = connect(target, HealthService, { security })
    assert.equal((await client.check({ service: '' })).status, ServingStatus.Serving, target)
  }
})

/** A folder with the certificate and the key of the lab's owner in the form that other tools read. */
async function ownerPem(lab: Lab): Promise<AsyncDisposable & { readonly path: string }> {
  await using owner = await openCredentials({ folder: lab.context.identity ?? '', log })
  const path = mkdtempSync(join(tmpdir(), 'weft-owner-'))
  writeFileSync(join(path, 'chain.pem'), owner.tls.chainPem)
  writeFileSync(join(path, 'key.pem'), owner.tls.keyPem, { mode: 0o600 })
  return {
    path,
    async [Symbol.asyncDispose]() {
      rmSync(path, { recursive: true })
    },
  }
}
