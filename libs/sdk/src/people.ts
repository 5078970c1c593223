import { randomUUID } from 'node:crypto'
import { Head } from '@weft/proto/weftline/audit/v1/audit.ts'
import type { UserGrant } from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  Role as RoleCode,
  type Token as TokenMessage,
  TokenPurpose,
  type User as UserMessage,
} from '@weft/proto/weftline/config/v1/records.ts'
import type { AuditChain } from './audit.ts'
import type { Control } from './control.ts'
import { decodeMeta, pages, present } from './decode.ts'
import type * as t from './types.ts'

/** Names of ids, as `Weft` learns them. */
export interface NamesOf {
  tenant(id: number): Promise<string>
  zone(id: number): Promise<string>
  host(id: number): Promise<string>
}

/** Entries of the audit in one page: its server's limit. */
const AUDIT_PAGE_SIZE = 500

const ROLE_CODES: { readonly [role in t.Role]: RoleCode } = {
  owner: RoleCode.ROLE_OWNER,
  operator: RoleCode.ROLE_OPERATOR,
  subscriber: RoleCode.ROLE_SUBSCRIBER,
  auditor: RoleCode.ROLE_AUDITOR,
}
const ROLES: { readonly [code: number]: t.Role } = {
  [RoleCode.ROLE_OWNER]: 'owner',
  [RoleCode.ROLE_OPERATOR]: 'operator',
  [RoleCode.ROLE_SUBSCRIBER]: 'subscriber',
  [RoleCode.ROLE_AUDITOR]: 'auditor',
}

/** Tokens by which hosts join. */
export class Tokens {
  readonly #control: Control
  readonly #names: NamesOf

  constructor(control: Control, names: NamesOf) {
    this.#control = control
    this.#names = names
  }

  /** `text` is the token itself, which is never told again. */
  async create(wanted: t.CreateToken): Promise<{ token: t.Token; text: string }> {
    const { token, text } = await this.#control.rpc.createToken({
      idempotencyKey: randomUUID(),
      ttlMs: BigInt(wanted.ttlMs ?? 0),
      tenants: [...(wanted.tenants ?? [])],
      zone: wanted.zone ?? '',
      labels: { ...wanted.labels },
      hostName: wanted.hostName ?? '',
    })
    return { token: await this.#decode(present(token, 'token'), 0), text }
  }

  async *list(): AsyncGenerator<t.Token, void, undefined> {
    const { rpc } = this.#control
    for await (const { tokens, hostIds } of pages((page) => rpc.listTokens({ page }))) {
      for (const [index, token] of tokens.entries()) {
        yield await this.#decode(token, hostIds[index] ?? 0)
      }
    }
  }

  /** False if there was none. */
  async revoke(id: number): Promise<boolean> {
    return (await this.#control.rpc.revokeToken({ idempotencyKey: randomUUID(), id })).revoked
  }

  async #decode(token: TokenMessage, hostId: number): Promise<t.Token> {
    const { revision, createdAt } = decodeMeta(token.meta)
    return {
      id: token.id,
      purpose: token.purpose === TokenPurpose.TOKEN_PURPOSE_LOGIN ? 'login' : 'join',
      expiresAt: new Date(Number(token.expiresAtUnixMs)),
      tenants: await Promise.all(token.tenantIds.map((id) => this.#names.tenant(id))),
      zone: token.zoneId === 0 ? undefined : await this.#names.zone(token.zoneId),
      hostLabels: token.hostLabels,
      hostName: token.hostName === '' ? undefined : token.hostName,
      usedBy: hostId === 0 ? undefined : await this.#names.host(hostId),
      revision,
      createdAt,
    }
  }
}

/** People and programs that use the control server. */
export class Users {
  readonly #control: Control
  readonly #names: NamesOf

  constructor(control: Control, names: NamesOf) {
    this.#control = control
    this.#names = names
  }

  async create(wanted: { name: string; grants: readonly t.Grant[] }): Promise<t.User> {
    const { user } = await this.#control.rpc.createUser({
      idempotencyKey: randomUUID(),
      name: wanted.name,
      grants: wanted.grants.map(encodeGrant),
    })
    return await this.#decode(present(user, 'user'))
  }

  async *list(): AsyncGenerator<t.User, void, undefined> {
    const { rpc } = this.#control
    for await (const { users } of pages((page) => rpc.listUsers({ page }))) {
      for (const user of users) yield await this.#decode(user)
    }
  }

  /** Replaces the grants; with `expectedRevision` only if nobody else has written them since. */
  async update(change: {
    name: string
    grants: readonly t.Grant[]
    expectedRevision?: bigint
  }): Promise<t.User> {
    const { user } = await this.#control.rpc.updateUser({
      idempotencyKey: randomUUID(),
      name: change.name,
      grants: change.grants.map(encodeGrant),
      expectedRevision: change.expectedRevision ?? 0n,
    })
    return await this.#decode(present(user, 'user'))
  }

  /** Also revokes the user's key. False if there was none. */
  async delete(name: string): Promise<boolean> {
    return (await this.#control.rpc.deleteUser({ idempotencyKey: randomUUID(), name })).deleted
  }

  /** A one-time code for `weft login`, which is never told again. */
  async createLoginCode(wanted: {
    user: string
    ttlMs?: number
  }): Promise<{ text: string; expiresAt: Date }> {
    const { token, text } = await this.#control.rpc.createLoginCode({
      idempotencyKey: randomUUID(),
      user: wanted.user,
      ttlMs: BigInt(wanted.ttlMs ?? 0),
    })
    return { text, expiresAt: new Date(Number(present(token, 'token').expiresAtUnixMs)) }
  }

  async #decode(user: UserMessage): Promise<t.User> {
    const grants: t.Grant[] = []
    for (const { tenantId, role } of user.grants) {
      const tenant = tenantId === 0 ? undefined : await this.#names.tenant(tenantId)
      grants.push({ tenant, role: ROLES[role] ?? 'unknown' })
    }
    return {
      id: user.id,
      name: user.name,
      grants,
      hasLoggedIn: user.identityKey.length > 0,
      ...decodeMeta(user.meta),
    }
  }
}

/** Who did what: one chain for each start of a replica. */
export class Audit {
  readonly #control: Control

  constructor(control: Control) {
    this.#control = control
  }

  /** Every chain, in the order in which their heads were signed. Entries are asked for page by page. */
  async chains(): Promise<AuditChain[]> {
    const { heads } = await this.#control.audit.listWriters({})
    return heads
      .map((head) => ({ head, about: headIn(head.payload) }))
      .sort((a, b) => Number(a.about.signedAtUnixMs - b.about.signedAtUnixMs))
      .map(({ head, about: { writer } }) => ({
        writer,
        head,
        entries: writer === '' ? [] : this.entries(writer),
      }))
  }

  /** The key by which config signs heads now, lower-case hex: that of the certificate that it shows to this client. */
  async signer(): Promise<string> {
    return Buffer.from(await this.#control.serverKey()).toString('hex')
  }

  /** Encoded entries of one chain from a number on, oldest first. */
  async *entries(writer: string, from = 1n): AsyncGenerator<Uint8Array, void, undefined> {
    let number = from
    do {
      const answer = await this.#control.audit.listEntries({
        writer,
        fromNumber: number,
        size: AUDIT_PAGE_SIZE,
      })
      yield* answer.entries
      number = answer.nextNumber
    } while (number !== 0n)
  }
}

/** Of no writer where it is damaged: whoever verifies shows it, and it hides no other chain. */
function headIn(payload: Uint8Array): Head {
  try {
    return Head.decode(payload)
  } catch {
    return Head.create()
  }
}

function encodeGrant({ tenant = '', role }: t.Grant): UserGrant {
  return { tenant, role: role === 'unknown' ? RoleCode.ROLE_UNSPECIFIED : ROLE_CODES[role] }
}
