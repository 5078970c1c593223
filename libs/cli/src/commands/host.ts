import {
  InvalidArgumentError,
  NotEnrolledError,
  PermissionDeniedError,
  UnavailableError,
  UnimplementedError,
} from '@weft/errors'
import { formatIpAddress } from '@weft/net'
import type {
  CacheStatus,
  Host,
  HostAddress,
  HostKind,
  HostStatus,
  ReportedConnection,
  SealingStatus,
  SocketAddress,
  Weft,
} from '@weft/sdk'
import type { Command } from 'commander'
import {
  checkName,
  collect,
  collectLabels,
  parseHostAddress,
  parseSocketAddress,
  wholeNumber,
} from '../arguments.ts'
import { fieldsView, formatDuration, sentenceView, tableView } from '../output.ts'
import type { Act } from '../program.ts'
import { confirm } from '../secrets.ts'
import type { Session } from '../session.ts'
import {
  addressText,
  byteText,
  labelText,
  openText,
  rateText,
  removedView,
  socketText,
  storedFields,
} from '../views.ts'
import { IDENTITY_DEFAULT } from './join.ts'
import { dropText } from './port.ts'

interface SetOptions {
  readonly address?: HostAddress[]
  readonly sealedPort?: number
  readonly candidate?: SocketAddress[]
}

interface AddOptions {
  readonly address: HostAddress[]
  readonly vxlanPeer: boolean
  readonly label?: Record<string, string>
}

export function registerHost(program: Command, act: Act): void {
  const host = program
    .command('host')
    .description('machines that run a forwarder, and foreign VXLAN peers')

  host
    .command('add <name>')
    .description('add a host')
    .requiredOption(
      '--address <address@zone>',
      'underlay address; may be repeated',
      collect(parseHostAddress),
    )
    .option('--vxlan-peer', 'a foreign machine with a plain VXLAN device', false)
    .option('--label <key=value>', 'a label; may be repeated', collectLabels)
    .addHelpText(
      'after',
      '\nExamples:\n  weft host add alpha --address 192.0.2.11@rack-7\n  weft host add switch --address 192.0.2.99@rack-7 --vxlan-peer\n',
    )
    .action(
      act(async (session, name: string, options: AddOptions) => {
        const kind: HostKind = options.vxlanPeer ? 'vxlan-peer' : 'weft'
        const request = {
          name: checkName('host', name),
          kind,
          addresses: options.address,
          labels: options.label ?? {},
        }
        const created = await (await session.weft()).hosts.create(request)
        return sentenceView(created, `host ${created.name} added with id ${created.id}`)
      }),
    )

  host
    .command('ls')
    .description('list hosts')
    .addHelpText('after', '\nExample:\n  weft host ls\n')
    .action(
      act(async (session) => {
        const rows = await Array.fromAsync((await session.weft()).hosts.list())
        return tableView<Host>(
          rows,
          [
            { title: 'NAME', value: (row) => row.name },
            { title: 'ID', value: (row) => String(row.id) },
            { title: 'KIND', value: (row) => row.kind },
            { title: 'STATE', value: stateText },
            { title: 'ADDRESSES', value: hostAddressText },
            { title: 'LABELS', value: (row) => labelText(row.labels) },
          ],
          'no hosts; add one: weft host add NAME --address ADDRESS@ZONE',
        )
      }),
    )

  host
    .command('show <name>')
    .description('show a host, and how it is if its API can be reached from here')
    .addHelpText('after', '\nExample:\n  weft host show alpha\n')
    .action(
      act(async (session, name: string) => {
        const record = await (await session.weft()).hosts.get(name)
        const [status, open] = await Promise.all([
          statusOf(session, record),
          reportedOf(session, record),
        ])
        return fieldsView({ ...record, status, open }, [
          ...storedFields(record),
          ['kind', record.kind],
          ['addresses', hostAddressText(record)],
          ['capabilities', record.capabilities.join(', ')],
          ['sealed at', record.kind === 'weft' ? listenerText(record) : ''],
          ['revoked', record.revokedAt?.toISOString() ?? ''],
          ['horizon', record.horizon?.toISOString() ?? ''],
          ...(open === undefined ? [] : openFields(open)),
          ...(status === undefined ? [] : statusFields(status)),
        ])
      }),
    )

  host
    .command('set <name>')
    .description("replace a host's underlay addresses, or where its sealed transport is reached")
    .option(
      '--address <address@zone>',
      'underlay address; may be repeated',
      collect(parseHostAddress),
    )
    .option(
      '--sealed-port <port>',
      'UDP port of its sealed transport',
      wholeNumber('sealed-port', 1, 65_535),
    )
    .option(
      '--candidate <address:port>',
      'another address at which packets come to that port; may be repeated, and replaces all',
      collect(parseSocketAddress),
    )
    .addHelpText(
      'after',
      '\nExamples:\n  weft host set alpha --address 192.0.2.12@rack-7\n  weft host set alpha --sealed-port 4500 --candidate 203.0.113.7:4500\n',
    )
    .action(
      act(async (session, name: string, options: SetOptions) => {
        const { hosts } = await session.weft()
        const { address, sealedPort, candidate } = options
        const isAboutListener = sealedPort !== undefined || candidate !== undefined
        if (address === undefined && !isAboutListener) {
          const problem = 'nothing is said that is to be another way'
          const remedy = 'say --address, --sealed-port or --candidate'
          throw new InvalidArgumentError({ field: 'options', problem, remedy })
        }
        const before = isAboutListener ? (await hosts.get(name)).sealedListener : undefined
        const changed = await hosts.update({
          name,
          ...(address && { addresses: address }),
          ...(before && {
            sealedListener: {
              port: sealedPort ?? before.port,
              configured: candidate ?? before.configured,
            },
          }),
        })
        return sentenceView(
          changed,
          `host ${name} has ${hostAddressText(changed)} now, and is sealed to at ${listenerText(changed)}`,
        )
      }),
    )

  host
    .command('rm <name>')
    .description('remove a host to which no endpoint is assigned')
    .addHelpText('after', '\nExample:\n  weft host rm alpha\n')
    .action(
      act(async (session, name: string) =>
        removedView('host', name, await (await session.weft()).hosts.delete(name)),
      ),
    )

  host
    .command('revoke <name>')
    .description("make a host's keys void: its peers drop it, and it never comes back under them")
    .option('--reason <text>', 'why, for the audit', '')
    .option('--yes', 'do not ask', false)
    .addHelpText('after', '\nExample:\n  weft host revoke alpha --reason stolen --yes\n')
    .action(
      act(async (session, name: string, options: { reason: string; yes: boolean }) => {
        await confirm(session, `Host ${name} loses its keys`, options.yes)
        const { reason } = options
        const revoked = await (await session.weft()).hosts.revoke({ name, reason })
        return sentenceView(revoked, `host ${name} is revoked`)
      }),
    )

  host
    .command('rotate-keys')
    .description('give the host on this machine new keys, while it goes on')
    .option('--identity <folder>', 'where the identity is', IDENTITY_DEFAULT)
    .addHelpText(
      'after',
      '\nIn networks of locked tenants the host is no member under its new keys until they are signed again: weft tenant sign TENANT\n\nExample:\n  weft host rotate-keys\n',
    )
    .action(
      act(async (_session, { identity }: { identity: string }) => {
        const { rotateHostKeys } = await import('@weft/domain/enrolment')
        await rotateHostKeys({ folder: identity })
        return sentenceView({ identity }, `the keys in ${identity} are new`)
      }),
    )

  host
    .command('keys')
    .description('show the public keys of the host on this machine, as it has them itself')
    .option('--identity <folder>', 'where the identity is', IDENTITY_DEFAULT)
    .addHelpText(
      'after',
      '\nWhoever signs for a locked tenant compares them with what weft tenant sign shows.\n\nExample:\n  weft host keys\n',
    )
    .action(
      act(async (_session, { identity: folder }: { identity: string }) => {
        const { readIdentity } = await import('@weft/domain')
        const { publicKeyOf } = await import('@weft/identity')
        const stored = await readIdentity(folder)
        if (stored === undefined) throw new NotEnrolledError({ folder, who: 'host' })
        const { identity, tunnel } = stored.keys
        const keys = {
          identityKey: `ed25519:${publicKeyOf(identity).toString('hex')}`,
          tunnelKey: tunnel === undefined ? '' : `x25519:${publicKeyOf(tunnel).toString('hex')}`,
        }
        return fieldsView(keys, [
          ['identity', keys.identityKey],
          ['tunnel', keys.tunnelKey],
        ])
      }),
    )
}

/** The host's own view. Undefined where no way leads to it from here or it does not answer. */
async function statusOf(session: Session, record: Host): Promise<HostStatus | undefined> {
  const context = await session.context()
  const isKnown = Object.hasOwn(context.hosts, record.name)
  if (record.kind !== 'weft' || (!isKnown && context.localHost === undefined)) return undefined
  try {
    const status = await (await session.weft()).host(isKnown ? record.name : undefined).status()
    return status.hostId === record.id ? status : undefined
  } catch (error) {
    if (error instanceof UnavailableError) return undefined
    throw error
  }
}

/** What the host said of its open connections. Undefined for who may not see it, and where nobody keeps it. */
async function reportedOf(session: Session, { kind, name }: Host): Promise<Reported | undefined> {
  if (kind !== 'weft') return undefined
  try {
    return await (await session.weft()).hosts.connections(name)
  } catch (error) {
    if (error instanceof PermissionDeniedError || error instanceof UnimplementedError) {
      return undefined
    }
    throw error
  }
}

type Reported = Awaited<ReturnType<Weft['hosts']['connections']>>

function openFields({ connections, observed }: Reported): [string, string][] {
  return [
    ['seen at', observed.map(socketText).join(', ')],
    ...connections.map((connection): [string, string] => [
      `to ${connection.host || connection.hostId}`,
      reportedText(connection),
    ]),
  ]
}

function reportedText(connection: ReportedConnection): string {
  const { carrier, endpoint, rttUs, lossPpm, pathMtuBytes, cipher, ageMs } = connection
  const parts = [
    `${carrier} ${openText(connection)}${endpoint ? ` at ${socketText(endpoint)}` : ''}`,
    rttUs === undefined ? '' : `RTT ${(rttUs / 1000).toFixed(2)} ms`,
    lossPpm === undefined ? '' : `loss ${rateText(lossPpm)}`,
    pathMtuBytes === undefined ? '' : `path MTU ${pathMtuBytes}`,
    carrier === 'vxlan'
      ? ''
      : `${byteText(connection.sentBytes)} sent, ${byteText(connection.receivedBytes)} received`,
    cipher ?? '',
    `said ${formatDuration(ageMs)} ago`,
  ]
  return parts.filter((part) => part !== '').join(', ')
}

function listenerText({ addresses, sealedListener: { port, configured } }: Host): string {
  const own = addresses.map(({ address }) => socketText({ address, port }))
  return [...new Set([...own, ...configured.map(socketText)])].join(', ') || `port ${port}`
}

function statusFields(status: HostStatus): [string, string][] {
  const caches = [cacheText(status.resolutions), cacheText(status.decisions)] as const
  return [
    ['kernel', status.kernel],
    ['forwarder', status.version],
    ['shuttle', status.shuttleVersion],
    ['tables', tableText(status)],
    [
      'holds',
      `${status.networks} networks, ${status.endpoints} endpoints, ${status.peers} peers, ${status.ports} ports, ${status.flows} flows`,
    ],
    ['connections', connectionCountText(status)],
    ['sealing', sealingText(status.sealing)],
    ['resolutions', caches[0]],
    ['decisions', caches[1]],
    ...status.underlayDevices.map((device): [string, string] => [
      `device ${device.name}`,
      `${addressText(device.addresses)}, MTU ${device.mtuBytes}, VXLAN built by ${device.encapsulation}, stripped by ${device.decapsulation}${device.reason && ` (${device.reason})`}`,
    ]),
    ...status.dependencies.map((dependency): [string, string] => [
      dependency.name,
      `${dependency.health} at ${dependency.address}, answered ${formatDuration(dependency.ageMs)} ago${dependency.error && `: ${dependency.error}`}`,
    ]),
  ]
}

/** `3 sealed open, 1 vxlan open`, and `1 client open` of WireGuard clients. */
export function connectionCountText({ openConnections }: HostStatus): string {
  return Object.entries(openConnections)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, count]) => `${count} ${name}`)
    .join(', ')
}

/** Empty on a host that does not seal. */
function sealingText(sealing: SealingStatus | undefined): string {
  if (sealing === undefined) return ''
  if (!sealing.available) return `no: ${sealing.problem}`
  const speeds = sealing.speeds.map(
    ({ cipher, bytesPerSecond }) => `${cipher ?? 'a cipher'} at ${byteText(bytesPerSecond)}/s`,
  )
  return [
    `on UDP port ${sealing.listenPort}, offers ${sealing.cipher ?? 'no cipher'}`,
    speeds.length === 0 ? '' : `measured ${speeds.join(', ')}`,
    ...sealingCaveats(sealing),
    ...fallbackTexts(sealing),
    countText('dropped', sealing.drops),
    countText('refused', sealing.refusals),
  ]
    .filter((part) => part !== '')
    .join('; ')
}

/** How often something went another way than the fastest. */
export function fallbackTexts({ fallbacks }: SealingStatus): string[] {
  const text = countText('not the fastest way', fallbacks)
  return text === '' ? [] : [text]
}

/** `dropped: replayed 3, forged 1`; empty if there was nothing. */
function countText(what: string, counts: { readonly [name: string]: bigint }): string {
  const some = Object.entries(counts).filter(([, count]) => count > 0n)
  return some.length === 0 ? '' : `${what}: ${dropText(counts)}`
}

/** What is slower, or less safe, than it could be. */
export function sealingCaveats({ offloads, keyLogged }: SealingStatus): string[] {
  return [
    ...(keyLogged ? ['KEYS ARE LOGGED: whoever reads the file reads all traffic'] : []),
    ...offloads
      .filter(({ inUse }) => !inUse)
      .map(({ offload, reason }) => `without ${offload}${reason && ` (${reason})`}`),
  ]
}

export function tableText({ tableRevision, tableAgeMs, fromDisk }: HostStatus): string {
  const origin = fromDisk ? ', from disk and not confirmed since' : ''
  return `revision ${tableRevision}, ${formatDuration(tableAgeMs)} old${origin}`
}

function cacheText(cache: CacheStatus): string {
  const age =
    cache.entries === 0
      ? ''
      : `, oldest ${formatDuration(cache.oldestAgeMs)} of ${formatDuration(cache.horizonMs)}`
  return `${cache.entries} kept at revision ${cache.revision}${age}; ${cache.hits} hits, ${cache.misses} misses, ${cache.staleAnswers} stale answers`
}

function stateText({ kind, revokedAt, horizon }: Host): string {
  if (revokedAt !== undefined) return 'revoked'
  return horizon === undefined && kind === 'weft' ? 'not enrolled' : 'ok'
}

function hostAddressText({ addresses }: Host): string {
  return addresses.map(({ address, zone }) => `${formatIpAddress(address)}@${zone}`).join(', ')
}
