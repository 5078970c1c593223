import { randomBytes } from 'node:crypto'
import type { Stats } from 'node:fs'
import { chmod, chown, mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { InvalidArgumentError } from '@weft/errors'

/** Nothing that is kept here is larger; a ladder of certificates with its bus JWT has about 10 KB. */
export const FILE_MAX_BYTES: number = 1024 * 1024

/** Makes a folder, with its parents, that its owner alone may enter. */
export async function makePrivateFolder(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  // Also where it was there already, or the umask had its say.
  await chmod(folder, 0o700)
}

/**
 * Writes a file that its owner alone may read, as a whole or not at all: beside its place, to the disk, then into its
 * place. It gets the owner of its folder, since root may renew what a service of another user reads.
 */
export async function writePrivateFile(path: string, content: string | Uint8Array): Promise<void> {
  const folder = dirname(path)
  const beside = join(folder, `.${randomBytes(8).toString('hex')}.part`)
  try {
    const file = await open(beside, 'wx', 0o600)
    try {
      await file.writeFile(content)
      const { uid, gid } = await stat(folder)
      if (process.getuid?.() === 0 && uid !== 0) await file.chown(uid, gid)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(beside, path)
  } catch (error) {
    await rm(beside, { force: true })
    throw error
  }
  await syncFolder(folder)
}

/** Makes renames and removals inside a folder last. */
export async function syncFolder(folder: string): Promise<void> {
  const opened = await open(folder, 'r')
  try {
    await opened.sync()
  } finally {
    await opened.close()
  }
}

/**
 * Reads a file that holds a secret. Undefined if it is not there.
 * @throws InvalidArgumentError if others than its owner may read it, or it is no file, or too large
 */
export async function readPrivateFile(path: string): Promise<Buffer | undefined> {
  const found = await statOf(path)
  if (found === undefined) return undefined
  if (!found.isFile()) throw badPath(path, 'it is no file', 'name a file')
  if ((found.mode & 0o077) !== 0) {
    throw badPath(path, `others may read it (mode ${modeText(found.mode)})`, `chmod 600 ${path}`)
  }
  return await readBounded(path, found.size)
}

/** Reads a file that holds no secret. Undefined if it is not there. @throws InvalidArgumentError if it is too large */
export async function readPublicFile(path: string): Promise<Buffer | undefined> {
  const found = await statOf(path)
  return found && (await readBounded(path, found.size))
}

/** @throws InvalidArgumentError if others than its owner may enter a folder, or it is none */
export async function checkPrivateFolder(folder: string): Promise<void> {
  const found = await statOf(folder)
  if (found === undefined) throw badPath(folder, 'it is not there', 'name a folder that is')
  if (!found.isDirectory()) throw badPath(folder, 'it is no folder', 'name a folder')
  if ((found.mode & 0o077) !== 0) {
    const problem = `others may enter it (mode ${modeText(found.mode)})`
    throw badPath(folder, problem, `chmod 700 ${folder}`)
  }
}

/** Gives a folder and the named files in it to another user. */
export async function giveTo(uid: number, folder: string, names: readonly string[]): Promise<void> {
  for (const name of names) await chown(join(folder, name), uid, -1)
  await chown(folder, uid, -1)
}

export function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT'
}

async function statOf(path: string): Promise<Stats | undefined> {
  try {
    return await stat(path)
  } catch (error) {
    if (isMissing(error)) return undefined
    throw unreadable(path, error)
  }
}

async function readBounded(path: string, size: number): Promise<Buffer> {
  if (size > FILE_MAX_BYTES) {
    throw badPath(path, `it has ${size} bytes, at most ${FILE_MAX_BYTES} are read`, 'name another')
  }
  try {
    return await readFile(path)
  } catch (error) {
    throw unreadable(path, error)
  }
}

function unreadable(path: string, error: unknown): InvalidArgumentError {
  const problem = error instanceof Error ? error.message : String(error)
  return badPath(path, `it cannot be read: ${problem}`, 'run as the user to whom it belongs')
}

function badPath(path: string, problem: string, remedy: string): InvalidArgumentError {
  return new InvalidArgumentError({ field: path, problem, remedy })
}

function modeText(mode: number): string {
  return (mode & 0o7777).toString(8).padStart(4, '0')
}
