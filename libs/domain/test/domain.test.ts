import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, beforeEach, test } from 'node:test'
import { createServer as createTlsServer } from 'node:tls'
import {
  BrokenInputError,
  CertificateRefusedError,
  InvalidArgumentError,
  NotEnrolledError,
  StatementRefusedError,
  TokenRefusedError,
  UnavailableError,
} from '@weft/errors'
import {
  generateIdentityKey,
  identityKeyFromPem,
  openTunnelKey,
  publicKeyOf,
  signStatement,
} from '@weft/identity'
import { Revocations } from '@weft/proto/weftline/identity/v1/identity.ts'
import { createLogger } from '@weft/telemetry'
import { eventually, findNatsServer } from '@weft/testing'
import { type CreatedDomain, createDomain } from '../src/create.ts'
import { joinHost, leaveDomain, loginUser, rotateHostKeys } from '../src/enrolment.ts'
import {
  authorityFiles,
  type OwnCredentials,
  openCredentials,
  parseDomainFile,
  readIdentity,
  waitForIdentity,
} from '../src/index.ts'
import { identityFiles } from '../src/layout.ts'
import { CODE, HOST_ID, startAuthority, type TestAuthority, TOKEN } from './authority.ts'

const HOUR_MS = 3_600_000
const temporary = mkdtempSync(join(tmpdir(), 'weft-domain-'))
const sockets = {
  config: `unix:${join(temporary, 'config.sock')}`,
  enrolment: `unix:${join(temporary, 'enrolment.sock')}`,
}
let domain: CreatedDomain
let authority: TestAuthority
let identityFolder: string

before(async () => {
  domain = await createDomain(domainAt(join(temporary, 'domain')))
})
after(() => rmSync(temporary, { recursive: true }))
beforeEach(() => {
  identityFolder = join(temporary, crypto.randomUUID())
})

test('a new domain has folders of mode 0700 and files of mode 0600, and nothing else', () => {
  const names = ['authority', 'nats', 'owner', 'root', 'services']
  assert.deepEqual(readdirSync(domain.folder).sort(), names)
  for (const name of readdirSync(domain.folder, { recursive: true }) as string[]) {
    const found = statSync(join(domain.folder, name))
    assert.equal(found.mode & 0o777, found.isDirectory() ? 0o700 : 0o600, name)
  }
  assert.deepEqual(
    readdirSync(temporary).filter((name) => name.endsWith('.part')),
    [],
  )
})

test('the key of the root and the seed of the operator are in the folder of the root alone', () => {
  const secrets = ['root.key', 'operator.seed'].map((name) =>
    readFileSync(join(domain.folder, 'root', name), 'utf8').trim(),
  )
  for (const name of readdirSync(domain.folder, { recursive: true }) as string[]) {
    const path = join(domain.folder, name)
    if (name.startsWith('root') || statSync(path).isDirectory()) continue
    const text = readFileSync(path, 'latin1')
    assert(
      secrets.every((secret) => !text.includes(secret)),
      name,
    )
  }
})

test('what is written down of a domain is read again, and what is wrong with it is named', () => {
  const path = join(domain.folder, 'authority', authorityFiles.domain)
  const text = readFileSync(path, 'utf8')
  const file = parseDomainFile(text, path)
  assert.equal(file.domain, 'test.weft')
  assert.deepEqual(file.places.config, [sockets.config])
  assert.throws(() => parseDomainFile(text.replace('"bus"', '"buses"'), path), /places\.bus/)
  assert.throws(() => parseDomainFile('{', path), BrokenInputError)
})

test('a domain never overwrites anything', async () => {
  await assert.rejects(createDomain(domainAt(domain.folder)), InvalidArgumentError)
  assert.equal(existsSync(join(domain.folder, 'root', 'root.key')), true)
})

test('an unusable name or bus leaves nothing behind', async () => {
  const out = join(temporary, 'none')
  await assert.rejects(createDomain({ ...domainAt(out), name: 'No Domain' }), InvalidArgumentError)
  const places = { ...domainAt(out).places, bus: ['http://x'] }
  await assert.rejects(createDomain({ ...domainAt(out), places }), /no URL of nats-server/)
  assert.equal(existsSync(out), false)
})

test('nats-server takes its configuration', async () => {
  const server = await findNatsServer()
  const cwd = join(domain.folder, 'nats')
  execFileSync(server, ['-c', 'nats.conf', '-t'], { cwd, stdio: 'pipe' })
})

test('every service and the owner has an identity that is whole', async () => {
  for (const name of ['config', 'location-resolver', 'routing-policy', 'nats']) {
    const stored = await readIdentity(join(domain.folder, 'services', name))
    assert.equal(stored?.identity.id, name)
    assert.equal(stored.certificates.length, 16)
    assert.equal(stored.message.busJwt === '', name === 'nats')
  }
  const owner = await readIdentity(join(domain.folder, 'owner'))
  assert.deepEqual(owner?.identity, { domain: 'test.weft', kind: 'user', id: 1 })
})

test('a service steps up its ladder as time goes by, and says so', async () => {
  let now = Date.now()
  await using own = await openService('config', () => now)
  const first = own.tls
  let told = 0
  own.onChange(() => told++)
  now += 13 * HOUR_MS
  assert.notEqual(own.tls.chainPem, first.chainPem)
  assert.equal(own.tls.keyPem, first.keyPem)
  assert.equal(told, 1)
  now += 6 * 24 * HOUR_MS
  assert(own.tls.notAfter.getTime() > now)
  now += 3 * 24 * HOUR_MS
  assert.equal(own.problem?.code, 'certificate-refused')
})

test('a clock that is behind is named, with both times', async () => {
  await using own = await openService('config', () => Date.now() - 48 * HOUR_MS)
  assert.equal(own.problem?.code, 'clock-wrong')
  assert.match(own.problem.message, /behind/)
})

test('a key that others may read is refused, with the way out', async () => {
  await enrolled()
  const key = join(identityFolder, 'identity.key')
  chmodSync(key, 0o644)
  await assert.rejects(openCredentials({ folder: identityFolder }), { remedy: `chmod 600 ${key}` })
  chmodSync(key, 0o600)
  chmodSync(identityFolder, 0o755)
  await assert.rejects(openCredentials({ folder: identityFolder }), {
    remedy: `chmod 700 ${identityFolder}`,
  })
})

test('a folder without an identity says how to get one', async () => {
  await assert.rejects(openCredentials({ folder: identityFolder }), NotEnrolledError)
})

test('a host joins: its keys are of its own making and stay with it', async () => {
  const waiting = waitForIdentity(identityFolder, AbortSignal.timeout(20_000))
  const { identity, name, clockWrong } = await enrolled()
  await waiting
  assert.deepEqual(identity, { domain: 'test.weft', kind: 'host', id: HOST_ID })
  assert.equal(name, 'alpha')
  assert.equal(clockWrong, undefined)
  assert.deepEqual(readdirSync(identityFolder).sort(), [
    'bus.seed',
    'credentials.binpb',
    'identity.key',
    'tunnel.key',
  ])
  await using own = await openCredentials({ folder: identityFolder, renew: 'watch' })
  assert.equal(own.bus?.inboxPrefix, `_INBOX.host.${HOST_ID}`)
  assert.deepEqual(publicKeyOf(own.identityKey), authority.hostKeys?.identity)
})

test('a user logs in, and has no login of the bus', async () => {
  await using _ = await authorityOf()
  const { identity, name } = await loginUser({ ...joining(), code: CODE })
  assert.equal(identity.kind, 'user')
  assert.equal(name, 'ada')
  await using own = await openCredentials({ folder: identityFolder, renew: 'watch' })
  assert.equal(own.bus, undefined)
})

test('nothing is said to a server with another fingerprint, and nothing is left behind', async () => {
  await using _ = await authorityOf()
  const fingerprint = `sha256:${'ab'.repeat(32)}`
  await assert.rejects(
    joinHost({ ...joining(), fingerprint }),
    (error) =>
      error instanceof CertificateRefusedError &&
      error.reason === 'unknown-authority' &&
      /nothing was sent/.test(error.message) &&
      /compare the fingerprint .* weft init .* weft context show/.test(error.remedy),
  )
  assert.deepEqual(authority.asked, [])
  assert.equal(existsSync(identityFolder), false)
})

test('nothing is said to a server that has the root, but is not config', async () => {
  await using nats = await openService('nats', Date.now)
  const { chainPem, rootsPem, keyPem } = nats.tls
  const server = createTlsServer({ cert: chainPem + rootsPem, key: keyPem, minVersion: 'TLSv1.3' })
  let heard = 0
  server.on('secureConnection', (socket) => {
    socket.on('data', (bytes: Buffer) => (heard += bytes.length))
    socket.on('error', () => undefined)
  })
  const path = join(temporary, 'other.sock')
  await once(server.listen(path), 'listening')
  try {
    await assert.rejects(joinHost({ ...joining(), control: `unix:${path}` }), {
      code: 'certificate-refused',
      message: /service nats is not service config/,
    })
    assert.equal(heard, 0)
  } finally {
    server.close()
  }
})

test('a server that speaks no TLS is named, and a malformed address too', async () => {
  const server = createServer((socket) => socket.end('hello'))
  const path = join(temporary, 'plain.sock')
  await once(server.listen(path), 'listening')
  await assert.rejects(joinHost({ ...joining(), control: `unix:${path}` }), UnavailableError)
  server.close()
  await assert.rejects(joinHost({ ...joining(), control: 'nowhere' }), /HOST:PORT|no address/)
})

test('a token that is cut or refused leaves nothing behind', async () => {
  await using _ = await authorityOf()
  await assert.rejects(joinHost({ ...joining(), token: TOKEN.slice(0, 30) }), TokenRefusedError)
  assert.deepEqual(authority.asked, [])
  const other = `weft-join-v1.5.${Buffer.alloc(32, 9).toString('base64url')}`
  await assert.rejects(joinHost({ ...joining(), token: other }), TokenRefusedError)
  assert.deepEqual(authority.asked, ['join'])
  assert.equal(existsSync(identityFolder), false)
})

test('a join whose answer is lost ends well when it is done again, with the same keys', async () => {
  await using _ = await authorityOf()
  // More than a call is tried by itself.
  authority.answersToLose = 100
  await assert.rejects(joinHost(joining()))
  assert(authority.hostKeys)
  authority.answersToLose = 0
  await joinHost(joining())
  const stored = await readIdentity(identityFolder)
  assert(stored)
  assert.deepEqual(publicKeyOf(stored.keys.identity), authority.hostKeys.identity)
  assert(readdirSync(identityFolder).every((name) => !name.endsWith('.next')))
})

test('a folder with an identity is not joined again', async () => {
  await enrolled()
  await assert.rejects(joinHost(joining()), /holds an identity already/)
})

test('a host that joins with a wrong clock is told by how much', async () => {
  await using _ = await authorityOf()
  const joined = await joinHost({ ...joining(), now: () => Date.now() + 2 * HOUR_MS })
  assert.equal(joined.clockWrong?.code, 'clock-wrong')
  assert(Math.abs(joined.clockAheadMs - 2 * HOUR_MS) < 600_000)
})

test('a certificate is renewed at half life, kept, and told about', async () => {
  await enrolled()
  await using _ = await authorityOf({ keepKeys: true })
  await using own = await openCredentials({
    folder: identityFolder,
    now: () => Date.now() + 15 * HOUR_MS,
  })
  const before = own.tls.chainPem
  await changeOf(own)
  assert.deepEqual(authority.asked, ['renew'])
  assert.notEqual(own.tls.chainPem, before)
  const stored = await readIdentity(identityFolder)
  assert.equal(own.tls.chainPem.startsWith(stored?.certificates[0]?.pem ?? '-'), true)
})

test('a certificate that ran out is renewed for a proof of the key', async () => {
  await using _ = await authorityOf()
  authority.now = () => Date.now() - 25 * HOUR_MS
  await joinHost(joining())
  authority.now = Date.now
  authority.asked.length = 0
  await using own = await openCredentials({ folder: identityFolder })
  await changeOf(own)
  assert.deepEqual(authority.asked, ['renewExpired'])
  assert(own.tls.notAfter.getTime() > Date.now())
})

test('what another process renews is taken over', async () => {
  await enrolled()
  await using _ = await authorityOf({ keepKeys: true })
  await using watching = await openCredentials({ folder: identityFolder, renew: 'watch' })
  await using renewing = await openCredentials({ folder: identityFolder, renew: 'watch' })
  const changed = changeOf(watching)
  await renewing.renewNow()
  await changed
  assert.equal(watching.tls.chainPem, renewing.tls.chainPem)
})

test('a renewal that fails is said and tried again', async () => {
  await enrolled()
  await using own = await openCredentials({
    folder: identityFolder,
    now: () => Date.now() + 15 * HOUR_MS,
  })
  await eventually(() => own.problem?.code === 'unavailable')
  await using _ = await authorityOf({ keepKeys: true })
  await eventually(() => own.problem === undefined)
})

test('keys are rotated all at once, and who has them open follows', async () => {
  await enrolled()
  await using _ = await authorityOf({ keepKeys: true })
  await using own = await openCredentials({ folder: identityFolder, renew: 'watch' })
  const before = publicKeyOf(own.identityKey)
  const changed = changeOf(own)
  await rotateHostKeys({ folder: identityFolder })
  await changed
  assert.notDeepEqual(publicKeyOf(own.identityKey), before)
  assert.deepEqual(publicKeyOf(own.identityKey), authority.hostKeys?.identity)
  assert.deepEqual(identityKeyFromPem(own.tls.keyPem).export(JWK), own.identityKey.export(JWK))
})

test('a host says of its tunnel key itself, and at a rotation also of the one before', async () => {
  await enrolled()
  await using _ = await authorityOf({ keepKeys: true })
  const first = authority.hostKeys
  assert(first)
  const { previous } = openTunnelKey(first.tunnelStatement, first.identity, first.tunnel)
  assert.equal(previous, undefined)

  await rotateHostKeys({ folder: identityFolder })

  const next = authority.hostKeys
  assert(next)
  const said = openTunnelKey(next.tunnelStatement, next.identity, next.tunnel)
  assert.notDeepEqual(said.tunnelKey, first.tunnel)
  assert.deepEqual(said.previous?.tunnelKey, first.tunnel)
  assert(said.previous.untilUnixMs > Date.now())
})

test('a rotation whose answer is lost is ended by the next one, with the same keys', async () => {
  await enrolled()
  await using _ = await authorityOf({ keepKeys: true })
  authority.answersToLose = 100
  await assert.rejects(rotateHostKeys({ folder: identityFolder }))
  const rotated = authority.hostKeys?.identity
  authority.answersToLose = 0
  await rotateHostKeys({ folder: identityFolder })
  assert.deepEqual(authority.hostKeys?.identity, rotated)
  const stored = await readIdentity(identityFolder)
  assert(stored)
  assert.deepEqual(publicKeyOf(stored.keys.identity), rotated)
})

test('a renewal ends a rotation whose answer was lost, for a proof of the new key', async () => {
  await enrolled()
  await using _ = await authorityOf({ keepKeys: true })
  authority.answersToLose = 100
  await assert.rejects(rotateHostKeys({ folder: identityFolder }))
  authority.answersToLose = 0
  authority.refusesRenewals = true
  await using own = await openCredentials({ folder: identityFolder, renew: 'watch' })
  await own.renewNow()
  assert.deepEqual(publicKeyOf(own.identityKey), authority.hostKeys?.identity)
  assert.equal(authority.asked.at(-1), 'renewExpired')
})

test('who is revoked is believed of the directory alone, newest first, and kept over a restart', async () => {
  await enrolled()
  const path = join(domain.folder, 'authority', authorityFiles.directoryKey)
  const directoryKey = identityKeyFromPem(readFileSync(path, 'utf8'))
  const victim = publicKeyOf(generateIdentityKey())
  const statement = (number: bigint, keys: Buffer[], key = directoryKey) =>
    signStatement(
      'revocations',
      Revocations.encode({
        number,
        keys: keys.map((identityKey) => ({ identityKey, hostId: 9, revokedAtUnixMs: 1n })),
      }).finish(),
      key,
    )
  {
    await using own = await openCredentials({ folder: identityFolder, renew: 'watch' })
    const forged = statement(9n, [victim], generateIdentityKey())
    await assert.rejects(own.noteRevocations(forged), StatementRefusedError)
    assert.equal(own.isRevoked(victim), false)
    const told: string[] = []
    own.onChange((what) => told.push(what))
    assert.equal(await own.noteRevocations(statement(5n, [victim])), true)
    assert.equal(await own.noteRevocations(statement(4n, [])), false)
    assert.equal(own.isRevoked(victim), true)
    assert.deepEqual(told, ['revoked'])
  }
  await using again = await openCredentials({ folder: identityFolder, renew: 'watch' })
  assert.equal(again.isRevoked(victim), true)
})

test('who was told to be revoked stays so for 8 days, although later statements name others', async () => {
  await enrolled()
  const path = join(domain.folder, 'authority', authorityFiles.directoryKey)
  const directoryKey = identityKeyFromPem(readFileSync(path, 'utf8'))
  let now = Date.now()
  const statement = (number: bigint, keys: readonly Buffer[], at = now) => {
    const named = keys.map((identityKey) => ({
      identityKey,
      hostId: 9,
      revokedAtUnixMs: BigInt(at),
    }))
    const payload = Revocations.encode({ number, keys: named }).finish()
    return signStatement('revocations', payload, directoryKey)
  }
  const [first, second, third] = [1, 2, 3].map((byte) => Buffer.alloc(32, byte))
  assert(first && second && third)
  await using own = await openCredentials({
    folder: identityFolder,
    renew: 'watch',
    now: () => now,
  })
  const refused = (): boolean[] => [first, second, third].map((key) => own.isRevoked(key))

  await own.noteRevocations(statement(5n, [first]))
  // At the same revision more keys are void when their time has come.
  assert.equal(await own.noteRevocations(statement(5n, [first, second])), true)
  assert.equal(await own.noteRevocations(statement(5n, [first, second])), false)
  assert.deepEqual(refused(), [true, true, false])
  const early = now
  now += 7 * DAY_MS
  await own.noteRevocations(statement(6n, [third]))
  assert.deepEqual(refused(), [true, true, true])
  now += 2 * DAY_MS
  assert.equal(await own.noteRevocations(statement(7n, [third], early + 7 * DAY_MS)), true)
  assert.deepEqual(refused(), [false, false, true])
  // Somebody kept it.
  assert.equal(await own.noteRevocations(statement(6n, [first], now)), false)
  assert.deepEqual(refused(), [false, false, true])
})

test('whoever any statement of the last 8 days named stays out over a restart', async () => {
  await enrolled()
  const path = join(domain.folder, 'authority', authorityFiles.directoryKey)
  const directoryKey = identityKeyFromPem(readFileSync(path, 'utf8'))
  const told = (number: bigint, identityKey: Buffer) => {
    const keys = [{ identityKey, hostId: 9, revokedAtUnixMs: BigInt(Date.now()) }]
    const payload = Revocations.encode({ number, keys }).finish()
    return signStatement('revocations', payload, directoryKey)
  }
  const victims = [1, 2, 3, 4].map((byte) => Buffer.alloc(32, byte))
  const [first, second, ...others] = victims
  assert(first && second)
  {
    await using own = await openCredentials({ folder: identityFolder, renew: 'watch' })
    await own.noteRevocations(told(5n, first))
    await own.noteRevocations(told(6n, second))
    await Promise.all(
      others.map((key, index) => own.noteRevocations(told(7n + BigInt(index), key))),
    )
  }

  await using again = await openCredentials({ folder: identityFolder, renew: 'watch' })

  assert.deepEqual(
    victims.map((key) => again.isRevoked(key)),
    [true, true, true, true],
  )
  const { mode } = statSync(join(identityFolder, identityFiles.voidKeys))
  assert.equal(mode & 0o777, 0o600)
})

test('void keys on disk that cannot be read are said to be lost, and keep nobody from starting', async () => {
  await enrolled()
  writeFileSync(join(identityFolder, identityFiles.voidKeys), Buffer.from([0xff]), { mode: 0o600 })
  const lines: string[] = []
  const log = createLogger({ service: 'test', stream: { write: (line) => void lines.push(line) } })

  await using own = await openCredentials({ folder: identityFolder, renew: 'watch', log })

  assert.equal(own.isRevoked(Buffer.alloc(32, 1)), false)
  assert(lines.some((line) => line.includes('who was revoked before is not known')))
})

test('a key that the VN database makes void is refused from its time on, and listeners are told once', async () => {
  await enrolled()
  let now = Date.now()
  await using own = await openCredentials({
    folder: identityFolder,
    renew: 'watch',
    now: () => now,
  })
  const told: string[] = []
  own.onChange((what) => told.push(what))
  const [present, ahead, past] = [1, 2, 3].map((byte) => Buffer.alloc(32, byte))
  assert(present && ahead && past)

  own.noteVoidKey(present, now)
  own.noteVoidKey(Buffer.alloc(32, 4), now)
  own.noteVoidKey(ahead, now + 30_000)
  own.noteVoidKey(past, now - 9 * DAY_MS)

  const refused = (): boolean[] => [present, ahead, past].map((key) => own.isRevoked(key))
  assert.deepEqual(refused(), [true, false, false])
  now += 30_000
  assert.deepEqual(refused(), [true, true, false])
  await eventually(() => told.length > 0)
  assert.deepEqual(told, ['revoked'])
})

test('a host that leaves has no identity any more', async () => {
  await enrolled()
  await using _ = await authorityOf({ keepKeys: true })
  assert.equal(await leaveDomain({ folder: identityFolder }), true)
  assert.deepEqual(readdirSync(identityFolder), [])
})

const DAY_MS = 24 * 3_600_000
const JWK = { format: 'jwk' } as const

function domainAt(out: string): Parameters<typeof createDomain>[0] {
  return {
    name: 'test.weft',
    places: {
      config: [sockets.config],
      enrolment: [sockets.enrolment],
      locationResolver: ['127.0.0.1:7002'],
      routingPolicy: ['127.0.0.1:7003'],
      bus: ['nats://127.0.0.1:4222', 'nats://bus.test.weft:4222'],
    },
    out,
    // So long ago that a host's first certificate may have run out.
    now: new Date(Date.now() - 26 * HOUR_MS),
  }
}

/** A new one; with `keepKeys` it knows the host that joined before. */
async function authorityOf({ keepKeys = false } = {}): Promise<TestAuthority> {
  const hostKeys = keepKeys ? authority.hostKeys : undefined
  authority = await startAuthority(domain.folder, sockets)
  authority.hostKeys = hostKeys
  return authority
}

/** Joins, at an authority that goes away again. */
async function enrolled(): ReturnType<typeof joinHost> {
  await using _ = await authorityOf()
  return await joinHost(joining())
}

function joining() {
  return {
    control: sockets.enrolment,
    fingerprint: domain.fingerprint,
    token: TOKEN,
    name: 'alpha',
    addresses: [],
    capabilities: [],
    wireVersions: [],
    folder: identityFolder,
  }
}

async function openService(name: string, now: () => number): Promise<OwnCredentials> {
  return await openCredentials({
    folder: join(domain.folder, 'services', name),
    renew: 'watch',
    now,
  })
}

async function changeOf(own: OwnCredentials): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  const forget = own.onChange(() => resolve())
  await promise
  forget()
}
