import { chmodSync, chownSync, cpSync, readdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { authorityFiles, domainFolders, natsFiles, parseDomainFile } from '@weft/domain'
import { createDomain } from '@weft/domain/create'
import { InternalError } from '@weft/errors'
import { formatIpAddress } from '@weft/net'
import type { Weft } from '@weft/sdk'
import type { ProcessSpec } from './launch.ts'
import { type HostPlan, type LabPlan, PORTS } from './plan.ts'
import {
  configName,
  configReplicasOf,
  controlFolder,
  identityFolder,
  natsDomainFolder,
  natsUrl,
} from './processes.ts'
import { inNamespace, run } from './shell.ts'

/** Every lab is a domain of its own, made anew at each start. */
const DOMAIN = 'lab.weft'
const JOIN_TIMEOUT_MS = 30_000
const TOKEN_TTL_MS = 10 * 60_000

/**
 * Makes the lab's domain as `weft init` does, and gives every service its part of it, owned by the user that it runs as.
 * The root stays where only root reads it.
 * @returns fingerprint of the domain's root
 */
export async function makeDomain(plan: LabPlan, specs: readonly ProcessSpec[]): Promise<string> {
  const out = domainFolder(plan)
  const replicas = configReplicasOf(specs)
  const address = (port: number): string => `${plan.controlAddress}:${port}`
  const { fingerprint } = await createDomain({
    name: DOMAIN,
    out,
    now: new Date(),
    places: {
      config: Array.from({ length: replicas }, (_, index) => address(PORTS.config + index)),
      enrolment: Array.from({ length: replicas }, (_, index) => address(PORTS.enrolment + index)),
      locationResolver: [address(PORTS.resolver)],
      routingPolicy: [address(PORTS.policy)],
      bus: [natsUrl(plan)],
    },
  })
  const give = (name: string, part: string, folder: string): void => {
    const uid = specs.find((spec) => spec.name === name)?.uid
    if (uid === undefined) throw new InternalError(`a lab has no process ${name}`)
    const target = join(controlFolder(plan, name), folder)
    cpSync(join(out, part), target, { recursive: true })
    own(target, uid)
  }
  for (const service of ['location-resolver', 'routing-policy']) {
    give(service, join(domainFolders.services, service), 'identity')
  }
  for (let index = 0; index < replicas; index++) {
    give(configName(index), join(domainFolders.services, 'config'), 'identity')
    give(configName(index), domainFolders.authority, 'authority')
  }
  give('nats', domainFolders.nats, basename(natsDomainFolder(plan)))
  give('nats', join(domainFolders.services, 'nats'), 'identity')
  return fingerprint
}

/** Where `weft init` writes; only root may enter. */
export function domainFolder(plan: LabPlan): string {
  return `${plan.folder}/domain`
}

/** Identity folder of the lab's owner, as whom `weft` speaks to it. */
export function ownerIdentity(plan: LabPlan): string {
  return join(domainFolder(plan), domainFolders.owner)
}

/** Where nats-server finds what it was given. */
export function natsDomain(plan: LabPlan): {
  readonly operatorFile: string
  readonly systemAccount: string
  readonly accountsFolder: string
  readonly tls: { readonly chain: string; readonly key: string; readonly roots: string }
} {
  const folder = natsDomainFolder(plan)
  const tls = join(folder, natsFiles.tls)
  const source = join(domainFolder(plan), domainFolders.authority, authorityFiles.domain)
  return {
    operatorFile: join(folder, natsFiles.operatorJwt),
    systemAccount: parseDomainFile(readFileSync(source, 'utf8'), source).accounts.system,
    accountsFolder: join(folder, natsFiles.accounts),
    tls: {
      chain: join(tls, natsFiles.chain),
      key: join(tls, natsFiles.key),
      roots: join(tls, natsFiles.roots),
    },
  }
}

/** What a host is told when it joins. */
export interface Joining {
  /** Of the domain's root. */
  readonly fingerprint: string
  /** User id as which its forwarder runs. */
  readonly ownerUid: number
  /** File of the keys of locked tenants. */
  readonly tenantKeys?: string
}

/** Makes a host a member: a token by the owner, then `weft join` on the host, as an operator would. */
export async function joinHost(
  weft: Weft,
  plan: LabPlan,
  host: HostPlan,
  joining: Joining,
): Promise<void> {
  const { code, stderr } = await run(
    [...inNamespace(host.namespace), ...joinCommand(plan, host, joining)],
    { input: await newJoinToken(weft, host), timeoutMs: JOIN_TIMEOUT_MS },
  )
  if (code !== 0) throw new InternalError(`${host.name} cannot join: ${stderr.trim()}`)
}

/** A token by which a host may join, and no other. */
export async function newJoinToken(weft: Weft, { name, zone }: HostPlan): Promise<string> {
  return (await weft.tokens.create({ zone, hostName: name, ttlMs: TOKEN_TTL_MS })).text
}

/** `weft join` for a host that is not in the domain, with the token on its standard input. */
export function joinCommand(
  plan: LabPlan,
  host: HostPlan,
  { fingerprint, ownerUid, tenantKeys }: Joining,
): string[] {
  const addresses = host.underlayAddresses.map(({ address }) => formatIpAddress(address))
  return [
    ...memberCommand(plan, host, 'join'),
    ...['--control', `${plan.controlAddress}:${PORTS.enrolment}`],
    ...['--fingerprint', fingerprint, '--token-file', '-'],
    ...['--name', host.name, ...addresses.flatMap((address) => ['--address', address])],
    ...['--owner', String(ownerUid)],
    ...(host.capabilities ?? []).flatMap((capability) => ['--capability', capability]),
    ...(tenantKeys === undefined ? [] : ['--tenant-keys', tenantKeys]),
  ]
}

/** `weft leave` for a host that is in the domain. */
export function leaveCommand(plan: LabPlan, host: HostPlan): string[] {
  return [...memberCommand(plan, host, 'leave'), '--yes']
}

function memberCommand(plan: LabPlan, host: HostPlan, command: 'join' | 'leave'): string[] {
  const bin = `${plan.folder}/bin`
  return [`${bin}/node`, `${bin}/weft.mjs`, command, '--identity', identityFolder(host)]
}

/** Gives a folder with all that is in it to a user, for nobody else to read. */
function own(path: string, uid: number): void {
  chownSync(path, uid, uid)
  chmodSync(path, 0o700)
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    const child = join(path, entry.name)
    if (entry.isDirectory()) {
      own(child, uid)
    } else {
      chownSync(child, uid, uid)
      chmodSync(child, 0o600)
    }
  }
}
