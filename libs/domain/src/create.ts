import { randomBytes } from 'node:crypto'
import { mkdir, readdir, rename, rm, rmdir } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import {
  accountNames,
  type BusOperator,
  createBusOperator,
  forAccounts,
  natsServerConfig,
  newBusLogin,
} from '@weft/bus/operator'
import { InvalidArgumentError } from '@weft/errors'
import {
  fingerprintOf,
  generateIdentityKey,
  pemOf,
  pemOfKey,
  publicKeyOf,
  type ServiceName,
  serviceNames,
} from '@weft/identity'
import {
  type Authority,
  createIntermediate,
  createRoot,
  issueLeaf,
  leafValidity,
  ROOT_LIFETIME_MS,
} from '@weft/identity/authority'
import type { Credentials as CredentialsMessage } from '@weft/proto/weftline/identity/v1/identity.ts'
import { busUsers, serviceCredentials } from './authority.ts'
import { formatDomainFile, type Places } from './domain-file.ts'
import { isMissing, makePrivateFolder, syncFolder, writePrivateFile } from './files.ts'
import { type MemberKeys, writeIdentity } from './identity-folder.ts'
import { accountSeedFiles, authorityFiles, domainFolders, natsFiles, rootFiles } from './layout.ts'
import { newServiceKeys, newUserKeys, publicKeysOf } from './member-keys.ts'
import { placesMessage } from './places.ts'

export interface CreateDomain {
  /** For example `lab.example`. */
  readonly name: string
  readonly places: Places
  /** A folder that is not there, or empty. */
  readonly out: string
  readonly now: Date
}

export interface CreatedDomain {
  /** Absolute. */
  readonly folder: string
  /** Of the root certificate: what a host or user checks before it says anything. */
  readonly fingerprint: string
  /** When the authority that config runs ends. */
  readonly authorityEndsAt: Date
}

/** The first user: what `weft init` makes an identity for, and config a record. */
export const OWNER_ID = 1
const PORT_DEFAULT = 4222
const MONITOR_PORT = 8222

/**
 * Makes a domain: its root, the authority for config, an identity for each service and for the owner, and what nats-server
 * is given. All of it or nothing is there afterwards; folders have mode 0700 and files 0600.
 * @throws InvalidArgumentError if the folder holds something, or the name is unusable
 */
export async function createDomain(options: CreateDomain): Promise<CreatedDomain> {
  const out = resolve(options.out)
  checkPlaces(options.places)
  await checkEmpty(out)
  const domain = newDomain(options)
  await mkdir(dirname(out), { recursive: true })
  const beside = `${out}.${randomBytes(4).toString('hex')}.part`
  try {
    await writeDomain(beside, domain, options)
    await removeEmpty(out)
    await rename(beside, out)
    await syncFolder(dirname(out))
  } catch (error) {
    await rm(beside, { recursive: true, force: true })
    throw error
  }
  return {
    folder: out,
    fingerprint: fingerprintOf(domain.root.certificate),
    authorityEndsAt: domain.intermediate.notAfter,
  }
}

interface NewDomain {
  readonly root: Authority
  readonly intermediate: Authority
  readonly directoryKey: ReturnType<typeof generateIdentityKey>
  readonly bus: BusOperator
  readonly services: { readonly [name in ServiceName]: MemberKeys }
  readonly owner: MemberKeys
}

function newDomain({ name, now }: CreateDomain): NewDomain {
  const root = createRoot({ domain: name, now })
  return {
    root,
    intermediate: createIntermediate({ root, now }),
    directoryKey: generateIdentityKey(),
    bus: createBusOperator({ domain: name, now }),
    services: {
      config: newServiceKeys(),
      'location-resolver': newServiceKeys(),
      'routing-policy': newServiceKeys(),
      nats: newUserKeys(),
    },
    owner: newUserKeys(),
  }
}

async function writeDomain(
  folder: string,
  domain: NewDomain,
  options: CreateDomain,
): Promise<void> {
  await makePrivateFolder(folder)
  await writeFiles(join(folder, domainFolders.root), {
    [rootFiles.key]: pemOfKey(domain.root.key),
    [rootFiles.certificate]: pemOf(domain.root.certificate),
    [rootFiles.operatorSeed]: domain.bus.operator.seed,
  })
  await writeAuthority(join(folder, domainFolders.authority), domain, options)
  await makePrivateFolder(join(folder, domainFolders.services))
  for (const name of serviceNames) {
    const keys = domain.services[name]
    const credentials = credentialsOfService(domain, name, options)
    await writeIdentity(join(folder, domainFolders.services, name), keys, credentials)
    if (name === 'nats') {
      await writeNats(join(folder, domainFolders.nats), domain, options, credentials)
    }
  }
  const owner = ownerCredentials(domain, options)
  await writeIdentity(join(folder, domainFolders.owner), domain.owner, owner)
}

async function writeAuthority(
  folder: string,
  domain: NewDomain,
  { name, places, now }: CreateDomain,
): Promise<void> {
  const { bus, root, intermediate, directoryKey, services, owner } = domain
  const expiresAt = new Date(now.getTime() + ROOT_LIFETIME_MS)
  const login = (account: 'system' | 'hosts', kind: 'system' | 'hosts-admin') =>
    newBusLogin({ account: bus.accounts[account].seed, principal: { kind }, now, expiresAt })
  const systemUser = login('system', 'system')
  const hostsAdmin = login('hosts', 'hosts-admin')
  await writeFiles(folder, {
    [authorityFiles.root]: pemOf(root.certificate),
    [authorityFiles.intermediateKey]: pemOfKey(intermediate.key),
    [authorityFiles.intermediate]: pemOf(intermediate.certificate),
    [authorityFiles.directoryKey]: pemOfKey(directoryKey),
    [accountSeedFiles.control]: bus.accounts.control.seed,
    [accountSeedFiles.location]: bus.accounts.location.seed,
    [accountSeedFiles.routing]: bus.accounts.routing.seed,
    [accountSeedFiles.hosts]: bus.accounts.hosts.seed,
    [authorityFiles.operatorSigningSeed]: bus.signing.seed,
    [authorityFiles.systemUserSeed]: systemUser.seed,
    [authorityFiles.systemUserJwt]: systemUser.jwt,
    [authorityFiles.hostsAdminSeed]: hostsAdmin.seed,
    [authorityFiles.hostsAdminJwt]: hostsAdmin.jwt,
    [authorityFiles.domain]: formatDomainFile({
      domain: name,
      places,
      ownerPublicKey: publicKeyOf(owner.identity).toString('hex'),
      operator: bus.operator.publicKey,
      accounts: forAccounts((account) => bus.accounts[account].publicKey),
      services: {
        config: keyTexts(services.config),
        'location-resolver': keyTexts(services['location-resolver']),
        'routing-policy': keyTexts(services['routing-policy']),
        nats: keyTexts(services.nats),
      },
    }),
  })
}

/** Everything in there stays together: the configuration names the rest by paths from its own folder. */
async function writeNats(
  folder: string,
  { bus, intermediate, root, services }: NewDomain,
  options: CreateDomain,
  { certificates: [leaf = Buffer.alloc(0)] }: CredentialsMessage,
): Promise<void> {
  await writeFiles(folder, {
    [natsFiles.operatorJwt]: bus.operatorJwt,
    [natsFiles.config]: natsServerConfig({
      name: 'nats',
      listen: listenAddressOf(options.places),
      monitorPort: MONITOR_PORT,
      storeFolder: 'jetstream',
      operatorFile: natsFiles.operatorJwt,
      systemAccount: bus.accounts.system.publicKey,
      accountsFolder: natsFiles.accounts,
      tls: {
        chain: join(natsFiles.tls, natsFiles.chain),
        key: join(natsFiles.tls, natsFiles.key),
        roots: join(natsFiles.tls, natsFiles.roots),
      },
    }),
  })
  const accountJwts = accountNames.map(
    (name) => [`${bus.accounts[name].publicKey}.jwt`, bus.accountJwts[name]] as const,
  )
  await writeFiles(join(folder, natsFiles.accounts), Object.fromEntries(accountJwts))
  await writeFiles(join(folder, natsFiles.tls), {
    [natsFiles.chain]: pemOf(leaf) + pemOf(intermediate.certificate),
    [natsFiles.key]: pemOfKey(services.nats.identity),
    [natsFiles.roots]: pemOf(root.certificate),
  })
}

async function writeFiles(
  folder: string,
  files: { readonly [name: string]: string | Uint8Array },
): Promise<void> {
  await makePrivateFolder(folder)
  for (const [name, content] of Object.entries(files)) {
    await writePrivateFile(join(folder, name), content)
  }
}

function credentialsOfService(
  { bus, directoryKey, intermediate, root, services }: NewDomain,
  name: ServiceName,
  { now, places }: CreateDomain,
): CredentialsMessage {
  const { bus: busKey, identity } = publicKeysOf(services[name])
  const issueBusUser = busUsers(
    forAccounts((account) => bus.accounts[account].seed),
    () => now,
  )
  return serviceCredentials({
    issuer: intermediate,
    root: root.certificate,
    directoryKey: publicKeyOf(directoryKey),
    places: placesMessage(places),
    name,
    identityKey: identity,
    issueBusUser: (service, expiresAt) =>
      issueBusUser({ principal: { kind: 'service', name: service }, publicKey: busKey, expiresAt }),
    now,
  })
}

function ownerCredentials(
  { directoryKey, intermediate, owner, root }: NewDomain,
  { name, now, places }: CreateDomain,
): CredentialsMessage {
  const certificate = issueLeaf({
    authority: intermediate,
    identity: { domain: name, kind: 'user', id: OWNER_ID },
    publicKey: publicKeyOf(owner.identity),
    ...leafValidity({ authority: intermediate, now }),
  })
  return {
    domain: name,
    certificates: [certificate],
    authorities: [intermediate.certificate, root.certificate],
    busJwt: '',
    directoryKey: publicKeyOf(directoryKey),
    places: placesMessage(places),
    hostId: 0,
    hostName: '',
    horizonUnixMs: 0n,
  }
}

function keyTexts(keys: MemberKeys): { identityKey: string; busKey: string } {
  const { identity, bus } = publicKeysOf(keys)
  return { identityKey: identity.toString('hex'), busKey: bus }
}

/** On the loopback address if the bus is meant for this machine, and else on every one. */
function listenAddressOf({ bus: [url = ''] }: Places): string {
  const { hostname, port } = new URL(url)
  const isLocal = hostname === 'localhost' || hostname === '[::1]' || hostname.startsWith('127.')
  return `${isLocal ? hostname : '0.0.0.0'}:${port === '' ? PORT_DEFAULT : port}`
}

async function checkEmpty(folder: string): Promise<void> {
  let names: string[]
  try {
    names = await readdir(folder)
  } catch (error) {
    if (isMissing(error)) return
    const problem = error instanceof Error ? error.message : String(error)
    throw new InvalidArgumentError({ field: 'out', problem, remedy: 'name a folder' })
  }
  if (names.length === 0) return
  throw new InvalidArgumentError({
    field: 'out',
    problem: `${folder} holds something already, and keys are never overwritten`,
    remedy: 'name a folder that is not there yet',
  })
}

async function removeEmpty(folder: string): Promise<void> {
  try {
    await rmdir(folder)
  } catch (error) {
    if (!isMissing(error)) throw error
  }
}

function checkPlaces({ bus }: Places): void {
  for (const url of bus) {
    if (URL.canParse(url) && /^(?:nats|tls):$/.test(new URL(url).protocol)) continue
    throw new InvalidArgumentError({
      field: 'bus',
      problem: `${JSON.stringify(url)} is no URL of nats-server`,
      remedy: 'give one such as nats://bus.example:4222',
    })
  }
  if (bus.length === 0) {
    const remedy = 'give one such as nats://bus.example:4222'
    throw new InvalidArgumentError({ field: 'bus', problem: 'there is none', remedy })
  }
}
