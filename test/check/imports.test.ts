import assert from 'node:assert/strict'
import test from 'node:test'
import { importsOf, judgeImport, type Manifest, packageOf } from './imports.ts'

const manifest: Manifest = {
  name: '@weft/config',
  dependencies: new Set([
    '@weft/net',
    '@weft/errors',
    '@weft/bus',
    '@nats-io/jetstream',
    '@weft/shuttle',
  ]),
  devDependencies: new Set(['@weft/testing']),
}
const services = new Set(['@weft/config', '@weft/forwarder'])
const judge = (path: string, specifier: string): string | undefined =>
  judgeImport({ path, specifier }, manifest, services)

test('every form of import is seen', () => {
  const source = `
import { a } from 'one'
import type { B } from "two"
import 'three'
export * from './four.ts'
import {
  c,
  d,
} from '@five/six/seven.ts'
const e = await import('eight')
const text = "import 'not me' is only said here"
`
  assert.deepEqual(importsOf(source), [
    'one',
    'two',
    'three',
    './four.ts',
    '@five/six/seven.ts',
    'eight',
  ])
})

test('a specifier belongs to its package', () => {
  assert.equal(packageOf('@weft/proto/weftline/config/v1/records.ts'), '@weft/proto')
  assert.equal(packageOf('yaml/util'), 'yaml')
})

test('what is declared may be imported, in source and tests as declared', () => {
  assert.equal(judge('services/config/src/rpc.ts', '@weft/bus'), undefined)
  assert.equal(judge('services/config/src/rpc.ts', 'node:fs'), undefined)
  assert.equal(judge('services/config/test/a.test.ts', '@weft/testing'), undefined)
  assert.match(judge('services/config/src/rpc.ts', '@weft/testing') ?? '', /tests only/)
  assert.match(judge('services/config/src/rpc.ts', 'yaml') ?? '', /not declared/)
})

test('services are islands', () => {
  assert.match(judge('services/config/src/rpc.ts', '@weft/forwarder') ?? '', /island/)
  assert.match(
    judge('services/config/src/rpc.ts', '../../forwarder/src/a.ts') ?? '',
    /leaves its package/,
  )
})

test('domain code imports no input or output', () => {
  const domain = 'services/config/src/domain/ipam.ts'
  assert.equal(judge(domain, '@weft/net'), undefined)
  assert.equal(judge(domain, './other.ts'), undefined)
  assert.match(judge(domain, 'node:fs') ?? '', /domain/)
  assert.match(judge(domain, '@weft/bus') ?? '', /domain/)
  assert.match(judge(domain, '../rpc.ts') ?? '', /domain/)
  assert.equal(judge('services/config/src/domain/ipam.test.ts', 'node:test'), undefined)
})

test('NATS and the shuttle have one owner each', () => {
  assert.match(judge('services/config/src/rpc.ts', '@nats-io/jetstream') ?? '', /libs\/bus/)
  assert.match(judge('services/config/src/rpc.ts', '@weft/shuttle') ?? '', /forwarder/)
})
