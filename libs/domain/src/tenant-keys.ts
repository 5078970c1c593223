import { join } from 'node:path'
import { InvalidConfigError, WeftError } from '@weft/errors'
import { formatTenantKey, parseTenantKeys, type TenantKeyPin } from '@weft/identity'
import { readPrivateFile, writePrivateFile } from './files.ts'
import { identityFiles } from './layout.ts'

/**
 * Keys of locked tenants that a host was told to trust before it met the tenants; none if there is no such file.
 * @throws InvalidConfigError if the file is not what it should be
 */
export async function readTenantKeys(folder: string): Promise<TenantKeyPin[]> {
  const path = join(folder, identityFiles.tenantKeys)
  const bytes = await readPrivateFile(path)
  try {
    return bytes === undefined ? [] : parseTenantKeys(bytes.toString())
  } catch (error) {
    if (!(error instanceof WeftError)) throw error
    throw new InvalidConfigError([`${path}: ${error.message}`])
  }
}

/** Has a host trust these keys from its next start on. */
export async function writeTenantKeys(
  folder: string,
  pins: readonly TenantKeyPin[],
): Promise<void> {
  const lines = pins.map((pin) => `${formatTenantKey(pin)}\n`)
  await writePrivateFile(join(folder, identityFiles.tenantKeys), lines.join(''))
}
