import { X509Certificate } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fingerprintOf } from '@weft/identity'
import { type HostPlan, type Lab, PORTS } from '@weft/lab'
import { formatIpAddress } from '@weft/net'
import { ROOT } from '../../check/repository.ts'
import { type Ended, mustRun, type Place } from '../../support/place.ts'
import { at } from './lab.ts'

const CLI = join(ROOT, 'libs/cli/src/main.ts')

/** A folder for secrets that only root may enter, removed with the test. */
export class PrivateFolder implements Disposable {
  readonly path: string = mkdtempSync(join(tmpdir(), 'weft-test-'))

  /** Writes a file into it and tells its path. */
  write(name: string, text: string): string {
    const path = join(this.path, name)
    writeFileSync(path, text, { mode: 0o600 })
    return path
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true })
  }
}

/** Identity folder of a host. */
export function identityOf(lab: Lab, host: string): string {
  return `${planOf(lab, host).folder}/identity`
}

/** A copy of who a host is, as a thief would have it. */
export async function stealIdentity(
  lab: Lab,
  host: string,
  folder: PrivateFolder,
): Promise<string> {
  const path = join(folder.path, `stolen-${host}`)
  await mustRun(['cp', '--archive', identityOf(lab, host), path])
  return path
}

/** Fingerprint of the root of the lab's domain. */
export function fingerprintOfLab(lab: Lab): string {
  const pem = readFileSync(`${lab.plan.folder}/domain/root/root.pem`, 'utf8')
  return fingerprintOf(new X509Certificate(pem).raw)
}

/** `HOST:PORT` of the enrolment listener of a replica of config. */
export function enrolmentOf(lab: Lab, replica = 0): string {
  return `${lab.plan.controlAddress}:${PORTS.enrolment + replica}`
}

/** Runs the command `weft` in a namespace, as root of the machine that this stands for; without `home` it has no contexts. */
export async function weftAt(
  place: Place,
  argv: readonly string[],
  home: string = '/nonexistent',
): Promise<Ended> {
  const variables = ['-u', 'WEFT_CONTEXT', '-u', 'XDG_CONFIG_HOME', `HOME=${home}`]
  return await place.run(['env', ...variables, process.execPath, CLI, ...argv])
}

export interface JoinAttempt {
  readonly token: string
  readonly name: string
  readonly identity: string
  readonly addresses?: readonly string[]
  /** That of the lab by default. */
  readonly fingerprint?: string
  readonly ownerUid?: number
}

/** Runs `weft join` in a namespace. */
export async function tryToJoin(lab: Lab, place: Place, attempt: JoinAttempt): Promise<Ended> {
  const { token, name, identity, addresses = [], fingerprint, ownerUid } = attempt
  using folder = new PrivateFolder()
  return await weftAt(place, [
    'join',
    ...['--control', enrolmentOf(lab), '--fingerprint', fingerprint ?? fingerprintOfLab(lab)],
    ...['--token-file', folder.write('token', `${token}\n`)],
    ...['--name', name, ...addresses.flatMap((address) => ['--address', address])],
    ...['--identity', identity],
    ...(ownerUid === undefined ? [] : ['--owner', String(ownerUid)]),
    ...['-o', 'json'],
  ])
}

/** Joins a host of the lab as an operator of it would, by one command and a new token. */
export async function joinAgain(lab: Lab, host: string): Promise<Ended> {
  const plan = planOf(lab, host)
  const { text } = await lab.client.tokens.create({ zone: plan.zone, hostName: host })
  return await tryToJoin(lab, at(lab, host), {
    token: text,
    name: host,
    identity: identityOf(lab, host),
    addresses: plan.underlayAddresses.map(({ address }) => formatIpAddress(address)),
    ownerUid: uidOf(lab, host),
  })
}

/**
 * Makes a host of the lab what it was at the start, whatever has become of it: a member under its name with keys that nobody
 * has seen, and the topology's endpoints attached.
 */
export async function takeInAgain(lab: Lab, host: string): Promise<void> {
  await lab.stop(`forwarder@${host}`, 'SIGKILL')
  rmSync(identityOf(lab, host), { recursive: true, force: true })
  const record = await lab.client.hosts.get(host).catch(() => undefined)
  if (record !== undefined) {
    if (record.revokedAt === undefined) {
      await lab.client.hosts.revoke({ name: host, reason: 'it starts anew' })
    }
    await lab.client.hosts.delete(host)
  }
  const { code, stderr } = await joinAgain(lab, host)
  if (code !== 0) throw new Error(`${host} does not come back: ${stderr}`)
  await lab.start(`forwarder@${host}`)
  await lab.untilReady()
  await attachEndpoints(lab, host)
}

/** Attaches what the topology has at a host. */
export async function attachEndpoints(lab: Lab, host: string): Promise<void> {
  const { tenant } = lab.plan
  for (const { network, name } of endpointsAt(lab, host)) {
    const ref = { tenant, network, endpoint: name }
    const path = lab.netns(`${network}/${name}`)
    await lab.client.host(host).attach(ref, { kind: 'netns', path })
  }
}

/** Detaches all of it. */
export async function detachEndpoints(lab: Lab, host: string): Promise<void> {
  const { tenant } = lab.plan
  for (const { network, name } of endpointsAt(lab, host)) {
    await lab.client.host(host).detach({ tenant, network, endpoint: name })
  }
}

/** User of a host's forwarder. */
export function uidOf(lab: Lab, host: string): number {
  const forwarder = lab.processes().find(({ name }) => name === `forwarder@${host}`)
  if (forwarder === undefined) throw new RangeError(`${host} has no forwarder`)
  return forwarder.uid
}

function endpointsAt(lab: Lab, host: string): Lab['plan']['endpoints'] {
  return lab.plan.endpoints.filter((endpoint) => endpoint.host === host)
}

function planOf(lab: Lab, host: string): HostPlan {
  const plan = lab.plan.hosts.find(({ name }) => name === host)
  if (plan === undefined) throw new RangeError(`the topology has no host ${host}`)
  return plan
}
