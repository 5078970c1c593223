import type { ChildProcess } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { domainFolders, rootFiles } from '@weft/domain'
import { fingerprintOf } from '@weft/identity'
import { type Lab, PORTS } from '@weft/lab'
import { ROOT } from '../check/repository.ts'
import { letGo, nextMessage } from './child.ts'
import type {
  Joiner,
  JoinOrder,
  JoinOutcome,
  Order,
  RenewOrder,
  RenewOutcome,
  SettleOrder,
} from './fleet-process.ts'

const PROGRAM = join(ROOT, 'test/bench/fleet-process.ts')
/** Tokens are made by this many calls at once. */
const CALLS_AT_ONCE = 16
const TOKEN_TTL_MS = 3_600_000

/** Simulated hosts of a lab, in a process of their own at one of its hosts, so that they reach what a host reaches. */
export class Fleet implements AsyncDisposable {
  readonly #process: ChildProcess

  private constructor(child: ChildProcess) {
    this.#process = child
  }

  static async start(lab: Lab): Promise<Fleet> {
    await addSources(lab)
    const child = lab.spawn('alpha', [process.execPath, PROGRAM], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    await nextMessage(child)
    return new Fleet(child)
  }

  async join(order: Omit<JoinOrder, 'kind'>): Promise<readonly JoinOutcome[]> {
    return (await this.#obey({ kind: 'join', ...order })) as JoinOutcome[]
  }

  async renew(order: Omit<RenewOrder, 'kind'>): Promise<RenewOutcome> {
    return (await this.#obey({ kind: 'renew', ...order })) as RenewOutcome
  }

  async settle(order: Omit<SettleOrder, 'kind'>): Promise<void> {
    await this.#obey({ kind: 'settle', ...order })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await letGo(this.#process)
  }

  async #obey(order: Order): Promise<unknown> {
    this.#process.send(order)
    const answer = (await nextMessage(this.#process)) as { outcome: unknown } | { problem: string }
    if ('problem' in answer) throw new Error(`${order.kind}: ${answer.problem}`)
    return answer.outcome
  }
}

/** New hosts that are called after what they are for. */
export interface NewHosts {
  readonly prefix: string
  readonly count: number
  /** Their underlay addresses are in 10.SUBNET.0.0/16, which is no subnet of the lab's: packets for them go nowhere. */
  readonly subnet: number
}

/** Makes a token for each of them, and spreads them over the replicas of config. */
export async function newJoiners(lab: Lab, { prefix, count, subnet }: NewHosts): Promise<Joiner[]> {
  const { controlAddress, hosts } = lab.plan
  const zone = hosts[0]?.zone ?? ''
  const joiners: Joiner[] = []
  const make = async (index: number): Promise<void> => {
    const name = `${prefix}-${index}`
    const { text } = await lab.client.tokens.create({
      zone,
      hostName: name,
      ttlMs: TOKEN_TTL_MS,
    })
    const control = `${controlAddress}:${PORTS.enrolment + (index % lab.configReplicas)}`
    const address = `10.${subnet}.${index >> 8}.${index & 255}`
    const source = `${SOURCES}.${(index + 1) >> 8}.${(index + 1) & 255}`
    joiners[index] = { name, token: text, address, source, control }
  }
  let next = 0
  const worker = async (): Promise<void> => {
    while (next < count) await make(next++)
  }
  await Promise.all(Array.from({ length: CALLS_AT_ONCE }, worker))
  return joiners
}

/** Beside the lab's management network (RFC 2544). */
const SOURCES = '198.19'

/** Makes all of 198.19.0.0/16 addresses of the host at which fleets are. */
async function addSources(lab: Lab): Promise<void> {
  const prefix = `${SOURCES}.0.0/16`
  for (const [place, words] of [
    ['alpha', ['local', prefix, 'dev', 'lo']],
    ['control', [prefix, 'dev', 'mgmt0']],
  ] as const) {
    const { code, stderr } = await lab.run(place, ['ip', 'route', 'replace', ...words])
    if (code !== 0) throw new Error(`no route for ${prefix} at ${place}: ${stderr.trim()}`)
  }
}

/** Where simulated hosts of the lab keep who they are: in memory, since one disk is not the disks of many hosts. */
export function fleetFolder(lab: Lab, name: string): string {
  return join(lab.plan.folder, `fleet-${name}`)
}

/** Fingerprint of the lab's domain. */
export function fingerprintOfLab(lab: Lab): string {
  const file = join(lab.plan.folder, 'domain', domainFolders.root, rootFiles.certificate)
  return fingerprintOf(new X509Certificate(readFileSync(file)).raw)
}
