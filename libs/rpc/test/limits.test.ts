import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type ClientHttp2Session, connect as http2Connect } from 'node:http2'
import { connect as netConnect, type Socket } from 'node:net'
import { afterEach, describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { type ConnectionOptions, connect as tlsConnect } from 'node:tls'
import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire'
import { authoriser, locationAccess } from '@weft/access'
import { OverloadedError, PermissionDeniedError } from '@weft/errors'
import { type Credentials, pemOf } from '@weft/identity'
import {
  LocateResponse,
  LocationServiceService,
} from '@weft/proto/weftline/location/v1/location.ts'
import { createLogger } from '@weft/telemetry'
import { startTelemetry } from '@weft/telemetry/start'
import { eventually } from '@weft/testing'
import {
  type ClientSecurity,
  connect,
  type Handlers,
  implement,
  type ServerSecurity,
  serve,
} from '../src/index.ts'
import {
  CALLS_OF_ONE_MAX,
  CONNECTIONS_OF_ONE_MAX,
  MESSAGES_WAITING_MAX,
  STRANGERS_MAX,
  STRANGERS_OF_SOURCE_MAX,
  STREAMS_OF_CONNECTION_MAX,
} from '../src/limits.ts'
import { Echo } from './echo.ts'
import {
  all,
  as,
  clientSecurity,
  domain,
  echoAccess,
  echoWith,
  iterate,
  log,
  serveEcho,
  server,
  serverSecurity,
  world,
} from './site.ts'

let opened = new AsyncDisposableStack()
afterEach(async () => {
  await opened.disposeAsync()
  opened = new AsyncDisposableStack()
})

/** Whoever misbehaves here has a good certificate. */
const mallory = domain.credentials({ kind: 'user', id: 66 })

describe('whoever has a certificate, and does harm', () => {
  test('by 10,000 streams that are opened and reset, leaves no call behind and others served', async () => {
    let running = 0
    let started = 0
    const { address, client } = opened.use(
      await serveEcho({
        split: async function* (_request, { signal }) {
          running++
          started++
          try {
            yield 'first'
            await once(signal, 'abort')
          } finally {
            running--
          }
        },
      }),
    )
    let reset = 0
    for (let session = await attack(address); reset < 10_000; reset++) {
      if (session.destroyed || session.closed) session = await attack(address)
      const stream = callOf(session, '/test.Echo/Split')
      stream.end(framed(Buffer.from('x')))
      stream.close(8)
      if (reset % 500 === 0) {
        assert.equal(await client.one('x'), 'one x')
        await delay(1)
      }
    }
    await eventually(() => running === 0)
    assert(started <= 10_000)
    assert.equal(await client.one('x'), 'one x')
  })

  test('by never reading, is sent no more than fits its window, and others are served', async () => {
    let sent = 0
    const chunk = 'x'.repeat(100_000)
    const { address, client } = opened.use(
      await serveEcho({
        split: async function* () {
          for (;;) {
            sent++
            yield chunk
          }
        },
      }),
    )
    const session = await attack(address)
    const streams = Array.from({ length: 50 }, () => callOf(session, '/test.Echo/Split'))
    for (const stream of streams) stream.end(framed(Buffer.from('x')))
    await eventually(() => sent >= 50)
    assert.equal(await stillness(() => sent), sent)
    // Those that wait, one that is on its way and one that is being made.
    assert(sent <= 50 * (MESSAGES_WAITING_MAX + 2), `${sent} messages`)
    assert.equal(await client.one('x'), 'one x')
  })

  test('by messages nested 1,000 and 100,000 deep, is answered or refused, and others are served', async () => {
    const location: Handlers<typeof LocationServiceService> = {
      resolve: async () => ({
        resolutions: [],
        locationRevision: 0n,
        configRevision: 0n,
        horizonMs: 0n,
      }),
      locate: async () => LocateResponse.fromPartial({}),
      watch: async function* () {},
    }
    await using served = await serve({
      listen: ['127.0.0.1:0'],
      services: [implement(LocationServiceService, location, locationAccess)],
      log,
      security: serverSecurity,
    })
    const address = served.addresses[0] ?? ''
    await using raw = connect(
      address,
      {
        locate: {
          ...LocationServiceService.locate,
          requestSerialize: (bytes: Buffer) => bytes,
          requestDeserialize: (bytes: Buffer) => bytes,
        },
      },
      { security: clientSecurity, retries: false },
    )
    await using client = connect(address, LocationServiceService, { security: clientSecurity })
    assert.deepEqual((await raw.locate(nestedMessages(1000))).locations, [])
    for (const depth of [1000, 100_000]) {
      await assert.rejects(raw.locate(nestedGroups(depth)), /Error deserializing request/)
    }
    assert.deepEqual((await client.locate({ endpointIds: [] })).locations, [])
  })

  test('by headers of 1 MB, is cut off, and others are served', async () => {
    const { address, client } = opened.use(await serveEcho({}))
    const session = await attack(address)
    const stream = session.request({
      ...headersOf('/test.Echo/One'),
      'x-much': 'y'.repeat(1_000_000),
    })
    stream.on('error', () => undefined)
    const answer = once(stream, 'response').then(() => 'answered')
    const cut = Promise.race([once(stream, 'close'), once(session, 'close')]).then(() => 'cut off')
    stream.end(framed(Buffer.from('x')))
    assert.equal(await Promise.race([answer, cut]).catch(() => 'cut off'), 'cut off')
    assert.equal(await client.one('x'), 'one x')
  })

  test('by more connections than one may have, is told so, and has others again when it closes some', async () => {
    const { address, client } = opened.use(await serveEcho({}))
    const sockets = await Promise.all(
      Array.from({ length: CONNECTIONS_OF_ONE_MAX }, () => attack(address)),
    )
    const options = { security: as(mallory), retries: false }
    const refused = opened.use(connect(address, Echo, options))
    await assert.rejects(refused.one('x'), OverloadedError)
    assert.equal(await client.one('x'), 'one x')
    for (const socket of sockets) socket.destroy()
    await eventually(async () => (await refused.one('x')) === 'one x')
  })

  test('by answers that it asks for and never takes, is given no more than it may have at once', async () => {
    let answered = 0
    const { address, client } = opened.use(
      await serveEcho({
        one: async (request) => {
          if (request === 'x') answered++
          return 'y'.repeat(200_000)
        },
      }),
    )
    await callMany(address, '/test.Echo/One', CALLS_OF_ONE_MAX + 50)
    await eventually(() => answered === CALLS_OF_ONE_MAX)
    assert.equal(await stillness(() => answered), CALLS_OF_ONE_MAX)
    assert.equal((await client.one('z')).length, 200_000)
  })

  test('by more streams than one may have, is told so, and others are served', async () => {
    let running = 0
    const { address, client } = opened.use(
      await serveEcho({
        split: async function* (_request, { signal }) {
          running++
          yield 'first'
          await once(signal, 'abort')
        },
      }),
    )
    await callMany(address, '/test.Echo/Split', CALLS_OF_ONE_MAX + 50)
    await eventually(() => running === CALLS_OF_ONE_MAX)
    const options = { security: as(mallory), retries: false }
    const refused = opened.use(connect(address, Echo, options))
    await assert.rejects(all(refused.split('x')), OverloadedError)
    assert.equal(running, CALLS_OF_ONE_MAX)
    assert.equal(await client.collect(iterate(['a', 'b'])), 'a,b')
  })
})

describe('whoever has no certificate', () => {
  test('and says nothing, is closed', async () => {
    const { address, client } = opened.use(await serveEcho({}))
    const [host = '', port] = address.split(':')
    const silent = netConnect({ host, port: Number(port) }).resume()
    const trickling = netConnect({ host, port: Number(port) }).resume()
    trickling.on('error', () => undefined)
    // A record of a handshake that never becomes whole.
    trickling.write(Buffer.from([22, 3, 1, 64, 0, 1]))
    await Promise.all([once(silent, 'close'), once(trickling, 'close')])
    assert.equal(await client.one('x'), 'one x')
  })

  test('and talks anything but TLS, is closed', async () => {
    const { address, client } = opened.use(await serveEcho({}))
    const [host = '', port] = address.split(':')
    const socket = netConnect({ host, port: Number(port) }).resume()
    socket.on('error', () => undefined)
    socket.write('GET / HTTP/1.1\r\n\r\n')
    await once(socket, 'close')
    assert.equal(await client.one('x'), 'one x')
  })

  test('and holds all connections that there are, from a few sources, keeps nobody else out', async () => {
    const { address, client } = opened.use(await serveEcho({}))
    for (let count = 0, source = 2; count < STRANGERS_MAX; source++) {
      await idleSockets(address, STRANGERS_OF_SOURCE_MAX, `127.0.0.${source}`)
      count += STRANGERS_OF_SOURCE_MAX
    }
    assert.equal(await client.one('x'), 'one x')
  })

  test('and closes its connections, has its places again', async () => {
    const { address } = opened.use(await serveEcho({}))
    for (const socket of await idleSockets(address, STRANGERS_OF_SOURCE_MAX)) socket.destroy()
    await eventually(async () => {
      const session = await attack(address, mallory, { localAddress: ATTACKER })
      return !session.destroyed
    })
  })
})

describe('where callers show no certificate', () => {
  test('a source that holds all it can, with requests half said, keeps nobody else from joining', async () => {
    const { address, client } = opened.use(await serveEnrolment())
    const sessions = await Promise.all(
      Array.from({ length: 20 }, () => attack(address, mallory, { localAddress: ATTACKER })),
    )
    for (const session of sessions) {
      for (let call = 0; call < 10; call++) callOf(session, '/test.Echo/One').write('half')
    }
    await idleSockets(address, STRANGERS_OF_SOURCE_MAX - sessions.length)
    assert.equal(await client.one('x'), 'one x')
  })

  test('a connection has two requests at once, of 32 KiB', async () => {
    let running = 0
    const { address, client } = opened.use(
      await serveEnrolment(async (_request, { signal }) => {
        running++
        await once(signal, 'abort')
        return ''
      }),
    )
    await assert.rejects(client.one('x'.repeat(32 * 1024 + 1)), /larger than|too large|32768/)
    const session = await attack(address)
    assert.equal(session.remoteSettings.maxConcurrentStreams, 2)
    for (let call = 0; call < 10; call++) {
      callOf(session, '/test.Echo/One').end(framed(Buffer.from('x')))
    }
    await eventually(() => running === 2)
    assert.equal(await stillness(() => running), 2)
  })

  test('a connection whose request never ends is closed, while one that waits for its answer is not', async () => {
    const answer = Promise.withResolvers<string>()
    const { address, client } = opened.use(await serveEnrolment(() => answer.promise))
    const waiting = client.one('x', { timeoutMs: 30_000 })
    const session = await attack(address)
    callOf(session, '/test.Echo/One').write('half')
    await once(session, 'close')
    answer.resolve('at last')
    assert.equal(await waiting, 'at last')
  })
})

describe('what is refused', () => {
  test('is counted by its reason, and told with who it was', async () => {
    const metricsListen = '127.0.0.1:0'
    const { metricsAddress } = opened.use(
      await startTelemetry({ service: 'test', logLevel: 'silent', metricsListen }),
    )
    const lines: string[] = []
    const stream = { write: (line: string) => void lines.push(line) }
    const owners = { users: { roles: ['owner'], scope: 'domain' } } as const
    const services = [echoWith({}, { ...echoAccess, one: owners, collect: { hosts: 'any' } })]
    const options = { services, log: createLogger({ service: 'test', level: 'warn', stream }) }
    const { address } = opened.use(await serveEcho({}, options))
    const client = opened.use(connect(address, Echo, { security: as(mallory), retries: false }))
    for (let call = 0; call < 3; call++)
      await assert.rejects(client.one('x'), PermissionDeniedError)
    await assert.rejects(client.collect(iterate(['x'])), PermissionDeniedError)
    await once(tlsConnect({ ...placeOf(address), ...UNCHECKED, maxVersion: 'TLSv1.2' }), 'error')
    const without = tlsConnect({ ...placeOf(address), ...UNCHECKED, ALPNProtocols: ['h2'] })
    await once(without.resume(), 'close')

    const told = lines.map((line) => JSON.parse(line) as Readonly<Record<string, unknown>>)
    assert.deepEqual(
      new Set(told.map(({ reason }) => reason)),
      new Set(['no-role-in-domain', 'not-for-users', 'tls-too-old', 'missing']),
    )
    assert.equal(told[0]?.['caller'], 'spiffe://test.weft/user/66')
    assert.match(String(told[0]?.['peer']), /^127\.0\.0\.1:/)
    const answer = await fetch(`http://${metricsAddress}/metrics`)
    const counts = (await answer.text()).split('\n').filter((line) => /denied|refused/.test(line))
    const count = (metric: string, label: string): string | undefined =>
      counts.find((line) => line.startsWith(`weft_rpc_server_${metric}`) && line.includes(label))
    assert.match(count('calls_denied_total', 'no-role-in-domain') ?? '', /Echo\/One.* 3$/)
    assert.match(count('calls_denied_total', 'not-for-users') ?? '', /Echo\/Collect.* 1$/)
    assert.match(count('connections_refused_total', 'tls-too-old') ?? '', / 1$/)
    assert.match(count('connections_refused_total', 'missing') ?? '', / 1$/)
  })
})

/** Another source than that of the clients of these tests. */
const ATTACKER = '127.0.0.2'

const UNCHECKED = { rejectUnauthorized: false, checkServerIdentity: () => undefined }

/** A server for callers without certificates, with a client that is one. */
function serveEnrolment(one?: Handlers<typeof Echo>['one']): ReturnType<typeof serveEcho> {
  const services = [echoWith(one ? { one } : {}, { ...echoAccess, one: { anyone: true } })]
  const authorise = authoriser({ world })
  const security: ServerSecurity = { kind: 'server-tls', credentials: server, authorise }
  const rootPem = pemOf(domain.root.certificate)
  const asked: ClientSecurity = { kind: 'pinned', rootPem, domain: domain.name, peer: 'config' }
  return serveEcho({}, { services, security }, asked)
}

/** Connections of an attacker that say nothing. */
async function idleSockets(
  address: string,
  count: number,
  localAddress: string = ATTACKER,
): Promise<Socket[]> {
  const sockets = Array.from({ length: count }, () => {
    const socket = netConnect({ ...placeOf(address), localAddress }).resume()
    socket.on('error', () => undefined)
    opened.defer(() => void socket.destroy())
    return socket
  })
  await Promise.all(sockets.map((socket) => once(socket, 'connect')))
  return sockets
}

function placeOf(address: string): { readonly host: string; readonly port: number } {
  const [host = '', port] = address.split(':')
  return { host, port: Number(port) }
}

/** An HTTP/2 connection that follows no rules of ours; what comes on it is not read. */
async function attack(
  address: string,
  credentials: Credentials = mallory,
  options: ConnectionOptions & { readonly localAddress?: string } = {},
): Promise<ClientHttp2Session> {
  const { keyPem: key, chainPem: cert, rootsPem: ca } = credentials.tls
  const socket = tlsConnect({
    ...{ ...placeOf(address), key, cert, ca },
    ALPNProtocols: ['h2'],
    checkServerIdentity: () => undefined,
    ...options,
  })
  const session = http2Connect(`https://${address}`, {
    createConnection: () => socket,
    maxSendHeaderBlockLength: 10_000_000,
  })
  session.on('error', () => undefined)
  opened.defer(() => session.destroy())
  await once(session, 'remoteSettings')
  return session
}

function headersOf(path: string) {
  return { ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers' }
}

function callOf(session: ClientHttp2Session, path: string) {
  const stream = session.request(headersOf(path))
  stream.on('error', () => undefined)
  return stream
}

/** Calls over as few connections as may carry them, whose answers are not read. */
async function callMany(address: string, path: string, count: number): Promise<void> {
  for (let left = count; left > 0; left -= STREAMS_OF_CONNECTION_MAX) {
    const session = await attack(address)
    for (let call = 0; call < Math.min(left, STREAMS_OF_CONNECTION_MAX); call++) {
      callOf(session, path).end(framed(Buffer.from('x')))
    }
  }
}

/** A message as gRPC frames it. */
function framed(message: Buffer): Buffer {
  const head = Buffer.alloc(5)
  head.writeUInt32BE(message.length, 1)
  return Buffer.concat([head, message])
}

/** Field 1, in itself, in itself. */
function nestedMessages(depth: number): Buffer {
  let bytes: Uint8Array = Buffer.of()
  for (let level = 0; level < depth; level++) {
    bytes = new BinaryWriter()
      .uint32((2000 << 3) | WireType.LengthDelimited)
      .bytes(bytes)
      .finish()
  }
  return Buffer.from(bytes)
}

/** Groups of a field that nobody knows, which a parser has to skip. */
function nestedGroups(depth: number): Buffer {
  const start = new BinaryWriter().uint32((9 << 3) | WireType.StartGroup).finish()
  const end = new BinaryWriter().uint32((9 << 3) | WireType.EndGroup).finish()
  assert.equal(new BinaryReader(start).uint32(), (9 << 3) | WireType.StartGroup)
  return Buffer.concat([...Array(depth).fill(start), ...Array(depth).fill(end)])
}

/** What a number is when it has stopped to change. */
async function stillness(read: () => number): Promise<number> {
  for (let before = -1; ; before = read()) {
    await delay(100)
    if (before === read()) return before
  }
}
