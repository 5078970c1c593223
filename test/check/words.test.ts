import assert from 'node:assert/strict'
import test from 'node:test'
import { judgeText } from './words.ts'

test('a path of one machine is found with its line', () => {
  assert.match(judgeText('fine\ncd /root/project')[0] ?? '', /^2: a path of one machine/)
  assert.equal(judgeText('open /run/netns/web').length, 0)
  assert.equal(judgeText('https://example.org/work/a').length, 0)
})

test('leftovers, foreign registries and switched-off tests are found', () => {
  assert.equal(judgeText('// TODO: later').length, 1)
  assert.equal(judgeText('"resolved": "https://registry.example.org/a.tgz"').length, 1)
  assert.equal(judgeText('"resolved": "https://registry.npmjs.org/a.tgz"').length, 0)
  assert.equal(judgeText("test.only('x')").length, 1)
})
