import { once } from 'node:events'
import { createReadStream, createWriteStream } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { asWeftError, BrokenInputError, ExitCode, InvalidArgumentError } from '@weft/errors'
import { Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import type { AuditChain, AuditChainReport, AuditCopy, AuditEntry } from '@weft/sdk'
import type { Command } from 'commander'
import { collect, wholeNumber } from '../arguments.ts'
import type { Paint } from '../io.ts'
import { renderTable, tableView, toPlain, type View } from '../output.ts'
import type { Act } from '../program.ts'
import type { Session } from '../session.ts'

/** Entries that are shown where nobody says how many. */
const SHOWN_DEFAULT = 50
const SHOWN_MAX = 100_000
/** An entry in base64 with what it says in JSON. */
const LINE_LENGTH_MAX = 64 * 1024
/** One change is followed by others; more than these say nothing new to people. */
const PROBLEMS_SHOWN_MAX = 20

interface VerifyOptions {
  /** Of `weft audit export`. */
  readonly file?: string
  /** Audit folder of a replica of config. */
  readonly files?: string
  readonly signer?: string[]
}

/** What is shown of a chain. */
interface Verdict {
  readonly writer: string
  readonly entries: number
  /** Entries after the newest that a signed head covers: they are linked, but nobody has vouched for them yet. */
  readonly unsigned: number
  /** Ed25519 public key of who signed the newest head, lower-case hex; empty without one. */
  readonly signer: string
  readonly signedAt: Date | undefined
  /** Where it was read. */
  readonly copies: readonly string[]
  /** Why it is not what was written; none if it is. */
  readonly problems: readonly string[]
  /** What a crash of the writer leaves, or a chain that is being written. */
  readonly notices: readonly string[]
  /** Intents of which nobody knows what came of them. */
  readonly unknownOutcomes: readonly bigint[]
}

interface ListOptions {
  readonly last: number
  readonly who?: string
  readonly object?: string
  readonly phase?: string
}

export function registerAudit(program: Command, act: Act): void {
  const audit = program.command('audit').description('who did what')

  audit
    .command('ls')
    .description('list what was done and refused, the newest last')
    .option('--last <number>', 'how many', wholeNumber('last', 1, SHOWN_MAX), SHOWN_DEFAULT)
    .option('--who <text>', 'only by whom this is a part of: user/3')
    .option('--object <text>', 'only on what this is a part of: network default/blue')
    .option('--phase <phase>', 'only intent, done, failed or denied')
    .addHelpText(
      'after',
      '\nExamples:\n  weft audit ls --last 20\n  weft audit ls --phase denied -o json\n',
    )
    .action(
      act(async (session, options: ListOptions) => {
        const { decodeAuditEntry } = await import('@weft/sdk')
        const weft = await session.weft()
        let newest: AuditEntry[] = []
        for (const { entries } of await weft.audit.chains()) {
          for await (const bytes of entries) {
            const entry = decodeAuditEntry(bytes)
            if (!isWanted(entry, options)) continue
            newest.push(entry)
            if (newest.length > 2 * options.last) newest = newestOf(newest, options.last)
          }
        }
        return tableView<AuditEntry>(
          newestOf(newest, options.last),
          [
            { title: 'AT', value: (row) => row.at.toISOString() },
            { title: 'PHASE', value: (row) => row.phase },
            { title: 'WHO', value: (row) => row.who || row.from },
            { title: 'ACTION', value: (row) => row.action.split('/').at(-1) ?? '' },
            { title: 'OBJECT', value: (row) => row.object },
            {
              title: 'REVISION',
              value: (row) => (row.revisionAfter === 0n ? '' : String(row.revisionAfter)),
            },
            {
              title: 'REASON',
              value: (row) => (row.count > 1 ? `${row.reason} (${row.count} times)` : row.reason),
            },
          ],
          'nothing was done yet',
        )
      }),
    )

  audit
    .command('verify')
    .description('verify that nothing was changed, removed or put in; ends with 6 if something was')
    .option('--file <file>', 'what weft audit export wrote, instead of the control server')
    .option('--files <folder>', 'audit folder of a replica of config: the files in it are compared')
    .option(
      '--signer <key>',
      'public key that has to have signed, 64 hexadecimal digits; may be repeated',
      collect(parseKey),
    )
    .addHelpText(
      'after',
      '\nWithout --signer it has to be the key that config shows now. It is services.config.identityKey in authority/domain.json, too: give it where config cannot be reached, or is not believed.\nA chain with no file in the folder is that of another replica; one in a file alone was archived, or removed.\n\nExamples:\n  weft audit verify\n  weft audit verify --files /var/lib/weft/audit\n  weft audit verify --file audit.jsonl --signer 5f0c...\n',
    )
    .action(
      act(async (session, options: VerifyOptions) => {
        const { verifyAuditCopies } = await import('@weft/sdk')
        const chains =
          options.file === undefined
            ? await (await session.weft()).audit.chains()
            : await readExport(options.file)
        const keys = options.signer ?? [await signerOf(session)]
        const signers = keys.map((key) => Buffer.from(key, 'hex'))
        const files = await auditFilesIn(options.files)
        const verdicts: Verdict[] = []
        const judge = (writer: string, copies: readonly AuditCopy[]): void => {
          verdicts.push(verdictOf(verifyAuditCopies(writer, copies, signers), copies))
        }
        for (const { writer, head, entries } of chains) {
          // Heads, files, entries: in this order nothing looks missing of a chain that is being written.
          const path = files.get(writer)
          const inFile = path === undefined ? [] : [await fileCopy(path)]
          files.delete(writer)
          const name = options.file ?? 'bucket'
          const heads = head === undefined ? [] : [head]
          judge(writer, [{ name, heads, entries: await Array.fromAsync(entries) }, ...inFile])
        }
        for (const [writer, path] of files) {
          const copy = await fileCopy(path)
          // Of a replica that ended before its first record was whole, and did nothing.
          const isEmpty = copy.entries.length + copy.heads.length === 0
          if (!isEmpty || copy.damagedAtBytes?.length) judge(writer, [copy])
        }
        await session.print(verdictView(verdicts))
        const isGood = verdicts.every(({ problems }) => problems.length === 0)
        return isGood ? ExitCode.Ok : ExitCode.Refused
      }),
    )

  audit
    .command('export')
    .description('write all of it, with signatures, as JSON lines')
    .requiredOption('--out <file>', 'a new file')
    .addHelpText('after', '\nExample:\n  weft audit export --out audit.jsonl\n')
    .action(
      act(async (session, { out }: { out: string }) => {
        const chains = await (await session.weft()).audit.chains()
        const { decodeAuditEntry } = await import('@weft/sdk')
        const file = createWriteStream(out, { flags: 'wx', mode: 0o600 })
        await once(file, 'open').catch((error: Error) => {
          const remedy = 'name a file that is not there yet'
          throw new InvalidArgumentError({ field: '--out', problem: error.message, remedy })
        })
        let entries = 0
        for (const chain of chains) {
          const head =
            chain.head && Buffer.from(Signed.encode(chain.head).finish()).toString('base64')
          file.write(`${JSON.stringify({ writer: chain.writer, head })}\n`)
          for await (const bytes of chain.entries) {
            const entry = Buffer.from(bytes).toString('base64')
            const says = toPlain(decodeAuditEntry(bytes)) as object
            entries++
            if (!file.write(`${JSON.stringify({ entry, ...says })}\n`)) await once(file, 'drain')
          }
        }
        file.end()
        await once(file, 'close')
        const data = { file: out, writers: chains.length, entries }
        return {
          data,
          text: () => `${entries} entries of ${chains.length} writers are in ${out}\n`,
        } satisfies View
      }),
    )
}

/** Whoever could make up a chain could sign it too: with a key of their own. */
async function signerOf(session: Session): Promise<string> {
  try {
    return await (await session.weft()).audit.signer()
  } catch (error) {
    const { message } = asWeftError(error)
    throw new InvalidArgumentError({
      field: '--signer',
      problem: `it is not given, and config could not be asked for its key: ${message}`,
      remedy: 'give the key: services.config.identityKey in authority/domain.json',
    })
  }
}

function isWanted(entry: AuditEntry, { who, object, phase }: ListOptions): boolean {
  return (
    (who === undefined || entry.who.includes(who)) &&
    (object === undefined || entry.object.includes(object)) &&
    (phase === undefined || entry.phase === phase)
  )
}

function newestOf(entries: readonly AuditEntry[], count: number): AuditEntry[] {
  return entries
    .toSorted((a, b) => a.at.getTime() - b.at.getTime() || Number(a.number - b.number))
    .slice(-count)
}

/** Paths of the files of chains in a folder by their writer; none without a folder. */
async function auditFilesIn(folder: string | undefined): Promise<Map<string, string>> {
  const files = new Map<string, string>()
  if (folder === undefined) return files
  const wrong = (problem: string): InvalidArgumentError => {
    const remedy = 'name the folder that WEFT_CONFIG_AUDIT_FOLDER of config names'
    return new InvalidArgumentError({ field: '--files', problem, remedy })
  }
  const names = await readdir(folder).catch((error: Error) => {
    throw wrong(error.message)
  })
  for (const name of names.toSorted()) {
    const [, writer] = /^([\w-]{1,128})\.audit$/.exec(name) ?? []
    if (writer !== undefined) files.set(writer, join(folder, name))
  }
  if (files.size === 0) throw wrong(`${folder} holds no file of a chain`)
  return files
}

async function fileCopy(path: string): Promise<AuditCopy> {
  const { readAuditFile } = await import('@weft/sdk')
  const bytes = await readFile(path).catch((error: Error) => {
    const remedy = 'run this as the user as whom config runs'
    throw new InvalidArgumentError({ field: '--files', problem: error.message, remedy })
  })
  // One that does not begin as such a file does was damaged.
  return readAuditFile(path, bytes) ?? { name: path, entries: [], heads: [], damagedAtBytes: [0] }
}

function verdictOf(report: AuditChainReport, copies: readonly AuditCopy[]): Verdict {
  const { writer, entries, head, signer, findings, unknownOutcomes } = report
  const textsOf = (wanted: 'problem' | 'notice'): string[] =>
    findings
      // Those are counted.
      .filter(({ kind, severity }) => severity === wanted && kind !== 'unsigned')
      .map(({ text }) => text)
  return {
    writer,
    entries: entries.length,
    unsigned: entries.filter(({ number }) => number > (head?.number ?? 0n)).length,
    signer: signer === undefined ? '' : Buffer.from(signer).toString('hex'),
    signedAt: head && new Date(Number(head.signedAtUnixMs)),
    copies: copies.map(({ name }) => name),
    problems: textsOf('problem'),
    notices: textsOf('notice'),
    unknownOutcomes,
  }
}

function verdictText({ problems, notices }: Verdict, paint: Paint): string {
  const rest = problems.length - PROBLEMS_SHOWN_MAX
  const shown = problems.slice(0, PROBLEMS_SHOWN_MAX)
  if (rest > 0) shown.push(`and ${rest} more`)
  if (shown.length > 0) return paint('red', shown.join('; '))
  return [paint('green', 'whole'), ...notices.map((notice) => paint('yellow', notice))].join('; ')
}

function verdictView(verdicts: readonly Verdict[]): View {
  return {
    data: verdicts,
    text: (paint) =>
      verdicts.length === 0
        ? 'nobody has written anything yet\n'
        : renderTable(
            verdicts,
            [
              { title: 'WRITER', value: (row) => row.writer },
              { title: 'ENTRIES', value: (row) => String(row.entries) },
              { title: 'UNSIGNED', value: (row) => String(row.unsigned) },
              { title: 'SIGNED AT', value: (row) => row.signedAt?.toISOString() ?? '-' },
              { title: 'SIGNER', value: (row) => row.signer || '-' },
              { title: 'COPIES', value: (row) => row.copies.join(', ') },
              { title: 'VERDICT', value: (row) => verdictText(row, paint) },
            ],
            paint,
          ),
  }
}

function parseKey(text: string): string {
  if (/^[0-9a-f]{64}$/i.test(text)) return text.toLowerCase()
  const problem = `${JSON.stringify(text.slice(0, 80))} is no public key`
  throw new InvalidArgumentError({ field: 'signer', problem, remedy: 'give 64 hexadecimal digits' })
}

/** Chains of a file, each with its entries in memory: a year of a busy domain has a few hundred MB. */
async function readExport(path: string): Promise<AuditChain[]> {
  const chains: { writer: string; head: Signed | undefined; entries: Uint8Array[] }[] = []
  let line = 0
  const wrong = (problem: string): BrokenInputError =>
    new BrokenInputError({ source: path, format: 'audit export', problem, line })
  const file = createReadStream(path)
  await once(file, 'open').catch((error: Error) => {
    const remedy = 'name what weft audit export wrote'
    throw new InvalidArgumentError({ field: '--file', problem: error.message, remedy })
  })
  for await (const text of createInterface({ input: file, crlfDelay: Infinity })) {
    line++
    if (text.length > LINE_LENGTH_MAX) throw wrong(`it has ${text.length} characters`)
    const { writer, head, entry } = parseLine(text, wrong)
    if (entry !== undefined) {
      const chain = chains.at(-1)
      if (chain === undefined) throw wrong('it begins with an entry of nobody')
      chain.entries.push(Buffer.from(entry, 'base64'))
    } else if (writer !== undefined) {
      chains.push({
        writer,
        head: head === undefined ? undefined : parseHead(head, wrong),
        entries: [],
      })
    } else throw wrong('it is neither an entry nor a writer')
  }
  return chains
}

function parseLine(
  text: string,
  wrong: (problem: string) => BrokenInputError,
): { writer?: string; head?: string; entry?: string } {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw wrong(error instanceof Error ? error.message : String(error))
  }
  if (typeof value !== 'object' || value === null) throw wrong('it is no object')
  const part = (name: string): string | undefined => {
    const found = (value as Record<string, unknown>)[name]
    return typeof found === 'string' ? found : undefined
  }
  const [writer, head, entry] = [part('writer'), part('head'), part('entry')]
  return {
    ...(writer !== undefined && { writer }),
    ...(head !== undefined && { head }),
    ...(entry !== undefined && { entry }),
  }
}

function parseHead(base64: string, wrong: (problem: string) => BrokenInputError): Signed {
  try {
    return Signed.decode(Buffer.from(base64, 'base64'))
  } catch {
    throw wrong('its head is no signed statement')
  }
}
