import assert from 'node:assert/strict'
import { chmod, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { InvalidConfigError } from '@weft/errors'
import { generateIdentityKey, publicKeyOf } from '@weft/identity'
import { temporaryFolder } from '@weft/testing'
import { readTenantKeys, writeTenantKeys } from '../src/index.ts'

const FILE = 'tenant-keys'

test('a host reads the keys that it was told, and none where there is no file', async () => {
  await using folder = await temporaryFolder()
  const publicKey = publicKeyOf(generateIdentityKey())
  const pins = [{ tenantId: 3, tenant: 'acme', number: 1, publicKey }]
  assert.deepEqual(await readTenantKeys(folder.path), [])

  await writeTenantKeys(folder.path, pins)

  assert.deepEqual(await readTenantKeys(folder.path), pins)
  assert.equal((await stat(join(folder.path, FILE))).mode & 0o777, 0o600)
})

test('a file that is broken, or that others may read, is refused with its path', async () => {
  await using folder = await temporaryFolder()
  const path = join(folder.path, FILE)
  await writeFile(path, '3 acme 1 ed25519:00\n', { mode: 0o600 })

  await assert.rejects(
    readTenantKeys(folder.path),
    (error) => error instanceof InvalidConfigError && error.message.includes(path),
  )
  await chmod(path, 0o644)
  await assert.rejects(readTenantKeys(folder.path), { code: 'invalid-argument' })
})
