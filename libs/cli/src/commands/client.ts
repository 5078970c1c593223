import { randomBytes } from 'node:crypto'
import { InvalidArgumentError } from '@weft/errors'
import type { CreateEndpoint, Port, WireguardAccess } from '@weft/sdk'
import type { Command } from 'commander'
import { createUnlessThere } from '../endpoints.ts'
import { sentenceView, type View } from '../output.ts'
import { NewSecretFile } from '../secrets.ts'
import type { Session } from '../session.ts'
import { addressText, socketText } from '../views.ts'
import {
  addressesWithLength,
  type ClientFile,
  clientFileText,
  KEEPALIVE_SECONDS,
  parseClientKey,
  parseHostEndpoint,
  qrText,
} from '../wireguard.ts'

/** What may be said of a WireGuard client, and of nothing else. */
export interface ClientOptions {
  readonly wireguard: boolean
  readonly publicKey?: string
  readonly presharedKey: boolean
  readonly endpoint?: string
  readonly qr?: boolean
  readonly save?: string
}

const PRESHARED_KEY_BYTES = 32

export function addClientOptions(command: Command): Command {
  return command
    .option(
      '--wireguard',
      'attach a WireGuard client (a phone, a laptop), and print its file',
      false,
    )
    .option(
      '--public-key <base64>',
      'public key of a client that keeps its private key to itself; by default both are made here',
      parseClientKey,
    )
    .option('--preshared-key', 'make a preshared key as well', false)
    .option(
      '--endpoint <address:port>',
      'where the client finds the host; by default the best that the host knows',
      parseHostEndpoint,
    )
    .option('--qr', 'show the file as a QR code on standard error')
    .option('--no-qr', 'show none; by default it is shown on a terminal')
    .option(
      '--save <file>',
      'write the client’s file there, for its owner alone, instead of printing it',
    )
}

/** @throws InvalidArgumentError for options that go with nothing else that was said */
export function checkClientOptions(
  options: ClientOptions & { netns?: string; tap?: string },
): void {
  const { wireguard, publicKey, presharedKey, endpoint, qr, save, netns, tap } = options
  if (wireguard && (netns !== undefined || tap !== undefined)) {
    throw wrongOptions('a WireGuard client is neither a namespace nor a TAP device', 'say one')
  }
  const isAboutClient =
    presharedKey || [publicKey, endpoint, qr, save].some((option) => option !== undefined)
  if (!wireguard && isAboutClient) {
    throw wrongOptions(
      '--public-key, --preshared-key, --endpoint, --qr and --save are of a client',
      'say --wireguard as well',
    )
  }
  if (publicKey !== undefined && qr === true) {
    const problem =
      'a client that scans a QR code takes its private key from it, and that is not here'
    throw wrongOptions(problem, 'leave out --qr or --public-key')
  }
}

/** Attaches a client. Its private key is made here, is in what is printed or saved, and goes nowhere else. */
export async function attachClient(
  session: Session,
  wanted: CreateEndpoint,
  options: ClientOptions & { readonly host?: string },
): Promise<View> {
  const { host, save } = options
  await using undo = new AsyncDisposableStack()
  const file = save === undefined ? undefined : undo.use(await NewSecretFile.make(save, '--save'))
  const keys = await keysOf(options)
  const weft = await session.weft()
  const { tenant, network, endpoint } = wanted
  const ref = { tenant, network, endpoint }
  if (await createUnlessThere(weft, wanted)) undo.defer(() => weft.endpoints.delete(ref).then(noop))
  const { port, created, access } = await weft.host(host).attach(ref, {
    kind: 'wireguard',
    publicKey: keys.publicKey,
    ...(keys.presharedKey !== undefined && { presharedKey: keys.presharedKey }),
    isReachable: options.endpoint !== undefined,
  })
  if (created) undo.defer(() => weft.host(host).detach(ref).then(noop))
  const content = fileOf(port, access, keys, options.endpoint)
  const text = clientFileText(content)
  await file?.write(text)
  undo.move()
  await tell(session, { ...content, created, at: host ?? 'this host' }, options)
  const data = dataOf(port, content, save)
  if (save !== undefined) return sentenceView(data, `the client’s file is in ${save}`)
  return { data: { ...data, file: text }, text: () => text }
}

interface Keys {
  readonly privateKey: string | undefined
  readonly publicKey: string
  readonly presharedKey: string | undefined
}

async function keysOf({ publicKey, presharedKey }: ClientOptions): Promise<Keys> {
  const identity = await import('@weft/identity')
  const shared = presharedKey ? randomBytes(PRESHARED_KEY_BYTES).toString('base64') : undefined
  if (publicKey === undefined) {
    const made = identity.generateTunnelKey()
    return {
      privateKey: identity.privateBytesOf(made).toString('base64'),
      publicKey: identity.publicKeyOf(made).toString('base64'),
      presharedKey: shared,
    }
  }
  const problem = identity.tunnelKeyProblem(Buffer.from(publicKey, 'base64'))
  if (problem === undefined) return { privateKey: undefined, publicKey, presharedKey: shared }
  const remedy = 'give the one that wg pubkey writes for the private key of the client'
  throw new InvalidArgumentError({ field: '--public-key', problem: `it ${problem}`, remedy })
}

function fileOf(
  port: Port,
  access: WireguardAccess | undefined,
  keys: Keys,
  chosen: string | undefined,
): ClientFile {
  const known = access?.candidates.map(socketText) ?? []
  const [best, ...others] = chosen === undefined ? known : [chosen]
  if (access === undefined || best === undefined) {
    throw new InvalidArgumentError({
      field: 'host',
      problem: 'it does not say how a WireGuard client reaches it',
      remedy: 'bring the host to this version, or say --endpoint ADDRESS:PORT',
    })
  }
  return {
    ...keys,
    name: `${port.network}/${port.endpoint} of tenant ${port.tenant}`,
    addresses: port.addresses,
    prefixes: access.prefixes,
    mtuBytes: access.mtuBytes,
    hostPublicKey: access.hostPublicKey,
    hostEndpoint: best,
    otherEndpoints: others,
  }
}

/** What people have to know, on standard error, so that the file alone is on standard output. */
async function tell(
  { io, options: { output } }: Session,
  content: ClientFile & { readonly created: boolean; readonly at: string },
  { qr }: ClientOptions,
): Promise<void> {
  const hasKey = content.privateKey !== undefined
  const isTable = output === 'table'
  if (qr ?? (isTable && io.isErrorTerminal && hasKey)) {
    io.stderr(await qrText(clientFileText({ ...content, otherEndpoints: [] })))
  }
  if (!isTable) return
  const done = content.created ? 'attached' : 'was attached already'
  io.stderr(
    `endpoint ${content.name} ${done} at ${content.at} as a WireGuard client: ${addressText(content.addresses)}\n`,
  )
  if (hasKey) io.stderr('its private key is in its file and nowhere else, and is not shown again\n')
}

/** The fields; secrets only where they are not in a file. */
function dataOf(port: Port, content: ClientFile, save: string | undefined): object {
  const { privateKey, publicKey, presharedKey, prefixes } = content
  const { tenant, network, endpoint, endpointId, mac } = port
  return {
    ...{ tenant, network, endpoint, endpointId, mac },
    addresses: addressesWithLength(content),
    publicKey,
    ...(save === undefined ? { privateKey, presharedKey } : { savedTo: save }),
    mtuBytes: content.mtuBytes,
    hostPublicKey: content.hostPublicKey,
    hostEndpoint: content.hostEndpoint,
    otherEndpoints: content.otherEndpoints,
    allowedIps: prefixes,
    keepaliveSeconds: KEEPALIVE_SECONDS,
  }
}

function wrongOptions(problem: string, remedy: string): InvalidArgumentError {
  return new InvalidArgumentError({ field: 'options', problem, remedy })
}

function noop(): void {}
