import assert from 'node:assert/strict'
import { chmod, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { openBusSeed } from '@weft/bus/operator'
import { authorityFiles, writePrivateFile } from '@weft/domain'
import {
  CertificateRefusedError,
  ClockWrongError,
  InvalidArgumentError,
  UnavailableError,
  type WeftError,
} from '@weft/errors'
import { pemOf, pemOfKey, verifyChain } from '@weft/identity'
import { createIntermediate, type Authority as Issuer } from '@weft/identity/authority'
import { createLogger } from '@weft/telemetry'
import { eventually, temporaryFolder, testDomain } from '@weft/testing'
import { AuthorityKeeper, readAuthorityFolder } from '../src/authority-folder.ts'
import { Events } from '../src/events.ts'
import { newSite, writeFolders } from './domain.ts'

const DAY_MS = 24 * 3_600_000

test('the authority folder is read as it was made', async () => {
  await using folder = await temporaryFolder()
  const site = newSite()
  await writeFolders(site, folder.path)

  const { authority, accounts } = await readAuthorityFolder(authorityIn(folder.path), new Date())

  assert.equal(authority.domain, 'test.weft')
  assert.deepEqual(authority.ownerKey, site.owner.publicKey)
  assert.equal(authority.serviceOf(site.config.publicKey), 'config')
  for (const seed of [authorityFiles.systemUserSeed, authorityFiles.hostsAdminSeed]) {
    const bytes = await readFile(join(authorityIn(folder.path), seed))
    const bus = openBusSeed('user', bytes).publicKey
    assert.equal(authority.isReserved({ identity: Buffer.alloc(32), bus }), true)
  }
  assert.equal(accounts.hosts, site.operator.accounts.hosts.publicKey)
  assert.equal(authority.serviceCredentials('config', new Date()).certificates.length, 16)
})

test('an authority folder that others may read, or that lacks something, is refused with the way out', async () => {
  await using folder = await temporaryFolder()
  await writeFolders(newSite(), folder.path)
  const key = join(authorityIn(folder.path), authorityFiles.intermediateKey)

  await chmod(authorityIn(folder.path), 0o755)
  await refused(folder.path, InvalidArgumentError, /chmod 700/)
  await chmod(authorityIn(folder.path), 0o700)
  await chmod(key, 0o640)
  await refused(folder.path, InvalidArgumentError, /chmod 600/)
  await rm(key)
  await refused(folder.path, InvalidArgumentError, /weft init/)
})

test('an authority that has ended, lies ahead, or is not below the root, is refused', async () => {
  await using folder = await temporaryFolder()
  await writeFolders(newSite(), folder.path)
  const at = (days: number): Date => new Date(Date.now() + days * DAY_MS)

  await refused(folder.path, CertificateRefusedError, /clock/, at(31))
  await refused(folder.path, ClockWrongError, /clock/, at(-2))
  const otherRoot = join(authorityIn(folder.path), authorityFiles.root)
  await writeFile(otherRoot, pemOf(testDomain().root.certificate), { mode: 0o600 })
  await refused(folder.path, CertificateRefusedError, /./)
})

test('a renewed authority is taken over without a restart, and what was issued before is still believed', async () => {
  await using folder = await temporaryFolder()
  const site = newSite()
  await writeFolders(site, folder.path)
  const { authority } = await readAuthorityFolder(authorityIn(folder.path), new Date())
  const before = authority.serviceCredentials('config', new Date())
  const { events, said } = hearing()
  using _keeper = new AuthorityKeeper(authorityIn(folder.path), authority, events)

  await put(folder.path, createIntermediate({ root: site.domain.root, now: new Date() }))

  await eventually(() => said.some((line) => line.includes('the authority was renewed')))
  const after = authority.serviceCredentials('config', new Date())
  assert.notDeepEqual(after.authorities[0], before.authorities[0])
  for (const { certificates, authorities } of [before, after]) {
    const chain = [certificates[0] ?? Buffer.of(), ...authorities]
    const roots = [site.domain.root.certificate]
    assert.equal(verifyChain({ chain, roots, now: new Date() }).identity.id, 'config')
  }
  assert.equal(said.length, 1)
})

test('an authority that has ended while config ran is followed by the renewed one', async () => {
  await using folder = await temporaryFolder()
  const site = newSite()
  await writeFolders(site, folder.path)
  const { authority } = await readAuthorityFolder(authorityIn(folder.path), new Date())
  const now = new Date(Date.now() + 40 * DAY_MS)
  assert.throws(
    () => authority.serviceCredentials('config', now),
    (error) =>
      error instanceof UnavailableError &&
      /its authority has ended/.test(error.message) &&
      /weft authority renew/.test(error.remedy),
  )
  const { events } = hearing()
  using keeper = new AuthorityKeeper(authorityIn(folder.path), authority, events, () => now)

  await put(folder.path, createIntermediate({ root: site.domain.root, now }))
  await keeper.look()

  assert.equal(authority.serviceCredentials('config', now).certificates.length, 16)
})

test('what is put into the folder and cannot be used is said once with the way out, and changes nothing', async () => {
  const root = testDomain().root
  const other: { readonly [why: string]: (site: ReturnType<typeof newSite>) => Issuer } = {
    'of another root': () => createIntermediate({ root, now: new Date() }),
    'of another domain': () =>
      createIntermediate({
        root: testDomain({ domain: 'other.weft' }).root,
        now: new Date(),
      }),
    'from before the one in use': ({ domain }) =>
      createIntermediate({ root: domain.root, now: new Date(Date.now() - DAY_MS) }),
    'that has not begun': ({ domain }) =>
      createIntermediate({ root: domain.root, now: new Date(Date.now() + DAY_MS) }),
    'with the key of another': ({ domain }) => ({
      ...createIntermediate({ root: domain.root, now: new Date() }),
      key: domain.directoryKey,
    }),
  }
  for (const [why, make] of Object.entries(other)) {
    await using folder = await temporaryFolder()
    const site = newSite()
    await writeFolders(site, folder.path)
    const { authority } = await readAuthorityFolder(authorityIn(folder.path), new Date())
    const { events, said } = hearing()
    using keeper = new AuthorityKeeper(authorityIn(folder.path), authority, events)
    await put(folder.path, make(site))

    await keeper.look()
    await keeper.look()

    assert(authority.isIssuer(site.domain.intermediate), why)
    assert.equal(said.length, 1, why)
    assert.match(said[0] ?? '', /"level":"error".*"remedy":"[^"]+"/, why)
  }
})

test('ten days before the authority ends it is said what to do, and not before', async () => {
  await using folder = await temporaryFolder()
  await writeFolders(newSite(), folder.path)
  const { authority } = await readAuthorityFolder(authorityIn(folder.path), new Date())
  const saidOn = (day: number): string[] => {
    const { events, said } = hearing()
    const now = new Date(Date.now() + day * DAY_MS)
    new AuthorityKeeper(authorityIn(folder.path), authority, events, () => now)[Symbol.dispose]()
    return said
  }

  assert.deepEqual(saidOn(19), [])
  const [warning = '', ...more] = saidOn(21)
  assert.match(warning, /"level":"warn".*weft authority renew/)
  assert.deepEqual(more, [])
})

function authorityIn(folder: string): string {
  return join(folder, 'authority')
}

async function refused(
  folder: string,
  kind: abstract new (...args: never[]) => WeftError,
  remedy: RegExp,
  now: Date = new Date(),
): Promise<void> {
  await assert.rejects(readAuthorityFolder(authorityIn(folder), now), (error) => {
    assert(error instanceof kind, String(error))
    assert.match(error.remedy, remedy)
    return true
  })
}

/** Puts another certificate and key into the authority folder, as `weft authority renew` does. */
async function put(folder: string, { certificate, key }: Issuer): Promise<void> {
  const path = (name: string): string => join(authorityIn(folder), name)
  await writePrivateFile(path(authorityFiles.intermediate), pemOf(certificate))
  await writePrivateFile(path(authorityFiles.intermediateKey), pemOfKey(key))
}

/** Events, and the lines that they come to in the log. */
function hearing(): { readonly events: Events; readonly said: string[] } {
  const said: string[] = []
  const stream = { write: (line: string) => void said.push(line) }
  return { events: new Events(createLogger({ service: 'test', level: 'info', stream })), said }
}
