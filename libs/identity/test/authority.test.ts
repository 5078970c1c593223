import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import {
  type Authority,
  createIntermediate,
  createRoot,
  INTERMEDIATE_LIFETIME_MS,
  issueLadder,
  issueLeaf,
  LADDER_LENGTH,
  LADDER_STEP_MS,
  leafValidity,
  openAuthority,
} from '../src/authority.ts'
import {
  dersOfPem,
  generateIdentityKey,
  type Identity,
  identityKeyFromPem,
  pemOf,
  pemOfKey,
  publicKeyOf,
  verifyChain,
} from '../src/index.ts'

const NOW = new Date('2026-03-01T12:00:00.789Z')
const DAY_MS = 86_400_000
const DOMAIN = 'test.weft'
const HOST: Identity = { domain: DOMAIN, kind: 'host', id: 7 }
const NATS: Identity = { domain: DOMAIN, kind: 'service', id: 'nats' }
const root = createRoot({ domain: DOMAIN, now: NOW })
const authority = createIntermediate({ root, now: NOW })
const publicKey = publicKeyOf(generateIdentityKey())
const validity = leafValidity({ authority, now: NOW })

describe('an authority', () => {
  test('comes back from where it is kept', () => {
    const pem = { key: pemOfKey(authority.key), certificate: pemOf(authority.certificate) }
    const [certificate = Buffer.alloc(0)] = dersOfPem(pem.certificate)
    const opened = openAuthority({ certificate, key: identityKeyFromPem(pem.key) })
    const issued = leafOf(HOST, opened)
    assert.deepEqual(accepted([issued, certificate]), HOST)
    assert.deepEqual(
      [opened.domain, opened.notAfter],
      [DOMAIN, new Date('2026-03-31T12:00:00.000Z')],
    )
  })

  test('is none with the key of another, or with the certificate of a member', () => {
    const key = generateIdentityKey()
    const member = issueLeaf({
      authority,
      identity: HOST,
      publicKey: publicKeyOf(key),
      ...validity,
    })
    assert.throws(() => openAuthority({ certificate: authority.certificate, key }), {
      message: /its key is not that of its certificate/,
    })
    assert.throws(() => openAuthority({ certificate: member, key }), {
      message: /the certificate of no authority/,
    })
  })

  test('needs a usable domain', () => {
    for (const domain of ['', 'Upper.weft', 'a b', 'a/b', '-a', 'a'.repeat(64), 'a\n']) {
      assert.throws(() => createRoot({ domain, now: NOW }), { code: 'invalid-argument' }, domain)
    }
  })

  test('is never outlived by one that it makes', () => {
    const late = new Date(root.notAfter.getTime() - DAY_MS)
    const between = createIntermediate({ root, now: late })
    assert.deepEqual(between.notAfter, root.notAfter)
    const end = leafValidity({ authority: between, now: new Date(late.getTime() + DAY_MS / 2) })
    assert.deepEqual(end.notAfter, root.notAfter)
  })

  test('issues nothing that would be refused', () => {
    const good = { authority, identity: HOST, publicKey, ...validity }
    const wrong: { readonly [what: string]: Parameters<typeof issueLeaf>[0] } = {
      'another domain': { ...good, identity: { ...HOST, domain: 'other.weft' } },
      'host 0': { ...good, identity: { domain: DOMAIN, kind: 'host', id: 0 } },
      'a key of 31 bytes': { ...good, publicKey: publicKey.subarray(1) },
      'a key of low order': { ...good, publicKey: Buffer.alloc(32) },
      'an end before its begin': { ...good, notAfter: new Date(0) },
      'an end that is no time': { ...good, notAfter: new Date(Number.NaN) },
      'a longer life than its own': { ...good, notAfter: new Date(NOW.getTime() + 31 * DAY_MS) },
      'a DNS name of a host': { ...good, dnsNames: ['a.weft'] },
      'a DNS name that is none': { ...good, identity: NATS, dnsNames: ['a weft'] },
      'an address that is none': { ...good, identity: NATS, addresses: ['10.0.0.256'] },
      'too many names': { ...good, identity: NATS, dnsNames: Array(25).fill('a'.repeat(253)) },
    }
    for (const [what, member] of Object.entries(wrong)) {
      assert.throws(() => issueLeaf(member), { code: 'invalid-argument' }, what)
    }
    const longest = { ...good, identity: NATS, dnsNames: Array(24).fill('a'.repeat(253)) }
    assert.deepEqual(accepted([issueLeaf(longest), authority.certificate]), NATS)
  })

  test('never gives a serial number twice, and always sixteen bytes of it', () => {
    const serials = new Set<string>()
    for (let i = 0; i < 200; i++) serials.add(new X509Certificate(leafOf(HOST)).serialNumber)
    assert.equal(serials.size, 200)
    assert([...serials].every((serial) => /^[4-7][0-9A-F]{31}$/.test(serial)))
  })
})

describe('a ladder', () => {
  test('has at every hour of eight days a certificate that is valid for another twelve hours', () => {
    const ladder = issueLadder({ authority, identity: NATS, publicKey, now: NOW })
    assert.equal(ladder.length, LADDER_LENGTH)
    const rungs = ladder.map((rung) => {
      const { validFromDate, validToDate } = new X509Certificate(rung)
      return { rung, from: validFromDate.getTime(), to: validToDate.getTime() }
    })
    for (const { rung, from, to } of rungs) {
      const chain = [rung, authority.certificate]
      const now = new Date((from + to) / 2)
      assert.deepEqual(verifyChain({ chain, roots: [root.certificate], now }).identity, NATS)
    }
    for (let at = NOW.getTime(); at < NOW.getTime() + 8 * DAY_MS; at += 3_600_000) {
      const lasting = rungs.some(({ from, to }) => from <= at && to >= at + LADDER_STEP_MS - 1000)
      assert(lasting, new Date(at).toISOString())
    }
  })

  test('ends with its authority, and has a certificate as long as that lives', () => {
    const now = new Date(NOW.getTime() + INTERMEDIATE_LIFETIME_MS - 1.25 * DAY_MS)
    const ladder = issueLadder({ authority, identity: NATS, publicKey, now })
    assert.equal(ladder.length, 3)
    const ends = ladder.map((rung) => new X509Certificate(rung).validToDate.getTime())
    assert(ends.every((end) => end <= authority.notAfter.getTime()))
    const over = new Date(authority.notAfter.getTime() + DAY_MS)
    assert.throws(() => issueLadder({ authority, identity: NATS, publicKey, now: over }), {
      code: 'invalid-argument',
    })
  })
})

describe('OpenSSL', () => {
  test('accepts what an authority issues, by its strictest rules', async (context) => {
    const places = { dnsNames: ['nats.test'], addresses: ['127.0.0.1', 'fd00::1'] }
    for (const member of [leafOf(HOST), leafOf(NATS, authority, places)]) {
      const said = await opensslVerify(context, root, member)
      if (said === undefined) return
      assert.match(said, /: OK/)
    }
  })

  test('refuses what another authority issued', async (context) => {
    const other = createRoot({ domain: DOMAIN, now: NOW })
    const said = await opensslVerify(context, other, leafOf(HOST))
    if (said !== undefined) assert.match(said, /verification failed/)
  })

  test('reads the same names, times and purposes', () => {
    const read = new X509Certificate(leafOf(HOST))
    assert.equal(read.subjectAltName, 'URI:spiffe://test.weft/host/7')
    assert.equal(read.subject, 'O=test.weft\nCN=host/7')
    assert.deepEqual(read.keyUsage, ['1.3.6.1.5.5.7.3.2', '1.3.6.1.5.5.7.3.1'])
    assert.equal(read.ca, false)
    assert.deepEqual(
      [read.validFromDate, read.validToDate],
      [new Date('2026-03-01T11:55:00Z'), new Date('2026-03-02T12:00:00Z')],
    )
  })
})

function leafOf(
  identity: Identity,
  by: Authority = authority,
  places: { readonly dnsNames?: string[]; readonly addresses?: string[] } = {},
): Buffer {
  return issueLeaf({ authority: by, identity, publicKey, ...validity, ...places })
}

function accepted(chain: readonly Buffer[]): Identity {
  return verifyChain({ chain, roots: [root.certificate], now: NOW }).identity
}

/** What `openssl verify` says; undefined where there is none. */
async function opensslVerify(
  context: TestContext,
  trusted: Authority,
  member: Buffer,
): Promise<string | undefined> {
  if (spawnSync('openssl', ['version']).status !== 0) {
    context.skip('openssl is not on PATH')
    return undefined
  }
  const folder = await mkdtemp(join(tmpdir(), 'weft-openssl-'))
  try {
    const file = async (name: string, der: Buffer): Promise<string> => {
      await writeFile(join(folder, name), pemOf(der))
      return join(folder, name)
    }
    const words = [
      ...['verify', '-x509_strict', '-purpose', 'sslclient'],
      ...['-attime', String(Math.floor(NOW.getTime() / 1000))],
      ...['-CAfile', await file('root.pem', trusted.certificate)],
      ...['-untrusted', await file('between.pem', authority.certificate)],
      await file('member.pem', member),
    ]
    const { stdout, stderr } = spawnSync('openssl', words, { encoding: 'utf8' })
    return stdout + stderr
  } finally {
    await rm(folder, { recursive: true })
  }
}
