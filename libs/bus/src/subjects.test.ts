import assert from 'node:assert/strict'
import { test } from 'node:test'
import { events, isKey, isUnderPrefix } from './subjects.ts'

test('a subject names domain, noun, event, sender and id, and is read back', () => {
  const subject = events.endpointReported.subject(7, 42n)
  assert.equal(subject, 'weft.v1.location.endpoint.reported.7.42')
  assert.deepEqual(events.endpointReported.parse(subject), { sender: '7', id: '42' })
  assert.equal(events.hostRenewed.parse(subject), undefined)
  assert.equal(events.endpointReported.parse(`${subject}.more`), undefined)
  assert.equal(events.endpointReported.pattern(), 'weft.v1.location.endpoint.reported.*.*')
  assert.equal(
    events.endpointReported.pattern({ sender: 7 }),
    'weft.v1.location.endpoint.reported.7.*',
  )
})

test('no sender and no id can widen a subject', () => {
  for (const token of ['*', '>', 'a.b', '', ' ', 'a\n']) {
    assert.throws(() => events.endpointReported.subject(token, 1), RangeError, token)
    assert.throws(() => events.endpointReported.pattern({ id: token }), RangeError, token)
  }
})

test('a key has no wildcards, and is under a prefix by whole tokens', () => {
  for (const key of ['a', 'host.7.peer.3', 'a-b_c=/d']) assert(isKey(key), key)
  for (const key of ['', '.', 'a.', '.a', 'a..b', 'a.*', '>', 'a b', 'é']) assert(!isKey(key), key)
  assert(isUnderPrefix('host.7.a', 'host.7'))
  assert(isUnderPrefix('host.7.a', ''))
  assert(!isUnderPrefix('host.70.a', 'host.7'))
  assert(!isUnderPrefix('host.7', 'host.7'))
})
