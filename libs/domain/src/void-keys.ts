import { VOID_KEY_LIFE_MS } from '@weft/identity/authority'
import type { Record as StoredRecord } from '@weft/proto/weftline/config/v1/records.ts'
import type { Revocations, RevokedKey } from '@weft/proto/weftline/identity/v1/identity.ts'

/** The VN database has up to 65,536 void keys and 16,384 hosts; about 150 bytes each. Beyond it the one told first is forgotten. */
const VOID_KEYS_MAX = 98_304
/** Of them the ones that were told last are kept over a restart, at 43 bytes each: no file has more than 1 MiB. */
const KEPT_MAX = 20_000
const KEY_BYTES = 32

/**
 * Keys that are void. A statement names the newest ones only, so what was told before stays beside it, for as long as
 * anything of the key may be left.
 */
export class VoidKeys {
  /** From when on, in milliseconds since 1970, by key in hexadecimal digits. */
  readonly #since = new Map<string, number>()
  #number = 0n
  #changeCount = 0

  /** Grows whenever a key comes or goes, or its time is another. */
  get changeCount(): number {
    return this.#changeCount
  }

  isVoid(publicKey: Uint8Array, nowMs: number): boolean {
    const since = this.#since.size > 0 ? this.#since.get(hex(publicKey)) : undefined
    return since !== undefined && since <= nowMs
  }

  /**
   * Takes in a statement of the directory, and says whether it was news: one that is older than the newest is not. At one
   * revision of the VN database more keys are void when their time has come.
   */
  take({ number, keys }: Pick<Revocations, 'number' | 'keys'>, nowMs: number): boolean {
    if (number < this.#number) return false
    let isNews = number > this.#number
    this.#number = number
    const told = new Set<string>()
    for (const { identityKey, revokedAtUnixMs } of keys) {
      const key = hex(identityKey)
      told.add(key)
      // What is told counts already, whatever the clock here says.
      if (this.#add(key, Math.min(Number(revokedAtUnixMs), nowMs))) isNews = true
    }
    this.#forget(told, nowMs)
    return isNews
  }

  /** Adds a key that is void from a time on, and says whether that is new and counts already. */
  add(publicKey: Uint8Array, atMs: number, nowMs: number): boolean {
    if (isPast(atMs, nowMs)) return false
    return this.#add(hex(publicKey), atMs) && atMs <= nowMs
  }

  /** Those that are void by now, to be restored later; of very many those that were told last. */
  toKeep(nowMs: number): RevokedKey[] {
    return [...this.#since]
      .filter(([, at]) => at <= nowMs)
      .slice(-KEPT_MAX)
      .map(([key, at]) => ({
        identityKey: Buffer.from(key, 'hex'),
        hostId: 0,
        revokedAtUnixMs: BigInt(at),
      }))
  }

  /** Takes back what was kept: until a statement comes, what is long past too. */
  restore(keys: readonly RevokedKey[], nowMs: number): void {
    for (const { identityKey, revokedAtUnixMs } of keys) {
      if (identityKey.length !== KEY_BYTES) continue
      this.#add(hex(identityKey), Math.min(Number(revokedAtUnixMs), nowMs))
    }
  }

  #add(key: string, atMs: number): boolean {
    const before = this.#since.get(key)
    if (before !== undefined && before <= atMs) return false
    this.#changeCount++
    this.#since.set(key, atMs)
    if (this.#since.size > VOID_KEYS_MAX) {
      const [first] = this.#since.keys()
      if (first !== undefined) this.#since.delete(first)
    }
    return true
  }

  #forget(told: ReadonlySet<string>, nowMs: number): void {
    for (const [key, at] of this.#since) {
      if (!isPast(at, nowMs) || told.has(key)) continue
      this.#changeCount++
      this.#since.delete(key)
    }
  }
}

/** What refuses keys: own credentials do. */
export interface KeyRefuser {
  /** From a time on, in milliseconds since 1970. */
  noteVoidKey(publicKey: Uint8Array, fromUnixMs: number): void
}

/** Has the key refused that a record of the VN database makes void, for those who read it: a statement names the newest only. */
export function refuseVoidKey({ kind }: StoredRecord, refuser: KeyRefuser): void {
  if (kind?.$case !== 'revokedKey' && kind?.$case !== 'host') return
  const { identityKey, revokedAtUnixMs } = kind.value
  if (revokedAtUnixMs === 0n || identityKey.length === 0) return
  refuser.noteVoidKey(identityKey, Number(revokedAtUnixMs))
}

function isPast(atMs: number, nowMs: number): boolean {
  return atMs <= nowMs - VOID_KEY_LIFE_MS
}

function hex(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString('hex')
}
