import { type FileHandle, mkdir, open, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { AuditCopy, CopyRecord } from './copy.ts'
import { FILE_MAGIC, frameOf } from './frame.ts'

/** What the copy needs of a file. */
export type AuditFile = Pick<FileHandle, 'write' | 'datasync' | 'truncate' | 'close'>
/** Makes a file that nobody else has; rejects if it is there. */
export type OpenFile = (path: string) => Promise<AuditFile>

/** A chain in a file of its own, `<folder>/<writer>.audit`, which is made with the first record and synced with every batch. */
export class FileCopy implements AuditCopy {
  readonly kind = 'file'
  readonly name: string
  readonly #path: string
  readonly #open: OpenFile
  #file: AuditFile | undefined
  /** Up to here the file is known to be good. */
  #sizeBytes = 0
  /** Whether there may be more in it than what is good. */
  #isTorn = false

  constructor(folder: string, writer: string, openFile: OpenFile = createFile) {
    this.#path = join(folder, `${writer}.audit`)
    this.name = `file ${this.#path}`
    this.#open = openFile
  }

  async append(records: readonly CopyRecord[]): Promise<void> {
    const file = (this.#file ??= await this.#open(this.#path))
    const frames = records.map(({ record }) => frameOf(record))
    const bytes = Buffer.concat(this.#sizeBytes === 0 ? [FILE_MAGIC, ...frames] : frames)
    // After a failed sync the kernel may have dropped what was written and call the next sync good, so everything is
    // written again, and what a full disk took a part of goes first.
    if (this.#isTorn) await file.truncate(this.#sizeBytes)
    this.#isTorn = true
    for (let written = 0; written < bytes.byteLength; ) {
      const length = bytes.byteLength - written
      const { bytesWritten } = await file.write(bytes, written, length, this.#sizeBytes + written)
      if (bytesWritten === 0) throw new Error(`${this.#path} takes no more bytes`)
      written += bytesWritten
    }
    await file.datasync()
    this.#isTorn = false
    this.#sizeBytes += bytes.byteLength
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      if (this.#isTorn) await this.#file?.truncate(this.#sizeBytes)
    } finally {
      await this.#file?.close()
    }
  }
}

/** Only its owner reads it; its name survives a crash as well. */
async function createFile(path: string): Promise<FileHandle> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  const file = await open(path, 'wx', 0o600)
  try {
    const folder = await open(dirname(path), 'r')
    try {
      await folder.sync()
    } finally {
      await folder.close()
    }
    return file
  } catch (error) {
    // The next try makes it anew.
    await file.close()
    await rm(path, { force: true })
    throw error
  }
}
