import { asWeftError } from '@weft/errors'
import { decodeSigned } from '@weft/identity'
import { Revocations, Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import type { PassedRevocations as Passed } from '@weft/proto/weftline/shuttle/v1/sealing.ts'
import type { SealingClient } from '@weft/shuttle'
import { untraced } from '@weft/telemetry'
import { PassedRevocations } from './domain/passed-revocations.ts'
import type { Events } from './events.ts'
import { Coalesced } from './loop.ts'
import type { Member } from './member.ts'

const TIMEOUT_MS = 2_000

/**
 * Has word about void keys go from host to host inside the tunnels, so that it reaches those who hear nothing from the control
 * plane. Whoever it comes from, it counts by the signature of the directory alone, and nothing else is passed on.
 */
export class RevocationPasser {
  readonly #options: RevocationPasserOptions
  readonly #passed: PassedRevocations = new PassedRevocations()
  readonly #telling: Coalesced = new Coalesced(() => this.#tell())
  /** The shuttle has not taken the newest. */
  #isBehind = false

  constructor(options: RevocationPasserOptions) {
    this.#options = options
  }

  /** Has peers told of a statement that the directory signed; never throws. */
  async pass(statement: Signed): Promise<void> {
    // Whoever verified it decoded it too.
    const { number, keys } = Revocations.decode(statement.payload)
    const isNew = this.#passed.take({
      number,
      keys: keys.map(({ identityKey }) => identityKey.toString('hex')),
      bytes: Signed.encode(statement).finish(),
    })
    if (isNew) await this.tell()
  }

  /** Takes in what peers passed on; never throws. */
  async hear(passed: readonly Passed[]): Promise<void> {
    const { member, events } = this.#options
    for (const { hostId, statement: bytes } of passed) {
      try {
        const statement = decodeSigned('revocations', bytes)
        const isNews = await member.noteRevocations(statement)
        events.revocationsPassed(hostId, isNews)
        await this.pass(statement)
      } catch (error) {
        events.revocationsRefused(asWeftError(error), hostId)
      }
    }
  }

  /** Gives the shuttle what peers are to be told; never throws. */
  tell(): Promise<void> {
    return this.#telling.run()
  }

  /** The same if it did not work before. */
  async tellAgain(): Promise<void> {
    if (this.#isBehind) await this.tell()
  }

  async #tell(): Promise<void> {
    const statements = this.#passed.statements.map((bytes) => Buffer.from(bytes))
    if (statements.length === 0) return
    try {
      await untraced(() =>
        this.#options.client.tellRevocations({ statements }, { timeoutMs: TIMEOUT_MS }),
      )
      this.#isBehind = false
    } catch {
      // A shuttle that is not there, or knows nothing of it.
      this.#isBehind = true
    }
  }
}

interface RevocationPasserOptions {
  readonly client: Pick<SealingClient, 'tellRevocations'>
  readonly member: Pick<Member, 'noteRevocations'>
  readonly events: Pick<Events, 'revocationsPassed' | 'revocationsRefused'>
}
