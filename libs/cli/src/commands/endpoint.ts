import { UnavailableError } from '@weft/errors'
import { formatMacAddress, type IpAddress, type MacAddress, type Prefix } from '@weft/net'
import type { Attachment, CreateEndpoint, Endpoint, Port, Weft } from '@weft/sdk'
import type { Command } from 'commander'
import {
  collect,
  collectLabels,
  parseAddress,
  parseCanonicalPrefix,
  parseEndpointRef,
  parseMac,
  parseNetworkRef,
} from '../arguments.ts'
import { createUnlessThere } from '../endpoints.ts'
import { fieldsView, sentenceView, tableView } from '../output.ts'
import type { Act } from '../program.ts'
import type { Session } from '../session.ts'
import { addressText, ENDPOINT_COLUMNS, prefixText, removedView, storedFields } from '../views.ts'
import { addClientOptions, attachClient, type ClientOptions, checkClientOptions } from './client.ts'
import {
  type AttachmentOptions,
  addAttachmentOptions,
  attachmentFields,
  attachmentOf,
} from './port.ts'

interface EndpointOptions {
  readonly network?: string
  readonly ip?: IpAddress[]
  readonly mac?: MacAddress
  readonly allow?: Prefix[]
  readonly label?: Record<string, string>
  readonly vxlanPeer?: string
}

type AttachOptions = EndpointOptions & AttachmentOptions & ClientOptions

export function registerEndpoint(program: Command, act: Act): void {
  const endpoint = program.command('endpoint').description('places on networks')

  addEndpointOptions(endpoint.command('create <endpoint>').description('add an endpoint'))
    .option('--vxlan-peer <host>', 'the foreign host on which it is')
    .addHelpText(
      'after',
      '\nExamples:\n  weft endpoint create web --network blue --ip 10.20.0.11\n  weft endpoint create blue/gate --allow 192.0.2.0/24 --label role=router\n',
    )
    .action(
      act(async (session, name: string, options: EndpointOptions) => {
        const wanted = await requestOf(session, name, options)
        const created = await (await session.weft()).endpoints.create(wanted)
        const text = `endpoint ${created.network}/${created.name} created: ${addressText(created.addresses)}, ${formatMacAddress(created.mac)}`
        return sentenceView(created, text)
      }),
    )

  endpoint
    .command('ls')
    .description('list endpoints of a network, of a tenant, or of all')
    .option('--network <network>', 'those of one network')
    .option('--all', 'those of all tenants', false)
    .addHelpText(
      'after',
      '\nExamples:\n  weft endpoint ls\n  weft endpoint ls --network blue -o json\n',
    )
    .action(
      act(async (session, options: { network?: string; all: boolean }) => {
        const tenant = await session.tenant()
        const one =
          options.network === undefined ? { tenant } : parseNetworkRef(options.network, tenant)
        const rows = await Array.fromAsync(
          (await session.weft()).endpoints.list(options.all ? {} : one),
        )
        return tableView(
          rows,
          ENDPOINT_COLUMNS,
          'no endpoints; add one: weft endpoint create NAME --network NETWORK',
        )
      }),
    )

  endpoint
    .command('show <endpoint>')
    .description('show an endpoint')
    .option('--network <network>', 'the network it is on')
    .addHelpText('after', '\nExample:\n  weft endpoint show blue/web\n')
    .action(
      act(async (session, name: string, options: { network?: string }) => {
        const found = await session.endpoint(name, options.network)
        const port = await portOf(session, found)
        return fieldsView({ ...found, port }, [
          ...storedFields(found),
          ['network', `${found.tenant}/${found.network}`],
          ['mac', formatMacAddress(found.mac)],
          ['addresses', addressText(found.addresses)],
          ['may also send from', prefixText(found.allow)],
          ['host', found.host ?? 'not attached'],
          ...(port === undefined ? [] : attachmentFields(port)),
        ])
      }),
    )

  endpoint
    .command('rm <endpoint>')
    .description('remove an endpoint that is not attached')
    .option('--network <network>', 'the network it is on')
    .addHelpText('after', '\nExample:\n  weft endpoint rm blue/web\n')
    .action(
      act(async (session, name: string, options: { network?: string }) => {
        const ref = parseEndpointRef(name, await session.tenant(), options.network)
        return removedView('endpoint', name, await (await session.weft()).endpoints.delete(ref))
      }),
    )

  addClientOptions(
    addAttachmentOptions(
      addEndpointOptions(
        endpoint
          .command('attach <endpoint>')
          .description(
            'add an endpoint unless it is there, and attach it at a host: for operators',
          ),
      ),
    ),
  )
    .addHelpText('after', ATTACH_HELP)
    .action(
      act(async (session, name: string, options: AttachOptions) => {
        checkClientOptions(options)
        const wanted = await requestOf(session, name, options)
        if (options.wireguard) return await attachClient(session, wanted, options)
        const attachment = attachmentOf(options)
        const port = await createAndAttach(await session.weft(), wanted, attachment, options.host)
        return sentenceView(
          port,
          `endpoint ${port.network}/${port.endpoint} attached: ${addressText(port.addresses)}, ${formatMacAddress(port.mac)}`,
        )
      }),
    )
}

const ATTACH_HELP = `
A stock WireGuard client is attached by --wireguard: it gets a file for wg-quick, also as a QR code for a phone. All its packets
go to the chosen host; weft port detach cuts it off. The host must be reached by UDP: weft host set HOST --candidate ADDRESS:PORT
says where, if it is behind a NAT. The file is printed once: attach it again with the same --public-key for another one without the
private key.

Examples:
  weft endpoint attach web --network blue --host alpha --netns /run/netns/web
  weft endpoint attach blue/vm --tap tap0
  weft endpoint attach phone --network blue --host alpha --wireguard
  weft endpoint attach blue/laptop --wireguard --save laptop.conf --no-qr
  weft endpoint attach blue/laptop --wireguard --public-key "$(wg pubkey <private.key)" > laptop.conf
`

async function createAndAttach(
  weft: Weft,
  wanted: CreateEndpoint,
  attachment: Attachment,
  host: string | undefined,
): Promise<Port> {
  const { tenant, network, endpoint } = wanted
  const isNew = await createUnlessThere(weft, wanted)
  try {
    return (await weft.host(host).attach({ tenant, network, endpoint }, attachment)).port
  } catch (error) {
    // Nothing is left of an attempt that failed; an endpoint that was there before stays.
    if (isNew) await weft.endpoints.delete({ tenant, network, endpoint })
    throw error
  }
}

/** What its host has attached for it. Undefined where no way leads to that host from here, or it does not answer. */
async function portOf(session: Session, { id, host }: Endpoint): Promise<Port | undefined> {
  if (host === undefined) return undefined
  const { hosts, localHost } = await session.context()
  const isKnown = Object.hasOwn(hosts, host)
  if (!isKnown && localHost === undefined) return undefined
  try {
    const ports = await (await session.weft()).host(isKnown ? host : undefined).listPorts()
    return ports.find(({ endpointId }) => endpointId === id)
  } catch (error) {
    if (error instanceof UnavailableError) return undefined
    throw error
  }
}

async function requestOf(
  session: Session,
  name: string,
  options: EndpointOptions,
): Promise<CreateEndpoint> {
  const { network, ip, mac, allow, label, vxlanPeer } = options
  return {
    ...parseEndpointRef(name, await session.tenant(), network),
    labels: label ?? {},
    ...(ip !== undefined && { addresses: ip }),
    ...(mac !== undefined && { mac }),
    ...(allow !== undefined && { allow }),
    ...(vxlanPeer !== undefined && { vxlanPeer }),
  }
}

function addEndpointOptions(command: Command): Command {
  return command
    .option('--network <network>', 'the network it is on')
    .option(
      '--ip <address>',
      'an address; may be repeated; a family not given gets a free one',
      collect(parseAddress),
    )
    .option(
      '--mac <address>',
      'MAC address; one that goes with the IP address if not given',
      parseMac,
    )
    .option(
      '--allow <prefix>',
      'further sources, for one that routes; may be repeated',
      collect(parseCanonicalPrefix),
    )
    .option('--label <key=value>', 'a label; may be repeated', collectLabels)
}
