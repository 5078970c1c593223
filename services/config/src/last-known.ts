import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { writePrivateFile } from '@weft/domain'
import { BrokenInputError, StatementRefusedError } from '@weft/errors'
import { decodeSigned, openStatement } from '@weft/identity'
import { Revocations, Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import type { VoidKey } from './domain/members.ts'

const FILE = 'last-known.binpb'

/**
 * How far a replica knew the VN database and which keys were void, on its own disk: what the store of nats-server says is
 * compared with it, for a store may come from a backup. It is a statement as it is told to everybody, signed by the directory.
 */
export class LastKnown {
  /** Of the VN database, when the replica ended; 0 if it never ran here. */
  readonly revision: bigint
  readonly keys: readonly VoidKey[]
  readonly #folder: string

  private constructor(folder: string, { number, keys }: Pick<Revocations, 'number' | 'keys'>) {
    this.#folder = folder
    this.revision = number
    this.keys = keys.map(({ identityKey, hostId, revokedAtUnixMs }) => ({
      identityKey,
      busKey: '',
      hostId,
      revokedAtUnixMs: Number(revokedAtUnixMs),
    }))
  }

  /** `directoryKey`: Ed25519, 32 bytes. @throws BrokenInputError if the file was changed, or is of another domain */
  static async read(folder: string, directoryKey: Uint8Array): Promise<LastKnown> {
    const path = join(folder, FILE)
    const bytes = await readFile(path).catch((error: NodeJS.ErrnoException) => {
      // Where there is no folder yet nothing can be audited either, and so nothing be written.
      if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined
      throw error
    })
    if (bytes === undefined) return new LastKnown(folder, { number: 0n, keys: [] })
    try {
      const statement = decodeSigned('revocations', bytes)
      return new LastKnown(
        folder,
        openStatement('revocations', statement, Revocations, directoryKey),
      )
    } catch (error) {
      if (!(error instanceof StatementRefusedError)) throw error
      throw new BrokenInputError({
        source: path,
        format: 'revocations',
        problem: `${error.message}; it was changed, or is of another domain. See that the folder is the right one; remove the file to go on without what it knew`,
      })
    }
  }

  /** Replaces the file as a whole. */
  async write(statement: Signed): Promise<void> {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 })
    await writePrivateFile(join(this.#folder, FILE), Signed.encode(statement).finish())
  }
}
