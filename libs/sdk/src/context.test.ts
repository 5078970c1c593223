import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { BrokenInputError, HostNotFoundError, InvalidArgumentError } from '@weft/errors'
import { type Context, controlOf, findContext, hostOf } from './context.ts'

const folder = mkdtempSync(join(tmpdir(), 'weft-context-'))
after(() => rmSync(folder, { recursive: true }))

const HOSTS = { alpha: 'unix:/a.sock', beta: 'unix:/b.sock' }

test('the file of a lab names its control server, its tenant and its hosts', () => {
  const context = findContext({
    WEFT_CONTEXT: write({ control: 'unix:/c.sock', tenant: 'lab', hosts: HOSTS }),
  })
  assert.equal(controlOf(context), 'unix:/c.sock')
  assert.equal(context.tenant, 'lab')
  assert.equal(hostOf(context, 'beta'), 'unix:/b.sock')
})

test('variables go before the file', () => {
  const context = findContext({
    WEFT_CONTEXT: write({ control: 'unix:/c.sock', tenant: 'lab', hosts: HOSTS }),
    WEFT_CONTROL: '192.0.2.1:7001',
    WEFT_TENANT: 'acme',
    WEFT_HOST_SOCKET: '/mine.sock',
  })
  assert.equal(controlOf(context), '192.0.2.1:7001')
  assert.equal(context.tenant, 'acme')
  assert.equal(hostOf(context), 'unix:/mine.sock')
  assert.equal(hostOf(context, 'alpha'), 'unix:/a.sock')
})

test('the only host is meant when none is named, and several are not', () => {
  assert.equal(hostOf(contextOf({ alpha: 'unix:/a.sock' })), 'unix:/a.sock')
  assert.throws(() => hostOf(contextOf(HOSTS)), InvalidArgumentError)
})

test('without any host the forwarder that is installed here is meant', () => {
  assert.equal(hostOf(contextOf({})), 'unix:/run/weft/host.sock')
})

test('a host that nobody knows, and a missing control server, are said', () => {
  assert.throws(() => hostOf(contextOf(HOSTS), 'omega'), HostNotFoundError)
  assert.throws(() => controlOf(contextOf(HOSTS)), InvalidArgumentError)
})

test('a context that is not there or broken is named', () => {
  assert.throws(
    () => findContext({ WEFT_CONTEXT: join(folder, 'nowhere.json') }),
    InvalidArgumentError,
  )
  const broken = join(folder, 'broken.json')
  writeFileSync(broken, '{')
  assert.throws(() => findContext({ WEFT_CONTEXT: broken }), BrokenInputError)
})

function contextOf(hosts: Context['hosts']): Context {
  return { control: undefined, tenant: 'default', hosts, localHost: undefined }
}

function write(context: object): string {
  const path = join(folder, 'context.json')
  writeFileSync(path, JSON.stringify(context))
  return path
}
