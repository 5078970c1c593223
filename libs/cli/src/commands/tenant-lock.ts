import type { KeyObject } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import { InvalidArgumentError, TenantLockedError, TenantNotLockedError } from '@weft/errors'
import type {
  Tenant,
  TenantLedger,
  TenantLock,
  TenantReview,
  TenantSaying,
  TenantWord,
} from '@weft/sdk'
import type { Command } from 'commander'
import { checkName, collect, wholeNumber } from '../arguments.ts'
import { type Column, fieldsView, renderTable, sentenceView, type View } from '../output.ts'
import type { Act } from '../program.ts'
import { confirm, writeSecret } from '../secrets.ts'
import type { Session } from '../session.ts'
import { addressText, prefixText, storedFields } from '../views.ts'

const DAY_MS = 24 * 3_600_000
const DAYS_DEFAULT = 30
/** Whoever is taken out may act on what was signed until it ends. */
const DAYS_MAX = 400

interface SignOptions {
  readonly key: string
  readonly days?: number
  readonly host?: string[]
  readonly yes: boolean
  readonly acceptNew: boolean
}

const YES = 'do not ask about renewals: what was said before, and ends soon'
const ACCEPT_NEW = 'do not ask about renewals and what is new either'
/** Ledgers are read whole. Sum: 65,536 endpoints' hosts and networks with 200 bytes each are 13 MB. */
const LEDGER_BYTES_MAX = 64 * 1024 * 1024

export function registerTenantLock(tenant: Command, act: Act): void {
  const name = (text: string): string => checkName('host', text)
  const days = wholeNumber('days', 1, DAYS_MAX)

  tenant
    .command('lock <name>')
    .description("have hosts believe only what the tenant's own key signs of its networks")
    .requiredOption('--key <file>', "the tenant's key; made if there is no such file")
    .option('--replaces <file>', 'the key that it takes over from, if the tenant is locked already')
    .option('--days <number>', 'how long what is signed holds; 30 if not given', days)
    .option('--host <name>', 'a member before it has an endpoint; may be repeated', collect(name))
    .option('--yes', YES, false)
    .option('--accept-new', ACCEPT_NEW, false)
    .addHelpText(
      'after',
      '\nThe key never leaves this machine: keep it away from those that run the domain, and a copy of it safe.\nWhat is signed is shown before. While the key is replaced, the networks of the tenant stand still for a moment.\nWhat is signed is noted in FILE.signed beside the key, with which weft tenant sign compares.\n\nExamples:\n  weft tenant lock acme --key acme.key\n  weft tenant lock acme --key new.key --replaces acme.key\n',
    )
    .action(
      act(async (session, text: string, options: SignOptions & { replaces?: string }) => {
        const locks = (await session.weft()).tenantLocks
        const found = await tenantNamed(session, text)
        const lock = await locks.get(found.name)
        const replaced = await replacedKey(lock, options.replaces)
        // Nothing counts that a key before has signed.
        const ledger = await ledgerAt(options.key, options.replaces)
        const proposed = await locks.review({ ...found, ...wanted(options), isAll: true, ledger })
        const what = `Hosts believe nothing else of tenant ${text}`
        const review = await agree(session, proposed, what, options)
        const key = await keyAt(options.key, true)
        await locks.lock({ ...found, key, ...(replaced && { replaced }) })
        await noteSigned(options.key, ledger, review)
        await locks.sign(review, key)
        const locked = await locks.get(found.name)
        return sentenceView(
          locked,
          `tenant ${text} is locked, and ${counted(review.proposals.length)} signed with key ${keyNumber(locked)}\nsign again before they end: weft tenant sign ${text} --key ${options.key}`,
        )
      }),
    )

  tenant
    .command('sign <name>')
    .description('sign what is new in the networks of a locked tenant, and what ends soon')
    .requiredOption('--key <file>', "the tenant's key")
    .option('--days <number>', 'how long what is signed holds; 30 if not given', days)
    .option('--host <name>', 'a member before it has an endpoint; may be repeated', collect(name))
    .option('--prune', 'take away at once what config has no use for any more', false)
    .option('--yes', YES, false)
    .option('--accept-new', ACCEPT_NEW, false)
    .addHelpText(
      'after',
      '\nconfig proposes, and may be lying: compare keys with those that weft host keys shows on the hosts themselves,\nabove all where something has changed. What has less than half of its time left is signed again.\nWhat was signed is noted in FILE.signed beside the key: keep it with the key, for config may keep back what was said before.\n--yes signs renewals alone, --accept-new also what is new; what has changed needs somebody who looks at it.\n\nExample:\n  weft tenant sign acme --key acme.key\n',
    )
    .action(
      act(async (session, text: string, options: SignOptions & { prune: boolean }) => {
        const locks = (await session.weft()).tenantLocks
        const found = await tenantNamed(session, text)
        const key = await keyAt(options.key, false)
        checkSpeaks(await locks.get(found.name), await hexOf(key), options.key)
        const ledger = await ledgerAt(options.key)
        const proposed = await locks.review({ ...found, ...wanted(options), ledger })
        const dropped = options.prune ? proposed.leftovers : []
        if (proposed.proposals.length === 0 && dropped.length === 0) {
          return sentenceView({ signed: 0, dropped: 0 }, `there is nothing to sign for ${text}`)
        }
        const what = `The key of ${text} vouches for this`
        const review = await agree(session, proposed, what, options)
        await noteSigned(options.key, ledger, review)
        await locks.sign(review, key)
        for (const { id } of dropped) await locks.forget(found.name, id)
        const signed = review.proposals.length
        const also = dropped.length > 0 ? `, ${dropped.length} taken away` : ''
        return sentenceView(
          { signed, dropped: dropped.length },
          `${counted(signed)} signed for tenant ${text}${also}`,
        )
      }),
    )

  tenant
    .command('unlock <name>')
    .description('have hosts believe again what config says of the networks of a tenant')
    .requiredOption('--key <file>', "the tenant's key")
    .option('--yes', 'do not ask', false)
    .addHelpText('after', '\nExample:\n  weft tenant unlock acme --key acme.key\n')
    .action(
      act(async (session, text: string, options: { key: string; yes: boolean }) => {
        const locks = (await session.weft()).tenantLocks
        const found = await tenantNamed(session, text)
        const key = await keyAt(options.key, false)
        checkSpeaks(await locks.get(found.name), await hexOf(key), options.key)
        await confirm(session, `Hosts believe what config says of tenant ${text}`, options.yes)
        await locks.unlock({ ...found, key })
        return sentenceView(await locks.get(found.name), `tenant ${text} is locked no longer`)
      }),
    )
}

/** A tenant with its lock. */
export async function tenantView(session: Session, name: string): Promise<View> {
  const weft = await session.weft()
  const found = await weft.tenants.get(name)
  const lock = await weft.tenantLocks.get(name)
  const sayings = lock.sayings.filter(({ word }) => word.kind !== 'key')
  const fields = fieldsView({ ...found, lock }, [
    ...storedFields(found),
    ['locked', lock.isLocked ? `yes, by key ${keyNumber(lock)}` : 'no'],
    ['for tenant-keys', await lineOf(found, lock)],
  ])
  if (sayings.length === 0) return fields
  return {
    data: fields.data,
    text: (paint) => `${fields.text(paint)}\n${renderTable(sayings, SAYING_COLUMNS, paint)}`,
  }
}

const SAYING_COLUMNS: readonly Column<TenantSaying>[] = [
  { title: 'SAYS OF', value: (saying) => subjectText(saying) },
  { title: 'WHAT', value: ({ word }) => wordText(word) },
  { title: 'UNTIL', value: ({ notAfter }) => notAfter?.toISOString() ?? '' },
  { title: 'COUNTS', value: ({ counts }) => (counts ? 'yes' : 'no, another key signed it') },
]

const PROPOSAL_COLUMNS: readonly Column<TenantReview['proposals'][number]>[] = [
  { title: 'WHY', value: ({ reason }) => reason.toUpperCase() },
  { title: 'SAYS OF', value: (proposal) => subjectText(proposal) },
  { title: 'WHAT', value: ({ word }) => wordText(word) },
  {
    title: 'WAS',
    value: ({ reason, before }) => (reason === 'changed' && before ? wordText(before) : ''),
  },
]

/** Shows what is to be signed, and asks; returns what is agreed to. Where nobody can be asked it is what the options cover. */
async function agree(
  session: Session,
  review: TenantReview,
  what: string,
  { yes, acceptNew, days = DAYS_DEFAULT }: SignOptions,
): Promise<TenantReview> {
  const { proposals, leftovers } = review
  const { io, paintError: paint } = session
  if (proposals.length > 0) io.stderr(`${renderTable(proposals, PROPOSAL_COLUMNS, paint)}\n`)
  const changed = proposals.filter(({ reason }) => reason === 'changed').length
  if (changed > 0) {
    const warning = `${counted(changed)} about keys, addresses or networks that are others than before: ask the hosts themselves (weft host keys)`
    io.stderr(`${paint('yellow', 'warning:')} ${warning}\n`)
  }
  for (const saying of leftovers) {
    const end = saying.notAfter?.toISOString() ?? ''
    io.stderr(`not signed again, config has no use for it: ${subjectText(saying)}, until ${end}\n`)
  }
  const covered = proposals.filter(
    ({ reason }) => ((yes || acceptNew) && reason === 'renewal') || (acceptNew && reason === 'new'),
  )
  const left = proposals.length - covered.length
  if ((yes || acceptNew) && left > 0 && !io.isInputTerminal) {
    const problem = `${counted(left)} of what is new or has changed: somebody has to look at them`
    const remedy =
      'run this on a terminal; --accept-new covers what is new, and nothing what has changed'
    if (covered.length === 0) throw new InvalidArgumentError({ field: '--yes', problem, remedy })
    io.stderr(`${paint('yellow', 'warning:')} not signed: ${problem}; ${remedy}\n`)
    return { ...review, proposals: covered }
  }
  const end = new Date(Date.now() + days * DAY_MS).toISOString()
  await confirm(session, `${what}, until ${end}`, (yes || acceptNew) && left === 0)
  return review
}

function ledgerPath(key: string): string {
  return `${key}.signed`
}

/** What the key has signed so far, or the one that it replaces. */
async function ledgerAt(key: string, replaced = key): Promise<TenantLedger> {
  const { TenantLedger } = await import('@weft/sdk')
  for (const path of [ledgerPath(key), ledgerPath(replaced)]) {
    const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined
      throw wrongLedger(error.message)
    })
    if (!found) continue
    if (found.size > LEDGER_BYTES_MAX) throw wrongLedger(`${path} has ${found.size} bytes`)
    const text = await readFile(path, 'utf8').catch((error: Error) => {
      throw wrongLedger(error.message)
    })
    return TenantLedger.parse(text, path)
  }
  return new TenantLedger()
}

/** Before config is given anything: what was agreed to counts as said, whatever comes of it. */
async function noteSigned(
  key: string,
  ledger: TenantLedger,
  { proposals }: TenantReview,
): Promise<void> {
  const { writePrivateFile } = await import('@weft/domain')
  for (const { statement } of proposals) ledger.note(statement)
  await writePrivateFile(ledgerPath(key), ledger.text)
}

function wrongLedger(problem: string): InvalidArgumentError {
  const remedy = 'the ledger lies beside the key, and this user has to be able to read it'
  return new InvalidArgumentError({ field: '--key', problem, remedy })
}

function wanted({ days = DAYS_DEFAULT, host = [] }: SignOptions) {
  return { hosts: host, lifetimeMs: days * DAY_MS, now: new Date() }
}

async function tenantNamed(
  session: Session,
  name: string,
): Promise<{ readonly tenant: string; readonly tenantId: number; readonly name: string }> {
  const found = await (await session.weft()).tenants.get(checkName('tenant', name))
  return { tenant: found.name, tenantId: found.id, name: found.name }
}

/** Reads a tenant's key; or makes it, where `isMade` allows that and nothing is there. */
async function keyAt(path: string, isMade: boolean): Promise<KeyObject> {
  const { readPrivateFile } = await import('@weft/domain')
  const { generateIdentityKey, identityKeyFromPem, pemOfKey } = await import('@weft/identity')
  const bytes = await readPrivateFile(path)
  if (bytes !== undefined) return identityKeyFromPem(bytes.toString())
  if (!isMade) {
    throw new InvalidArgumentError({
      field: '--key',
      problem: `there is no ${path}`,
      remedy: 'name the file of the key by which the tenant was locked',
    })
  }
  const key = generateIdentityKey()
  await writeSecret(path, pemOfKey(key).trimEnd(), '--key')
  return key
}

async function hexOf(key: KeyObject): Promise<string> {
  const { publicKeyOf } = await import('@weft/identity')
  return publicKeyOf(key).toString('hex')
}

async function replacedKey(
  lock: TenantLock,
  path: string | undefined,
): Promise<KeyObject | undefined> {
  if (lock.keys.length === 0) return undefined
  if (path === undefined) {
    throw new TenantLockedError({
      tenant: lock.tenant,
      what: 'its next key has to be signed by the one before',
      problem: `it had ${lock.keys.length} so far`,
      remedy: 'name that as well: --replaces FILE',
    })
  }
  return await keyAt(path, false)
}

function checkSpeaks(lock: TenantLock, publicKey: string, path: string): void {
  if (!lock.isLocked) throw new TenantNotLockedError({ tenant: lock.tenant })
  const speaking = lock.keys.at(-1)
  if (speaking?.publicKey === publicKey) return
  throw new InvalidArgumentError({
    field: '--key',
    problem: `${path} is not key ${keyNumber(lock)} of tenant ${lock.tenant}, which is ed25519:${speaking?.publicKey}`,
    remedy: 'name the file of that key',
  })
}

async function lineOf({ id, name }: Tenant, lock: TenantLock): Promise<string> {
  const key = lock.keys.at(-1)
  if (!lock.isLocked || !key) return ''
  const { formatTenantKey } = await import('@weft/identity')
  const publicKey = Buffer.from(key.publicKey, 'hex')
  return formatTenantKey({ tenantId: id, tenant: name, number: key.number, publicKey })
}

function keyNumber({ keys }: TenantLock): number {
  return keys.at(-1)?.number ?? 0
}

function subjectText({
  word,
  network,
  host,
}: {
  readonly word: TenantWord
  readonly network: string | undefined
  readonly host?: string | undefined
}): string {
  if (word.kind === 'key') return `key ${word.number}`
  const where = `network ${network ?? word.networkId}`
  switch (word.kind) {
    case 'network':
      return where
    case 'membership':
      return `host ${host ?? word.hostId} in ${where}`
    case 'delegation':
      return `addresses at ${host ?? `${word.delegateKey.slice(0, 8)}…`} in ${where}`
  }
}

function wordText(word: TenantWord): string {
  switch (word.kind) {
    case 'key':
      return `ed25519:${word.publicKey}`
    case 'network':
      return `id ${word.networkId}, VNI ${word.vni}`
    case 'membership': {
      const plain = addressText(word.plainAddresses)
      return `ed25519:${word.identityKey} x25519:${word.tunnelKey}${plain === '' ? ', sealed only' : `, plain at ${plain}`}`
    }
    case 'delegation':
      return `${prefixText(word.prefixes)}, by ed25519:${word.delegateKey}`
  }
}

function counted(count: number): string {
  return count === 1 ? '1 statement' : `${count} statements`
}
