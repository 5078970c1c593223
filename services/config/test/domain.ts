import type { KeyObject } from 'node:crypto'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import {
  type BusOperator,
  createBusOperator,
  forAccounts,
  newBusKeys,
  newBusLogin,
} from '@weft/bus/operator'
import {
  accountSeedFiles,
  authorityFiles,
  type DomainFile,
  formatDomainFile,
  makePrivateFolder,
  writeIdentity,
  writePrivateFile,
} from '@weft/domain'
import { busUsers } from '@weft/domain/authority'
import {
  generateIdentityKey,
  generateTunnelKey,
  pemOf,
  pemOfKey,
  publicKeyOf,
  type ServiceName,
  serviceNames,
  signTunnelKey,
} from '@weft/identity'
import type { PublicKeys } from '@weft/proto/weftline/identity/v1/identity.ts'
import { type TestCredentials, type TestDomain, testDomain } from '@weft/testing'
import { Authority } from '../src/authority.ts'
import type { Membership } from '../src/service.ts'

/** A domain with its owner and its services, for replicas of config. */
export interface Site {
  readonly domain: TestDomain
  readonly operator: BusOperator
  readonly authority: Authority
  readonly config: TestCredentials
  readonly configBusSeed: Uint8Array
  /** User 1. */
  readonly owner: TestCredentials
  /** What the bus was told to refuse, every time. */
  readonly refused: string[][]
  readonly membership: Membership
}

const NOWHERE = { config: [], enrolment: [], locationResolver: [], routingPolicy: [], bus: [] }

export function newSite(): Site {
  const domain = testDomain()
  const operator = createBusOperator({ domain: domain.name, now: new Date() })
  const owner = domain.credentials({ kind: 'user', id: 1 })
  const config = domain.credentials({ kind: 'service', id: 'config' })
  const busKeys = newBusKeys('user')
  const keys = serviceNames.map((name) => {
    const identityKey = name === 'config' ? config.publicKey : publicKeyOf(generateIdentityKey())
    const busKey = name === 'nats' ? '' : newBusKeys('user').publicKey
    return [name, { identityKey, busKey: name === 'config' ? busKeys.publicKey : busKey }]
  })
  const authority = new Authority({
    issuer: domain.intermediate,
    root: domain.root.certificate,
    directoryKey: domain.directoryKey,
    issueBusUser: busUsers(forAccounts((name) => operator.accounts[name].seed)),
    places: NOWHERE,
    ownerKey: owner.publicKey,
    services: Object.fromEntries(keys) as {
      [name in ServiceName]: { identityKey: Buffer; busKey: string }
    },
    busAdmins: [],
  })
  const refused: string[][] = []
  const busAdmin = {
    refuse: async (users: readonly string[]) => {
      refused.push([...users])
    },
  }
  const membership = { credentials: config, authority, busAdmin }
  return {
    domain,
    operator,
    authority,
    config,
    configBusSeed: busKeys.seed,
    owner,
    refused,
    membership,
  }
}

/** Writes the folders that `weft init` would give to config, as `authority` and `config`. */
export async function writeFolders(
  site: Site,
  folder: string,
  bus: readonly string[] = [],
): Promise<void> {
  const { domain, operator, authority, config } = site
  const at = join(folder, 'authority')
  await mkdir(at, { mode: 0o700 })
  await makePrivateFolder(at)
  const expiresAt = new Date(Date.now() + 24 * 3_600_000)
  const account = (name: 'hosts' | 'system') => operator.accounts[name].seed
  const now = new Date()
  const system = newBusLogin({
    account: account('system'),
    principal: { kind: 'system' },
    now,
    expiresAt,
  })
  const admin = newBusLogin({
    account: account('hosts'),
    principal: { kind: 'hosts-admin' },
    now,
    expiresAt,
  })
  const ids = forAccounts((name) => operator.accounts[name].publicKey)
  const seeds = Object.entries(accountSeedFiles).map(
    ([name, file]) =>
      [file, operator.accounts[name as keyof typeof accountSeedFiles].seed] as const,
  )
  const files: readonly (readonly [string, string | Uint8Array])[] = [
    [authorityFiles.root, pemOf(domain.root.certificate)],
    [authorityFiles.intermediate, pemOf(domain.intermediate.certificate)],
    [authorityFiles.intermediateKey, pemOfKey(domain.intermediate.key)],
    [authorityFiles.directoryKey, pemOfKey(domain.directoryKey)],
    ...seeds,
    [authorityFiles.operatorSigningSeed, operator.signing.seed],
    [authorityFiles.systemUserSeed, system.seed],
    [authorityFiles.systemUserJwt, system.jwt],
    [authorityFiles.hostsAdminSeed, admin.seed],
    [authorityFiles.hostsAdminJwt, admin.jwt],
    [
      authorityFiles.domain,
      formatDomainFile({
        domain: domain.name,
        places: { ...NOWHERE, bus },
        ownerPublicKey: authority.ownerKey.toString('hex'),
        operator: operator.operator.publicKey,
        accounts: ids,
        services: Object.fromEntries(
          serviceNames.map((name) => {
            const { identityKey, busKey } = authority.keysOf(name)
            return [name, { identityKey: identityKey.toString('hex'), busKey }]
          }),
        ) as unknown as DomainFile['services'],
      }),
    ],
  ]
  for (const [name, content] of files) await writePrivateFile(join(at, name), content)
  const keys = { identity: config.identityKey, tunnel: undefined, busSeed: site.configBusSeed }
  const message = authority.serviceCredentials('config', now)
  await writeIdentity(join(folder, 'config'), keys, message)
}

/** Keys of a host that is about to join: the private one, and what others may know. */
export interface NewHostKeys {
  readonly identity: KeyObject
  readonly busSeed: Uint8Array
  readonly message: PublicKeys
}

export function newHostKeys(): NewHostKeys {
  const identity = generateIdentityKey()
  const tunnel = generateTunnelKey()
  const bus = newBusKeys('user')
  return {
    identity,
    busSeed: bus.seed,
    message: {
      identity: publicKeyOf(identity),
      tunnel: publicKeyOf(tunnel),
      bus: bus.publicKey,
      tunnelStatement: signTunnelKey(tunnel, identity),
    },
  }
}
