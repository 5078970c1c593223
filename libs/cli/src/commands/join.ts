import { access, readFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { ExitCode, InvalidArgumentError } from '@weft/errors'
import type { TenantKeyPin } from '@weft/identity'
import { HOST_CAPABILITIES, ipToBytes, SEALED_PORT_DEFAULT } from '@weft/net'
import type { HostAddress, SocketAddress } from '@weft/sdk'
import type { Command } from 'commander'
import {
  checkName,
  collect,
  parseJoinAddress,
  parseSocketAddress,
  wholeNumber,
} from '../arguments.ts'
import { sentenceView } from '../output.ts'
import type { Act } from '../program.ts'
import { warnOfClock } from '../report.ts'
import { confirm, readSecret } from '../secrets.ts'
import type { Session } from '../session.ts'

/** Where the identity of a host is, the same as `HOST_IDENTITY_DEFAULT` of the domain, which is not loaded for this. */
export const IDENTITY_DEFAULT = '/var/lib/weft/identity'
/** The default of `WEFT_FORWARDER_STATE_DIR`. */
const FORWARDER_STATE_DEFAULT = '/var/lib/weft/forwarder'

interface JoinOptions {
  readonly control: string
  readonly tokenFile: string
  readonly fingerprint: string
  readonly name?: string
  readonly address?: HostAddress[]
  readonly identity: string
  readonly owner?: number
  readonly tenantKeys?: string
  readonly sealedPort?: number
  readonly candidate?: SocketAddress[]
  readonly capability?: string[]
}

export function registerJoin(program: Command, act: Act): void {
  program
    .command('join')
    .description('make this machine a host of a domain')
    .requiredOption('--control <host:port>', 'where config takes in new members')
    .requiredOption('--token-file <file>', 'file that holds the token, - for standard input')
    .requiredOption('--fingerprint <sha256>', "fingerprint of the domain's root, of weft init")
    .option('--name <name>', 'name of the host; that of the machine if not given')
    .option(
      '--address <address[@zone]>',
      'underlay address; may be repeated; the zone is that of the token if not given',
      collect(parseJoinAddress),
    )
    .option('--identity <folder>', 'where the identity goes', IDENTITY_DEFAULT)
    .option(
      '--owner <uid>',
      'user id as which the forwarder runs',
      wholeNumber('owner', 0, 0xffff_fffe),
    )
    .option(
      '--tenant-keys <file>',
      'lines of weft tenant show: keys of locked tenants that are trusted from the start',
    )
    .option(
      '--sealed-port <port>',
      `UDP port of the sealed transport; ${SEALED_PORT_DEFAULT} if not given`,
      wholeNumber('sealed-port', 1, 65_535),
    )
    .option(
      '--candidate <address:port>',
      'another address at which packets come to that port, for example of a NAT; may be repeated',
      collect(parseSocketAddress),
    )
    .option(
      '--capability <name>',
      `what the data plane can do; may be repeated; ${HOST_CAPABILITIES.join(', ') || 'none'} if not given`,
      collect(String),
    )
    .addHelpText(
      'after',
      '\nKeys are made here, and their private parts stay here. Nothing is said before the fingerprint is right.\n\nExample:\n  weft join --control control.example:7004 --token-file token --fingerprint sha256:... --address 192.0.2.11\n',
    )
    .action(
      act(async (session, options: JoinOptions) => {
        const token = await readSecret(session, '--token-file', options.tokenFile)
        const pins = await tenantKeysAt(options.tenantKeys)
        if (pins.length === 0) await warnOfPins(session)
        const { joinHost } = await import('@weft/domain/enrolment')
        const joined = await joinHost({
          control: options.control,
          fingerprint: options.fingerprint,
          token,
          folder: options.identity,
          name: checkName('host', options.name ?? machineName()),
          addresses: (options.address ?? []).map(({ address, zone }) => ({
            address: ipToBytes(address),
            zone,
          })),
          capabilities: options.capability ?? HOST_CAPABILITIES,
          wireVersions: [],
          ...sealedListenerOf(options),
          ...(pins.length > 0 && { tenantKeys: pins }),
          ...(options.owner !== undefined && { ownerUid: options.owner }),
        })
        const { identity, name, clockAheadMs, clockWrong } = joined
        const { id, domain } = identity
        await session.print(
          sentenceView(
            { domain, id, name, identity: options.identity, clockAheadMs },
            `this machine is host ${name} (${id}) of ${domain} now; its identity is in ${options.identity}`,
          ),
        )
        if (clockWrong === undefined) return ExitCode.Ok
        warnOfClock(session, clockWrong)
        return clockWrong.exitCode
      }),
    )

  program
    .command('leave')
    .description('take this host out of its domain, and remove its identity')
    .option('--identity <folder>', 'where the identity is', IDENTITY_DEFAULT)
    .option('--yes', 'do not ask', false)
    .addHelpText(
      'after',
      '\nAttached endpoints are detached before. Who joins again after it is another host: start the forwarder anew then; it puts\naway by itself what it knew, but for the keys of locked tenants of the same domain. Those that it was told (--tenant-keys)\nare removed here: tell it again.\n\nExample:\n  weft leave --yes\n',
    )
    .action(
      act(async (session, options: { identity: string; yes: boolean }) => {
        await confirm(session, 'This host leaves its domain for good', options.yes)
        const { leaveDomain } = await import('@weft/domain/enrolment')
        const left = await leaveDomain({ folder: options.identity })
        return sentenceView(
          { left },
          left
            ? 'this machine is no host any more; its identity is removed'
            : 'the domain did not know this host any more; its identity is removed',
        )
      }),
    )
}

/** Where the sealed transport listens, if that is said. */
function sealedListenerOf({ sealedPort, candidate = [] }: JoinOptions) {
  if (sealedPort === undefined && candidate.length === 0) return {}
  const configured = candidate.map(({ address, port }) => ({
    address: ipToBytes(address),
    port,
    kind: 0 as const,
  }))
  return { sealedListener: { port: sealedPort ?? 0, configured } }
}

/** Read before anything is done, so that a mistake in the file costs no token. */
async function tenantKeysAt(path: string | undefined): Promise<TenantKeyPin[]> {
  if (path === undefined) return []
  const { parseTenantKeys } = await import('@weft/identity')
  const text = await readFile(path, 'utf8').catch((error: Error) => {
    const remedy = 'name a file with lines of weft tenant show'
    throw new InvalidArgumentError({ field: '--tenant-keys', problem: error.message, remedy })
  })
  return parseTenantKeys(text)
}

/** A machine that was a host before, and has lost what it knew of locked tenants, believes whoever speaks first for one. */
async function warnOfPins(session: Session): Promise<void> {
  const isThere = (path: string): Promise<boolean> =>
    access(path).then(
      () => true,
      () => false,
    )
  const folder = session.io.env['WEFT_FORWARDER_STATE_DIR'] ?? FORWARDER_STATE_DEFAULT
  if (!(await isThere(folder)) || (await isThere(join(folder, 'pins')))) return
  session.io.stderr(
    `${session.paintError('yellow', 'warning:')} the keys of locked tenants that this machine knew are gone: it believes the first that it sees.\n${session.paintError('bold', 'try:')} tell it: --tenant-keys FILE, with lines of weft tenant show\n`,
  )
}

/** The first label of the machine's name, in lower case as names are. */
function machineName(): string {
  return (hostname().split('.')[0] ?? '').toLowerCase()
}
