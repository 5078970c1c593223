import { InvalidArgumentError } from '@weft/errors'
import { formatMacAddress } from '@weft/net'
import type { Attachment, Port, WireguardPort } from '@weft/sdk'
import type { Command } from 'commander'
import { parseEndpointRef } from '../arguments.ts'
import { formatDuration, sentenceView, tableView } from '../output.ts'
import type { Act } from '../program.ts'
import { addressText, byteText, socketText } from '../views.ts'

export interface AttachmentOptions {
  readonly netns?: string
  readonly device?: string
  readonly keepRoutes?: boolean
  readonly tap?: string
  readonly host?: string
}

export function registerPort(program: Command, act: Act): void {
  const port = program.command('port').description('what a host attached for endpoints')

  addAttachmentOptions(
    port
      .command('attach <endpoint>')
      .description('join an endpoint and a namespace or TAP device of a host'),
  )
    .option('--network <network>', 'the network of the endpoint')
    .addHelpText(
      'after',
      '\nExamples:\n  weft port attach blue/web --netns /run/netns/web\n  weft port attach blue/vm --tap tap0 --host alpha\n',
    )
    .action(
      act(async (session, name: string, options: AttachmentOptions & { network?: string }) => {
        const attachment = attachmentOf(options)
        const ref = parseEndpointRef(name, await session.tenant(), options.network)
        const weft = await session.weft()
        const { port: attached, created } = await weft.host(options.host).attach(ref, attachment)
        const done = created ? 'attached' : 'was attached already'
        return sentenceView(
          attached,
          `endpoint ${ref.network}/${ref.endpoint} ${done}: ${addressText(attached.addresses)}, ${formatMacAddress(attached.mac)}`,
        )
      }),
    )

  port
    .command('ls')
    .description('list ports of hosts with their counters')
    .option('--host <host>', 'only those of this host')
    .addHelpText('after', '\nExamples:\n  weft port ls\n  weft port ls --host alpha -o json\n')
    .action(
      act(async (session, options: { host?: string }) => {
        const weft = await session.weft()
        const rows = await weft.ofHosts(options.host, (host) => host.listPorts())
        return tableView<Port & { readonly onHost: string }>(
          rows,
          [
            { title: 'ON', value: (row) => row.onHost },
            { title: 'NETWORK', value: (row) => row.network },
            { title: 'ENDPOINT', value: (row) => row.endpoint },
            { title: 'STATE', value: (row) => row.state },
            { title: 'ATTACHED TO', value: attachmentText },
            { title: 'ADDRESSES', value: (row) => addressText(row.addresses) },
            { title: 'RECEIVED', value: (row) => String(row.counters.receivedPackets) },
            { title: 'SENT', value: (row) => String(row.counters.sentPackets) },
            { title: 'DROPS', value: (row) => dropText(row.counters.drops) },
          ],
          'no ports; attach one: weft port attach NETWORK/ENDPOINT --netns PATH',
        )
      }),
    )

  port
    .command('detach <endpoint>')
    .description('undo an attachment, which cuts a client off; harmless where there is none')
    .option('--network <network>', 'the network of the endpoint')
    .option('--host <host>', 'the host; this one if not given')
    .addHelpText('after', '\nExample:\n  weft port detach blue/web --host alpha\n')
    .action(
      act(async (session, name: string, options: { network?: string; host?: string }) => {
        const ref = parseEndpointRef(name, await session.tenant(), options.network)
        const done = await (await session.weft()).host(options.host).detach(ref)
        const text = done.detached ? 'detached' : 'was not attached'
        const caveat = done.unheard
          ? '; config or location-resolver has not heard of it yet: until then it counts as attached, and cannot be removed'
          : ''
        return sentenceView(done, `endpoint ${ref.network}/${ref.endpoint} ${text}${caveat}`)
      }),
    )
}

export function addAttachmentOptions(command: Command): Command {
  return command
    .option('--netns <path>', 'network namespace to join, for example /run/netns/web')
    .option('--device <name>', 'name of the device inside the namespace; eth0 if not given')
    .option('--keep-routes', 'leave the routes inside the namespace alone', false)
    .option('--tap <name>', 'TAP device of the host to join instead')
    .option('--host <host>', 'the host; this one if not given')
}

/** @throws InvalidArgumentError unless exactly one thing to join is named */
export function attachmentOf({ netns, device, keepRoutes, tap }: AttachmentOptions): Attachment {
  if (netns !== undefined && tap === undefined) {
    return {
      kind: 'netns',
      path: netns,
      ...(device !== undefined && { device }),
      ...(keepRoutes === true && { keepRoutes }),
    }
  }
  if (tap !== undefined && netns === undefined) return { kind: 'tap', device: tap }
  throw new InvalidArgumentError({
    field: 'attachment',
    problem:
      tap === undefined
        ? 'there is nothing to join'
        : 'a namespace and a TAP device are two things',
    remedy: 'say either --netns PATH or --tap NAME, or weft endpoint attach --wireguard',
  })
}

/** What an endpoint is attached to, in a line. */
function attachmentText({ attachment }: Port): string {
  switch (attachment.kind) {
    case 'netns':
      return attachment.path
    case 'tap':
      return `tap ${attachment.device}`
    case 'wireguard':
      return `wireguard ${attachment.publicKey}, ${clientText(attachment)}`
  }
}

/** The same as fields. */
export function attachmentFields(port: Port): [string, string][] {
  const { attachment } = port
  if (attachment.kind !== 'wireguard') return [['attached to', attachmentText(port)]]
  const { publicKey, hasPresharedKey, connection } = attachment
  return [
    ['attached to', `wireguard ${publicKey}${hasPresharedKey ? ', with a preshared key' : ''}`],
    ['client', clientText(attachment)],
    [
      'sealed traffic',
      connection
        ? `${byteText(connection.sentBytes)} sent to it, ${byteText(connection.receivedBytes)} received`
        : '',
    ],
  ]
}

/** How a client is: where, and since when. */
function clientText({ connection, isVoid }: WireguardPort): string {
  const { state = 'idle', endpoint, lastHandshake } = connection ?? {}
  const now = Date.now()
  return [
    endpoint ? `${state} at ${socketText(endpoint)}` : state,
    lastHandshake
      ? `last handshake ${formatDuration(now - lastHandshake.getTime())} ago`
      : 'no handshake yet',
    isVoid ? 'ITS FILE IS VOID, the host has another key by now: attach it again' : '',
  ]
    .filter((part) => part !== '')
    .join(', ')
}

/** `replayed 3, forged 1`; 0 if there was nothing. */
export function dropText(drops: { readonly [reason: string]: bigint }): string {
  const some = Object.entries(drops).filter(([, count]) => count > 0n)
  return some.length === 0 ? '0' : some.map(([reason, count]) => `${reason} ${count}`).join(', ')
}
