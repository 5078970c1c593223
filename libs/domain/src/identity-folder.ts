import { type KeyObject, X509Certificate } from 'node:crypto'
import { access, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { BrokenInputError, CertificateRefusedError, type WeftError } from '@weft/errors'
import {
  type Identity,
  identityKeyFromPem,
  KEY_BYTES,
  type Peer,
  pemOf,
  pemOfKey,
  publicKeyOf,
  tunnelKeyFromPem,
  verifyChain,
} from '@weft/identity'
import {
  Credentials as CredentialsMessage,
  Revocations,
  type RevokedKey,
} from '@weft/proto/weftline/identity/v1/identity.ts'
import {
  checkPrivateFolder,
  isMissing,
  makePrivateFolder,
  readPrivateFile,
  syncFolder,
  writePrivateFile,
} from './files.ts'
import { identityFiles, NEXT_SUFFIX } from './layout.ts'

/** The private keys of a member. They never leave its machine. */
export interface MemberKeys {
  /** Ed25519. */
  readonly identity: KeyObject
  /** X25519; hosts only. */
  readonly tunnel: KeyObject | undefined
  /** nkey seed in text; undefined for users. */
  readonly busSeed: Uint8Array | undefined
}

/** A certificate of a member with the time in which it counts. */
export interface Certificate {
  readonly der: Buffer
  readonly pem: string
  readonly notBefore: Date
  readonly notAfter: Date
}

/** What an identity folder holds, checked: the certificates are of the key and lead to the root, whatever the time is. */
export interface StoredIdentity {
  readonly identity: Identity
  readonly keys: MemberKeys
  /** One for a host or user, a ladder for a service; by growing validity. */
  readonly certificates: readonly Certificate[]
  readonly root: Buffer
  readonly rootPem: string
  /** From the issuer of the certificates to the one below the root. */
  readonly intermediatesPem: string
  readonly message: CredentialsMessage
}

/** A ladder has 16 rungs (`@weft/identity/authority`); twice that is nobody's. */
const CERTIFICATES_MAX = 32
const AUTHORITIES_MAX = 3

/** Makes an identity folder (0700, files 0600), or fills one that is there. */
export async function writeIdentity(
  folder: string,
  keys: MemberKeys,
  message: CredentialsMessage,
): Promise<void> {
  await makePrivateFolder(folder)
  await writeKeys(folder, keys, '')
  await writeCredentials(folder, message)
}

/** Replaces the certificates; the keys stay. */
export async function writeCredentials(folder: string, message: CredentialsMessage): Promise<void> {
  const bytes = CredentialsMessage.encode(message).finish()
  await writePrivateFile(join(folder, identityFiles.credentials), bytes)
}

/** Writes keys that are going to replace those of the folder once there is a certificate for them. */
export async function writeNextKeys(folder: string, keys: MemberKeys): Promise<void> {
  await writeKeys(folder, keys, NEXT_SUFFIX)
}

/** The keys of `writeNextKeys`; undefined if there are none. */
export async function readNextKeys(folder: string): Promise<MemberKeys | undefined> {
  return await readKeys(folder, NEXT_SUFFIX)
}

/**
 * Puts the next keys into the place of the former ones, after their certificate was written. The identity key goes last:
 * as long as it is not in place, readers take the next keys, and where one has moved already, what took its place.
 */
export async function settleKeys(folder: string): Promise<void> {
  for (const name of [identityFiles.tunnelKey, identityFiles.busSeed, identityFiles.identityKey]) {
    try {
      await rename(join(folder, name + NEXT_SUFFIX), join(folder, name))
    } catch (error) {
      if (!isMissing(error)) throw error
    }
  }
  await syncFolder(folder)
}

export async function hasIdentity(folder: string): Promise<boolean> {
  try {
    await access(join(folder, identityFiles.credentials))
    return true
  } catch (error) {
    if (isMissing(error)) return false
    throw error
  }
}

/**
 * Reads an identity folder. Undefined if there is no identity in it.
 * @throws InvalidArgumentError if others may read it; BrokenInputError if its parts do not fit together
 */
export async function readIdentity(folder: string): Promise<StoredIdentity | undefined> {
  if (!(await hasIdentity(folder))) return undefined
  await checkPrivateFolder(folder)
  const path = join(folder, identityFiles.credentials)
  const bytes = await readPrivateFile(path)
  if (bytes === undefined) return undefined
  const message = decodeCredentials(bytes, path)
  const first = verifiedMember(message, path)
  for (const keys of [await readKeys(folder, ''), await readKeys(folder, NEXT_SUFFIX)]) {
    if (keys && publicKeyOf(keys.identity).equals(first.publicKey)) {
      return { ...partsOf(message), identity: first.identity, keys, message }
    }
  }
  throw broken(path, 'its certificates are of another key than the folder holds')
}

/**
 * Checks an answer of the authority before it replaces anything: all certificates are of this key and of one identity
 * and lead to the root.
 * @throws BrokenInputError if it does not fit; CertificateRefusedError if a certificate is not what it should be
 */
export function checkCredentials(
  message: CredentialsMessage | undefined,
  expected: { readonly publicKey: Uint8Array; readonly root: Buffer; readonly identity?: Identity },
): { readonly identity: Identity; readonly message: CredentialsMessage } {
  const source = 'the answer of config'
  if (message === undefined) throw broken(source, 'it has no credentials')
  const { identity, publicKey } = verifiedMember(message, source)
  if (!publicKey.equals(expected.publicKey)) throw broken(source, 'it is for another key')
  if (!partsOf(message).root.equals(expected.root)) throw broken(source, 'it is of another root')
  const { identity: before } = expected
  if (before && !isSameMember(identity, before)) {
    throw broken(source, `it is for ${identity.kind} ${identity.id}`)
  }
  return { identity, message }
}

/** Removes whatever an identity folder holds. Keys are not overwritten before: disks keep what they want anyway. */
export async function removeIdentity(folder: string): Promise<void> {
  const names = Object.values(identityFiles)
  // The credentials go first: without them nobody takes the rest for an identity.
  await rm(join(folder, identityFiles.credentials), { force: true })
  for (const name of names.flatMap((each) => [each, each + NEXT_SUFFIX])) {
    await rm(join(folder, name), { force: true })
  }
  await syncFolder(folder)
}

/** Reads which keys were void when that was written last. @throws BrokenInputError */
export async function readVoidKeys(folder: string): Promise<readonly RevokedKey[]> {
  const path = join(folder, identityFiles.voidKeys)
  const bytes = await readPrivateFile(path)
  try {
    return bytes ? Revocations.decode(bytes).keys : []
  } catch {
    throw broken(path, 'it is no message weftline.identity.v1.Revocations')
  }
}

export async function writeVoidKeys(folder: string, keys: readonly RevokedKey[]): Promise<void> {
  const bytes = Revocations.encode({ number: 0n, keys: [...keys] }).finish()
  await writePrivateFile(join(folder, identityFiles.voidKeys), bytes)
}

async function writeKeys(folder: string, keys: MemberKeys, suffix: string): Promise<void> {
  const path = (name: string): string => join(folder, name + suffix)
  if (keys.tunnel) await writePrivateFile(path(identityFiles.tunnelKey), pemOfKey(keys.tunnel))
  if (keys.busSeed) await writePrivateFile(path(identityFiles.busSeed), keys.busSeed)
  await writePrivateFile(path(identityFiles.identityKey), pemOfKey(keys.identity))
}

/** Undefined if there is no identity key of this suffix. What has moved into its place already is read there. */
async function readKeys(folder: string, suffix: string): Promise<MemberKeys | undefined> {
  const read = async (name: string): Promise<Buffer | undefined> =>
    (await readPrivateFile(join(folder, name + suffix))) ??
    (suffix === '' ? undefined : await readPrivateFile(join(folder, name)))
  const path = join(folder, identityFiles.identityKey + suffix)
  const identity = await readPrivateFile(path)
  if (identity === undefined) return undefined
  const tunnel = await read(identityFiles.tunnelKey)
  const busSeed = await read(identityFiles.busSeed)
  return {
    identity: parseKey(identity, path, identityKeyFromPem),
    tunnel: tunnel && parseKey(tunnel, join(folder, identityFiles.tunnelKey), tunnelKeyFromPem),
    busSeed: busSeed && Buffer.from(busSeed.toString('latin1').trim(), 'latin1'),
  }
}

/** Says which file is wrong, and never what it says. */
function parseKey(pem: Buffer, path: string, parse: (pem: string) => KeyObject): KeyObject {
  try {
    return parse(pem.toString('latin1'))
  } catch (error) {
    throw broken(path, error instanceof Error ? error.message : String(error))
  }
}

/** Whether two identities of a domain are of one host, user or service. */
export function isSameMember(one: Identity, other: Identity): boolean {
  return one.kind === other.kind && one.id === other.id
}

function decodeCredentials(bytes: Buffer, source: string): CredentialsMessage {
  try {
    return CredentialsMessage.decode(bytes)
  } catch {
    throw broken(source, 'it is no message weftline.identity.v1.Credentials')
  }
}

/** Whose certificates these are, verified at a time at which each of them counts. */
function verifiedMember(
  message: CredentialsMessage,
  source: string,
): { readonly identity: Identity; readonly publicKey: Buffer } {
  const { certificates, authorities } = message
  const root = authorities.at(-1)
  if (certificates.length === 0 || certificates.length > CERTIFICATES_MAX) {
    throw broken(source, `it has ${certificates.length} certificates`)
  }
  if (root === undefined || authorities.length > AUTHORITIES_MAX) {
    throw broken(source, `it has ${authorities.length} authorities`)
  }
  const chainOf = (leaf: Uint8Array): Buffer[] =>
    [leaf, ...authorities.slice(0, -1)].map((der) => Buffer.from(der))
  const peers = certificates.flatMap((leaf): Peer[] => {
    const now = parse(leaf, source).validFromDate
    try {
      return [verifyChain({ chain: chainOf(leaf), roots: [Buffer.from(root)], now })]
    } catch (error) {
      // A rung that begins after its authority ends is good for nothing, and harms nothing.
      if (error instanceof CertificateRefusedError && error.reason === 'expired') return []
      throw error
    }
  })
  const [first] = peers
  if (first === undefined) throw broken(source, 'no certificate begins before its authority ends')
  const publicKey = Buffer.from(first.publicKey)
  for (const { identity, publicKey: key } of peers) {
    if (!publicKey.equals(key)) throw broken(source, 'its certificates are of several keys')
    if (!isSameMember(identity, first.identity)) throw broken(source, 'it is of several members')
  }
  if (first.identity.domain !== message.domain)
    throw broken(source, `it is not of domain ${message.domain}`)
  if (message.directoryKey.length !== KEY_BYTES) throw broken(source, 'it has no directory key')
  return { identity: first.identity, publicKey }
}

function partsOf(
  message: CredentialsMessage,
): Pick<StoredIdentity, 'certificates' | 'root' | 'rootPem' | 'intermediatesPem'> {
  const root = Buffer.from(message.authorities.at(-1) ?? [])
  const certificates = message.certificates.map((bytes) => {
    const der = Buffer.from(bytes)
    const { validFromDate, validToDate } = new X509Certificate(der)
    return { der, pem: pemOf(der), notBefore: validFromDate, notAfter: validToDate }
  })
  return {
    certificates: certificates.sort((a, b) => a.notAfter.getTime() - b.notAfter.getTime()),
    root,
    rootPem: pemOf(root),
    intermediatesPem: message.authorities
      .slice(0, -1)
      .map((der) => pemOf(Buffer.from(der)))
      .join(''),
  }
}

function parse(der: Uint8Array, source: string): X509Certificate {
  try {
    return new X509Certificate(der)
  } catch {
    throw broken(source, 'it has a certificate that is none')
  }
}

function broken(source: string, problem: string): WeftError {
  return new BrokenInputError({ source, format: 'identity data', problem })
}
