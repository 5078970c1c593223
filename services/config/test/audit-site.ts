import assert from 'node:assert/strict'
import type { KeyObject } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Bus, buckets, memoryBus } from '@weft/bus'
import { generateIdentityKey, publicKeyOf, signStatement } from '@weft/identity'
import { AuditRecord, type AuditServiceService } from '@weft/proto/weftline/audit/v1/audit.ts'
import type { CallContext, Handlers } from '@weft/rpc'
import { type AuditChainReport, type AuditCopy, readAuditFile, verifyAuditCopies } from '@weft/sdk'
import { createLogger } from '@weft/telemetry'
import { temporaryFolder } from '@weft/testing'
import { Audit, type AuditedAction, type AuditOptions } from '../src/audit/audit.ts'
import { BucketCopy } from '../src/audit/bucket-copy.ts'
import { AuditEvents } from '../src/audit/events.ts'
import { FileCopy, type OpenFile } from '../src/audit/file-copy.ts'
import { auditHandlers } from '../src/audit/rpc.ts'

export interface AuditSite extends AsyncDisposable {
  readonly audit: Audit
  readonly bus: Bus
  readonly folder: string
  readonly key: KeyObject
  readonly handlers: Handlers<typeof AuditServiceService>
  /** Ends the writer, as a replica that stops does. */
  stop(): Promise<void>
  /** What the file of the writer holds. */
  readFile(): Promise<AuditCopy>
  /** What AuditService shows of the writer. */
  readBucket(): Promise<AuditCopy>
  verify(): Promise<AuditChainReport>
}

export interface SiteOptions extends Pick<AuditOptions, 'headAfterMs' | 'tickMs' | 'nowUnixMs'> {
  readonly bus?: Bus
  readonly folder?: string
  readonly openFile?: OpenFile
  readonly writer?: string
}

let writerCount = 0

/** A writer of the audit log with its copies: a file, and the bucket of a memory bus. */
export async function startAudit(options: SiteOptions = {}): Promise<AuditSite> {
  await using opened = new AsyncDisposableStack()
  const folder = options.folder ?? opened.use(await temporaryFolder()).path
  const bus = options.bus ?? opened.use(memoryBus().connect())
  const bucket = await bus.openBucket(buckets.audit, AuditRecord)
  const handlers = await auditHandlers(bus)
  const writer = options.writer ?? `writer-${++writerCount}`
  const key = generateIdentityKey()
  const audit = new Audit({
    ...options,
    writer,
    copies: [new FileCopy(folder, writer, options.openFile), new BucketCopy(bucket, writer)],
    signHead: (head) => signStatement('audit-head', head, key),
    events: new AuditEvents(createLogger({ service: 'config', level: 'silent' })),
  })
  let stopping: Promise<void> | undefined
  const stop = (): Promise<void> => (stopping ??= audit[Symbol.asyncDispose]())
  opened.defer(stop)
  const running = opened.move()
  const site: AuditSite = {
    audit,
    bus,
    folder,
    key,
    handlers,
    stop,
    readFile: () => readCopy(join(folder, `${writer}.audit`)),
    readBucket: () => readChain(handlers, writer),
    async verify() {
      const copies = [await site.readFile(), await site.readBucket()]
      return verifyAuditCopies(writer, copies, [publicKeyOf(key)])
    },
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  }
  return site
}

export async function readCopy(path: string): Promise<AuditCopy> {
  const copy = readAuditFile('file', await readFile(path))
  assert(copy)
  return copy
}

/** As `weft audit` does: page by page. */
export async function readChain(
  handlers: Pick<Handlers<typeof AuditServiceService>, 'listEntries' | 'listWriters'>,
  writer: string,
  pageSize = 0,
): Promise<AuditCopy> {
  const context = callContext()
  const { heads } = await handlers.listWriters({}, context)
  const entries: Uint8Array[] = []
  let fromNumber = 0n
  do {
    const page = await handlers.listEntries({ writer, fromNumber, size: pageSize }, context)
    entries.push(...page.entries)
    fromNumber = page.nextNumber
  } while (fromNumber !== 0n)
  const own = heads.filter(({ payload }) => payload.includes(writer))
  return { name: 'bucket', entries, heads: own }
}

export function action(over: Partial<AuditedAction> = {}): AuditedAction {
  return {
    who: 'spiffe://test.weft/user/1',
    from: '127.0.0.1:40000',
    action: '/weftline.config.v1.ConfigService/CreateNetwork',
    object: 'network acme/blue',
    tenant: 'acme',
    ...over,
  }
}

export function callContext(): CallContext {
  // A handler of AuditService asks for nothing else.
  return { signal: new AbortController().signal } as CallContext
}
