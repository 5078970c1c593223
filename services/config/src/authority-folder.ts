import { type FSWatcher, watch } from 'node:fs'
import { type AccountIds, inboxPrefixOf, openBusSeed } from '@weft/bus/operator'
import { authorityFiles, type DomainFile } from '@weft/domain'
import {
  busUsers,
  checkIssuer,
  placesMessage,
  readAccountSeeds,
  readAuthority,
  readIssuer,
  readText,
} from '@weft/domain/authority'
import { asWeftError, InvalidArgumentError } from '@weft/errors'
import { type BusLogin, identityKeyFromPem, serviceNames } from '@weft/identity'
import { Authority, type AuthorityOptions } from './authority.ts'
import type { Events } from './events.ts'

/** Who has the root of the domain has so long to renew the authority. */
const ENDS_SOON_MS = 10 * 24 * 3_600_000
/** How often it is said that the authority ends soon. */
const REMINDER_MS = 6 * 3_600_000
/** How often the folder is looked at, whatever its file system tells of changes. */
const LOOK_MS = 60_000
/** Several files change together. */
const SETTLE_MS = 50

/** What the authority folder holds, as `weft init` makes it. */
export interface AuthorityFolder {
  readonly authority: Authority
  /** Public keys of the accounts of the bus. */
  readonly accounts: AccountIds
  /** nkey seed of the operator's signing key. */
  readonly signingSeed: Uint8Array
  /** The user who tells servers of revoked users. */
  readonly system: BusLogin
  /** The user who keeps what hosts read. */
  readonly hostsAdmin: BusLogin
}

/**
 * Reads the authority folder and sees that its parts belong together and can be used now. Throws `InvalidArgumentError`,
 * `BrokenInputError`, `ClockWrongError`, `CertificateRefusedError` if the authority has ended, each with the way out.
 */
export async function readAuthorityFolder(folder: string, now: Date): Promise<AuthorityFolder> {
  const { issuer, root, domain } = await readAuthority(folder)
  checkIssuer(issuer, root, now)
  const text = (name: string): Promise<string> => readText(folder, name, 'authority')
  const seed = async (name: string): Promise<Uint8Array> => Buffer.from(await text(name))
  return {
    authority: new Authority({
      issuer,
      root,
      directoryKey: identityKeyFromPem(await text(authorityFiles.directoryKey)),
      issueBusUser: busUsers(await readAccountSeeds(folder)),
      places: placesMessage(domain.places),
      ownerKey: Buffer.from(domain.ownerPublicKey, 'hex'),
      services: servicesOf(domain),
      busAdmins: await Promise.all(
        [authorityFiles.systemUserSeed, authorityFiles.hostsAdminSeed].map(
          async (name) => openBusSeed('user', await seed(name)).publicKey,
        ),
      ),
    }),
    accounts: domain.accounts,
    signingSeed: await seed(authorityFiles.operatorSigningSeed),
    system: {
      jwt: await text(authorityFiles.systemUserJwt),
      seed: await seed(authorityFiles.systemUserSeed),
      inboxPrefix: inboxPrefixOf({ kind: 'system' }),
    },
    hostsAdmin: {
      jwt: await text(authorityFiles.hostsAdminJwt),
      seed: await seed(authorityFiles.hostsAdminSeed),
      inboxPrefix: inboxPrefixOf({ kind: 'hosts-admin' }),
    },
  }
}

function servicesOf({ services }: DomainFile): AuthorityOptions['services'] {
  const entries = serviceNames.map((name) => {
    const { identityKey, busKey } = services[name]
    return [name, { identityKey: Buffer.from(identityKey, 'hex'), busKey }] as const
  })
  return Object.fromEntries(entries) as unknown as AuthorityOptions['services']
}

/**
 * Has the authority go on with what `weft authority renew` writes into its folder, without a restart, and says in time that
 * this has to be done. What is there and cannot be used is said once, and the authority stays as it is.
 */
export class AuthorityKeeper implements Disposable {
  readonly #folder: string
  readonly #authority: Authority
  readonly #events: Events
  readonly #now: () => Date
  readonly #timers: readonly NodeJS.Timeout[]
  readonly #watcher: FSWatcher
  #settling: NodeJS.Timeout | undefined
  #problem = ''

  constructor(
    folder: string,
    authority: Authority,
    events: Events,
    now: () => Date = () => new Date(),
  ) {
    this.#folder = folder
    this.#authority = authority
    this.#events = events
    this.#now = now
    this.#timers = [
      setInterval(() => this.remind(), REMINDER_MS),
      setInterval(() => void this.look(), LOOK_MS),
    ]
    for (const timer of this.#timers) timer.unref()
    this.#watcher = watch(folder, { persistent: false }, () => this.#soon())
    // A folder that is moved away: what is known goes on.
    this.#watcher.on('error', () => undefined)
    this.remind()
  }

  [Symbol.dispose](): void {
    this.#watcher.close()
    clearTimeout(this.#settling)
    for (const timer of this.#timers) clearInterval(timer)
  }

  /** Says that the authority ends, if it ends soon. */
  remind(): void {
    const { notAfter } = this.#authority
    if (notAfter.getTime() - this.#now().getTime() < ENDS_SOON_MS) {
      this.#events.authorityEndsSoon(notAfter)
    }
  }

  /** Takes what the folder holds, if that is another authority. */
  async look(): Promise<void> {
    try {
      const issuer = await readIssuer(this.#folder)
      if (this.#authority.isIssuer(issuer)) return
      this.#check(issuer.domain === this.#authority.domain, 'it is of another domain')
      const isNewer = issuer.notAfter >= this.#authority.notAfter
      this.#check(isNewer, 'it ends before the one in use, so it is from before it')
      checkIssuer(issuer, this.#authority.root, this.#now())
      this.#authority.renew(issuer)
      this.#problem = ''
      this.#events.authorityRenewed(issuer.notAfter)
    } catch (error) {
      const problem = asWeftError(error)
      // A message may tell the time, and is another one then.
      const { code, facts } = problem
      const said = [code, facts['problem'], facts['reason']].join(' ')
      if (said === this.#problem) return
      this.#problem = said
      this.#events.authorityNotTaken(problem)
    }
  }

  #check(isGood: boolean, problem: string): void {
    if (isGood) return
    throw new InvalidArgumentError({
      field: this.#folder,
      problem,
      remedy: 'run weft authority renew, with the root of the domain',
    })
  }

  #soon(): void {
    clearTimeout(this.#settling)
    this.#settling = setTimeout(() => void this.look(), SETTLE_MS)
    this.#settling.unref()
  }
}
