import assert from 'node:assert/strict'
import { chmodSync, copyFileSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, beforeEach, test } from 'node:test'
import {
  BrokenInputError,
  CertificateRefusedError,
  ClockWrongError,
  InvalidArgumentError,
} from '@weft/errors'
import { pemOfKey, publicKeyOf, verifyChain } from '@weft/identity'
import { createIntermediate } from '@weft/identity/authority'
import { temporaryFolder, testDomain } from '@weft/testing'
import {
  issueService,
  issueUser,
  readAuthority,
  readIssuer,
  renewAuthority,
} from '../src/authority.ts'
import { createDomain } from '../src/create.ts'
import { readIdentity } from '../src/identity-folder.ts'

const DAY_MS = 24 * 3_600_000
const BEGIN = new Date('2026-03-01T12:00:00Z')
let temporary: Awaited<ReturnType<typeof temporaryFolder>>
let folder: string

before(async () => {
  temporary = await temporaryFolder()
})
after(() => temporary[Symbol.asyncDispose]())
beforeEach(async () => {
  folder = join(temporary.path, crypto.randomUUID())
  await domainIn(folder)
})

test('a renewed authority has a key of its own and 30 days, and the former one is believed until it ends', async () => {
  const before = await readAuthority(at('authority'))
  const issued = await identityOf('config')

  const renewed = await renew(daysLater(21))

  const { issuer, root } = await readAuthority(at('authority'))
  assert.deepEqual(renewed, { domain: 'lab.example', notAfter: daysLater(51) })
  assert.deepEqual(issuer.notAfter, renewed.notAfter)
  assert(!publicKeyOf(issuer.key).equals(publicKeyOf(before.issuer.key)))
  assert(before.root.equals(root))
  const chain = [issued.certificates[0]?.der ?? Buffer.of(), before.issuer.certificate]
  assert.equal(verifyChain({ chain, roots: [root], now: BEGIN }).identity.id, 'config')
})

test('an authority that has ended is renewed all the same, and services get certificates by it', async () => {
  const now = daysLater(60)
  await assert.rejects(issue('nats', now), (error) => {
    assert(error instanceof CertificateRefusedError)
    assert.equal(error.reason, 'expired')
    assert.match(error.remedy, /weft authority renew/)
    return true
  })
  await renew(now)

  const { notAfter } = await issue('nats', now)

  const { issuer, root } = await readAuthority(at('authority'))
  const { certificates, identity, message } = await identityOf('nats')
  assert.equal(identity.id, 'nats')
  assert.deepEqual(certificates.at(-1)?.notAfter, notAfter)
  for (const { der, notBefore } of certificates) {
    verifyChain({ chain: [der, issuer.certificate], roots: [root], now: notBefore })
  }
  assert.equal(message.busJwt, '')
})

test('a service that is given certificates by hand keeps its keys, and has a login as long as they last', async () => {
  const keyBefore = readFileSync(join(at('services/config'), 'identity.key'))

  const { notAfter } = await issue('config', daysLater(20))

  const { message } = await identityOf('config')
  const claims = JSON.parse(
    Buffer.from(message.busJwt.split('.')[1] ?? '', 'base64url').toString(),
  ) as { exp: number }
  assert.equal(claims.exp * 1000, notAfter.getTime())
  assert.deepEqual(readFileSync(join(at('services/config'), 'identity.key')), keyBefore)
})

test('a renewal that was cut short at any point leaves an authority that is whole', async () => {
  const key = join(at('authority'), 'intermediate.key')
  const certificate = join(at('authority'), 'intermediate.pem')
  const [oldKey, oldCertificate] = [readFileSync(key), readFileSync(certificate)]
  const before = await readIssuer(at('authority'))
  await renew(daysLater(1))
  const after = await readIssuer(at('authority'))

  // The next key is there, the certificate is not.
  renameSync(key, `${key}.next`)
  writeFileSync(key, oldKey, { mode: 0o600 })
  writeFileSync(certificate, oldCertificate, { mode: 0o600 })
  assert.deepEqual((await readIssuer(at('authority'))).certificate, before.certificate)
  // The certificate is there, and the key has not taken its place.
  await renew(daysLater(1))
  const last = await readIssuer(at('authority'))
  copyFileSync(key, `${key}.next`)
  writeFileSync(key, oldKey, { mode: 0o600 })
  assert.deepEqual((await readIssuer(at('authority'))).certificate, last.certificate)
  assert.notDeepEqual(last.certificate, after.certificate)
})

test('a root of another domain, one that ended, and one that others may read, change nothing', async () => {
  const other = join(temporary.path, crypto.randomUUID())
  await domainIn(other)
  const before = await readIssuer(at('authority'))
  const renewWith = (rootFolder: string, now: Date) =>
    renewAuthority({ rootFolder, authorityFolder: at('authority'), now })

  await assert.rejects(renewWith(join(other, 'root'), BEGIN), (error) => {
    assert(error instanceof InvalidArgumentError)
    assert.match(error.message, /its root is not the one in/)
    return true
  })
  await assert.rejects(renewWith(at('root'), daysLater(3651)), {
    code: 'certificate-refused',
    message: /^the root of the domain is refused: it has expired/,
  })
  await assert.rejects(renewWith(at('root'), daysLater(-1)), { code: 'certificate-refused' })
  await assert.rejects(renewWith(at('authority'), BEGIN), /root\.key is not there/)
  chmodSync(at('root'), 0o755)
  await assert.rejects(renewWith(at('root'), BEGIN), /others may enter it/)

  assert.deepEqual((await readIssuer(at('authority'))).certificate, before.certificate)
})

test('a service gets nothing with the folder of another, or by an authority that does not fit', async () => {
  await assert.rejects(
    issueService({
      name: 'nats',
      authorityFolder: at('authority'),
      identityFolder: at('services/config'),
      now: BEGIN,
    }),
    /its key is not that of service nats/,
  )
  await assert.rejects(issue('nats', daysLater(-2)), ClockWrongError)
  const key = join(at('authority'), 'intermediate.key')
  writeFileSync(key, pemOfKey(testDomain().directoryKey))
  await assert.rejects(issue('nats', BEGIN), /its key is not that of its certificate/)
  const stranger = createIntermediate({ root: testDomain().root, now: BEGIN })
  writeFileSync(key, pemOfKey(stranger.key))
  rmSync(join(at('authority'), 'intermediate.pem'))
  await assert.rejects(issue('nats', BEGIN), /intermediate\.pem is not there/)
  writeFileSync(join(at('authority'), 'domain.json'), '{}')
  await assert.rejects(issue('nats', BEGIN), BrokenInputError)
})

test('the owner of a domain is given a certificate by hand, for the same key, and nobody else by that folder', async () => {
  const late = daysLater(20)
  const owner = await readIdentity(at('owner'))
  assert(owner)

  const { userId, notAfter } = await issueUser({
    authorityFolder: at('authority'),
    identityFolder: at('owner'),
    now: late,
  })

  const after = await readIdentity(at('owner'))
  assert(after)
  assert.equal(userId, 1)
  assert(notAfter > late)
  assert.deepEqual(after.identity, owner.identity)
  assert.deepEqual(publicKeyOf(after.keys.identity), publicKeyOf(owner.keys.identity))
  assert(after.certificates[0]?.notAfter && after.certificates[0].notAfter > late)
  const other = join(temporary.path, crypto.randomUUID())
  await domainIn(other)
  for (const identityFolder of [at('services/config'), join(other, 'owner'), other]) {
    await assert.rejects(
      issueUser({ authorityFolder: at('authority'), identityFolder, now: late }),
      InvalidArgumentError,
    )
  }
})

function at(part: string): string {
  return join(folder, part)
}

function daysLater(days: number): Date {
  return new Date(BEGIN.getTime() + days * DAY_MS)
}

async function domainIn(out: string): Promise<void> {
  const places = {
    config: ['127.0.0.1:7001'],
    enrolment: ['127.0.0.1:7004'],
    locationResolver: [],
    routingPolicy: [],
    bus: ['nats://127.0.0.1:4222'],
  }
  await createDomain({ name: 'lab.example', places, out, now: BEGIN })
}

function renew(now: Date): ReturnType<typeof renewAuthority> {
  return renewAuthority({ rootFolder: at('root'), authorityFolder: at('authority'), now })
}

function issue(name: 'nats' | 'config', now: Date): ReturnType<typeof issueService> {
  const identityFolder = at(`services/${name}`)
  return issueService({ name, authorityFolder: at('authority'), identityFolder, now })
}

async function identityOf(
  name: string,
): Promise<NonNullable<Awaited<ReturnType<typeof readIdentity>>>> {
  const stored = await readIdentity(at(`services/${name}`))
  assert(stored)
  return stored
}
