import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { InvalidConfigError } from '@weft/errors'
import { describeVariables, type EnvReader, formatVariables, readEnv } from './index.ts'

const help = 'what it is for'

describe('the environment', () => {
  test('is read into typed values', () => {
    const environment = {
      TEXT: ' x ',
      COUNT: '7',
      FLAG: 'true',
      TTL: '1.5s',
      LIMIT: '64KiB',
      ADDRESS: '[::1]:7001',
      LISTEN: '127.0.0.1:0, unix:/run/x.sock',
      SOCKET: 'unix:/run/y.sock',
      SOCKETS: 'unix:/run/x.sock,unix:/run/y.sock',
      URL: 'https://collector:4318',
      SERVERS: 'nats://a:4222,nats://b:4222',
      FOLDER: '/var/lib/x',
      LEVEL: 'warn',
    }
    const config = readEnv(environment, (env) => ({
      text: env.text('TEXT', { help }),
      count: env.integer('COUNT', { help, min: 1, max: 7 }),
      flag: env.boolean('FLAG', { help }),
      ttlMs: env.durationMs('TTL', { help }),
      limitBytes: env.sizeBytes('LIMIT', { help }),
      address: env.address('ADDRESS', { help }),
      listen: env.addresses('LISTEN', { help }),
      socket: env.socket('SOCKET', { help }),
      sockets: env.sockets('SOCKETS', { help }),
      url: env.url('URL', { help, schemes: ['http', 'https'] }),
      servers: env.urls('SERVERS', { help, schemes: ['nats'] }),
      folder: env.path('FOLDER', { help }),
      level: env.oneOf('LEVEL', ['info', 'warn'], { help }),
    }))
    assert.deepEqual(config, {
      text: 'x',
      count: 7,
      flag: true,
      ttlMs: 1500,
      limitBytes: 65_536,
      address: '[::1]:7001',
      listen: ['127.0.0.1:0', 'unix:/run/x.sock'],
      socket: 'unix:/run/y.sock',
      sockets: ['unix:/run/x.sock', 'unix:/run/y.sock'],
      url: 'https://collector:4318',
      servers: ['nats://a:4222', 'nats://b:4222'],
      folder: '/var/lib/x',
      level: 'warn',
    })
  })

  test('names only unix sockets where nothing else would be guarded', () => {
    for (const text of ['127.0.0.1:7001', 'unix:run/x.sock', '/run/x.sock']) {
      assert.throws(
        () => readEnv({ SOCKET: text }, (env) => env.socket('SOCKET', { help })),
        InvalidConfigError,
      )
      assert.throws(
        () =>
          readEnv({ SOCKETS: `unix:/run/y.sock,${text}` }, (env) =>
            env.sockets('SOCKETS', { help }),
          ),
        InvalidConfigError,
      )
    }
  })

  test('that lacks a variable gives its default, or undefined if it is optional', () => {
    const config = readEnv({ EMPTY: '' }, (env) => ({
      count: env.integer('COUNT', { help, default: 3 }),
      empty: env.text('EMPTY', { help, default: 'x' }),
      path: env.path('FOLDER', { help, optional: true }),
    }))
    assert.deepEqual(config, { count: 3, empty: 'x', path: undefined })
  })

  test('with mistakes tells all of them at once, by name and value', () => {
    const bad = {
      COUNT: '12',
      FLAG: 'yes',
      TTL: '5',
      LIMIT: '5MB',
      ADDRESS: 'localhost',
      PORT: '1.2.3.4:70000',
      SOCKET: 'unix:x.sock',
      LISTEN: 'a:1,b',
      URL: 'ftp://x',
      FOLDER: 'x',
      LEVEL: 'loud',
    }
    const read = (env: EnvReader): unknown => [
      env.text('NAME', { help }),
      env.integer('COUNT', { help, max: 9 }),
      env.boolean('FLAG', { help }),
      env.durationMs('TTL', { help }),
      env.sizeBytes('LIMIT', { help }),
      env.address('ADDRESS', { help }),
      env.address('PORT', { help }),
      env.address('SOCKET', { help }),
      env.addresses('LISTEN', { help }),
      env.url('URL', { help, schemes: ['http'] }),
      env.path('FOLDER', { help }),
      env.oneOf('LEVEL', ['info', 'warn'], { help }),
    ]
    assert.throws(
      () => readEnv(bad, read),
      (error) => {
        assert(error instanceof InvalidConfigError)
        const lines = error.message.split('\n').slice(1)
        assert.equal(lines.length, 12)
        assert.equal(lines[0], '  NAME is not set: what it is for (text)')
        assert.equal(lines[1], '  COUNT="12" is outside 0 to 9')
        assert.equal(
          lines[8],
          '  LISTEN="a:1,b" has "b", which is neither host:port nor unix:/path',
        )
        for (const [index, name] of Object.keys(bad).entries()) {
          assert.match(lines[index + 1] ?? '', new RegExp(`^ {2}${name}=`))
        }
        return true
      },
    )
  })

  test('is described without being read', () => {
    const variables = describeVariables((env) => [
      env.durationMs('TTL', { help, default: 5000 }),
      env.text('NAME', { help }),
      env.path('FOLDER', { help, optional: true }),
    ])
    assert.equal(
      formatVariables(variables),
      `  TTL
      what it is for (duration; default 5000ms)
  NAME
      what it is for (text; required)
  FOLDER
      what it is for (absolute path; optional)`,
    )
  })
})
