import assert from 'node:assert/strict'
import { createPublicKey, generateKeyPairSync, verify } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { decode } from '@nats-io/jwt'
import { UnauthenticatedError, UnavailableError } from '@weft/errors'
import type { BusLogin } from '@weft/identity'
import { createLogger } from '@weft/telemetry'
import {
  eventually,
  startDomainNats,
  startNats,
  type TestDomainNats,
  testDomain,
} from '@weft/testing'
import { buckets, connectBus, events, hostRowKey } from '../src/index.ts'
import { encodeJwt } from '../src/jwt.ts'
import { openSeed } from '../src/nkey.ts'
import {
  accountJwt,
  type BusPrincipal,
  createBusOperator,
  forAccounts,
  newBusKeys,
  newBusLogin,
  permissionsOf,
  pushAccount,
  userJwt,
} from '../src/operator.ts'
import { collect } from './conformance.ts'
import { RawClient } from './raw-client.ts'
import { text } from './text-codec.ts'

const log = createLogger({ service: 'test', level: 'silent' })
const host: BusPrincipal = { kind: 'host', id: 7 }
const HOUR_MS = 3_600_000

describe('a login', () => {
  let nats: TestDomainNats
  before(async () => {
    nats = await startDomainNats()
  })
  after(() => nats[Symbol.asyncDispose]())

  test('is good with its certificate, its JWT and the key of its JWT', async () => {
    await using client = await RawClient.as(nats.url, nats.credentials(host))
    assert.deepEqual(client.errors, [])
  })

  test('of a host that joins needs nothing to be told to the server', async () => {
    for (let id = 100; id < 110; id++) {
      const credentials = nats.credentials({ kind: 'host', id })
      await using bus = await connectBus({ servers: [nats.url], credentials, name: 'host', log })
      await bus.ping()
    }
  })

  /** Each makes one thing wrong. */
  const wrongLogins: { readonly [what: string]: (nats: TestDomainNats) => Partial<BusLogin> } = {
    'without a JWT': () => ({ jwt: '' }),
    'with a JWT that has expired': (nats) =>
      login(nats, { expiresAt: new Date(Date.now() - 1000) }),
    'with a JWT that is not valid yet': (nats) => {
      const { seed, publicKey } = newBusKeys()
      const now = Math.floor(Date.now() / 1000)
      return { seed, jwt: handMade(nats, publicKey, { nbf: now + 60, exp: now + 3600 }) }
    },
    'with the JWT of another operator': () => {
      const other = createBusOperator({ domain: 'test.weft', now: new Date() })
      return newBusLogin({
        account: other.accounts.hosts.seed,
        principal: host,
        now: new Date(),
        expiresAt: inAnHour(),
      })
    },
    'with a JWT that the operator signed, not an account': (nats) => {
      const { seed, publicKey } = newBusKeys()
      const signer = openSeed('operator', nats.operator.operator.seed)
      return { seed, jwt: handMade(nats, publicKey, {}, signer) }
    },
    'with a JWT that it signed itself': (nats) => {
      const { seed, publicKey } = newBusKeys()
      const user = openSeed('user', seed)
      const issuer = nats.operator.accounts.hosts.publicKey
      const signer = { ...user, role: 'account', publicKey: issuer } as const
      return { seed, jwt: handMade(nats, publicKey, {}, signer) }
    },
    'with a JWT whose algorithm is none': (nats) => {
      const { jwt, seed } = login(nats)
      const [, claims] = jwt.split('.')
      const header = base64({ typ: 'JWT', alg: 'none' })
      return { seed, jwt: `${header}.${claims}.` }
    },
    'with a JWT whose algorithm is none, and a signature': (nats) => {
      const { jwt, seed } = login(nats)
      const [, claims, signature] = jwt.split('.')
      return { seed, jwt: `${base64({ typ: 'JWT', alg: 'none' })}.${claims}.${signature}` }
    },
    'with a JWT whose algorithm is HS256 with the public key': (nats) => {
      const { jwt, seed } = login(nats)
      const [, claims, signature] = jwt.split('.')
      return { seed, jwt: `${base64({ typ: 'JWT', alg: 'HS256' })}.${claims}.${signature}` }
    },
    'with a JWT of the old form, whose signature leaves out the header': (nats) => {
      const { jwt, seed } = login(nats)
      const [, claims = ''] = jwt.split('.')
      const { accounts } = nats.operator
      const signature = openSeed('account', accounts.hosts.seed).sign(Buffer.from(claims))
      const header = base64({ typ: 'JWT', alg: 'ed25519-nkey' })
      return { seed, jwt: `${header}.${claims}.${signature.toString('base64url')}` }
    },
    'with a JWT into which other rights were written': (nats) => {
      const { jwt, seed } = login(nats)
      const [header, claims = '', signature] = jwt.split('.')
      const said = JSON.parse(Buffer.from(claims, 'base64url').toString())
      said.nats.pub = { allow: ['>'] }
      return { seed, jwt: `${header}.${base64(said)}.${signature}` }
    },
    'with a JWT that was written anew, with spaces': (nats) => {
      const { jwt, seed } = login(nats)
      const [header, claims = '', signature] = jwt.split('.')
      const said = Buffer.from(claims, 'base64url').toString().replace(/^\{/, '{ ')
      return { seed, jwt: `${header}.${Buffer.from(said).toString('base64url')}.${signature}` }
    },
    'with a JWT whose base64 is padded': (nats) => {
      const { jwt, seed } = login(nats)
      return { seed, jwt: `${jwt}=` }
    },
    'with a JWT that is cut': (nats) => {
      const { jwt, seed } = login(nats)
      return { seed, jwt: jwt.slice(0, -4) }
    },
    'with the JWT of an account': (nats) => ({ jwt: nats.operator.accountJwts.hosts }),
    'with the JWT of another host, and its own key': (nats) => ({ jwt: login(nats).jwt }),
    'with a key that signs something else': (nats) => {
      const { jwt } = login(nats)
      return { jwt, seed: newBusKeys().seed }
    },
  }

  for (const [what, make] of Object.entries(wrongLogins)) {
    test(`${what} is refused`, async () => {
      const { tls, bus } = nats.credentials(host)
      assert(bus)
      const { jwt, seed } = { ...bus, ...make(nats) }
      await assert.rejects(
        RawClient.connect(nats.url, { tls, jwt, seed }),
        /Authorization Violation|User Authentication Expired/,
      )
    })
  }

  test('is refused without proof that its key is held', async () => {
    const { tls, bus } = nats.credentials(host)
    assert(bus)
    await assert.rejects(
      RawClient.connect(nats.url, { tls, jwt: bus.jwt }),
      /Authorization Violation/,
    )
  })

  test('that is refused says so to our own client', async () => {
    const credentials = nats.credentials(host)
    const expired = login(nats, { expiresAt: new Date(Date.now() - 1000) })
    await assert.rejects(
      connectBus({ servers: [nats.url], credentials, login: expired, name: 'x', log }),
      UnauthenticatedError,
    )
    const user = nats.domain.credentials({ kind: 'user', id: 1 })
    await assert.rejects(
      connectBus({ servers: [nats.url], credentials: user, name: 'x', log }),
      UnauthenticatedError,
    )
  })

  test('of a service fits into the line that the server reads', async () => {
    const credentials = nats.credentials({
      kind: 'service',
      name: 'config',
      replica: 'a'.repeat(36),
    })
    await using client = await RawClient.as(nats.url, credentials)
    assert.deepEqual(client.errors, [])
    assert((credentials.bus?.jwt.length ?? 0) < 8 * 1024)
  })
})

describe('a TLS connection', () => {
  let nats: TestDomainNats
  before(async () => {
    nats = await startDomainNats()
  })
  after(() => nats[Symbol.asyncDispose]())

  test('without a certificate is refused', async () => {
    const { tls, bus } = nats.credentials(host)
    assert(bus)
    const tlsOptions = { cert: '', key: '' }
    await assert.rejects(RawClient.connect(nats.url, { tls, ...bus, tlsOptions }))
  })

  test('with a certificate of another domain of the same name is refused', async () => {
    const { bus } = nats.credentials(host)
    assert(bus)
    const other = testDomain({ domain: nats.domain.name }).credentials({ kind: 'host', id: 7 })
    const tlsOptions = { ca: nats.credentials(host).tls.rootsPem }
    await assert.rejects(RawClient.connect(nats.url, { tls: other.tls, ...bus, tlsOptions }))
  })

  test('with a certificate that has expired, or is not valid yet, is refused', async () => {
    const now = Date.now()
    for (const [from, to] of [
      [-2 * HOUR_MS, -HOUR_MS],
      [HOUR_MS, 2 * HOUR_MS],
    ] as const) {
      const { bus } = nats.credentials(host)
      assert(bus)
      const validity = { notBefore: new Date(now + from), notAfter: new Date(now + to) }
      const { tls } = nats.domain.credentials({ kind: 'host', id: 7 }, validity)
      await assert.rejects(RawClient.connect(nats.url, { tls, ...bus }))
    }
  })

  test('of TLS 1.2 is refused', async () => {
    const { tls, bus } = nats.credentials(host)
    assert(bus)
    const tlsOptions = { maxVersion: 'TLSv1.2', minVersion: 'TLSv1.2' } as const
    await assert.rejects(RawClient.connect(nats.url, { tls, ...bus, tlsOptions }))
  })

  test('to a server that is not the nats of our domain is given up', async () => {
    const servers = [nats.url]
    const others = testDomain({ domain: nats.domain.name })
    const { bus } = nats.credentials(host)
    assert(bus)
    const strangers = others.credentials({ kind: 'host', id: 7 }, { bus })
    const options = { servers, name: 'x', log, connectTimeoutMs: 50 }
    await assert.rejects(connectBus({ ...options, credentials: strangers }), UnavailableError)
  })

  test('is given up when the server shows another member, or has no TLS at all', async () => {
    const { operator, domain } = nats
    await using plain = await startNats()
    const credentials = nats.credentials(host)
    const options = { credentials, name: 'x', log, connectTimeoutMs: 50 }
    await assert.rejects(connectBus({ ...options, servers: [plain.url] }), UnavailableError)
    const other = { kind: 'host', id: 9 } as const
    await using thief = await startDomainNats({ operator, domain, shows: other })
    await assert.rejects(connectBus({ ...options, servers: [thief.url] }), (error) => {
      assert(error instanceof UnavailableError)
      assert.match(error.message, /spiffe:\/\/test\.weft\/host\/9/)
      return true
    })
  })
})

test('new credentials are used soon, and neither subscriptions nor watches notice', async () => {
  await using nats = await startDomainNats()
  const config: BusPrincipal = { kind: 'service', name: 'config', replica: '1' }
  const credentials = nats.credentials(config)
  const servers = [nats.url]
  await using bus = await connectBus({
    servers,
    credentials,
    name: 'config-1',
    log,
    reconnectPauseMaxMs: 10,
  })
  await using other = await connectBus({
    servers,
    credentials: nats.credentials({ ...config, replica: '2' }),
    name: 'config-2',
    log,
  })
  const rows = await other.openBucket(buckets.hosts, text)
  await using watch = collect(await bus.openBucket(buckets.hosts, text), 'host.7')
  const heard: string[] = []
  await using _subscription = bus.subscribe(events.keyRevoked.pattern(), text, (message) => {
    heard.push(message)
  })
  await eventually(() => watch.snapshots === 1)
  const states: string[] = []
  bus.onStateChange((state) => states.push(state))
  const usersBefore = await connectedUsers(nats)

  const renewed = nats.credentials(config).bus
  assert(renewed)
  credentials.renew({ bus: renewed })

  await eventually(() => states.includes('connected'))
  const users = await connectedUsers(nats)
  assert.equal(users.filter((user) => !usersBefore.includes(user)).length, 1, 'the new user')
  await eventually(async () => {
    other.publish(events.keyRevoked.subject('config-2', 1), text, 'x')
    await other.ping()
    return heard.length > 0
  })
  await rows.put(hostRowKey(7, 'self', 7), '1')
  await eventually(() => watch.last('host.7.self.7'))
  assert(watch.events.every(({ kind }) => kind !== 'reset'))
})

test('a server whose key is revoked is left', async () => {
  await using nats = await startDomainNats()
  const credentials = nats.credentials(host)
  await using bus = await connectBus({ servers: [nats.url], credentials, name: 'host-7', log })
  credentials.revoke(nats.server.publicKey)
  await eventually(() => bus.state === 'disconnected')
  await delay(200)
  assert.equal(bus.state, 'disconnected')
})

test('a user that is revoked is cut off alone, and does not come back with anything it has', async () => {
  await using nats = await startDomainNats()
  const { operator } = nats
  const ids = forAccounts((name) => operator.accounts[name].publicKey)
  const credentials = nats.credentials(host)
  const { tls, bus: revokedLogin } = credentials
  assert(revokedLogin)
  const { publicKey } = openSeed('user', revokedLogin.seed)
  await using revoked = await RawClient.as(nats.url, credentials)
  await using bystander = await RawClient.as(nats.url, nats.credentials({ kind: 'host', id: 8 }))
  await using system = await connectBus({
    servers: [nats.url],
    credentials: nats.credentials({ kind: 'system' }),
    name: 'config-1',
    log,
  })

  const jwt = accountJwt({
    account: 'hosts',
    ids,
    signingSeed: operator.signing.seed,
    now: new Date(),
    revokedUsers: [publicKey],
  })
  await pushAccount(system, jwt)

  await revoked.closed
  assert.deepEqual(revoked.errors, ['User Authentication Revoked'])
  await bystander.settled()
  assert.deepEqual(bystander.errors, [])
  const comeBack = (token: string): Promise<RawClient> =>
    RawClient.connect(nats.url, { tls, jwt: token, seed: revokedLogin.seed })
  await assert.rejects(comeBack(revokedLogin.jwt), /Authorization Violation/)
  // Other words for the same: the last letter of base64 has bits that say nothing.
  const [other = ''] = otherSpellings(revokedLogin.jwt)
  await assert.rejects(comeBack(other), /Authorization Violation/)
  const newer = userJwt({
    account: operator.accounts.hosts.seed,
    publicKey,
    principal: host,
    now: inAnHour(),
    expiresAt: new Date(Date.now() + 2 * HOUR_MS),
  })
  await assert.rejects(comeBack(newer), /Authorization Violation/, 'a key stays revoked')
  await nats.kill()
  await nats.start()
  await assert.rejects(comeBack(revokedLogin.jwt), /Authorization Violation/, 'after a restart')
  await using _again = await RawClient.as(nats.url, nats.credentials(host))
})

test('an account counts only with the signature of the operator, and only the system user gives one', async () => {
  await using nats = await startDomainNats()
  const { operator } = nats
  const servers = [nats.url]
  const stranger = createBusOperator({ domain: 'test.weft', now: new Date() })
  const ids = forAccounts((name) => operator.accounts[name].publicKey)
  const credentials = nats.credentials(host)
  assert(credentials.bus)
  const revokedUsers = [openSeed('user', credentials.bus.seed).publicKey]
  const revoking = (signingSeed: Uint8Array): string =>
    accountJwt({ account: 'hosts', ids, signingSeed, now: new Date(), revokedUsers })
  await using client = await RawClient.as(nats.url, credentials)
  for (const principal of [{ kind: 'service', name: 'config', replica: '1' }, host] as const) {
    const asked = { servers, credentials: nats.credentials(principal), name: 'x', log }
    await using bus = await connectBus(asked)
    await assert.rejects(pushAccount(bus, revoking(operator.signing.seed)))
  }
  await using system = await connectBus({
    servers,
    credentials: nats.credentials({ kind: 'system' }),
    name: 'config-1',
    log,
  })
  await pushAccount(system, revoking(stranger.signing.seed))
  await client.settled()
  await using _second = await RawClient.as(nats.url, credentials)
  assert.deepEqual(client.errors, [])

  await pushAccount(system, revoking(operator.operator.seed))
  await client.closed
  assert.deepEqual(client.errors, ['User Authentication Revoked'])
})

test('a JWT is what the official library reads, signed as it says', () => {
  const operator = createBusOperator({ domain: 'test.weft', now: new Date() })
  const { publicKey } = newBusKeys()
  const jwt = userJwt({
    account: operator.accounts.hosts.seed,
    publicKey,
    principal: host,
    now: new Date(),
    expiresAt: inAnHour(),
  })
  const { sub, iss, nats } = decode<{ pub: { allow: readonly string[] } }>(jwt)
  assert.equal(sub, publicKey)
  assert.equal(iss, operator.accounts.hosts.publicKey)
  assert.deepEqual(nats.pub?.allow, permissionsOf(host).publish)
  decode(operator.operatorJwt)
  for (const account of Object.values(operator.accountJwts)) decode(account)
  const stranger = generateKeyPairSync('ed25519').privateKey
  assert(!verify(null, Buffer.from(jwt), createPublicKey(stranger), Buffer.alloc(64)))
})

test('more revoked users than fit into a message are refused before they are sent', () => {
  const operator = createBusOperator({ domain: 'test.weft', now: new Date() })
  const make = (count: number): string =>
    accountJwt({
      account: 'hosts',
      ids: forAccounts((name) => operator.accounts[name].publicKey),
      signingSeed: operator.signing.seed,
      now: new Date(),
      revokedUsers: Array.from(
        { length: count },
        (_, index) => `${'U'.repeat(51)}${10000 + index}`,
      ),
    })
  assert(make(2000).length < 256 * 1024)
  assert.throws(() => make(2001), { code: 'limit-reached' })
})

function inAnHour(): Date {
  return new Date(Date.now() + HOUR_MS)
}

function login(
  { operator }: TestDomainNats,
  { expiresAt = inAnHour() }: { readonly expiresAt?: Date } = {},
): BusLogin {
  const account = operator.accounts.hosts.seed
  return newBusLogin({ account, principal: host, now: new Date(), expiresAt })
}

/** A host's JWT with other times, or by another signer. */
function handMade(
  { operator }: TestDomainNats,
  publicKey: string,
  times: { readonly nbf?: number; readonly exp?: number },
  signer: ReturnType<typeof openSeed> = openSeed('account', operator.accounts.hosts.seed),
): string {
  const { publish, subscribe } = permissionsOf(host)
  return encodeJwt(
    {
      name: 'host 7',
      sub: publicKey,
      iat: Math.floor(Date.now() / 1000),
      ...times,
      nats: {
        type: 'user',
        pub: { allow: publish },
        sub: { allow: subscribe },
        subs: -1,
        data: -1,
        payload: -1,
      },
    },
    signer,
  )
}

function base64(part: object): string {
  return Buffer.from(JSON.stringify(part)).toString('base64url')
}

/** Texts that decode to the same signature as this JWT. */
function otherSpellings(jwt: string): string[] {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
  const signature = jwt.split('.')[2] ?? ''
  const bytes = Buffer.from(signature, 'base64url')
  return Array.from(alphabet)
    .map((letter) => signature.slice(0, -1) + letter)
    .filter((other) => other !== signature && Buffer.from(other, 'base64url').equals(bytes))
    .map((other) => jwt.slice(0, -signature.length) + other)
}

async function connectedUsers(nats: TestDomainNats): Promise<string[]> {
  const answer = await fetch(`${nats.monitorUrl}/connz?auth=true`)
  const { connections } = (await answer.json()) as {
    connections: readonly { readonly authorized_user: string }[]
  }
  return connections.map((connection) => connection.authorized_user)
}
