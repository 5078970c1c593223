import { readFile, stat } from 'node:fs/promises'
import { uptime } from 'node:os'
import { join } from 'node:path'
import { asWeftError, InvalidArgumentError } from '@weft/errors'
import type { TlsMaterial } from '@weft/identity'
import type { Logger } from '@weft/telemetry'
import type { OwnCredentials } from './credentials.ts'
import {
  checkPrivateFolder,
  isMissing,
  readPrivateFile,
  readPublicFile,
  writePrivateFile,
} from './files.ts'
import { natsFiles } from './layout.ts'

interface KeepTlsFilesOptions {
  /** Whose certificate it is; they renew themselves. */
  readonly credentials: Pick<OwnCredentials, 'tls' | 'onChange'>
  /** Gets `chain.pem`, `key.pem` and `roots.pem`; its owner alone may enter it. */
  readonly folder: string
  /** In which nats-server, started with `--pid`, says which process it is; without it nobody is told. */
  readonly pidFile?: string | undefined
  readonly log: Logger
  /** Ends it. */
  readonly signal: AbortSignal
}

/** A nats-server that was started anew, and what could not be done before, are looked at this often. */
const LOOK_MS = 15_000
/** How exactly the start of a process is known. */
const START_TOLERANCE_MS = 200
/** A process is told only if the kernel calls it this (`comm`, proc(5)): a PID file may be left over from one that is gone. */
const PROGRAM = 'nats-server'

/**
 * Keeps a certificate as PEM files for nats-server until `signal`. A running server reads them again on SIGHUP, without
 * closing a connection.
 * @throws InvalidArgumentError, and what else is in the way at the first time; later it says so and tries again
 */
export async function keepTlsFiles(options: KeepTlsFilesOptions): Promise<void> {
  const { credentials, folder, pidFile, log, signal } = options
  await checkPrivateFolder(folder)
  let change = Promise.withResolvers<void>()
  const wake = (): void => change.resolve()
  using listening = new DisposableStack()
  listening.defer(credentials.onChange(wake))
  signal.addEventListener('abort', wake)
  listening.defer(() => signal.removeEventListener('abort', wake))
  const server = pidFile === undefined ? undefined : new NatsServer(pidFile, log)
  let isFirst = true
  while (!signal.aborted) {
    // Made anew before looking: what changes meanwhile is looked at next.
    change = Promise.withResolvers()
    try {
      const { tls } = credentials
      if (await writeTlsFiles(folder, tls)) {
        log.info({ folder, notAfter: tls.notAfter }, 'certificate written')
        server?.forget()
      }
      await server?.tell(await lastWritten(folder))
    } catch (error) {
      if (isFirst) throw error
      const { code, message, facts, remedy } = asWeftError(error)
      log.error({ code, facts, remedy }, `nats-server keeps its certificate: ${message}`)
    }
    isFirst = false
    const timer = setTimeout(wake, LOOK_MS)
    if (!signal.aborted) await change.promise
    clearTimeout(timer)
  }
}

/** The server whose PID a file says. Each one is told once to read its files: it may have read them before they changed. */
class NatsServer {
  readonly #pidFile: string
  readonly #log: Logger
  #told: string | undefined

  constructor(pidFile: string, log: Logger) {
    this.#pidFile = pidFile
    this.#log = log
  }

  /** Whoever was told has to be told again. */
  forget(): void {
    this.#told = undefined
  }

  /** Tells it unless it began after its files were written, for then it has read them. */
  async tell(writtenAtMs: number): Promise<void> {
    const pid = await this.#pid()
    const found = pid === undefined ? undefined : await processOf(pid)
    if (pid === undefined || found === undefined || found.name === this.#told) return
    if (found.startedAtMs > writtenAtMs + START_TOLERANCE_MS) return
    try {
      process.kill(pid, 'SIGHUP')
    } catch (error) {
      if (isGone(error)) return
      throw new InvalidArgumentError({
        field: this.#pidFile,
        problem: `process ${pid} cannot be told: ${error instanceof Error ? error.message : String(error)}`,
        remedy: 'run this as the user as whom nats-server runs',
      })
    }
    this.#told = found.name
    this.#log.info({ serverPid: pid }, 'nats-server was told to read its certificate')
  }

  /** Undefined while there is no server. */
  async #pid(): Promise<number | undefined> {
    const text = (await readPublicFile(this.#pidFile))?.toString('latin1').trim()
    // The server makes the file and then fills it.
    if (text === undefined || text === '') return undefined
    if (/^[1-9]\d{0,9}$/.test(text)) return Number(text)
    throw new InvalidArgumentError({
      field: this.#pidFile,
      problem: 'it does not hold the number of a process',
      remedy: 'name the file that nats-server --pid FILE writes',
    })
  }
}

/**
 * Writes what differs, each file as a whole, and says whether anything did. Certificates are of one key as long as there is
 * an identity, so a server that reads in between finds files that fit together.
 */
async function writeTlsFiles(folder: string, tls: TlsMaterial): Promise<boolean> {
  let isChanged = false
  for (const [name, text] of [
    [natsFiles.roots, tls.rootsPem],
    [natsFiles.key, tls.keyPem],
    [natsFiles.chain, tls.chainPem],
  ] as const) {
    const path = join(folder, name)
    if ((await readPrivateFile(path))?.equals(Buffer.from(text))) continue
    await writePrivateFile(path, text)
    isChanged = true
  }
  return isChanged
}

/** When the newest of the files was written, in milliseconds since 1970. */
async function lastWritten(folder: string): Promise<number> {
  const { chain, key, roots } = natsFiles
  const files = await Promise.all([chain, key, roots].map((name) => stat(join(folder, name))))
  return Math.max(...files.map(({ mtimeMs }) => mtimeMs))
}

interface ServerProcess {
  /** Of no later process: its number and when it began. */
  readonly name: string
  /** Milliseconds since 1970. */
  readonly startedAtMs: number
}

/** Undefined if there is no such process, or it is no nats-server. */
async function processOf(pid: number): Promise<ServerProcess | undefined> {
  try {
    const text = await readFile(`/proc/${pid}/stat`, 'latin1')
    const [, program, rest = ''] = /^\d+ \((.*)\) (.*)$/s.exec(text) ?? []
    if (program !== PROGRAM) return undefined
    // Of the fields of proc(5), starttime is the 22nd, in ticks of 10 ms since the machine started, and `rest` begins with the third.
    const ticks = Number(rest.split(' ')[19])
    return { name: `${pid} ${ticks}`, startedAtMs: Date.now() - uptime() * 1000 + ticks * 10 }
  } catch (error) {
    if (isMissing(error) || isGone(error)) return undefined
    throw error
  }
}

/** It ended between being seen and being asked. */
function isGone(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ESRCH'
}
