import {
  LINK_ENCRYPTION_DEFAULT,
  MTU_MAX_BYTES,
  MTU_MIN_V4_BYTES,
  type Prefix,
  VNI_MAX,
  VNI_MIN,
} from '@weft/net'
import type { Encryption, Network } from '@weft/sdk'
import { type Command, Option } from 'commander'
import {
  collect,
  collectLabels,
  parseCanonicalPrefix,
  parseNetworkRef,
  wholeNumber,
} from '../arguments.ts'
import { fieldsView, sentenceView, tableView } from '../output.ts'
import type { Act } from '../program.ts'
import { labelText, prefixText, removedView, storedFields } from '../views.ts'

interface CreateOptions {
  readonly prefix: Prefix[]
  readonly mtu?: number
  readonly vni?: number
  readonly encryption?: Encryption
  readonly label?: Record<string, string>
}

export function registerNetwork(program: Command, act: Act): void {
  const network = program.command('network').description('virtual layer-2 segments')

  network
    .command('create <network>')
    .description('add a network')
    .requiredOption(
      '--prefix <prefix>',
      'IPv4 or IPv6 prefix; may be repeated',
      collect(parseCanonicalPrefix),
    )
    .option(
      '--mtu <bytes>',
      'largest IP packet; 1320 if not given',
      wholeNumber('mtu', MTU_MIN_V4_BYTES, MTU_MAX_BYTES),
    )
    .option(
      '--vni <number>',
      'VXLAN network identifier; a free one if not given',
      wholeNumber('vni', VNI_MIN, VNI_MAX),
    )
    .addOption(
      new Option(
        '--encryption <which>',
        `links that must be encrypted: all, or those that leave a trusted zone; ${LINK_ENCRYPTION_DEFAULT} if not given`,
      ).choices(['outside-trusted-zones', 'required']),
    )
    .option('--label <key=value>', 'a label; may be repeated', collectLabels)
    .addHelpText(
      'after',
      '\nExamples:\n  weft network create blue --prefix 10.20.0.0/16 --prefix fd20::/64\n  weft network create acme/red --prefix 10.20.0.0/16 --mtu 1400\n  weft network create vault --prefix 10.30.0.0/16 --encryption required\n',
    )
    .action(
      act(async (session, name: string, options: CreateOptions) => {
        const ref = parseNetworkRef(name, await session.tenant())
        const { prefix, mtu, vni, encryption, label } = options
        const created = await (await session.weft()).networks.create({
          ...ref,
          prefixes: prefix,
          ...(mtu !== undefined && { mtuBytes: mtu }),
          ...(vni !== undefined && { vni }),
          ...(encryption !== undefined && { encryption }),
          labels: label ?? {},
        })
        return sentenceView(
          created,
          `network ${created.tenant}/${created.name} created with VNI ${created.vni}`,
        )
      }),
    )

  network
    .command('ls')
    .description('list networks of a tenant, or of all')
    .option('--all', 'those of all tenants', false)
    .addHelpText('after', '\nExamples:\n  weft network ls\n  weft network ls --all -o json\n')
    .action(
      act(async (session, options: { all: boolean }) => {
        const of = options.all ? {} : { tenant: await session.tenant() }
        const rows = await Array.fromAsync((await session.weft()).networks.list(of))
        return tableView<Network>(
          rows,
          [
            { title: 'TENANT', value: (row) => row.tenant },
            { title: 'NAME', value: (row) => row.name },
            { title: 'VNI', value: (row) => String(row.vni) },
            { title: 'PREFIXES', value: (row) => prefixText(row.prefixes) },
            { title: 'MTU', value: (row) => String(row.mtuBytes) },
            { title: 'ENCRYPTION', value: (row) => row.encryption },
            { title: 'LABELS', value: (row) => labelText(row.labels) },
          ],
          'no networks; add one: weft network create NAME --prefix PREFIX',
        )
      }),
    )

  network
    .command('show <network>')
    .description('show a network')
    .addHelpText('after', '\nExample:\n  weft network show blue\n')
    .action(
      act(async (session, name: string) => {
        const ref = parseNetworkRef(name, await session.tenant())
        const found = await (await session.weft()).networks.get(ref)
        return fieldsView(found, [
          ...storedFields(found),
          ['tenant', found.tenant],
          ['vni', String(found.vni)],
          ['prefixes', prefixText(found.prefixes)],
          ['mtu', `${found.mtuBytes} bytes`],
          ['encryption', found.encryption],
          ['endpoints', String(found.endpointCount)],
        ])
      }),
    )

  network
    .command('rm <network>')
    .description('remove a network that has no endpoints')
    .addHelpText('after', '\nExample:\n  weft network rm blue\n')
    .action(
      act(async (session, name: string) => {
        const ref = parseNetworkRef(name, await session.tenant())
        return removedView('network', name, await (await session.weft()).networks.delete(ref))
      }),
    )
}
