/** Stock WireGuard clients: machines of a lab on which there is nothing of ours but a file that `weft` printed. */
import assert from 'node:assert/strict'
import { chmod, mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Lab } from '@weft/lab'
import { formatIpAddress } from '@weft/net'
import { CONFINED_OWNER, confined } from '../../support/confined.ts'
import { eventually } from '../../support/eventually.ts'
import { mustRun, NewPlace } from '../../support/place.ts'
import {
  configureWireguard,
  readWireguard,
  wireguardGoProgram,
} from '../../support/wireguard-go.ts'
import { weft } from './cli.ts'
import { address, at, PREFIX } from './lab.ts'

const DEVICE = 'wg0'
const START_MS = 15_000

/** What a file for `wg-quick` says, by the names that it has there. */
export interface ClientFile {
  readonly text: string
  readonly interface: ReadonlyMap<string, string>
  readonly peer: ReadonlyMap<string, string>
}

export interface ClientOptions {
  /** `NETWORK/ENDPOINT`. */
  readonly name: string
  readonly host: string
  readonly addresses: readonly string[]
  /** More words for `weft endpoint attach`. */
  readonly words?: readonly string[]
}

/** Attaches a client by the command, as its user does; `made` removes it and its endpoint again. */
export async function attachClient(
  lab: Lab,
  made: AsyncDisposableStack,
  { name, host, addresses, words = [] }: ClientOptions,
): Promise<ClientFile> {
  const [network = '', endpoint = ''] = name.split('/')
  const ref = { tenant: lab.plan.tenantOfNetwork(network), network, endpoint }
  await lab.client.endpoints.create({ ...ref, addresses: addresses.map(address) })
  made.defer(async () => {
    await lab.client.host(host).detach(ref)
    await eventually(() => lab.client.endpoints.delete(ref))
  })
  return await attachAgain(lab, { name, host, words })
}

/** The same for an endpoint that is there. */
export async function attachAgain(
  lab: Lab,
  { name, host, words = [] }: Omit<ClientOptions, 'addresses'>,
): Promise<ClientFile> {
  const tenant = lab.plan.tenantOfNetwork(name.split('/')[0] ?? '')
  const command = ['endpoint', 'attach', name, '--tenant', tenant, '--host', host, '--wireguard']
  const { code, stdout, stderr } = await weft(lab, [...command, ...words])
  assert.equal(code, 0, stderr)
  return parseClientFile(stdout)
}

/** Cuts a client off, as an operator does. */
export async function detachClient(lab: Lab, name: string, host: string): Promise<void> {
  const tenant = lab.plan.tenantOfNetwork(name.split('/')[0] ?? '')
  const { code, stderr } = await weft(lab, [
    'port',
    'detach',
    name,
    '--tenant',
    tenant,
    '--host',
    host,
  ])
  assert.equal(code, 0, stderr)
}

export function parseClientFile(text: string): ClientFile {
  const sections = { interface: new Map<string, string>(), peer: new Map<string, string>() }
  let section = sections.interface
  for (const line of text.split('\n')) {
    const [, name = '', value = ''] = /^(\w+) = (.*)$/.exec(line) ?? []
    if (line === '[Interface]') section = sections.interface
    else if (line === '[Peer]') section = sections.peer
    else if (name !== '') section.set(name, value)
  }
  return { text, ...sections }
}

/** A machine on an underlay of a lab, on which wireguard-go runs. */
export class WireguardGo implements AsyncDisposable {
  readonly place: NewPlace
  readonly #at: Subnet
  readonly #folder: string
  readonly #made: AsyncDisposableStack

  private constructor(place: NewPlace, subnet: Subnet, folder: string, made: AsyncDisposableStack) {
    this.place = place
    this.#at = subnet
    this.#folder = folder
    this.#made = made
  }

  /** With this number as the last part of its IPv4 address. @throws MissingPeerError where wireguard-go cannot be built */
  static async start(lab: Lab, underlay: string, index: number): Promise<WireguardGo> {
    const program = await wireguardGoProgram()
    await using made = new AsyncDisposableStack()
    const place = made.use(await NewPlace.make(`${PREFIX}-client${index}`))
    const folder = await mkdtemp(join(tmpdir(), 'weft-test-'))
    made.defer(() => rm(folder, { recursive: true }))
    await chmod(folder, 0o755)
    for (const name of ['programs', 'wireguard']) await mkdir(join(folder, name))
    await mustRun(['chown', '-R', CONFINED_OWNER, folder])
    const where = subnetOf(lab, underlay)
    const { gateway, subnet } = where
    const port = `u-client${index}`
    const router = at(lab, 'router')
    await router.ip(`link add ${port} type veth peer name under0 netns ${place.namespace}`)
    // A namespace that is deleted takes its time.
    made.defer(() => router.ip(`link delete ${port}`))
    await router.ip(`link set ${port} master br-${underlay}`, `link set ${port} up`)
    await place.ip(
      `address add ${subnet}.${index}/24 dev under0`,
      'link set under0 up',
      `route add default via ${gateway}`,
    )
    made.use(place.start(confined(folder, [...program.argv('/run/programs'), '-f', DEVICE])))
    const client = new WireguardGo(place, where, folder, made.move())
    try {
      await eventually(() => readWireguard(client.#socket), START_MS)
      return client
    } catch (error) {
      const log = await readFile(join(folder, 'log'), 'utf8').catch(() => '')
      await client[Symbol.asyncDispose]()
      throw new Error(`wireguard-go does not start: ${log}`, { cause: error })
    }
  }

  /** Does what the file says, as `wg-quick` does. `privateKey` is for a file without one. */
  async use(file: ClientFile, privateKey?: string): Promise<void> {
    const { interface: own, peer } = file
    const presharedKey = peer.get('PresharedKey')
    const allowed = listOf(peer.get('AllowedIPs'))
    await configureWireguard(this.#socket, [
      `private_key=${hexOf(own.get('PrivateKey') ?? privateKey)}`,
      'replace_peers=true',
      `public_key=${hexOf(peer.get('PublicKey'))}`,
      ...(presharedKey === undefined ? [] : [`preshared_key=${hexOf(presharedKey)}`]),
      `endpoint=${peer.get('Endpoint')}`,
      `persistent_keepalive_interval=${peer.get('PersistentKeepalive')}`,
      ...allowed.map((prefix) => `allowed_ip=${prefix}`),
    ])
    await this.place.ip(
      ...listOf(own.get('Address')).map(
        (text) => `address replace ${text} dev ${DEVICE}${text.includes(':') ? ' nodad' : ''}`,
      ),
      `link set ${DEVICE} mtu ${own.get('MTU')} up`,
      ...allowed.map((prefix) => `route replace ${prefix} dev ${DEVICE}`),
    )
  }

  /** Takes another address on its underlay, with this number at its end, as a phone does that leaves the house. */
  async move(index: number): Promise<void> {
    const { gateway, subnet } = this.#at
    await this.place.ip(
      'address flush dev under0 scope global',
      `address add ${subnet}.${index}/24 dev under0`,
      `route replace default via ${gateway}`,
    )
  }

  /** What wireguard-go has of its peer under a name, for example `last_handshake_time_sec`. */
  async told(name: string): Promise<string> {
    const lines = await readWireguard(this.#socket)
    return lines.find((line) => line.startsWith(`${name}=`))?.slice(name.length + 1) ?? ''
  }

  get #socket(): string {
    return join(this.#folder, `wireguard/${DEVICE}.sock`)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#made.disposeAsync()
  }
}

/** `wg-quick`'s device in the client. */
export const CLIENT_DEVICE: string = DEVICE

interface Subnet {
  readonly gateway: string
  /** The first three numbers of its IPv4 addresses. */
  readonly subnet: string
}

/** Of an underlay of the lab. */
function subnetOf(lab: Lab, underlay: string): Subnet {
  const plan = lab.plan.underlays.find(({ name }) => name === underlay)
  const first = plan?.gateways[0]
  if (first === undefined) throw new RangeError(`there is no underlay ${underlay}`)
  const gateway = formatIpAddress(first.address)
  return { gateway, subnet: gateway.replace(/\.\d+$/, '') }
}

function listOf(text: string | undefined): string[] {
  return (text ?? '').split(', ').filter((part) => part !== '')
}

function hexOf(base64: string | undefined): string {
  return Buffer.from(base64 ?? '', 'base64').toString('hex')
}
