import { asWeftError } from '@weft/errors'
import type { Lab } from '@weft/lab'
import { formatIpAddress } from '@weft/net'
import type { HostStatus, Port } from '@weft/sdk'
import type { Paint } from './io.ts'
import { formatDuration, renderTable } from './output.ts'
import type { Session } from './session.ts'

/** The lab that is meant when no name is given. */
export const DEFAULT_LAB = 'weft'

/** What is on the screen once a lab is up: what runs where, and three commands to try. */
export function summaryText(
  lab: Lab,
  elapsedMs: number,
  isDetached: boolean,
  paint: Paint,
): string {
  const { plan } = lab
  const hosts = renderTable(
    plan.hosts,
    [
      { title: 'HOST', value: (host) => host.name },
      {
        title: 'UNDERLAY',
        value: (host) =>
          host.underlayAddresses.map(({ address }) => formatIpAddress(address)).join(', '),
      },
      {
        title: 'RUNS',
        value: (host) =>
          host.kind === 'weft'
            ? 'forwarder, shuttle, netns helper'
            : 'nothing of ours (VXLAN peer)',
      },
      {
        title: 'ENDPOINTS',
        value: (host) =>
          plan.endpoints
            .filter((endpoint) => endpoint.host === host.name)
            .map((endpoint) => `${endpoint.network}/${endpoint.name}`)
            .join(' '),
      },
    ],
    paint,
  )
  const [source, target] = pairToTry(lab)
  const isDefault = lab.name === DEFAULT_LAB
  const flag = isDefault ? '' : ` --name ${lab.name}`
  // Other commands find the lab of the default name by themselves.
  const context = isDefault ? '' : `WEFT_CONTEXT=${plan.folder}/context.json `
  const commands =
    source === undefined || target === undefined
      ? [`${context}npx weft status`]
      : [
          `npx weft lab exec${flag} ${source.network}/${source.name} -- ping -c 3 ${formatIpAddress(target.address)}`,
          `${context}npx weft ping ${source.network}/${source.name} ${target.network}/${target.name}`,
          `${context}npx weft connection ls`,
        ]
  const control = lab
    .processes()
    .map(({ name }) => name)
    .filter((name) => !name.includes('@') && name !== 'keeper')
  return `
${paint('bold', `Lab ${lab.name} is up`)} after ${formatDuration(elapsedMs)}, all of it in network namespaces ${lab.name}-*.

${hosts}
Control plane in ${plan.controlNamespace}: ${control.join(', ')}.
Logs in ${plan.folder}/log, traces in ${plan.folder}/trace.

Try:
${commands.map((command) => `  ${paint('green', command)}\n`).join('')}
${isDetached ? `It stays until: npx weft lab down${flag}` : 'Ctrl-C removes all of it.'}
`
}

/** An endpoint and another one of its network, best on another host. */
function pairToTry(lab: Lab) {
  const [source, ...others] = lab.plan.endpoints
  const mates = others.filter((endpoint) => endpoint.network === source?.network)
  const mate = mates.find((endpoint) => endpoint.host !== source?.host) ?? mates[0]
  const address = mate?.addresses[0]
  return [source, mate && address && { ...mate, address }] as const
}

/** The live status of a lab: hosts, endpoints, rates, who answers. */
export class LabScreen {
  readonly #lab: Lab
  readonly #session: Session
  #drawnLines = 0
  /** Counters by endpoint as they were at the last picture. */
  readonly #before = new Map<string, { port: Port; atMs: number }>()

  constructor(lab: Lab, session: Session) {
    this.#lab = lab
    this.#session = session
  }

  /** Draws the picture over the last one. */
  async draw(): Promise<void> {
    const { io } = this.#session
    const lines = (await this.#text()).trimEnd().split('\n')
    const up = this.#drawnLines > 0 ? `\x1b[${this.#drawnLines}A` : ''
    io.stdout(`${up}${lines.map((line) => `\x1b[2K${line}\n`).join('')}\x1b[J`)
    this.#drawnLines = lines.length
  }

  async #text(): Promise<string> {
    const { paint } = this.#session
    const hosts = await Promise.all(
      this.#lab.weftHosts.map(async ({ name }) => {
        const client = this.#lab.client.host(name)
        const [status, ports] = await Promise.allSettled([client.status(), client.listPorts()])
        return { name, status, ports: ports.status === 'fulfilled' ? ports.value : [] }
      }),
    )
    const health = renderTable(
      hosts,
      [
        { title: 'HOST', value: (host) => host.name },
        { title: 'HEALTH', value: (host) => healthText(host.status, paint) },
        {
          title: 'TABLES',
          value: ({ status }) =>
            status.status === 'fulfilled' ? `revision ${status.value.tableRevision}` : '',
        },
        {
          title: 'FLOWS',
          value: ({ status }) => (status.status === 'fulfilled' ? String(status.value.flows) : ''),
        },
      ],
      paint,
    )
    const rates = hosts.flatMap((host) => host.ports.map((port) => this.#rateOf(host.name, port)))
    const endpoints = renderTable(
      rates,
      [
        { title: 'ENDPOINT', value: (row) => `${row.port.network}/${row.port.endpoint}` },
        { title: 'HOST', value: (row) => row.host },
        {
          title: 'STATE',
          value: (row) => paint(row.port.state === 'up' ? 'green' : 'red', row.port.state),
        },
        { title: 'SENDS', value: (row) => row.sends },
        { title: 'GETS', value: (row) => row.gets },
        { title: 'DROPPED', value: (row) => row.dropped },
      ],
      paint,
    )
    return `${health}\n${endpoints}`
  }

  #rateOf(host: string, port: Port) {
    const key = `${host} ${port.endpointId}`
    const atMs = performance.now()
    const before = this.#before.get(key)
    this.#before.set(key, { port, atMs })
    const seconds = before === undefined ? 1 : (atMs - before.atMs) / 1000
    const rate = (select: (counters: Port['counters']) => bigint): number =>
      before === undefined
        ? 0
        : Number(select(port.counters) - select(before.port.counters)) / seconds
    const text = (packets: number, bytes: number): string =>
      `${packets.toFixed(0)} packets/s, ${((bytes * 8) / 1e6).toFixed(2)} Mbit/s`
    const drops = Object.values(port.counters.drops).reduce((sum, count) => sum + count, 0n)
    return {
      host,
      port,
      sends: text(
        rate((c) => c.receivedPackets),
        rate((c) => c.receivedBytes),
      ),
      gets: text(
        rate((c) => c.sentPackets),
        rate((c) => c.sentBytes),
      ),
      dropped: String(drops),
    }
  }
}

function healthText(status: PromiseSettledResult<HostStatus>, paint: Paint): string {
  if (status.status === 'rejected') return paint('red', asWeftError(status.reason).message)
  const stale = status.value.dependencies.filter((dependency) => dependency.health !== 'ok')
  if (stale.length === 0) return paint('green', 'all answer')
  return paint(
    'yellow',
    stale.map(({ name, ageMs }) => `${name} silent for ${formatDuration(ageMs)}`).join(', '),
  )
}
