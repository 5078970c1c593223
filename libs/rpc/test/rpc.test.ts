import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { locationAccess } from '@weft/access'
import {
  AddressTakenError,
  CancelledError,
  DeadlineExceededError,
  InternalError,
  MessageTooLargeError,
  OverloadedError,
  PortInUseError,
  UnavailableError,
  UnimplementedError,
} from '@weft/errors'
import {
  LocateResponse,
  LocationServiceService,
} from '@weft/proto/weftline/location/v1/location.ts'
import { eventually, freePort, temporaryFolder } from '@weft/testing'
import {
  connect,
  type Handlers,
  HealthService,
  implement,
  MESSAGE_MAX_BYTES,
  REQUEST_MAX_BYTES,
  ServingStatus,
  serve,
} from '../src/index.ts'
import { Echo } from './echo.ts'
import {
  all,
  clientSecurity,
  echoWith,
  iterate,
  log,
  owner,
  serveEcho,
  serverSecurity,
} from './site.ts'

const run = promisify(execFile)
const security = clientSecurity

describe('a call', () => {
  test('is answered in all four shapes', async () => {
    await using echo = await serveEcho({})
    const { client } = echo
    assert.equal(await client.one('hello'), 'one hello')
    assert.equal(await client.collect(iterate(['a', 'b', 'c'])), 'a,b,c')
    assert.deepEqual(await all(client.split('a,b,c')), ['a', 'b', 'c'])
    assert.deepEqual(await all(client.each(iterate(['a', 'b']))), ['each a', 'each b'])
  })

  test('answers the first message of a duplex stream before the second is asked', async () => {
    await using echo = await serveEcho({})
    const more = Promise.withResolvers<void>()
    async function* requests(): AsyncGenerator<string> {
      yield 'first'
      await more.promise
      yield 'second'
    }
    const answers: string[] = []
    for await (const answer of echo.client.each(requests())) {
      answers.push(answer)
      more.resolve()
    }
    assert.deepEqual(answers, ['each first', 'each second'])
  })

  test('moves a stream of 20,000 messages whole, also to a slow reader', async () => {
    await using echo = await serveEcho({})
    const text = Array.from({ length: 20_000 }, (_, index) => index).join(',')
    let next = 0
    for await (const message of echo.client.split(text)) {
      assert.equal(message, String(next))
      if (next % 5000 === 0) await delay(20)
      next++
    }
    assert.equal(next, 20_000)
  })

  test('that fails throws the class that the handler threw, with its facts', async () => {
    await using echo = await serveEcho({
      one: async () => {
        throw new AddressTakenError({ address: '10.0.0.5', network: 'blue', holder: 'web' })
      },
      split: async function* () {
        yield 'first'
        throw new AddressTakenError({ address: '10.0.0.6', network: 'blue', holder: 'db' })
      },
    })
    await assert.rejects(echo.client.one('x'), (error) => {
      assert(error instanceof AddressTakenError)
      assert.deepEqual(error.facts, { address: '10.0.0.5', network: 'blue', holder: 'web' })
      assert.match(error.remedy, /choose another/)
      return true
    })
    await assert.rejects(all(echo.client.split('x')), AddressTakenError)
  })

  test('that meets a defect tells nothing of its inside', async () => {
    await using echo = await serveEcho({
      one: async () => {
        throw new TypeError('password is hunter2')
      },
    })
    await assert.rejects(echo.client.one('x'), (error) => {
      assert(error instanceof InternalError)
      assert.doesNotMatch(error.message, /hunter2/)
      return true
    })
  })

  test('ends at its deadline, and the handler learns of it', async () => {
    const gone = Promise.withResolvers<void>()
    await using echo = await serveEcho({
      one: async (_request, { signal, deadline }) => {
        assert(deadline instanceof Date)
        if (!signal.aborted) await once(signal, 'abort')
        gone.resolve()
        return ''
      },
    })
    // Time enough to reach the handler on a busy machine.
    await assert.rejects(echo.client.one('x', { timeoutMs: 1_000 }), DeadlineExceededError)
    await gone.promise
  })

  test('ends by its signal, in every shape', async () => {
    await using echo = await serveEcho({
      one: async (_request, { signal }) => {
        await once(signal, 'abort')
        return ''
      },
      split: async function* (_request, { signal }) {
        yield 'first'
        await once(signal, 'abort')
      },
    })
    const { client } = echo
    await assert.rejects(client.one('x', { signal: AbortSignal.timeout(30) }), CancelledError)
    await assert.rejects(
      all(client.split('x', { signal: AbortSignal.timeout(30) })),
      CancelledError,
    )
    await assert.rejects(client.one('x', { signal: AbortSignal.abort() }), CancelledError)
  })

  test('stops its handler when the reader leaves the stream', async () => {
    const gone = Promise.withResolvers<void>()
    await using echo = await serveEcho({
      split: async function* (_request, { signal }) {
        yield 'first'
        await once(signal, 'abort')
        gone.resolve()
      },
    })
    for await (const _message of echo.client.split('x')) break
    await gone.promise
  })

  test('with a message over the limit says so, whichever side sends it', async () => {
    const large = 'x'.repeat(MESSAGE_MAX_BYTES + 1)
    await using echo = await serveEcho({ one: async (request) => (request === 'x' ? large : '') })
    const request = echo.client.one('x'.repeat(REQUEST_MAX_BYTES + 1))
    await assert.rejects(request, (error) => {
      assert(error instanceof MessageTooLargeError)
      assert.equal(error.facts['limitBytes'], String(REQUEST_MAX_BYTES))
      return true
    })
    await assert.rejects(echo.client.one('x'), MessageTooLargeError)
  })

  test('to a place where nobody listens says whom it missed', async () => {
    const target = `127.0.0.1:${await freePort()}`
    await using client = connect(target, LocationServiceService, { security, retries: false })
    await assert.rejects(client.locate({ endpointIds: [] }), (error) => {
      assert(error instanceof UnavailableError)
      assert.equal(
        error.message,
        `location does not answer at ${target}: connect ECONNREFUSED ${target}`,
      )
      return true
    })
  })

  test('waits out a server that starts a moment later', async () => {
    const target = `127.0.0.1:${await freePort()}`
    await using client = connect(target, Echo, { security })
    const answer = client.one('hello', { timeoutMs: 10_000 })
    await delay(100)
    await using _server = await serve({
      listen: [target],
      services: [echoWith({})],
      log,
      security: serverSecurity,
    })
    assert.equal(await answer, 'one hello')
  })

  test('that an overloaded server refuses is tried again', async () => {
    let tries = 0
    await using echo = await serveEcho({
      one: async () => {
        tries++
        if (tries < 3) throw new OverloadedError({ what: 'echo', limit: 1, retryAfterMs: 10 })
        return 'at last'
      },
    })
    assert.equal(await echo.client.one('x'), 'at last')
    assert.equal(tries, 3)
  })

  test('of a method that is not served is told so', async () => {
    await using echo = await serveEcho({})
    await using client = connect(echo.address, LocationServiceService, { security })
    await assert.rejects(client.locate({ endpointIds: [] }), UnimplementedError)
  })

  test('carries metadata, and its peer and method are known', async () => {
    await using echo = await serveEcho({
      one: async (_request, { metadata, method, peer }) =>
        [metadata['x-who'], method, peer.replace(/:[0-9]+$/, '')].join(' '),
    })
    const answer = await echo.client.one('x', { metadata: { 'x-who': 'me' } })
    assert.equal(answer, 'me /test.Echo/One 127.0.0.1')
  })
})

describe('a server', () => {
  test('whose port is taken says so', async () => {
    const squatter = createServer().listen(0, '127.0.0.1')
    await once(squatter, 'listening')
    const { port } = squatter.address() as { port: number }
    const listen = [`127.0.0.1:${port}`]
    await assert.rejects(
      serve({ listen, services: [], log, security: serverSecurity }),
      PortInUseError,
    )
    squatter.close()
  })

  test('on a unix socket sets its mode, replaces a dead socket, and never a living one', async () => {
    await using folder = await temporaryFolder()
    const path = `${folder.path}/echo.sock`
    const address = `unix:${path}`
    // What a killed process leaves behind.
    await run(process.execPath, [
      '-e',
      `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`,
    ]).catch(() => undefined)
    assert((await stat(path)).isSocket())
    {
      await using _server = await serve({
        listen: [address],
        socketMode: 0o600,
        services: [echoWith({})],
        log,
        security: serverSecurity,
      })
      assert.equal((await stat(path)).mode & 0o777, 0o600)
      await using client = connect(address, Echo, { security })
      assert.equal(await client.one('hello'), 'one hello')
      await assert.rejects(
        serve({ listen: [address], services: [], log, security: serverSecurity }),
        PortInUseError,
      )
    }
    await mkdir(`${folder.path}/d`)
    await writeFile(`${folder.path}/d/file`, 'of somebody')
    const taken = [`unix:${folder.path}/d/file`]
    await assert.rejects(
      serve({ listen: taken, services: [], log, security: serverSecurity }),
      PortInUseError,
    )
  })

  test('that stops lets running calls finish and ends streams as unavailable', async () => {
    const started = Promise.withResolvers<void>()
    const finish = Promise.withResolvers<void>()
    const echo = await serveEcho({
      one: async () => {
        started.resolve()
        await finish.promise
        return 'finished'
      },
      split: async function* (_request, { signal }) {
        yield 'first'
        await once(signal, 'abort')
      },
    })
    const answer = echo.client.one('x')
    const stream = all(echo.client.split('x'))
    const ended = assert.rejects(stream, UnavailableError)
    await started.promise
    const stopped = echo.server[Symbol.asyncDispose]()
    await ended
    finish.resolve()
    assert.equal(await answer, 'finished')
    await stopped
    await echo.client[Symbol.asyncDispose]()
  })

  test('tells its health, for itself and its services, and when it changes', async () => {
    await using echo = await serveEcho({})
    await using health = connect(echo.address, HealthService, { security })
    assert.deepEqual(await health.check({ service: '' }), { status: ServingStatus.Serving })
    assert.deepEqual(await health.check({ service: 'test.Echo' }), {
      status: ServingStatus.Serving,
    })
    await assert.rejects(health.check({ service: 'test.Other' }))
    const seen: ServingStatus[] = []
    for await (const { status } of health.watch({ service: '' })) {
      seen.push(status)
      if (seen.length === 1) echo.server.setServing(false)
      if (seen.length === 2) break
    }
    assert.deepEqual(seen, [ServingStatus.Serving, ServingStatus.NotServing])
  })

  test('is reached by buf curl through reflection', async () => {
    const location: Handlers<typeof LocationServiceService> = {
      resolve: async () => {
        throw new UnimplementedError({ what: 'resolve' })
      },
      locate: async ({ endpointIds }) =>
        LocateResponse.fromPartial({
          locations: endpointIds.map((endpointId) => ({ endpointId })),
        }),
      watch: async function* () {},
    }
    await using server = await serve({
      listen: ['127.0.0.1:0'],
      services: [implement(LocationServiceService, location, locationAccess)],
      log,
      security: serverSecurity,
    })
    await using folder = await temporaryFolder()
    await writeFile(`${folder.path}/chain.pem`, owner.tls.chainPem)
    await writeFile(`${folder.path}/key.pem`, owner.tls.keyPem)
    const curl = ['curl', '--protocol', 'grpc', '--insecure']
    const shown = ['--cert', `${folder.path}/chain.pem`, '--key', `${folder.path}/key.pem`]
    const address = `https://${server.addresses[0]}`
    for (const version of ['grpc-v1', 'grpc-v1alpha']) {
      const { stdout } = await run('node_modules/.bin/buf', [
        ...[...curl, ...shown, '--reflect-protocol', version, '-d', '{"endpointIds":[7]}'],
        `${address}/weftline.location.v1.LocationService/Locate`,
      ])
      assert.deepEqual(JSON.parse(stdout), { locations: [{ endpointId: 7 }] })
    }
    const list = [...curl, '--list-methods']
    const { stdout: listed } = await run('node_modules/.bin/buf', [...list, ...shown, address])
    assert.match(listed, /weftline\.location\.v1\.LocationService\/Locate/)
  })

  test('that was away is found again by its clients', async () => {
    const listen = [`127.0.0.1:${await freePort()}`]
    const services = [echoWith({})]
    const first = await serve({ listen, services, log, security: serverSecurity })
    await using client = connect(listen[0] ?? '', Echo, { security })
    assert.equal(await client.one('a'), 'one a')
    await first[Symbol.asyncDispose]()
    await using _second = await serve({ listen, services, log, security: serverSecurity })
    await eventually(async () => (await client.one('b')) === 'one b')
  })
})
