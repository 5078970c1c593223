import { ExitCode, InvalidArgumentError } from '@weft/errors'
import { formatIpAddress, type IpAddress, parseIpAddress } from '@weft/net'
import type { Endpoint, PingReply } from '@weft/sdk'
import type { Command } from 'commander'
import { parseDurationMs, wholeNumber } from '../arguments.ts'
import type { Act } from '../program.ts'
import type { Session } from '../session.ts'
import { whyApart } from '../views.ts'

interface PingOptions {
  readonly count: number
  readonly interval: number
  readonly timeout: number
  readonly size: number
  readonly ipv6: boolean
  readonly network?: string
}

export function registerPing(program: Command, act: Act): void {
  program
    .command('ping <source> <target>')
    .description('send echo requests from one endpoint to another, or to an address')
    .option('-c, --count <number>', 'how many', wholeNumber('count', 1, 1_000_000), 4)
    .option('-i, --interval <duration>', 'time between two', parseDurationMs, 1000)
    .option('-W, --timeout <duration>', 'how long to wait for each answer', parseDurationMs, 1000)
    .option('-s, --size <bytes>', 'payload', wholeNumber('size', 0, 65_000), 56)
    .option('-6, --ipv6', "take the target's IPv6 address", false)
    .option('--network <network>', 'the network of both')
    .addHelpText(
      'after',
      '\nExamples:\n  weft ping blue/web blue/api\n  weft ping blue/web 10.20.0.13 -c 10 -i 200ms\n',
    )
    .action(
      act(async (session, sourceName: string, targetName: string, options: PingOptions) => {
        const source = await session.endpoint(sourceName, options.network)
        const target = await targetOf(session, source, targetName, options.ipv6)
        if (source.host === undefined) {
          throw new InvalidArgumentError({
            field: 'source',
            problem: `endpoint ${source.network}/${source.name} is not attached anywhere`,
            remedy: `attach it: weft port attach ${source.network}/${source.name} --netns PATH`,
          })
        }
        const weft = await session.weft()
        const isKnown = Object.hasOwn(weft.context.hosts, source.host)
        const onHost = weft.host(isKnown ? source.host : undefined)
        const replies = onHost.ping({
          tenant: source.tenant,
          network: source.network,
          source: source.name,
          target: target.address,
          count: options.count,
          intervalMs: options.interval,
          timeoutMs: options.timeout,
          payloadBytes: options.size,
        })
        const why = async (): Promise<string | undefined> => {
          const connections = await onHost.listOpenConnections()
          const to = connections.filter(({ host }) => host === target.host)
          return to.map(whyApart).find((text) => text !== undefined)
        }
        return await show(session, formatIpAddress(target.address), replies, why)
      }),
    )
}

interface Target {
  readonly address: IpAddress
  /** Undefined for an address that was typed. */
  readonly host: string | undefined
}

/** The address of an endpoint of the source's network, or the address that was typed. */
async function targetOf(
  session: Session,
  source: Endpoint,
  text: string,
  isV6: boolean,
): Promise<Target> {
  const typed = parseIpAddress(text)
  if (typed !== undefined) return { address: typed, host: undefined }
  const isBare = !text.includes('/')
  const target = await session.endpoint(
    text,
    isBare ? `${source.tenant}/${source.network}` : undefined,
  )
  if (target.tenant !== source.tenant || target.network !== source.network) {
    throw new InvalidArgumentError({
      field: 'target',
      problem: `${target.network}/${target.name} is on another network than ${source.network}/${source.name}, and networks do not meet`,
      remedy: 'name two endpoints of one network',
    })
  }
  const family = isV6 ? 6 : 4
  const address =
    target.addresses.find((candidate) => candidate.family === family) ?? target.addresses[0]
  if (address !== undefined) return { address, host: target.host }
  throw new InvalidArgumentError({ field: 'target', problem: `${target.name} has no address` })
}

async function show(
  session: Session,
  target: string,
  replies: AsyncIterable<PingReply>,
  why: () => Promise<string | undefined>,
): Promise<number> {
  const isTable = session.options.output === 'table'
  const all: PingReply[] = []
  for await (const reply of replies) {
    all.push(reply)
    if (isTable) session.io.stdout(`${replyText(target, reply)}\n`)
  }
  const times = all.flatMap((reply) =>
    reply.outcome === 'answered' ? [Number(reply.rttNs) / 1e6] : [],
  )
  const sorted = times.toSorted((a, b) => a - b)
  const summary = {
    sent: all.length,
    answered: sorted.length,
    minMs: sorted[0],
    medianMs: sorted[Math.floor(sorted.length / 2)],
    maxMs: sorted.at(-1),
  }
  const numbers = [summary.minMs, summary.medianMs, summary.maxMs]
    .map((ms) => ms?.toFixed(3))
    .join(' / ')
  const text = `${summary.sent} sent, ${summary.answered} answered${sorted.length > 0 ? `; least / median / most ${numbers} ms` : ''}\n`
  const reason = sorted.length > 0 ? undefined : await why()
  await session.print({
    data: { target, replies: all, summary, ...(reason && { reason }) },
    text: () => (reason ? `${text}${reason}\n` : text),
  })
  return sorted.length > 0 ? ExitCode.Ok : ExitCode.Unavailable
}

function replyText(target: string, reply: PingReply): string {
  const head = `${target} ${reply.sequence}:`
  if (reply.outcome === 'answered') return `${head} ${(Number(reply.rttNs) / 1e6).toFixed(3)} ms`
  return reply.outcome === 'timed-out' ? `${head} no answer` : `${head} ${reply.problem}`
}
