import { rename } from 'node:fs/promises'
import { isIP } from 'node:net'
import { join } from 'node:path'
import { accountOf, type BusService, userJwt } from '@weft/bus/operator'
import {
  BrokenInputError,
  CertificateRefusedError,
  ClockWrongError,
  InvalidArgumentError,
} from '@weft/errors'
import {
  dersOfPem,
  identityKeyFromPem,
  pemOf,
  pemOfKey,
  publicKeyOf,
  type ServiceName,
  verifyChain,
} from '@weft/identity'
import {
  type Authority,
  CLOCK_TOLERANCE_MS,
  createIntermediate,
  INTERMEDIATE_LIFETIME_MS,
  issueLadder,
  issueLeaf,
  LADDER_LENGTH,
  LADDER_STEP_MS,
  leafValidity,
  openAuthority,
} from '@weft/identity/authority'
import type {
  Credentials as CredentialsMessage,
  Places as PlacesMessage,
} from '@weft/proto/weftline/identity/v1/identity.ts'
import { type DomainFile, parseDomainFile } from './domain-file.ts'
import { checkPrivateFolder, readPrivateFile, syncFolder, writePrivateFile } from './files.ts'
import { readIdentity, writeCredentials } from './identity-folder.ts'
import {
  accountSeedFiles,
  authorityFiles,
  identityFiles,
  NEXT_SUFFIX,
  rootFiles,
} from './layout.ts'
import { placesMessage } from './places.ts'

export { placesMessage } from './places.ts'

/** All replicas of a service share its login; the random names of their inboxes tell their answers apart. */
const SHARED_REPLICA = '1'

interface RenewedAuthority {
  readonly domain: string
  readonly notAfter: Date
}

/**
 * Gives an authority folder a new key, and a certificate for it by the root, as `weft init` did. What the former one issued
 * counts until it ends. A config that runs takes the new one over by itself; nothing is written into the folder of the root.
 * @throws InvalidArgumentError if a folder lacks something, others may read it, or the root is that of another domain;
 * CertificateRefusedError if the root has ended; ClockWrongError
 */
export async function renewAuthority(options: {
  /** `root/` of `weft init`. */
  readonly rootFolder: string
  /** `authority/` of `weft init`. */
  readonly authorityFolder: string
  readonly now: Date
}): Promise<RenewedAuthority> {
  const { rootFolder, authorityFolder: folder, now } = options
  await checkPrivateFolder(rootFolder)
  await checkPrivateFolder(folder)
  const root = openAuthority({
    certificate: await readCertificate(rootFolder, rootFiles.certificate, 'root'),
    key: identityKeyFromPem(await readText(rootFolder, rootFiles.key, 'root')),
  })
  const known = await readCertificate(folder, authorityFiles.root, 'authority')
  if (!known.equals(root.certificate)) {
    throw new InvalidArgumentError({
      field: folder,
      problem: `its root is not the one in ${rootFolder}`,
      remedy: 'give both folders of one weft init',
    })
  }
  if (now >= root.notAfter)
    throw ended('the root of the domain', root.notAfter, 'make a new domain')
  const renewed = createIntermediate({ root, now })
  checkIssuer(renewed, root.certificate, now)
  const path = (name: string): string => join(folder, name)
  // The certificate says which of both keys is in force: there is no moment in which none is.
  const next = path(authorityFiles.intermediateKey + NEXT_SUFFIX)
  await writePrivateFile(next, pemOfKey(renewed.key))
  await writePrivateFile(path(authorityFiles.intermediate), pemOf(renewed.certificate))
  await rename(next, path(authorityFiles.intermediateKey))
  await syncFolder(folder)
  return { domain: renewed.domain, notAfter: renewed.notAfter }
}

/**
 * Gives a service new certificates and a new login to the bus by hand: for `nats` after it was off for so long that it has no
 * valid one, since config, which would issue it, cannot be reached without the bus. Its keys stay.
 * @throws InvalidArgumentError if a folder lacks something, or has the keys of another service; CertificateRefusedError if the
 * authority has ended; ClockWrongError
 */
export async function issueService(options: {
  readonly name: ServiceName
  /** `authority/` of `weft init`. */
  readonly authorityFolder: string
  /** `services/<name>/` of `weft init`. */
  readonly identityFolder: string
  readonly now: Date
}): Promise<{ readonly notAfter: Date }> {
  const { name, authorityFolder: folder, identityFolder, now } = options
  const { issuer, root, domain } = await readAuthority(folder)
  checkIssuer(issuer, root, now)
  await checkPrivateFolder(identityFolder)
  const { identityKey, busKey } = domain.services[name]
  const own = identityKeyFromPem(
    await readText(identityFolder, identityFiles.identityKey, `services/${name}`),
  )
  if (publicKeyOf(own).toString('hex') !== identityKey) {
    throw new InvalidArgumentError({
      field: identityFolder,
      problem: `its key is not that of service ${name}`,
      remedy: `give the folder services/${name} of the same weft init`,
    })
  }
  const directoryKey = await readText(folder, authorityFiles.directoryKey, 'authority')
  const issueBusUser = busUsers(await readAccountSeeds(folder), () => now)
  const message = serviceCredentials({
    issuer,
    root,
    directoryKey: publicKeyOf(identityKeyFromPem(directoryKey)),
    places: placesMessage(domain.places),
    name,
    identityKey: publicKeyOf(own),
    issueBusUser: (service, expiresAt) =>
      issueBusUser({ principal: { kind: 'service', name: service }, publicKey: busKey, expiresAt }),
    now,
  })
  await writeCredentials(identityFolder, message)
  return { notAfter: ladderEnd(issuer, now) }
}

/**
 * Gives a user a certificate for a day by hand: for the only owner of a domain who was away for longer than a key alone counts, and
 * whom nobody can make a login code. The key stays, and config has to know it still.
 * @throws InvalidArgumentError if a folder lacks something, or is not that of a user of the domain; CertificateRefusedError if
 * the authority has ended; ClockWrongError
 */
export async function issueUser(options: {
  /** `authority/` of `weft init`. */
  readonly authorityFolder: string
  /** For example `owner/` of `weft init`. */
  readonly identityFolder: string
  readonly now: Date
}): Promise<{ readonly userId: number; readonly notAfter: Date }> {
  const { authorityFolder, identityFolder, now } = options
  const { issuer, root } = await readAuthority(authorityFolder)
  checkIssuer(issuer, root, now)
  const stored = await readIdentity(identityFolder)
  const { identity } = stored ?? {}
  if (!stored || identity?.kind !== 'user' || !stored.root.equals(root)) {
    throw new InvalidArgumentError({
      field: identityFolder,
      problem: `it is not the identity of a user of ${issuer.domain}`,
      remedy: 'give the folder owner that weft init made, or the one into which the user logged in',
    })
  }
  const validity = leafValidity({ authority: issuer, now })
  const publicKey = publicKeyOf(stored.keys.identity)
  const leaf = issueLeaf({ authority: issuer, identity, publicKey, ...validity })
  await writeCredentials(identityFolder, {
    ...stored.message,
    certificates: [leaf],
    authorities: [issuer.certificate, root],
  })
  return { userId: identity.id, notAfter: validity.notAfter }
}

/** Seeds of the accounts of the bus whose users are issued by config. */
type AccountSeeds = { readonly [name in keyof typeof accountSeedFiles]: Uint8Array }

/** @throws InvalidArgumentError if one is not there */
export async function readAccountSeeds(folder: string): Promise<AccountSeeds> {
  const read = async (file: string): Promise<Uint8Array> =>
    Buffer.from(await readText(folder, file, 'authority'))
  return {
    control: await read(accountSeedFiles.control),
    location: await read(accountSeedFiles.location),
    routing: await read(accountSeedFiles.routing),
    hosts: await read(accountSeedFiles.hosts),
  }
}

/** Who logs in to the bus by a JWT of the authority. */
type BusUser =
  | { readonly kind: 'host'; readonly id: number }
  | { readonly kind: 'service'; readonly name: BusService }

/** Issues user JWTs of the bus. */
export type IssueBusUser = (user: {
  readonly principal: BusUser
  /** Public nkey. */
  readonly publicKey: string
  readonly expiresAt: Date
}) => string

/** Issues logins, each of the account that its principal belongs to. All replicas of a service have one identity, so one login is for all of them. */
export function busUsers(seeds: AccountSeeds, now: () => Date = () => new Date()): IssueBusUser {
  return ({ principal: user, publicKey, expiresAt }) => {
    const principal = user.kind === 'host' ? user : { ...user, replica: SHARED_REPLICA }
    const account = seeds[accountOf(principal)]
    return userJwt({ account, publicKey, principal, now: now(), expiresAt })
  }
}

/** What an authority folder says of itself; nobody has looked yet whether it counts now. */
interface OpenedAuthority {
  readonly issuer: Authority
  /** DER. */
  readonly root: Buffer
  readonly domain: DomainFile
}

/** @throws InvalidArgumentError, BrokenInputError */
export async function readAuthority(folder: string): Promise<OpenedAuthority> {
  await checkPrivateFolder(folder)
  const path = join(folder, authorityFiles.domain)
  const domain = parseDomainFile(await readText(folder, authorityFiles.domain, 'authority'), path)
  const root = await readCertificate(folder, authorityFiles.root, 'authority')
  const issuer = await readIssuer(folder)
  if (issuer.domain !== domain.domain) {
    throw new BrokenInputError({
      source: path,
      format: 'domain.json',
      problem: `it is of ${domain.domain}, and the authority beside it of ${issuer.domain}`,
    })
  }
  return { issuer, root, domain }
}

/** The certificate of an authority folder with its key, also while they are being replaced. @throws InvalidArgumentError */
export async function readIssuer(folder: string): Promise<Authority> {
  for (let attempt = 1; ; attempt++) {
    const certificate = await readCertificate(folder, authorityFiles.intermediate, 'authority')
    const next = await readPrivateFile(join(folder, authorityFiles.intermediateKey + NEXT_SUFFIX))
    const key = await readText(folder, authorityFiles.intermediateKey, 'authority')
    try {
      return openAuthority({ certificate, key: identityKeyFromPem(key) })
    } catch (error) {
      // The next key has taken its place between one look and the other.
      if (next === undefined && attempt < READS_MAX) continue
      if (next === undefined) throw error
    }
    return openAuthority({ certificate, key: identityKeyFromPem(next.toString('latin1')) })
  }
}

const READS_MAX = 2

/**
 * Sees that an authority counts now, and that whoever believes the root believes what it vouches for.
 * @throws ClockWrongError; CertificateRefusedError, also if it has ended
 */
export function checkIssuer(issuer: Authority, root: Buffer, now: Date): void {
  const { notAfter } = issuer
  const begin = notAfter.getTime() - INTERMEDIATE_LIFETIME_MS - CLOCK_TOLERANCE_MS
  if (now.getTime() < begin) {
    throw new ClockWrongError({
      hereUnixMs: now.getTime(),
      thereUnixMs: begin,
      there: 'whoever made the authority folder',
    })
  }
  if (now >= notAfter) {
    const remedy = 'see that the clock is right; then run weft authority renew, with the root'
    throw ended('the authority of the domain', notAfter, remedy)
  }
  // Any member does: what counts is the way to the root.
  const leaf = issueLeaf({
    authority: issuer,
    identity: { domain: issuer.domain, kind: 'service', id: 'config' },
    publicKey: publicKeyOf(issuer.key),
    ...leafValidity({ authority: issuer, now }),
  })
  verifyChain({ chain: [leaf, issuer.certificate], roots: [root], now })
}

/** A ladder of certificates for a service, and a login to the bus that lasts as long; `nats` is the bus, and has none. */
export function serviceCredentials(options: {
  readonly issuer: Authority
  /** DER. */
  readonly root: Buffer
  /** Ed25519 public key of the directory, 32 bytes. */
  readonly directoryKey: Buffer
  readonly places: PlacesMessage
  readonly name: ServiceName
  /** Ed25519, 32 bytes. */
  readonly identityKey: Uint8Array
  readonly issueBusUser: (name: BusService, expiresAt: Date) => string
  readonly now: Date
}): CredentialsMessage {
  const { issuer, root, directoryKey, places, name, now } = options
  return {
    domain: issuer.domain,
    certificates: issueLadder({
      authority: issuer,
      identity: { domain: issuer.domain, kind: 'service', id: name },
      publicKey: options.identityKey,
      now,
      ...(name === 'nats' ? namesOf(places.bus) : {}),
    }),
    authorities: [issuer.certificate, root],
    busJwt: name === 'nats' ? '' : options.issueBusUser(name, ladderEnd(issuer, now)),
    directoryKey,
    places,
    hostId: 0,
    hostName: '',
    horizonUnixMs: 0n,
  }
}

/** When the last certificate of a ladder ends. */
function ladderEnd(issuer: Authority, now: Date): Date {
  const last = new Date(now.getTime() + (LADDER_LENGTH - 1) * LADDER_STEP_MS)
  return leafValidity({ authority: issuer, now: last < issuer.notAfter ? last : now }).notAfter
}

/** The names under which nats-server is reached: its own clients, in a cluster, look at them. */
function namesOf(urls: readonly string[]): { dnsNames: string[]; addresses: string[] } {
  const hosts = urls.flatMap((url) => URL.parse(url)?.hostname.replace(/^\[|\]$/g, '') ?? [])
  const names = [...new Set([...hosts, 'localhost', '127.0.0.1', '::1'])]
  return {
    dnsNames: names.filter((name) => isIP(name) === 0),
    addresses: names.filter((name) => isIP(name) !== 0),
  }
}

/** Text of a file of a folder that `weft init` made. @throws InvalidArgumentError if it is not there */
export async function readText(folder: string, name: string, part: string): Promise<string> {
  const path = join(folder, name)
  const content = await readPrivateFile(path)
  if (content !== undefined) return content.toString('utf8').trim()
  throw new InvalidArgumentError({
    field: folder,
    problem: `${path} is not there`,
    remedy: `give the folder ${part} that weft init made, whole`,
  })
}

async function readCertificate(folder: string, name: string, part: string): Promise<Buffer> {
  const [der] = dersOfPem(await readText(folder, name, part))
  return der ?? Buffer.alloc(0)
}

function ended(subject: string, notAfter: Date, remedy: string): CertificateRefusedError {
  const problem = `it ended at ${notAfter.toISOString()}`
  return new CertificateRefusedError({ reason: 'expired', subject, problem, remedy })
}
