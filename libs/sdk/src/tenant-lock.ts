import { type KeyObject, randomUUID } from 'node:crypto'
import { StatementRefusedError, TenantNotLockedError } from '@weft/errors'
import { openTenantStatement, publicKeyOf, signTenantStatement } from '@weft/identity'
import type { IpAddress, Prefix } from '@weft/net'
import type { StoredStatement } from '@weft/proto/weftline/config/v1/records.ts'
import type { Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import type { TenantStatement } from '@weft/proto/weftline/identity/v1/tenant_lock.ts'
import type { Control } from './control.ts'
import { decodeAddress, decodePrefix, pages, present } from './decode.ts'
import type { TenantLedger } from './tenant-ledger.ts'

/** What the key of a locked tenant says. Keys are Ed25519 or X25519 in hexadecimal digits. */
export type TenantWord =
  | { readonly kind: 'key'; readonly number: number; readonly publicKey: string }
  | {
      readonly kind: 'network'
      readonly networkId: number
      readonly network: string
      readonly vni: number
    }
  | {
      readonly kind: 'membership'
      readonly networkId: number
      readonly hostId: number
      readonly identityKey: string
      readonly tunnelKey: string
      /** Underlay addresses at which links to the host may be plain. */
      readonly plainAddresses: readonly IpAddress[]
    }
  | {
      readonly kind: 'delegation'
      readonly networkId: number
      readonly delegateKey: string
      readonly prefixes: readonly Prefix[]
    }

/** A statement as config has it, with the signature verified. */
export interface TenantSaying {
  /** Of the record that holds it. */
  readonly id: number
  readonly word: TenantWord
  /** Name of the network that it is about; undefined where nothing that was said tells. */
  readonly network: string | undefined
  readonly number: bigint
  /** Undefined for a key, which has no end. */
  readonly notAfter: Date | undefined
  /** Whether the key that speaks for the tenant signed it. */
  readonly counts: boolean
}

/** The lock of a tenant, as config tells it. Each key is signed by the one before, which is verified here. */
export interface TenantLock {
  readonly tenant: string
  /** As its first key has it; undefined for a tenant that never had one. */
  readonly tenantId: number | undefined
  readonly isLocked: boolean
  /** In their order; the last one speaks, and an empty one says that the tenant is locked no longer. */
  readonly keys: readonly { readonly number: number; readonly publicKey: string }[]
  readonly sayings: readonly TenantSaying[]
}

/** Something that the tenant's key may say now. */
export interface TenantProposal {
  /**
   * `new`: nothing was said of it; `changed`: something else was said of it, which is what somebody who took over config
   * would propose; `renewal`: the same was said, and ends soon.
   */
  readonly reason: 'new' | 'changed' | 'renewal'
  readonly word: TenantWord
  /** Name of the network that it is about, as config has it. */
  readonly network: string | undefined
  /** Name of the host that it is about, as config has it. */
  readonly host: string | undefined
  /** What was said before. */
  readonly before: TenantWord | undefined
  readonly statement: TenantStatement
}

export interface TenantReview {
  readonly tenant: string
  readonly proposals: readonly TenantProposal[]
  /** What was said and config proposes no longer: it ends by itself. */
  readonly leftovers: readonly TenantSaying[]
}

/** Statements on their way at once. */
const PUTS_AT_ONCE = 16

/** The lock of tenants: what their own keys say of their networks, hosts and addresses. */
export class TenantLocks {
  readonly #control: Control

  constructor(control: Control) {
    this.#control = control
  }

  async get(tenant: string): Promise<TenantLock> {
    const domain = await this.#control.domain()
    const stored: StoredStatement[] = []
    for await (const { statements } of pages((page) =>
      this.#control.tenantLock.listStatements({ tenant, page }),
    )) {
      stored.push(...statements)
    }
    return lockOf(tenant, stored, domain)
  }

  /**
   * What the tenant's key would have to say for all to count that config has of the tenant, as far as it does not say it
   * for another half of `lifetimeMs` already; `hosts` are to be members before they have an endpoint. Whoever took over
   * config may propose anything, and keep back what was said before: somebody has to look at it before it is signed, and
   * only the `ledger` of whoever holds the key tells what is really new.
   */
  async review(options: {
    readonly tenant: string
    readonly tenantId: number
    readonly hosts?: readonly string[]
    readonly lifetimeMs: number
    readonly now: Date
    /** Also what is said for long enough: for another key. */
    readonly isAll?: boolean
    readonly ledger?: TenantLedger
  }): Promise<TenantReview> {
    const { tenant, hosts = [], lifetimeMs, now, ledger } = options
    const { sayings, tenantId = options.tenantId } = await this.get(tenant)
    const domain = await this.#control.domain()
    const proposals: TenantProposal[] = []
    const proposed = new Set<string>()
    const names = new Map<number, string>()
    const said = new Map(
      sayings.flatMap((saying) => (saying.counts ? [[subjectOf(saying.word), saying]] : [])),
    )
    const answers = pages((page) =>
      this.#control.tenantLock.listProposals({ tenant, hosts: [...hosts], page }),
    )
    for await (const { proposals: more } of answers) {
      for (const { statement, host } of more) {
        // The words alone are config's to propose.
        const about = present(statement, 'proposal').about
        const word = wordOf(about, 0n)
        if (about === undefined || word === undefined || word.kind === 'key') continue
        const subject = subjectOf(word)
        proposed.add(subject)
        // A network comes before those who are in it.
        if (word.kind === 'network') names.set(word.networkId, word.network)
        const saying = said.get(subject)
        const noted = ledger?.last(domain, tenantId, word)
        const before = saying && saying.number >= (noted?.number ?? 0n) ? saying : noted
        const enoughMs = options.isAll ? Infinity : lifetimeMs / 2
        const leftMs = (saying?.notAfter?.getTime() ?? 0) - now.getTime()
        const isEnough = before === saying && leftMs >= enoughMs
        const reason = reasonFor(word, before?.word, isEnough)
        if (reason === undefined) continue
        proposals.push({
          reason,
          word,
          network: names.get(word.networkId),
          host: host === '' ? undefined : host,
          before: before?.word,
          statement: {
            domain,
            tenantId,
            tenant,
            // Higher than any before, also than those that config does not show.
            number: maxOf(BigInt(now.getTime()), (before?.number ?? 0n) + 1n),
            notAfterUnixMs: BigInt(now.getTime() + lifetimeMs),
            about,
          },
        })
      }
    }
    const leftovers = sayings.filter(
      ({ word, counts }) => counts && word.kind !== 'key' && !proposed.has(subjectOf(word)),
    )
    return { tenant, proposals, leftovers }
  }

  /** Signs what was proposed, and gives it to config. Networks go first: nothing counts without them. */
  async sign({ tenant, proposals }: TenantReview, key: KeyObject): Promise<void> {
    const inOrder = [...proposals].sort((a, b) => place(a.word) - place(b.word))
    for (let start = 0; start < inOrder.length; start += PUTS_AT_ONCE) {
      const batch = inOrder.slice(start, start + PUTS_AT_ONCE)
      await Promise.all(
        batch.map(({ statement }) => this.#put(tenant, signTenantStatement(statement, key))),
      )
    }
  }

  /** Makes `key` the one that speaks for the tenant; one that it replaces has to sign it. */
  async lock(options: {
    readonly tenant: string
    readonly tenantId: number
    readonly key: KeyObject
    readonly replaced?: KeyObject
  }): Promise<void> {
    const { tenant, tenantId, key, replaced = key } = options
    await this.#putKey(tenant, tenantId, publicKeyOf(key), replaced)
  }

  /** Ends the lock, and takes away what was said. */
  async unlock(options: {
    readonly tenant: string
    readonly tenantId: number
    readonly key: KeyObject
  }): Promise<void> {
    const { tenant, tenantId, key } = options
    const { isLocked } = await this.get(tenant)
    if (!isLocked) throw new TenantNotLockedError({ tenant })
    await this.#putKey(tenant, tenantId, Buffer.alloc(0), key)
    for (const { id, word } of (await this.get(tenant)).sayings) {
      if (word.kind !== 'key') await this.forget(tenant, id)
    }
  }

  /** Takes a statement away, by which hosts are handed it no longer. False if there was none. */
  async forget(tenant: string, id: number): Promise<boolean> {
    const request = { idempotencyKey: randomUUID(), tenant, id }
    return (await this.#control.tenantLock.deleteStatement(request)).deleted
  }

  async #putKey(
    tenant: string,
    tenantId: number,
    publicKey: Buffer,
    signer: KeyObject,
  ): Promise<void> {
    const domain = await this.#control.domain()
    const number = BigInt((await this.get(tenant)).keys.length + 1)
    const about = { $case: 'key', value: { publicKey } } as const
    const statement = { domain, tenantId, tenant, number, notAfterUnixMs: 0n, about }
    await this.#put(tenant, signTenantStatement(statement, signer))
  }

  async #put(tenant: string, statement: Signed): Promise<void> {
    const request = { idempotencyKey: randomUUID(), tenant, statement }
    await this.#control.tenantLock.putStatement(request)
  }
}

/** Verifies what config tells of a tenant; what nobody signed is left out. */
function lockOf(tenant: string, stored: readonly StoredStatement[], domain: string): TenantLock {
  const opened = stored.flatMap(({ id, statement: signed }) => {
    const content = opening(signed, domain)
    const word = content && wordOf(content.about, content.number)
    if (!signed || !word || content.tenant !== tenant) return []
    return [{ id, word, content, signerKey: signed.signerKey.toString('hex') }]
  })
  const keys: { number: number; publicKey: string }[] = []
  let signer: string | undefined
  for (const { word, signerKey } of opened.toSorted(
    (a, b) => Number(a.content.number) - Number(b.content.number),
  )) {
    if (word.kind !== 'key' || word.number !== keys.length + 1) continue
    if (signerKey !== (signer ?? word.publicKey)) continue
    keys.push({ number: word.number, publicKey: word.publicKey })
    signer = word.publicKey === '' ? signer : word.publicKey
  }
  const isLocked = (keys.at(-1)?.publicKey ?? '') !== ''
  const names = new Map(
    opened.flatMap(({ word }) =>
      word.kind === 'network' ? [[word.networkId, word.network] as const] : [],
    ),
  )
  const sayings = opened.map(({ id, word, content, signerKey }) => ({
    id,
    word,
    network: word.kind === 'key' ? undefined : names.get(word.networkId),
    number: content.number,
    notAfter: content.notAfterUnixMs === 0n ? undefined : new Date(Number(content.notAfterUnixMs)),
    counts:
      word.kind === 'key'
        ? keys.some(({ number, publicKey }) => isSame(word, { kind: 'key', number, publicKey }))
        : isLocked && signerKey === signer,
  }))
  const tenantId = opened.find(({ word }) => word.kind === 'key' && word.number === 1)?.content
    .tenantId
  return { tenant, tenantId, isLocked, keys, sayings }
}

function opening(signed: Signed | undefined, domain: string): TenantStatement | undefined {
  try {
    return openTenantStatement(signed, domain)
  } catch (error) {
    if (error instanceof StatementRefusedError) return undefined
    throw error
  }
}

/** What a statement says; undefined for what this version does not know. */
export function wordOf(about: TenantStatement['about'], number: bigint): TenantWord | undefined {
  switch (about?.$case) {
    case 'key':
      return {
        kind: 'key',
        number: Number(number),
        publicKey: about.value.publicKey.toString('hex'),
      }
    case 'network': {
      const { networkId, network, vni } = about.value
      return { kind: 'network', networkId, network, vni }
    }
    case 'membership': {
      const { networkId, hostId, identityKey, tunnelKey, plainAddresses } = about.value
      return {
        kind: 'membership',
        networkId,
        hostId,
        identityKey: identityKey.toString('hex'),
        tunnelKey: tunnelKey.toString('hex'),
        plainAddresses: plainAddresses.map(decodeAddress),
      }
    }
    case 'delegation': {
      const { networkId, delegateKey, prefixes } = about.value
      return {
        kind: 'delegation',
        networkId,
        delegateKey: delegateKey.toString('hex'),
        prefixes: prefixes.map(decodePrefix),
      }
    }
    default:
      return undefined
  }
}

/** What a word is about: of two with the same subject the one with the higher number counts. */
export function subjectOf(word: TenantWord): string {
  switch (word.kind) {
    case 'key':
      return `key ${word.number}`
    case 'network':
      return `network ${word.networkId}`
    case 'membership':
      return `membership ${word.networkId} ${word.hostId}`
    case 'delegation':
      return `delegation ${word.networkId} ${word.delegateKey}`
  }
}

/** `isEnough`: what was said before is known to config, and holds for long enough. */
function reasonFor(
  word: TenantWord,
  before: TenantWord | undefined,
  isEnough: boolean,
): TenantProposal['reason'] | undefined {
  if (!before) return 'new'
  if (!isSame(word, before)) return 'changed'
  return isEnough ? undefined : 'renewal'
}

function isSame(a: TenantWord, b: TenantWord): boolean {
  return textOf(a) === textOf(b)
}

function textOf(word: TenantWord): string {
  return JSON.stringify(word, (_, value: unknown) =>
    typeof value === 'bigint' ? String(value) : value,
  )
}

function place({ kind }: TenantWord): number {
  return ['key', 'network', 'membership', 'delegation'].indexOf(kind)
}

function maxOf(a: bigint, b: bigint): bigint {
  return a > b ? a : b
}
