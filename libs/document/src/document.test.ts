import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BrokenInputError } from '@weft/errors'
import { formatPrefix } from '@weft/net'
import { z } from 'zod'
import { nameField, prefixField, readDocument, readDocuments } from './index.ts'

const schema = z.strictObject({ name: nameField, prefixes: z.array(prefixField) })

test('a document becomes typed values', () => {
  const value = readDocument('name: blue\nprefixes: [10.20.0.0/16]\n', 'a.yaml', schema)
  assert.equal(value.name, 'blue')
  assert.deepEqual(value.prefixes.map(formatPrefix), ['10.20.0.0/16'])
})

test('JSON is read too, and a stream may hold several documents', () => {
  const values = readDocuments(
    '{"name": "a", "prefixes": []}\n---\nname: b\nprefixes: []\n',
    'x',
    schema,
  )
  assert.deepEqual(
    values.map((value) => value.name),
    ['a', 'b'],
  )
})

test('a text that is no YAML names its line and column', () => {
  const error = brokenBy('name: blue\nprefixes: [10.20.0.0/16\n')
  assert.equal(error.facts['line'], '3')
  assert.match(error.message, /^in\.yaml:3:1 is not valid YAML: /)
})

test('a broken JSON text names its line and column', () => {
  const error = brokenBy('{\n  "name": "blue",\n  "prefixes": [}\n}\n')
  assert.equal(error.facts['line'], '3')
})

test('a value that the schema refuses is named with its place and its path', () => {
  const error = brokenBy('name: blue\nprefixes:\n  - 10.20.0.0/16\n  - 10.20.0.0/99\n')
  assert.match(error.message, /^in\.yaml:4:5 .* prefixes\.1: "10\.20\.0\.0\/99" is no prefix/)
})

test('all mistakes are reported at once', () => {
  const error = brokenBy('name: Blue\nprefixes: [x]\n')
  assert.match(error.message, /1:7 name: /)
  assert.match(error.message, /2:12 prefixes\.0: /)
})

test('an unknown field is refused', () => {
  assert.match(brokenBy('name: blue\nprefixes: []\ncolour: 1\n').message, /colour/)
})

test('an empty text and one with two documents are no single document', () => {
  assert.match(brokenBy('').message, /it is empty/)
  assert.match(
    brokenBy('{name: a, prefixes: []}\n---\n{name: b, prefixes: []}\n').message,
    /more than one/,
  )
})

test('mistakes that the schema cannot see have a place as well', () => {
  assert.throws(
    () =>
      readDocument('name: blue\nprefixes: []\n', 'in.yaml', schema, () => [
        { path: ['name'], message: 'nobody has it' },
      ]),
    (error) =>
      error instanceof BrokenInputError && /in\.yaml:1:7 .*nobody has it/.test(error.message),
  )
})

function brokenBy(text: string): BrokenInputError {
  try {
    readDocument(text, 'in.yaml', schema)
  } catch (error) {
    assert(error instanceof BrokenInputError, String(error))
    return error
  }
  return assert.fail('the text was taken')
}
