import type { KeyObject } from 'node:crypto'
import { type FSWatcher, watch } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  asWeftError,
  CertificateRefusedError,
  ClockWrongError,
  ExitCode,
  InternalError,
  NotEnrolledError,
  UnavailableError,
  type WeftError,
} from '@weft/errors'
import {
  type BusLogin,
  type Credentials,
  type Identity,
  openStatement,
  pemOfKey,
  publicKeyOf,
  signStatement,
  type TlsMaterial,
} from '@weft/identity'
import { CLOCK_TOLERANCE_MS } from '@weft/identity/authority'
import {
  CertificateServiceService,
  EnrolmentServiceService,
  RenewalStatement,
} from '@weft/proto/weftline/config/v1/enrolment.ts'
import {
  type Credentials as CredentialsMessage,
  Revocations,
  type Signed,
} from '@weft/proto/weftline/identity/v1/identity.ts'
import { connect } from '@weft/rpc'
import { createLogger, type Logger } from '@weft/telemetry'
import type { Places } from './domain-file.ts'
import {
  type Certificate,
  checkCredentials,
  hasIdentity,
  isSameMember,
  type MemberKeys,
  readIdentity,
  readNextKeys,
  readVoidKeys,
  type StoredIdentity,
  settleKeys,
  writeCredentials,
  writeVoidKeys,
} from './identity-folder.ts'
import { NOWHERE, shuffled } from './places.ts'
import { type KeyRefuser, VoidKeys } from './void-keys.ts'

/** A failed renewal is tried again after a random time below a bound that doubles up to this. */
const RENEWAL_PAUSE_MAX_MS = 5 * 60_000
const RENEWAL_PAUSE_MIN_MS = 1000
/** Clocks jump and machines sleep: what the time is is looked at this often. */
const LOOK_MS = 30_000
/** Several files change together. */
const SETTLE_MS = 20
/** A renewal that is under way when everything ends has this long. */
const ENDING_MS = 1000

/** Gets new certificates for the keys of `own`: another way than to ask config, for config itself. */
export type Renew = (own: OwnCredentials, signal: AbortSignal) => Promise<CredentialsMessage>

export interface OpenCredentialsOptions {
  readonly folder: string
  /** None by default. */
  readonly log?: Logger
  /** `self` (default) renews at half life; `watch` takes what another process writes into the folder. */
  readonly renew?: 'self' | 'watch' | Renew
  /** Milliseconds since 1970. */
  readonly now?: () => number
}

/** A member's own credentials, kept valid. */
export interface OwnCredentials extends Credentials, KeyRefuser, AsyncDisposable {
  readonly places: Places
  /** Name of the host; empty for others. */
  readonly hostName: string
  /** Until when a certificate that ran out is renewed; undefined for no limit. */
  readonly horizon: Date | undefined
  /** X25519; hosts only. */
  readonly tunnelKey: KeyObject | undefined
  /** Why others refuse these credentials now, or why they are not renewed. */
  readonly problem: WeftError | undefined
  /**
   * Takes in who is revoked, if the directory signed it, beside what was told in the last 8 days, and says whether that was
   * news. @throws StatementRefusedError
   */
  noteRevocations(statement: Signed): Promise<boolean>
  /** Renews now. @throws what keeps it from being renewed */
  renewNow(): Promise<void>
}

/**
 * Opens an identity folder. TLS material is always that which counts now: certificates are renewed at half life, by a
 * proof of the key if they ran out, and taken over if another process renews them.
 * @throws NotEnrolledError if there is no identity; InvalidArgumentError if others may read it; BrokenInputError
 */
export async function openCredentials(options: OpenCredentialsOptions): Promise<OwnCredentials> {
  const stored = await readIdentity(options.folder)
  if (stored === undefined) throw new NotEnrolledError({ folder: options.folder })
  const own = new FolderCredentials(options, stored)
  await own.start()
  return own
}

/** Waits until there is an identity in a folder: a host may start before it joins. @throws AbortError */
export async function waitForIdentity(folder: string, signal: AbortSignal): Promise<void> {
  while (!(await hasIdentity(folder))) await sleep(POLL_MS, undefined, { signal })
}
const POLL_MS = 500

class FolderCredentials implements OwnCredentials {
  readonly #options: OpenCredentialsOptions
  readonly #now: () => number
  readonly #log: Logger
  readonly #listeners = new Set<(what: 'renewed' | 'revoked') => void>()
  readonly #end = new AbortController()
  #stored: StoredIdentity
  #certificate: Certificate
  #tls: TlsMaterial
  #bus: BusLogin | undefined
  readonly #voidKeys = new VoidKeys()
  /** Of the void keys that are on disk. */
  #keptChangeCount = 0
  #keeping: Promise<void> | undefined
  #isRevocationUntold = false
  #renewalProblem: WeftError | undefined
  #failures = 0
  #renewAt: number
  #watcher: FSWatcher | undefined
  #wake: () => void = () => undefined
  #isStale = false
  #isEnding = false
  #life: Promise<void> | undefined
  #renewal: Promise<void> | undefined

  constructor(options: OpenCredentialsOptions, stored: StoredIdentity) {
    this.#options = options
    this.#now = options.now ?? Date.now
    this.#log = options.log ?? createLogger({ service: 'weft', level: 'silent' })
    this.#stored = stored
    this.#certificate = currentOf(stored.certificates, this.#now())
    this.#tls = tlsOf(stored, this.#certificate)
    this.#bus = busOf(stored)
    this.#renewAt = renewalTimeOf(stored.certificates)
  }

  async start(): Promise<void> {
    try {
      this.#voidKeys.restore(await readVoidKeys(this.#options.folder), this.#now())
      this.#keptChangeCount = this.#voidKeys.changeCount
    } catch (error) {
      const { message, code } = asWeftError(error)
      this.#log.error({ err: error, code }, `who was revoked before is not known: ${message}`)
    }
    this.#watcher = watch(this.#options.folder, { persistent: false }, () => {
      this.#isStale = true
      this.#wake()
    })
    // A folder that is removed: what is known is kept until the process ends.
    this.#watcher.on('error', () => undefined)
    const { problem } = this
    if (problem) this.#log.error(factsOf(problem), problem.message)
    this.#life = this.#live()
  }

  get identity(): Identity {
    return this.#stored.identity
  }

  get tls(): TlsMaterial {
    this.#choose()
    return this.#tls
  }

  get bus(): BusLogin | undefined {
    return this.#bus
  }

  get identityKey(): KeyObject {
    return this.#stored.keys.identity
  }

  get tunnelKey(): KeyObject | undefined {
    return this.#stored.keys.tunnel
  }

  get directoryKey(): Uint8Array {
    return this.#stored.message.directoryKey
  }

  get places(): Places {
    return this.#stored.message.places ?? NOWHERE
  }

  get hostName(): string {
    return this.#stored.message.hostName
  }

  get horizon(): Date | undefined {
    const { horizonUnixMs } = this.#stored.message
    return horizonUnixMs === 0n ? undefined : new Date(Number(horizonUnixMs))
  }

  get problem(): WeftError | undefined {
    const now = this.#now()
    const [first] = this.#stored.certificates
    if (first !== undefined && now < first.notBefore.getTime()) {
      const thereUnixMs = first.notBefore.getTime() + CLOCK_TOLERANCE_MS
      return new ClockWrongError({
        hereUnixMs: now,
        thereUnixMs,
        there: 'the authority when it issued our certificate',
      })
    }
    const { notAfter } = currentOf(this.#stored.certificates, now)
    if (now < notAfter.getTime()) return this.#renewalProblem
    return (
      this.#renewalProblem ??
      new CertificateRefusedError({
        reason: 'expired',
        subject: 'our own certificate',
        problem: `at ${notAfter.toISOString()}; the clock says ${new Date(now).toISOString()}`,
      })
    )
  }

  isRevoked(publicKey: Uint8Array): boolean {
    return this.#voidKeys.isVoid(publicKey, this.#now())
  }

  onChange(listener: (what: 'renewed' | 'revoked') => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  async noteRevocations(statement: Signed): Promise<boolean> {
    if (!this.#voidKeys.take(this.#revocationsIn(statement), this.#now())) return false
    this.#tell('revoked')
    try {
      await this.#keepVoidKeys()
    } catch (error) {
      this.#log.warn({ err: error }, 'revocations are not kept over a restart')
    }
    return true
  }

  noteVoidKey(publicKey: Uint8Array, fromUnixMs: number): void {
    const isNews = this.#voidKeys.add(publicKey, fromUnixMs, this.#now())
    if (!isNews || this.#isRevocationUntold) return
    // Once for all records that come together.
    this.#isRevocationUntold = true
    setImmediate(() => {
      this.#isRevocationUntold = false
      this.#tell('revoked')
    })
  }

  async renewNow(): Promise<void> {
    this.#renewal ??= this.#renew().finally(() => {
      this.#renewal = undefined
    })
    await this.#renewal
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isEnding = true
    this.#watcher?.close()
    this.#wake()
    // A command that ends soon after its start has to get its renewal done some time.
    const late = setTimeout(() => this.#end.abort(), ENDING_MS)
    await this.#life
    clearTimeout(late)
    this.#end.abort()
    this.#listeners.clear()
  }

  /** Looks at the time and the folder until the end. */
  async #live(): Promise<void> {
    while (!this.#isEnding) {
      if (this.#isStale) await this.#reload()
      this.#choose()
      if (this.#options.renew !== 'watch' && this.#now() >= this.#renewAt) await this.#tryToRenew()
      await this.#pause()
    }
  }

  async #pause(): Promise<void> {
    if (this.#isEnding) return
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#wake = resolve
    const untilRenewal = Math.max(0, this.#renewAt - this.#now())
    const pause = this.#options.renew === 'watch' ? LOOK_MS : Math.min(LOOK_MS, untilRenewal)
    const timer = setTimeout(resolve, this.#isStale ? SETTLE_MS : pause)
    timer.unref()
    await promise
    clearTimeout(timer)
    if (this.#isStale && !this.#isEnding) await sleep(SETTLE_MS)
  }

  /** Takes over what another process, or a renewal, wrote. */
  async #reload(): Promise<void> {
    this.#isStale = false
    try {
      const stored = await readIdentity(this.#options.folder)
      if (stored !== undefined) this.#take(stored)
    } catch (error) {
      const { message, code } = asWeftError(error)
      this.#log.error({ err: error, code }, `the identity stays as it was: ${message}`)
    }
  }

  #take(stored: StoredIdentity): void {
    const before = this.#stored
    if (isSameCredentials(before, stored)) return
    if (!isSameMember(stored.identity, before.identity)) {
      // Somebody left and joined again: who runs under the former identity has to start anew.
      this.#log.error(
        { before: before.identity, now: stored.identity },
        'the folder holds another identity now: restart to use it',
      )
      return
    }
    this.#stored = stored
    this.#certificate = currentOf(stored.certificates, this.#now())
    this.#tls = tlsOf(stored, this.#certificate)
    this.#bus = busOf(stored)
    // With a clock that is far ahead every new certificate looks old, and config must not be asked on and on.
    this.#renewAt = Math.max(
      renewalTimeOf(stored.certificates),
      this.#now() + Math.min(RENEWAL_PAUSE_MAX_MS, lifeOf(stored.certificates) / 4),
    )
    this.#renewalProblem = undefined
    this.#failures = 0
    this.#log.info({ notAfter: this.#certificate.notAfter }, 'certificate renewed')
    this.#tell('renewed')
  }

  /** Steps up the ladder when the next rung counts. */
  #choose(): void {
    const certificate = currentOf(this.#stored.certificates, this.#now())
    if (certificate === this.#certificate) return
    this.#certificate = certificate
    this.#tls = tlsOf(this.#stored, certificate)
    this.#tell('renewed')
  }

  async #tryToRenew(): Promise<void> {
    try {
      await this.renewNow()
    } catch (error) {
      if (this.#end.signal.aborted) return
      const problem = asWeftError(error)
      this.#renewalProblem = problem
      const bound = Math.min(RENEWAL_PAUSE_MAX_MS, RENEWAL_PAUSE_MIN_MS * 2 ** this.#failures)
      this.#failures = Math.min(this.#failures + 1, 16)
      const pauseMs = Math.ceil(Math.random() * bound)
      this.#renewAt = this.#now() + pauseMs
      const isLate = this.#now() >= this.#certificate.notAfter.getTime()
      const facts = { ...factsOf(problem), notAfter: this.#certificate.notAfter, pauseMs }
      const text = `the certificate is not renewed: ${problem.message}`
      if (isLate) this.#log.error(facts, text)
      else this.#log.warn(facts, text)
    }
  }

  async #renew(): Promise<void> {
    const { folder, renew } = this.#options
    const before = this.#stored
    const { keys, message } =
      typeof renew === 'function'
        ? { keys: before.keys, message: await renew(this, this.#end.signal) }
        : await this.#askConfig()
    checkCredentials(message, {
      publicKey: publicKeyOf(keys.identity),
      root: before.root,
      identity: before.identity,
    })
    await writeCredentials(folder, message)
    if (keys !== before.keys) await settleKeys(folder)
    const stored = await readIdentity(folder)
    if (stored === undefined) throw new NotEnrolledError({ folder })
    this.#take(stored)
    this.#sayClock(stored)
  }

  /** Over mutual TLS while the certificate counts, and else for a proof of the key. */
  async #askConfig(): Promise<Answer> {
    const isValid = this.#now() < this.#certificate.notAfter.getTime()
    if (isValid) {
      try {
        return await this.#askForRenewal()
      } catch (error) {
        const { code } = asWeftError(error)
        if (!REFUSED.has(code) || this.places.enrolment.length === 0) throw error
      }
    }
    return await this.#prove()
  }

  async #askForRenewal(): Promise<Answer> {
    return await firstAnswer('config', this.places.config, async (address) => {
      await using config = connect(address, CertificateServiceService, {
        security: { kind: 'mutual-tls', credentials: this, peer: 'config' },
      })
      const { credentials } = await config.renew({}, { signal: this.#end.signal })
      return { keys: this.#stored.keys, message: present(credentials) }
    })
  }

  /** After a change of keys that was cut short, the authority may know the next ones only. */
  async #prove(): Promise<Answer> {
    const { identity, keys } = this.#stored
    const next = await readNextKeys(this.#options.folder)
    let failure: unknown
    for (const candidate of next === undefined ? [keys] : [next, keys]) {
      try {
        return await firstAnswer('enrolment', this.places.enrolment, async (address) => {
          await using enrolment = connect(address, EnrolmentServiceService, {
            security: {
              kind: 'pinned',
              rootPem: this.#stored.rootPem,
              domain: identity.domain,
              peer: 'config',
            },
          })
          const payload = RenewalStatement.encode({
            hostId: identity.kind === 'host' ? identity.id : 0,
            sentAtUnixMs: BigInt(this.#now()),
          }).finish()
          const statement = signStatement('renewal', payload, candidate.identity)
          const { credentials } = await enrolment.renewExpired(
            { statement },
            { signal: this.#end.signal },
          )
          return { keys: candidate, message: present(credentials) }
        })
      } catch (error) {
        failure = error
      }
    }
    throw failure
  }

  /** A new certificate begins `CLOCK_TOLERANCE_MS` before the authority's clock said now. */
  #sayClock({ certificates }: StoredIdentity): void {
    const [first] = certificates
    if (first === undefined) return
    const thereUnixMs = first.notBefore.getTime() + CLOCK_TOLERANCE_MS
    const hereUnixMs = this.#now()
    if (Math.abs(hereUnixMs - thereUnixMs) <= CLOCK_TOLERANCE_MS) return
    const wrong = new ClockWrongError({ hereUnixMs, thereUnixMs, there: 'config' })
    this.#log.error(factsOf(wrong), wrong.message)
  }

  /** Resolves when all keys that are void now are on disk. They are many, so one write has what came during the one before. */
  async #keepVoidKeys(): Promise<void> {
    while (this.#keptChangeCount < this.#voidKeys.changeCount) {
      this.#keeping ??= this.#writeVoidKeys().finally(() => {
        this.#keeping = undefined
      })
      await this.#keeping
    }
  }

  async #writeVoidKeys(): Promise<void> {
    const { changeCount } = this.#voidKeys
    await writeVoidKeys(this.#options.folder, this.#voidKeys.toKeep(this.#now()))
    this.#keptChangeCount = changeCount
  }

  #revocationsIn(statement: Signed): Revocations {
    return openStatement('revocations', statement, Revocations, this.directoryKey)
  }

  #tell(what: 'renewed' | 'revoked'): void {
    for (const listener of [...this.#listeners]) listener(what)
  }
}

interface Answer {
  /** Whose certificates these are: those of the folder, or its next ones. */
  readonly keys: MemberKeys
  readonly message: CredentialsMessage
}

/** What a server says whose clock or list of revoked keys is ahead of ours; the enrolment listener knows more. */
export const REFUSED: ReadonlySet<string> = new Set(['certificate-refused', 'unauthenticated'])

/** Asks one replica after the other, and goes on where one does not answer. */
export async function firstAnswer<T>(
  service: string,
  addresses: readonly string[],
  ask: (address: string) => Promise<T>,
): Promise<T> {
  let failure: unknown = new UnavailableError({ service, address: 'none is known' })
  for (const address of shuffled(addresses)) {
    try {
      return await ask(address)
    } catch (error) {
      failure = error
      if (asWeftError(error).exitCode !== ExitCode.Unavailable) break
    }
  }
  throw failure
}

/** The newest certificate that counts for peers too, whose clocks may be behind; else the one that ends last. */
function currentOf(certificates: readonly Certificate[], now: number): Certificate {
  const begun = certificates.filter(({ notBefore }) => notBefore.getTime() <= now)
  const surelyBegun = begun.filter(
    ({ notBefore }) => notBefore.getTime() + CLOCK_TOLERANCE_MS <= now,
  )
  const current = surelyBegun.at(-1) ?? begun[0] ?? certificates[0]
  if (current === undefined) throw new InternalError('an identity has no certificate')
  return current
}

/** At half life of the first certificate, or a little later: what was enrolled together is not renewed together. */
function renewalTimeOf(certificates: readonly Certificate[]): number {
  const begin = certificates[0]?.notBefore.getTime() ?? 0
  return begin + lifeOf(certificates) * (0.5 + 0.1 * Math.random())
}

function lifeOf([first]: readonly Certificate[]): number {
  return first === undefined ? 0 : first.notAfter.getTime() - first.notBefore.getTime()
}

function tlsOf(stored: StoredIdentity, certificate: Certificate): TlsMaterial {
  return {
    chainPem: certificate.pem + stored.intermediatesPem,
    keyPem: pemOfKey(stored.keys.identity),
    rootsPem: stored.rootPem,
    notAfter: certificate.notAfter,
  }
}

function busOf({ identity, keys, message }: StoredIdentity): BusLogin | undefined {
  const { busJwt } = message
  if (identity.kind === 'user' || keys.busSeed === undefined || busJwt === '') return undefined
  return { jwt: busJwt, seed: keys.busSeed, inboxPrefix: inboxPrefixIn(busJwt) }
}

/** The only inboxes that a login allows. What it says is judged by the server of the bus, not here. */
function inboxPrefixIn(jwt: string): string {
  const claims = decodeClaims(jwt)
  const inbox = claims?.nats?.sub?.allow?.find((subject) => subject.startsWith('_INBOX.'))
  if (inbox === undefined) throw new InternalError('a login of the bus allows no inbox')
  return inbox.replace(/\.>$/, '')
}

function decodeClaims(jwt: string): { nats?: { sub?: { allow?: readonly string[] } } } | undefined {
  try {
    return JSON.parse(Buffer.from(jwt.split('.')[1] ?? '', 'base64url').toString())
  } catch {
    return undefined
  }
}

function isSameCredentials(a: StoredIdentity, b: StoredIdentity): boolean {
  return (
    a.message.busJwt === b.message.busJwt &&
    a.certificates.length === b.certificates.length &&
    a.certificates.every(({ der }, index) => b.certificates[index]?.der.equals(der))
  )
}

function present(credentials: CredentialsMessage | undefined): CredentialsMessage {
  if (credentials === undefined) throw new InternalError('an answer came without credentials')
  return credentials
}

function factsOf({ code, facts, remedy }: WeftError): object {
  return { code, facts, remedy }
}
