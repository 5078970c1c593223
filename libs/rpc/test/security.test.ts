import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import { afterEach, describe, test } from 'node:test'
import { createServer as createTlsServer, type TLSSocket, connect as tlsConnect } from 'node:tls'
import { promisify } from 'node:util'
import { type AccessTable, authoriser, type CallToJudge } from '@weft/access'
import {
  type CertificateRefusal,
  CertificateRefusedError,
  PermissionDeniedError,
  UnauthenticatedError,
  UnavailableError,
} from '@weft/errors'
import {
  type Credentials,
  fingerprintOf,
  formatIdentity,
  generateIdentityKey,
  pemOf,
  pemOfKey,
} from '@weft/identity'
import { createIntermediate, issueLeaf, leafValidity } from '@weft/identity/authority'
import { eventually, temporaryFolder, testDomain } from '@weft/testing'
import {
  type ClientSecurity,
  connect,
  GUARDED_BY_SOCKET,
  type Handlers,
  type Implementation,
  implement,
  type ServerSecurity,
  serve,
} from '../src/index.ts'
import { Echo, type EchoClient } from './echo.ts'
import {
  all,
  as,
  domain,
  echoAccess,
  echoWith,
  log,
  mutual,
  owner,
  serveEcho,
  server,
  world,
} from './site.ts'

const run = promisify(execFile)
const HOUR_MS = 3_600_000
const noOpenssl = await run('openssl', ['version']).then(
  () => false,
  () => 'there is no openssl to forge a certificate with',
)

let opened = new AsyncDisposableStack()
afterEach(async () => {
  await opened.disposeAsync()
  opened = new AsyncDisposableStack()
})

describe('a caller', () => {
  test('is known by its certificate, and its handler is told', async () => {
    const readers = { users: { roles: ['auditor'], scope: 'filtered' } } as const
    const one: Handlers<typeof Echo>['one'] = async (_request, { caller, scope }) =>
      `${caller && formatIdentity(caller.identity)} sees ${scope === 'all' ? scope : scope.size}`
    const services = [echoWith({ one }, { ...echoAccess, one: readers })]
    const { client } = opened.use(await serveEcho({}, { services }))
    assert.equal(await client.one('x'), 'spiffe://test.weft/user/1 sees all')
  })

  test('without a certificate is refused, and told so', async () => {
    const { address } = opened.use(await serveEcho({}))
    const client = clientOf(address, pinned(domain.root.certificate))
    await assertRefused(client, 'missing', 'the certificate of the caller')
  })

  test('of another authority is refused, also with the same names', async () => {
    const { address } = opened.use(await serveEcho({}))
    const other = testDomain().credentials({ kind: 'user', id: 1 })
    const { rootsPem } = owner.tls
    const client = clientOf(address, as(withTls(other, { rootsPem })))
    await assertRefused(client, 'unknown-authority', 'the certificate of the caller')
  })

  test('whose certificate has expired is refused', async () => {
    const { address } = opened.use(await serveEcho({}))
    const expired = domain.credentials(
      { kind: 'user', id: 1 },
      { notBefore: hoursFromNow(-2), notAfter: hoursFromNow(-1) },
    )
    await assertRefused(clientOf(address, as(expired)), 'expired', 'the certificate of the caller')
  })

  test('whose certificate is not valid yet is refused', async () => {
    const { address } = opened.use(await serveEcho({}))
    const early = domain.credentials(
      { kind: 'user', id: 1 },
      { notBefore: hoursFromNow(1), notAfter: hoursFromNow(2) },
    )
    const client = clientOf(address, as(early))
    await assertRefused(client, 'not-yet-valid', 'the certificate of the caller')
  })

  test('whose key was revoked is refused, under a new certificate as well', async () => {
    const config = domain.credentials({ kind: 'service', id: 'config' })
    const { address } = opened.use(await serveEcho({}, { security: mutual(config) }))
    const user = domain.credentials({ kind: 'user', id: 2 })
    config.revoke(user.publicKey)
    await assertRefused(clientOf(address, as(user)), 'revoked', 'the certificate of the caller')
    user.renew()
    await assertRefused(clientOf(address, as(user)), 'revoked', 'the certificate of the caller')
  })

  test('whose key was revoked is refused, also with the same certificate in another encoding', async () => {
    const config = domain.credentials({ kind: 'service', id: 'config' })
    const { address } = opened.use(await serveEcho({}, { security: mutual(config) }))
    const user = domain.credentials({ kind: 'user', id: 2 })
    const chainPem = pemOf(reencoded(user.certificate)) + pemOf(domain.intermediate.certificate)
    const client = clientOf(address, as(withTls(user, { chainPem })))
    assert.equal(await client.one('x'), 'one x')
    config.revoke(user.publicKey)
    await assertRefused(client, 'revoked', 'the certificate of the caller')
  })

  test('whose certificate was changed after it was signed is refused', async () => {
    const { address } = opened.use(await serveEcho({}))
    const user = domain.credentials({ kind: 'user', id: 2 })
    const changed = Buffer.from(user.certificate)
    const at = changed.indexOf('spiffe://test.weft/user/2') + 'spiffe://test.weft/user/'.length
    changed.write('1', at)
    const chainPem = pemOf(changed) + pemOf(domain.intermediate.certificate)
    const client = clientOf(address, as(withTls(user, { chainPem })))
    await assertRefused(client, 'bad-signature', 'the certificate of the caller')
  })

  test('with the right name, signed by a key that only calls itself our authority, is refused', async () => {
    const { address } = opened.use(await serveEcho({}))
    const key = generateIdentityKey()
    const leaf = issueLeaf({
      authority: { ...domain.intermediate, key },
      identity: owner.identity,
      publicKey: owner.publicKey,
      ...leafValidity({ authority: domain.intermediate, now: new Date() }),
    })
    const chainPem = pemOf(leaf) + pemOf(domain.intermediate.certificate)
    const client = clientOf(address, as(withTls(owner, { chainPem })))
    await assertRefused(client, 'unknown-authority', 'the certificate of the caller')
  })

  test('with the right certificate and the key of somebody else gets no connection', async () => {
    const { address } = opened.use(await serveEcho({}))
    const thief = domain.credentials({ kind: 'user', id: 2 })
    const { keyPem } = thief.tls
    const client = clientOf(address, as(withTls(owner, { keyPem })))
    await assert.rejects(client.one('x'))
  })

  test('with two identities in its certificate is refused', { skip: noOpenssl }, async () => {
    const { address } = opened.use(await serveEcho({}))
    const uris = ['spiffe://test.weft/user/1', 'spiffe://test.weft/host/1']
    const client = clientOf(address, as(await forged(uris)))
    await assertRefused(client, 'several-identities', 'the certificate of the caller')
  })

  test('of an authority that the server has not met yet is let in', async () => {
    const { address } = opened.use(await serveEcho({}))
    const newer = createIntermediate({ root: domain.root, now: new Date() })
    const leaf = issueLeaf({
      authority: newer,
      identity: owner.identity,
      publicKey: owner.publicKey,
      notBefore: hoursFromNow(-1),
      notAfter: hoursFromNow(1),
    })
    const chainPem = pemOf(leaf) + pemOf(newer.certificate)
    const client = clientOf(address, as(withTls(owner, { chainPem })))
    assert.equal(await client.one('hello'), 'one hello')
  })

  test('cannot speak less than TLS 1.3', async () => {
    const { address } = opened.use(await serveEcho({}))
    const socket = tlsConnect({ ...placeOf(address), ...raw(owner), maxVersion: 'TLSv1.2' })
    const [error] = await once(socket, 'error')
    assert.match(String(error), /protocol version/)
  })

  test('that may not call a method is denied by name', async () => {
    const denied: CallToJudge[] = []
    const authorise = authoriser({ world, onDenied: (call) => denied.push(call) })
    const owners = { users: { roles: ['owner'], scope: 'domain' } } as const
    const services = [echoWith({}, { ...echoAccess, one: owners })]
    const security = { kind: 'mutual-tls', credentials: server, authorise } as const
    const { address, client } = opened.use(await serveEcho({}, { services, security }))
    const user = clientOf(address, as(domain.credentials({ kind: 'user', id: 2 })))
    assert.equal(await client.one('x'), 'one x')
    await assert.rejects(user.one('x'), (error) => {
      assert(error instanceof PermissionDeniedError)
      assert.equal(
        error.message,
        'Echo/One by spiffe://test.weft/user/2 is not allowed: it takes the role owner in the whole domain',
      )
      return true
    })
    assert.deepEqual(await all(user.split('a,b')), ['a', 'b'])
    assert.deepEqual(
      denied.map(({ method, peer }) => [method, peer.replace(/:[0-9]+$/, '')]),
      [['/test.Echo/One', '127.0.0.1']],
    )
  })
})

describe('a server', () => {
  test('that is another service is refused', async () => {
    const policy = domain.credentials({ kind: 'service', id: 'routing-policy' })
    const { client } = opened.use(await serveEcho({}, { security: mutual(policy) }))
    await assertRefused(client, 'wrong-peer', 'the certificate of config')
  })

  test('that is a host is refused, whatever its address', async () => {
    const host = domain.credentials({ kind: 'host', id: 1 })
    const { client } = opened.use(await serveEcho({}, { security: mutual(host) }))
    await assertRefused(client, 'wrong-peer', 'the certificate of config')
  })

  test('of another authority is refused', async () => {
    const other = testDomain().credentials({ kind: 'service', id: 'config' })
    const { client } = opened.use(await serveEcho({}, { security: mutual(other) }))
    await assertRefused(client, 'unknown-authority', 'the certificate of config')
  })

  test('whose certificate has expired is refused', async () => {
    const expired = domain.credentials(
      { kind: 'service', id: 'config' },
      { notBefore: hoursFromNow(-2), notAfter: hoursFromNow(-1) },
    )
    const { client } = opened.use(await serveEcho({}, { security: mutual(expired) }))
    await assertRefused(client, 'expired', 'the certificate of config')
  })

  test('whose certificate is not valid yet is refused', async () => {
    const early = domain.credentials(
      { kind: 'service', id: 'config' },
      { notBefore: hoursFromNow(1), notAfter: hoursFromNow(2) },
    )
    const { client } = opened.use(await serveEcho({}, { security: mutual(early) }))
    await assertRefused(client, 'not-yet-valid', 'the certificate of config')
  })

  test('for those who enrol speaks no less than TLS 1.3 either', async () => {
    const security: ServerSecurity = {
      kind: 'server-tls',
      credentials: server,
      authorise: authoriser({ world }),
    }
    const { address } = opened.use(await serveEcho({}, { security }))
    const { rootsPem: ca } = owner.tls
    const socket = tlsConnect({ ...placeOf(address), ca, maxVersion: 'TLSv1.2' })
    const [error] = await once(socket, 'error')
    assert.match(String(error), /protocol version/)
  })

  test('that speaks less than TLS 1.3 is left', async () => {
    const old = createTlsServer({ ...raw(server), maxVersion: 'TLSv1.2', ALPNProtocols: ['h2'] })
    opened.defer(() => void old.close())
    old.listen(0, '127.0.0.1')
    await once(old, 'listening')
    const { port } = old.address() as { readonly port: number }
    const client = clientOf(`127.0.0.1:${port}`, as(owner))
    await assert.rejects(client.one('x'), (error) => {
      assert(error instanceof UnavailableError)
      assert.match(error.message, /protocol/)
      return true
    })
  })

  test('without TLS is left, and learns nothing', async () => {
    await using folder = await temporaryFolder()
    const address = `unix:${folder.path}/echo.sock`
    opened.use(await serveEcho({}, { listen: [address], security: { kind: 'socket-mode' } }))
    await assert.rejects(clientOf(address, as(owner)).one('x'), UnavailableError)
  })

  test('for those who enrol shows its root, knows no caller and serves what is for anyone', async () => {
    const access: AccessTable<typeof Echo> = { ...echoAccess, one: { anyone: true } }
    const security: ServerSecurity = {
      kind: 'server-tls',
      credentials: server,
      authorise: authoriser({ world }),
    }
    const services = [
      echoWith({ one: async (_request, { caller }) => String(caller?.serialNumber) }, access),
    ]
    const { address } = opened.use(await serveEcho({}, { services, security }))
    const client = clientOf(address, pinned(domain.root.certificate))
    assert.equal(await client.one('x'), 'undefined')
    await assert.rejects(all(client.split('x')), UnauthenticatedError)
    const socket = await rawSocket(address, owner)
    const shown = socket.getPeerX509Certificate()?.issuerCertificate?.issuerCertificate
    assert.equal(fingerprintOf(shown?.raw ?? Buffer.of()), fingerprintOf(domain.root.certificate))
    socket.destroy()
  })

  test('for those who enrol is refused under another root', async () => {
    const security: ServerSecurity = {
      kind: 'server-tls',
      credentials: server,
      authorise: authoriser({ world }),
    }
    const { address } = opened.use(await serveEcho({}, { security }))
    const client = clientOf(address, pinned(testDomain().root.certificate))
    await assertRefused(client, 'unknown-authority', 'the certificate of config')
  })

  test('that is guarded by a socket alone is only ever one on a unix socket', async () => {
    const security = { kind: 'socket-mode' } as const
    const listen = ['127.0.0.1:0']
    await assert.rejects(serve({ listen, services: [], log, security }), /is no unix socket/)
    assert.throws(() => connect('127.0.0.1:1', Echo, { security }), /is no unix socket/)
    const { definition, handlers } = echoWith({})
    const services: Implementation[] = [{ definition, handlers, access: GUARDED_BY_SOCKET }]
    await assert.rejects(
      serve({ listen, services, log, security: mutual(server) }),
      /has no rule who may call it/,
    )
  })

  test('does not build without a rule for each method', () => {
    const { handlers } = echoWith({})
    const { one, ...others } = echoAccess
    // @ts-expect-error -- `one` has no rule
    assert.ok(implement(Echo, handlers as never, others))
    // @ts-expect-error -- nothing has a rule
    assert.ok(implement(Echo, handlers as never))
    assert.ok(implement(Echo, handlers as never, { ...others, one }))
  })
})

describe('a certificate that is renewed', () => {
  test('is shown by new calls of the client, while its open stream lives', async () => {
    const { address } = opened.use(
      await serveEcho({ one: async (_request, { caller }) => caller?.serialNumber ?? '' }),
    )
    const user = domain.credentials({ kind: 'user', id: 2 })
    const client = clientOf(address, as(user))
    const stream = conversation(client)
    assert.equal(await stream.say('a'), 'each a')
    const before = await client.one('x')
    user.renew()
    const after = await client.one('x')
    assert.notEqual(after, before)
    assert.equal(await stream.say('b'), 'each b')
    await stream.end()
  })

  test('is shown by the server to new connections, while open streams live', async () => {
    const config = domain.credentials({ kind: 'service', id: 'config' })
    const { address, client } = opened.use(await serveEcho({}, { security: mutual(config) }))
    const stream = conversation(client)
    assert.equal(await stream.say('a'), 'each a')
    const before = await serialShown(address)
    config.renew()
    const after = await serialShown(address)
    assert.notEqual(after, before)
    assert.equal(await stream.say('b'), 'each b')
    assert.equal(await client.one('x'), 'one x')
    await stream.end()
  })
})

describe('a certificate that expires', () => {
  test('ends the streams of a caller, whatever their handlers wait for, until it has another', async () => {
    const { address } = opened.use(await serveEcho({ split: neverEnding }))
    const user = domain.credentials({ kind: 'user', id: 2 }, { notAfter: secondsFromNow(2) })
    const client = clientOf(address, as(user))
    const refused = assertRefusedStream(client, 'expired')
    assert.equal(await client.one('x'), 'one x')
    await refused
    await assertRefused(client, 'expired', 'the certificate of the caller')
    user.renew({ notAfter: hoursFromNow(1) })
    assert.equal(await client.one('x'), 'one x')
  })

  test('of a server ends the connections of its clients, until it has another', async () => {
    const config = domain.credentials(
      { kind: 'service', id: 'config' },
      { notAfter: secondsFromNow(2) },
    )
    const { client } = opened.use(
      await serveEcho({ split: neverEnding }, { security: mutual(config) }),
    )
    await assert.rejects(all(client.split('x')), UnavailableError)
    await assertRefused(client, 'expired', 'the certificate of config')
    config.renew({ notAfter: hoursFromNow(1) })
    await eventually(async () => (await client.one('x')) === 'one x')
  })
})

describe('a key that is revoked', () => {
  test('ends the streams and connections of its holder, and of nobody else', async () => {
    const config = domain.credentials({ kind: 'service', id: 'config' })
    const { address, client: bystander } = opened.use(
      await serveEcho({ split: neverEnding }, { security: mutual(config) }),
    )
    const user = domain.credentials({ kind: 'user', id: 2 })
    const stays = conversation(bystander)
    await stays.say('a')
    const socket = await rawSocket(address, user)
    const closed = once(socket.resume(), 'close')
    const streams = [1, 2, 3].map(() => clientOf(address, as(user)))
    const refused = streams.map((client) => assertRefusedStream(client, 'revoked'))
    await Promise.all(streams.map((client) => client.one('x')))
    config.revoke(user.publicKey)
    await Promise.all([...refused, closed])
    await Promise.all(
      streams.map((client) => assertRefused(client, 'revoked', 'the certificate of the caller')),
    )
    assert.equal(await stays.say('b'), 'each b')
    await stays.end()
  })

  test('of a server ends the connections of the clients that know of it', async () => {
    const { address } = opened.use(await serveEcho({ split: neverEnding }))
    const user = domain.credentials({ kind: 'user', id: 2 })
    const client = clientOf(address, as(user))
    const ended = assert.rejects(all(client.split('x')), UnavailableError)
    assert.equal(await client.one('x'), 'one x')
    user.revoke(server.publicKey)
    await ended
    await assertRefused(client, 'revoked', 'the certificate of config')
  })
})

function clientOf(address: string, security: ClientSecurity): EchoClient {
  return opened.use(connect(address, Echo, { security }))
}

/** Without a certificate. */
function pinned(root: Buffer): ClientSecurity {
  return { kind: 'pinned', rootPem: pemOf(root), domain: domain.name, peer: 'config' }
}

async function assertRefused(
  client: EchoClient,
  reason: CertificateRefusal,
  subject: string,
): Promise<void> {
  await assert.rejects(client.one('x'), (error) => {
    assert(error instanceof CertificateRefusedError, String(error))
    assert.deepEqual([error.reason, error.facts['subject']], [reason, subject])
    return true
  })
}

async function assertRefusedStream(client: EchoClient, reason: CertificateRefusal): Promise<void> {
  await assert.rejects(all(client.split('x')), (error) => {
    assert(error instanceof CertificateRefusedError, String(error))
    assert.equal(error.reason, reason)
    return true
  })
}

/** Answers once, and then pays attention to nothing. */
async function* neverEnding(): AsyncGenerator<string> {
  yield 'first'
  await Promise.withResolvers<void>().promise
}

/** A duplex stream that is held open. */
function conversation(client: EchoClient): {
  say(text: string): Promise<string | undefined>
  end(): Promise<void>
} {
  const waiting: ((text: string | undefined) => void)[] = []
  const texts: string[] = []
  async function* requests(): AsyncGenerator<string> {
    for (;;) {
      const text =
        texts.shift() ?? (await new Promise<string | undefined>((resolve) => waiting.push(resolve)))
      if (text === undefined) return
      yield text
    }
  }
  const answers = client.each(requests())[Symbol.asyncIterator]()
  const push = (text: string | undefined): void => {
    const next = waiting.shift()
    if (next) next(text)
    else if (text !== undefined) texts.push(text)
  }
  return {
    async say(text) {
      push(text)
      return (await answers.next()).value
    },
    async end() {
      push(undefined)
      await answers.return?.()
    },
  }
}

function hoursFromNow(hours: number): Date {
  return new Date(Date.now() + hours * HOUR_MS)
}

function secondsFromNow(seconds: number): Date {
  return new Date(Date.now() + seconds * 1000)
}

function withTls(credentials: Credentials, tls: Partial<Credentials['tls']>): Credentials {
  const { identity, bus, identityKey, directoryKey } = credentials
  return {
    identity,
    bus,
    identityKey,
    directoryKey,
    tls: { ...credentials.tls, ...tls },
    isRevoked: () => false,
    onChange: () => () => undefined,
  }
}

/** A certificate with the length of its whole in more bytes than it takes: BER, and no longer DER. */
function reencoded(der: Buffer): Buffer {
  const length = der.readUInt16BE(2)
  assert.deepEqual([...der.subarray(0, 2)], [0x30, 0x82])
  return Buffer.concat([Buffer.of(0x30, 0x83, 0, length >> 8, length & 0xff), der.subarray(4)])
}

function placeOf(address: string): { readonly host: string; readonly port: number } {
  const [host = '', port] = address.split(':')
  return { host, port: Number(port) }
}

function raw({ tls }: Credentials) {
  const { keyPem: key, chainPem: cert, rootsPem: ca } = tls
  return { key, cert, ca, ALPNProtocols: ['h2'], checkServerIdentity: () => undefined }
}

async function rawSocket(address: string, credentials: Credentials): Promise<TLSSocket> {
  const socket = tlsConnect({ ...placeOf(address), ...raw(credentials) })
  await once(socket, 'secureConnect')
  return socket
}

async function serialShown(address: string): Promise<string | undefined> {
  const socket = await rawSocket(address, owner)
  const serial = socket.getPeerX509Certificate()?.serialNumber
  socket.destroy()
  return serial
}

/** A member of the domain with several URIs, as our own authority never issues one. */
async function forged(uris: readonly string[]): Promise<Credentials> {
  await using folder = await temporaryFolder()
  const file = (name: string): string => `${folder.path}/${name}`
  await writeFile(file('ca.pem'), pemOf(domain.intermediate.certificate))
  await writeFile(file('ca.key'), pemOfKey(domain.intermediate.key))
  await writeFile(file('leaf.key'), owner.tls.keyPem)
  const extensions = [
    'basicConstraints=critical,CA:FALSE',
    'keyUsage=critical,digitalSignature',
    'extendedKeyUsage=clientAuth,serverAuth',
    `subjectAltName=${uris.map((uri) => `URI:${uri}`).join(',')}`,
    'authorityKeyIdentifier=keyid',
  ]
  await writeFile(file('extensions'), extensions.join('\n'))
  await run('openssl', [
    ...['req', '-new', '-key', file('leaf.key'), '-subj', '/O=test.weft/CN=user\\/1'],
    ...['-out', file('leaf.csr')],
  ])
  await run('openssl', [
    ...['x509', '-req', '-in', file('leaf.csr'), '-CA', file('ca.pem'), '-CAkey', file('ca.key')],
    ...['-set_serial', '77', '-days', '1', '-extfile', file('extensions')],
    ...['-out', file('leaf.pem')],
  ])
  const leaf = await readFile(file('leaf.pem'), 'utf8')
  return withTls(owner, { chainPem: leaf + pemOf(domain.intermediate.certificate) })
}
