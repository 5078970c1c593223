import { type FileHandle, open, readFile, rm, stat } from 'node:fs/promises'
import { InvalidArgumentError } from '@weft/errors'
import { sentenceView, type View } from './output.ts'
import type { Session } from './session.ts'

/** A token or code has less than a hundred characters; a file that is larger is another one. */
const SECRET_FILE_MAX_BYTES = 4096

/** Reads a token or code from a file, or with `-` from standard input: an argument could be read by everybody (ps). */
export async function readSecret(session: Session, option: string, path: string): Promise<string> {
  const text = path === '-' ? await session.io.readInput(SECRET_FILE_MAX_BYTES) : await fileText()
  if (text.trim() !== '') return text.trim()
  throw new InvalidArgumentError({
    field: option,
    problem: 'it is empty',
    remedy: `give it in ${option} FILE`,
  })

  async function fileText(): Promise<string> {
    const problem = await stat(path).then(
      ({ size }) => (size > SECRET_FILE_MAX_BYTES ? `it has ${size} bytes` : undefined),
      (error: Error) => error.message,
    )
    if (problem === undefined) return await readFile(path, 'utf8')
    const remedy = 'name a file that holds it, or - for standard input'
    throw new InvalidArgumentError({ field: option, problem, remedy })
  }
}

/** Writes a secret into a new file that its owner alone may read. */
export async function writeSecret(path: string, text: string, option = '--out'): Promise<void> {
  const file = await openNew(path, option)
  await file.writeFile(`${text}\n`)
  await file.close()
}

async function openNew(path: string, option: string): Promise<FileHandle> {
  try {
    return await open(path, 'wx', 0o600)
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error)
    throw new InvalidArgumentError({
      field: option,
      problem,
      remedy: 'name a file that is not there yet',
    })
  }
}

/** A new file for a secret, which its owner alone may read; it is gone again unless it was written. */
export class NewSecretFile implements AsyncDisposable {
  readonly #path: string
  readonly #file: FileHandle
  #isWritten = false

  private constructor(path: string, file: FileHandle) {
    this.#path = path
    this.#file = file
  }

  /** @throws InvalidArgumentError if there is such a file already, or none can be made; `option` has named it */
  static async make(path: string, option: string): Promise<NewSecretFile> {
    return new NewSecretFile(path, await openNew(path, option))
  }

  async write(text: string): Promise<void> {
    await this.#file.writeFile(text)
    await this.#file.sync()
    await this.#file.close()
    this.#isWritten = true
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isWritten) return
    await this.#file.close()
    await rm(this.#path, { force: true })
  }
}

/** Hands over a new secret: in a new file, or with `-` on standard output, which then has nothing else, so that it can be piped. */
export async function secretView(
  session: Session,
  out: string,
  { text, about, data }: { readonly text: string; readonly about: string; readonly data: object },
): Promise<View> {
  if (out !== '-') {
    await writeSecret(out, text)
    return sentenceView(data, `${about}, is in ${out}`)
  }
  if (session.options.output === 'table') session.io.stderr(`${about}:\n`)
  return sentenceView({ ...data, text }, text)
}

/** Asks on a terminal whether to go on; without one, only `--yes` says so. @throws InvalidArgumentError if not */
export async function confirm(session: Session, what: string, isSure: boolean): Promise<void> {
  if (isSure) return
  const refused = (problem: string): InvalidArgumentError =>
    new InvalidArgumentError({ field: '--yes', problem, remedy: 'say --yes if you mean it' })
  if (!session.io.isInputTerminal)
    throw refused(`${what} cannot be undone, and nobody can be asked`)
  const answer = await session.io.ask(`${what}. This cannot be undone. Go on? [y/N] `)
  if (!/^y(?:es)?$/i.test(answer.trim())) throw refused('nothing was done')
}
