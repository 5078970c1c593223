import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { type HostPlan, joinCommand, type Lab, leaveCommand, newJoinToken } from '@weft/lab'
import { parseIpAddress } from '@weft/net'
import { type EndpointRef, HostClient } from '@weft/sdk'
import { NewPlace } from '../support/place.ts'
import { startFirstAnswer } from '../support/probe.ts'
import { type BenchContext, placeOf } from './context.ts'
import { fingerprintOfLab } from './fleet.ts'
import { judge, quantile, type Result } from './result.ts'

const TIMES = 25
const HOST = 'beta'
const FORWARDER = `forwarder@${HOST}`
const GIVE_UP_MS = 20_000
const POLL_MS = 5
/** The hosts that stay have forgotten the one before by then. */
const SETTLE_MS = 1000

/**
 * From the start of `weft join` on a host to the first ping that another host gets answered by an endpoint there: the join, the start
 * of the forwarder, which puts away what is on its disk, and `endpoint attach` as soon as the host API answers. The host has left
 * before, and joins under new keys and another number.
 */
export async function join({ lab, prefix }: BenchContext): Promise<Result[]> {
  const host = lab.plan.hosts.find(({ name }) => name === HOST)
  if (host === undefined) throw new Error(`the lab has no host ${HOST}`)
  const { tenant } = lab.plan
  const lent = lab.plan.endpoints.filter((endpoint) => endpoint.host === HOST)
  for (const { network, name } of lent) {
    await lab.client.host(HOST).detach({ tenant, network, endpoint: name })
  }
  const samples: Sample[] = []
  for (let index = 0; index < TIMES; index++) {
    await leave(lab, host)
    await using place = await NewPlace.make(`${prefix}-jn${index}`)
    const ref = { tenant, network: 'blue', endpoint: `joined-${index}` }
    samples.push(await joinOnce(lab, host, { place, ref, address: `10.20.101.${index + 1}` }))
    await using api = new HostClient(host.hostApi)
    await api.detach(ref)
    await lab.client.endpoints.delete(ref)
  }
  await lab.untilReady()
  for (const { network, name, namespace } of lent) {
    const ref = { tenant, network, endpoint: name }
    await lab.client.host(HOST).attach(ref, { kind: 'netns', path: `/run/netns/${namespace}` })
  }
  const of = (part: keyof Sample): number[] => samples.map((sample) => sample[part])
  const middle = (part: keyof Sample): string => quantile(of(part), 0.5).toFixed(0)
  return [
    judge(
      {
        bench: 'join: start to first ping from another host, p99',
        unit: 'ms',
        ours: quantile(of('answeredMs'), 0.99),
        samples: TIMES,
        offered: `p50 ${middle('answeredMs')} ms, max ${Math.max(...of('answeredMs')).toFixed(0)} ms; medians of its parts: joined ${middle('joinedMs')} ms, host API answers ${middle('servedMs')} ms, attached ${middle('attachedMs')} ms`,
      },
      { kind: 'at-most', value: 3000 },
    ),
  ]
}

/** Milliseconds from the start of `weft join`. */
interface Sample {
  readonly joinedMs: number
  readonly servedMs: number
  readonly attachedMs: number
  readonly answeredMs: number
}

async function joinOnce(
  lab: Lab,
  host: HostPlan,
  newcomer: { readonly place: NewPlace; readonly ref: EndpointRef; readonly address: string },
): Promise<Sample> {
  const { place, ref, address } = newcomer
  const parsed = parseIpAddress(address)
  if (parsed === undefined) throw new TypeError(address)
  const token = await newJoinToken(lab.client, host)
  const joining = { fingerprint: fingerprintOfLab(lab), ownerUid: forwarderUid(lab) }
  await using answer = await startFirstAnswer(placeOf(lab, 'blue/web'), address, GIVE_UP_MS)

  const startedAt = process.hrtime.bigint()
  const sinceStartMs = (): number => Number(process.hrtime.bigint() - startedAt) / 1e6
  await mustRun(lab, host, joinCommand(lab.plan, host, joining), token)
  const joinedMs = sinceStartMs()
  await lab.start(FORWARDER)
  await using api = await untilServed(host)
  const servedMs = sinceStartMs()
  await lab.client.endpoints.create({ ...ref, addresses: [parsed] })
  await api.attach(ref, { kind: 'netns', path: place.path })
  const attachedMs = sinceStartMs()
  const { answered_at_ns } = await answer.end()
  if (answered_at_ns === null) throw new Error(`${address} never answered`)
  const answeredMs = Number(BigInt(answered_at_ns) - startedAt) / 1e6
  return { joinedMs, servedMs, attachedMs, answeredMs }
}

/** Makes the host one that is not in the domain. */
async function leave(lab: Lab, host: HostPlan): Promise<void> {
  await mustRun(lab, host, leaveCommand(lab.plan, host))
  await lab.stop(FORWARDER)
  await sleep(SETTLE_MS)
}

/** The host API once it answers; a client that was refused before would wait before it tries again. */
async function untilServed(host: HostPlan): Promise<HostClient> {
  const socket = host.hostApi.slice('unix:'.length)
  const deadline = Date.now() + GIVE_UP_MS
  for (;;) {
    if (existsSync(socket)) {
      const client = new HostClient(host.hostApi)
      try {
        await client.status()
        return client
      } catch (error) {
        await client[Symbol.asyncDispose]()
        if (Date.now() > deadline) throw error
      }
    }
    if (Date.now() > deadline) throw new Error(`${FORWARDER} does not serve ${socket}`)
    await sleep(POLL_MS)
  }
}

async function mustRun(
  lab: Lab,
  host: HostPlan,
  argv: readonly string[],
  input?: string,
): Promise<void> {
  const { code, stderr } = await lab.run(host.name, argv, input === undefined ? {} : { input })
  if (code !== 0) throw new Error(`${argv.join(' ')} ended with ${code}: ${stderr.trim()}`)
}

function forwarderUid(lab: Lab): number {
  return lab.processes().find(({ name }) => name === FORWARDER)?.uid ?? 0
}
