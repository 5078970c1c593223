import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import * as all from './index.ts'
import {
  asWeftError,
  BrokenInputError,
  CertificateRefusedError,
  ClockWrongError,
  type ErrorCode,
  ExitCode,
  fromWire,
  GrpcStatus,
  InternalError,
  InvalidConfigError,
  NetworkFullError,
  NetworkInUseError,
  reasons,
  StatementRefusedError,
  TokenRefusedError,
  toWire,
  UnavailableError,
  WeftError,
} from './index.ts'

describe('an error', () => {
  test('says what was wrong, the facts and the way out', () => {
    const error = new NetworkFullError({ network: 'blue', prefix: '10.20.0.0/24', used: 253n })
    assert.equal(error.message, 'network blue has no free address in 10.20.0.0/24 (253 used)')
    assert.equal(error.code, 'network-full')
    assert.deepEqual(error.facts, { network: 'blue', prefix: '10.20.0.0/24', used: '253' })
    assert.match(error.remedy, /add a prefix/)
    assert.equal(error.name, 'NetworkFullError')
    assert.equal(error.grpcStatus, GrpcStatus.FailedPrecondition)
    assert.equal(error.exitCode, ExitCode.Conflict)
  })

  test('crosses the wire as the same class', () => {
    const sent = new NetworkInUseError({ network: 'blue', endpoints: 1 })
    const received = fromWire(JSON.parse(JSON.stringify(toWire(sent))))
    assert(received instanceof NetworkInUseError)
    assert.equal(received.message, 'network blue has 1 endpoint')
    assert.deepEqual(toWire(received), toWire(sent))
    assert.equal(received.exitCode, ExitCode.Conflict)
  })

  test('of a newer version keeps its text', () => {
    const received = fromWire({ code: 'from-the-future', message: 'm', facts: {}, remedy: 'r' })
    assert(received instanceof InternalError)
    assert.deepEqual([received.message, received.remedy], ['m', 'r'])
  })

  test('that is no error of ours goes out without its text', () => {
    const wire = toWire(new TypeError('password is hunter2'))
    assert.equal(wire.code, 'internal')
    assert.doesNotMatch(JSON.stringify(wire), /hunter2/)
    const cause = new Error('x')
    assert.equal(asWeftError(cause).cause, cause)
  })

  test('of every code has a class of its own, which crosses the wire', () => {
    const classes = new Set<unknown>()
    for (const code of Object.keys(reasons) as ErrorCode[]) {
      const received = fromWire({ code, message: 'm', facts: { a: 'b' }, remedy: '' })
      assert(received instanceof WeftError)
      assert.equal(received.code, code)
      assert.equal(received.facts['a'], 'b')
      classes.add(received.constructor)
    }
    const exported = Object.values(all).filter(
      (value) => typeof value === 'function' && value.prototype instanceof WeftError,
    )
    assert.deepEqual(classes, new Set<unknown>(exported))
  })

  test('asks for another try exactly by the statuses that clients retry', () => {
    const retried = Object.entries(reasons)
      .filter(([, { grpc }]) => [8, 14].includes(grpc))
      .map(([code]) => code)
    assert.deepEqual(retried, ['unavailable', 'audit-unavailable', 'overloaded'])
  })

  test('in input names the place', () => {
    const facts = { source: 'a.yaml', format: 'YAML', problem: 'unclosed quote' }
    const error = new BrokenInputError({ ...facts, line: 3, column: 7 })
    assert.equal(error.message, 'a.yaml:3:7 is not valid YAML: unclosed quote')
    assert.equal(new BrokenInputError(facts).message, 'a.yaml is not valid YAML: unclosed quote')
  })

  test('of configuration lists every mistake', () => {
    const { message } = new InvalidConfigError(['A is not set', 'B is no port'])
    assert.equal(message, '2 mistakes in the configuration:\n  A is not set\n  B is no port')
  })

  test('of a certificate, token or statement tells its reason on the other side too', () => {
    for (const sent of [
      new CertificateRefusedError({ reason: 'expired', problem: 'on Monday' }),
      new TokenRefusedError({ reason: 'used', kind: 'join' }),
      new StatementRefusedError({ reason: 'other-signer', purpose: 'host-row' }),
    ]) {
      const received = fromWire(JSON.parse(JSON.stringify(toWire(sent))))
      assert(received instanceof sent.constructor)
      assert.equal((received as typeof sent).reason, sent.reason)
      assert.equal(received.message, sent.message)
    }
  })

  test('of a clock says how wrong it is and what it should say', () => {
    const thereUnixMs = Date.UTC(2026, 0, 1)
    const error = new ClockWrongError({
      hereUnixMs: thereUnixMs - 400_000,
      thereUnixMs,
      there: 'config',
    })
    assert.match(error.message, /400 s behind that of config: .*2025-12-31T23:53:20.000Z, not 2026/)
    assert.doesNotThrow(
      () => new ClockWrongError({ hereUnixMs: 0, thereUnixMs: 1e300, there: 'x' }),
    )
  })

  test('keeps its cause here and its own remedy', () => {
    const cause = new Error('ECONNREFUSED')
    const error = new UnavailableError(
      { service: 'config', address: 'a:1', remedy: 'r' },
      { cause },
    )
    assert.equal(error.cause, cause)
    assert.equal(error.remedy, 'r')
  })
})
