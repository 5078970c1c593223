import { createHash } from 'node:crypto'
import { mkdir, open, readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { BrokenInputError } from '@weft/errors'

/** A file of the state folder that could not be used; it was moved aside, so that somebody can look at it. */
export interface MovedAside {
  readonly path: string
  readonly movedTo: string
  readonly problem: string
}

/**
 * A file that is either whole or not there: written beside, synced, renamed over the old one, and the folder synced. Its
 * first line is JSON with the format, its version, and the length and SHA-256 of the body that follows.
 */
export class StateFile {
  readonly path: string
  readonly #format: string
  readonly #version: number
  readonly #olderVersions: readonly number[]
  /** Writes follow each other: they share one temporary name, and the last one called must win. */
  #last: Promise<void> = Promise.resolve()

  /** `olderVersions`: what is read as well. */
  constructor(
    folder: string,
    name: string,
    version: number,
    olderVersions: readonly number[] = [],
  ) {
    this.path = join(folder, name)
    this.#format = `weftline-forwarder-${name}`
    this.#version = version
    this.#olderVersions = olderVersions
  }

  /** The body; undefined if there is no file. Throws `BrokenInputError` if it is not what was written. */
  async read(): Promise<Buffer | undefined> {
    const bytes = await readFile(this.path).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined
      throw error
    })
    if (!bytes) return undefined
    const end = bytes.indexOf(0x0a)
    const header = parseHeader(bytes.subarray(0, Math.max(end, 0)))
    if (header?.format !== this.#format) throw this.#broken('it has no header of this format')
    if (![this.#version, ...this.#olderVersions].includes(header.version)) {
      throw this.#broken(
        `it has version ${header.version}, and this program reads ${this.#version}`,
      )
    }
    const body = bytes.subarray(end + 1)
    if (body.length !== header.bodyBytes || sha256(body) !== header.sha256) {
      throw this.#broken('its body does not match its checksum')
    }
    return body
  }

  /** Resolves once the body would survive a power cut. */
  write(body: Uint8Array): Promise<void> {
    const written = this.#last.then(() => this.#write(body))
    this.#last = written.catch(() => {})
    return written
  }

  /** Renames a file that is of no use, so that it is neither read again nor lost. */
  async moveAside(nowMs: number): Promise<string> {
    const movedTo = `${this.path}.broken-${nowMs}`
    await rename(this.path, movedTo)
    return movedTo
  }

  /** Renames a file that is of a former life of this machine; one that was put away before goes. */
  async putAway(): Promise<void> {
    await rename(this.path, `${this.path}.former`).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error
    })
  }

  async #write(body: Uint8Array): Promise<void> {
    const header = {
      format: this.#format,
      version: this.#version,
      bodyBytes: body.length,
      sha256: sha256(body),
    }
    const temporary = `${this.path}.new`
    const file = await open(temporary, 'w', 0o600)
    try {
      await file.writev([Buffer.from(`${JSON.stringify(header)}\n`), body])
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(temporary, this.path)
    const folder = await open(join(this.path, '..'))
    try {
      await folder.sync()
    } finally {
      await folder.close()
    }
  }

  #broken(problem: string): BrokenInputError {
    return new BrokenInputError({ source: this.path, format: this.#format, problem })
  }
}

/** Makes the folder of the state files. */
export async function makeFolder(path: string): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o700 })
}

/** Reads what a file holds; one that is broken is moved aside and counts as missing. */
export async function load<T>(
  file: StateFile,
  parse: (body: Buffer) => T,
  nowMs: number,
): Promise<{ readonly value: T | undefined; readonly movedAside: MovedAside | undefined }> {
  try {
    const body = await file.read()
    return { value: body && parse(body), movedAside: undefined }
  } catch (error) {
    // A folder that cannot be read is not a broken file: the operator has to see it.
    if (error instanceof Error && 'errno' in error) throw error
    const movedTo = await file.moveAside(nowMs)
    const problem = error instanceof Error ? error.message : String(error)
    return { value: undefined, movedAside: { path: file.path, movedTo, problem } }
  }
}

interface Header {
  readonly format: string
  readonly version: number
  readonly bodyBytes: number
  readonly sha256: string
}

function parseHeader(line: Buffer): Header | undefined {
  try {
    const header: unknown = JSON.parse(line.toString())
    return typeof header === 'object' && header !== null ? (header as Header) : undefined
  } catch {
    return undefined
  }
}

function sha256(body: Uint8Array): string {
  return createHash('sha256').update(body).digest('hex')
}
