import type { Host, RevokedKey, Token, User } from '@weft/proto/weftline/config/v1/records.ts'
import { NameIndex } from './name-index.ts'

/** Who has a key. */
export interface KeyHolder {
  readonly kind: 'host' | 'user'
  readonly id: number
}

/** A key that is void, and since when. */
export interface VoidKey {
  /** Ed25519, 32 bytes. */
  readonly identityKey: Buffer
  /** Empty for a user's. */
  readonly busKey: string
  /** 0 for a user's, and for a key that its host has replaced by another: that host lives on. */
  readonly hostId: number
  /** May lie ahead: the key is void from then on. */
  readonly revokedAtUnixMs: number
  /** Its host has another key now, and lives on. */
  readonly isReplaced?: true
}

/**
 * Who belongs to the domain and by which keys: tokens, users and revoked keys, and the keys of hosts. A part of the
 * `Database`, which feeds it.
 */
export class Members {
  readonly userNames: NameIndex = new NameIndex()
  readonly #tokens = new Map<number, Token>()
  readonly #users = new Map<number, User>()
  readonly #revokedKeys = new Map<number, RevokedKey>()
  readonly #hostsByToken = new Map<number, number>()
  /** Those that have keys. */
  readonly #hosts = new Map<number, Host>()
  readonly #revokedHosts = new Map<number, Host>()
  /** By identity key. */
  readonly #holders = new Map<string, KeyHolder>()
  /** Hosts by tunnel and by bus key, which two of them never share either. */
  readonly #hostsByTunnelKey = new Map<string, number>()
  readonly #hostsByBusKey = new Map<string, number>()
  /** Ids of revoked keys by identity key, by bus key and by host. */
  readonly #revokedByKey = new Map<string, number>()
  readonly #revokedBusKeys = new Map<string, number>()
  readonly #revokedOfHost = new Map<number, Set<number>>()
  /** By identity key. */
  readonly #remembered = new Map<string, VoidKey>()

  get tokenCount(): number {
    return this.#tokens.size
  }

  get userCount(): number {
    return this.#users.size
  }

  get revokedKeyCount(): number {
    return this.#revokedKeys.size
  }

  token(id: number): Token | undefined {
    return this.#tokens.get(id)
  }

  user(id: number): User | undefined {
    return this.#users.get(id)
  }

  revokedKey(id: number): RevokedKey | undefined {
    return this.#revokedKeys.get(id)
  }

  /** In no order that means something, but for new ones: those come last. */
  tokens(): Iterable<Token> {
    return this.#tokens.values()
  }

  users(): Iterable<User> {
    return this.#users.values()
  }

  /** The host that joined by the token. */
  hostOfToken(tokenId: number): number | undefined {
    return this.#hostsByToken.get(tokenId)
  }

  /** Who has the identity key, revoked or not. */
  holderOf(identityKey: Uint8Array): KeyHolder | undefined {
    return this.#holders.get(textOf(identityKey))
  }

  /** The host that has the tunnel key. */
  tunnelKeyHolder(tunnelKey: Uint8Array): number | undefined {
    return this.#hostsByTunnelKey.get(textOf(tunnelKey))
  }

  /** The host that has the bus key. */
  busKeyHolder(busKey: string): number | undefined {
    return this.#hostsByBusKey.get(busKey)
  }

  /** Whether a bus key was revoked under another identity. */
  isBusKeyRevoked(busKey: string): boolean {
    return this.#revokedBusKeys.has(busKey)
  }

  /** What is known of a key that is void although no living host has it. */
  revokedKeyOf(identityKey: Uint8Array): RevokedKey | undefined {
    return this.#revokedKeys.get(this.#revokedByKey.get(textOf(identityKey)) ?? 0)
  }

  /** From when on the identity key is void, in milliseconds since 1970; undefined if it is not. */
  revokedAt(identityKey: Uint8Array): number | undefined {
    return (
      this.#revokedByRecord(identityKey) ??
      this.#remembered.get(textOf(identityKey))?.revokedAtUnixMs
    )
  }

  /** Keys that were told to be void: they stay so, whatever the records say. A store that was restored may have forgotten them. */
  remember(keys: Iterable<VoidKey>): void {
    for (const key of keys) this.#remembered.set(textOf(key.identityKey), key)
  }

  /** Those that were told to be void, and of which no record says so. */
  *forgotten(): Generator<VoidKey, void, undefined> {
    for (const key of this.#remembered.values()) {
      if (this.#revokedByRecord(key.identityKey) !== undefined) continue
      const holder = this.holderOf(key.identityKey)
      const host = holder?.kind === 'host' ? this.#hosts.get(holder.id) : undefined
      yield { ...key, busKey: host?.busKey ?? key.busKey }
    }
  }

  #revokedByRecord(identityKey: Uint8Array): number | undefined {
    const revoked = this.revokedKeyOf(identityKey)
    if (revoked) return this.#endOf(revoked)
    const holder = this.holderOf(identityKey)
    const host = holder?.kind === 'host' ? this.#revokedHosts.get(holder.id) : undefined
    return host && Number(host.revokedAtUnixMs)
  }

  /** A revoked host has no key that still counts for a while. */
  #endOf({ hostId, revokedAtUnixMs }: RevokedKey): number {
    const ownMs = Number(revokedAtUnixMs)
    const host = this.#revokedHosts.get(hostId)
    return host ? Math.min(ownMs, Number(host.revokedAtUnixMs)) : ownMs
  }

  isRevoked(identityKey: Uint8Array, nowUnixMs: number): boolean {
    const revokedAt = this.revokedAt(identityKey)
    return revokedAt !== undefined && revokedAt <= nowUnixMs
  }

  /** In the order in which they were written last. */
  revokedKeys(): Iterable<RevokedKey> {
    return this.#revokedKeys.values()
  }

  /** Keys that the host had before, of which some may be void only from a later time on. */
  revokedKeysOfHost(hostId: number): RevokedKey[] {
    return [...(this.#revokedOfHost.get(hostId) ?? [])].flatMap(
      (id) => this.#revokedKeys.get(id) ?? [],
    )
  }

  /** Every void key, those of revoked hosts and those that are only remembered as well; of one that is void twice, both. */
  *voidKeys(): Generator<VoidKey, void, undefined> {
    for (const key of this.#revokedKeys.values()) {
      const { identityKey, busKey, hostId } = key
      const livesOn = this.#hosts.get(hostId)?.revokedAtUnixMs === 0n
      yield {
        identityKey,
        busKey,
        hostId: livesOn ? 0 : hostId,
        revokedAtUnixMs: this.#endOf(key),
        ...(livesOn && { isReplaced: true as const }),
      }
    }
    for (const { id, identityKey, busKey, revokedAtUnixMs } of this.#revokedHosts.values()) {
      yield { identityKey, busKey, hostId: id, revokedAtUnixMs: Number(revokedAtUnixMs) }
    }
    yield* this.forgotten()
  }

  applyToken(id: number, record: Token | undefined): Token | undefined {
    return replace(this.#tokens, id, record)
  }

  applyUser(id: number, record: User | undefined): User | undefined {
    const before = replace(this.#users, id, record)
    if (before) {
      this.userNames.delete(before.name, id)
      this.#free(before.identityKey, 'user', id)
    }
    if (record) {
      this.userNames.set(record.name, id)
      this.#hold(record.identityKey, { kind: 'user', id })
    }
    return before
  }

  applyRevokedKey(id: number, record: RevokedKey | undefined): RevokedKey | undefined {
    const before = this.#revokedKeys.get(id)
    this.#revokedKeys.delete(id)
    if (record) this.#revokedKeys.set(id, record)
    if (before) {
      forget(this.#revokedByKey, textOf(before.identityKey), id)
      forget(this.#revokedBusKeys, before.busKey, id)
      const others = this.#revokedOfHost.get(before.hostId)
      others?.delete(id)
      if (others?.size === 0) this.#revokedOfHost.delete(before.hostId)
    }
    if (record) {
      this.#revokedByKey.set(textOf(record.identityKey), id)
      if (record.busKey !== '') this.#revokedBusKeys.set(record.busKey, id)
      if (record.hostId !== 0) {
        const others = this.#revokedOfHost.get(record.hostId)
        if (others) others.add(id)
        else this.#revokedOfHost.set(record.hostId, new Set([id]))
      }
    }
    return before
  }

  /** A host as it was and as it is: what this part of the database has to know of it. */
  applyHost(id: number, before: Host | undefined, after: Host | undefined): void {
    if (before) {
      forget(this.#hostsByToken, before.tokenId, id)
      this.#free(before.identityKey, 'host', id)
      forget(this.#hostsByTunnelKey, textOf(before.tunnelKey), id)
      forget(this.#hostsByBusKey, before.busKey, id)
      this.#hosts.delete(id)
      this.#revokedHosts.delete(id)
    }
    if (after && after.identityKey.length > 0) {
      this.#hosts.set(id, after)
      if (after.tokenId !== 0) this.#hostsByToken.set(after.tokenId, id)
      this.#hold(after.identityKey, { kind: 'host', id })
      if (after.tunnelKey.length > 0) this.#hostsByTunnelKey.set(textOf(after.tunnelKey), id)
      if (after.busKey !== '') this.#hostsByBusKey.set(after.busKey, id)
      if (after.revokedAtUnixMs !== 0n) this.#revokedHosts.set(id, after)
    }
  }

  #hold(identityKey: Buffer, holder: KeyHolder): void {
    if (identityKey.length > 0) this.#holders.set(textOf(identityKey), holder)
  }

  #free(identityKey: Buffer, kind: KeyHolder['kind'], id: number): void {
    const key = textOf(identityKey)
    const holder = this.#holders.get(key)
    if (holder?.kind === kind && holder.id === id) this.#holders.delete(key)
  }
}

function replace<T>(records: Map<number, T>, id: number, record: T | undefined): T | undefined {
  const before = records.get(id)
  if (record) records.set(id, record)
  else records.delete(id)
  return before
}

/** Forgets a key if it still belongs to this id. */
function forget<K>(ids: Map<K, number>, key: K, id: number): void {
  if (ids.get(key) === id) ids.delete(key)
}

/** A key as the key of a map; one character a byte. */
function textOf(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString('latin1')
}
