/** Programs of others that join two hosts by a tunnel, with the settings that their authors recommend for speed. */
import { generateKeyPairSync, X509Certificate } from 'node:crypto'
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CONFINED_OWNER, confined } from '../support/confined.ts'
import { eventually } from '../support/eventually.ts'
import { mustRun, type Place } from '../support/place.ts'
import { configureWireguard, wireguardGoProgram } from '../support/wireguard-go.ts'
import { debianProgram, goPrograms, PROGRAMS, type Program } from './peer-programs.ts'
import { INNER, MTU, type Peer, peer, twoHosts, UNDERLAY } from './peers.ts'

const DEVICE = 'vpn0'
/** The default of most programs, 500 or 100, is less than what a sender hands over at once. */
const DEVICE_QUEUE_PACKETS = 1000
const START_MS = 15_000
const LOG_TAIL_LINES = 8
/** Full packets at first: by their end everybody knows the path's MTU. Until then some send them over TCP. */
const SETTLE = ['-i', '0.1', '-c', '100', '-s', String(MTU - 28), '-q'] as const

/** A peer that runs, with what its figures are of. */
export interface TunnelPeer extends Peer {
  /** Version and settings. */
  readonly about: string
}

/** One end of a tunnel. Its programs run as nobody, who may do nothing but configure the network of their namespace. */
interface Side {
  readonly index: 0 | 1
  readonly place: Place
  /** Addresses of the underlay. */
  readonly own: string
  readonly other: string
  /** What its programs have as `/run`. */
  readonly folder: string
  /** Starts a program that runs until the peer ends; it owns what is in the folder by now. */
  readonly start: (argv: readonly string[]) => Promise<void>
}

interface Tunnel {
  readonly name: string
  readonly about: string
  readonly start: (sides: readonly [Side, Side]) => Promise<void>
}

/** WireGuard in user space; it hands rows of datagrams to the kernel at once where the kernel takes them. */
export async function wireguardGo(prefix: string): Promise<TunnelPeer> {
  const PORT = 51_820
  const program = await wireguardGoProgram()
  const keys = [x25519(), x25519()]
  return await joinHosts(prefix, {
    name: 'wireguard-go',
    about: `${version(program)}, ChaCha20-Poly1305, its defaults`,
    start: (sides) =>
      onEach(sides, async (side) => {
        await mkdir(join(side.folder, 'wireguard'))
        await side.start([...words(program), '-f', DEVICE])
        const settings = [
          `private_key=${keys[side.index]?.secret}`,
          `listen_port=${PORT}`,
          `public_key=${keys[1 - side.index]?.open}`,
          `endpoint=${side.other}:${PORT}`,
          'allowed_ip=0.0.0.0/0',
        ]
        const socket = join(side.folder, `wireguard/${DEVICE}.sock`)
        await eventually(() => configureWireguard(socket, settings), START_MS)
      }),
  })
}

/** What a client of the WireGuard protocol is told. */
export interface WireguardSettings {
  /** In hexadecimal digits, as all keys. */
  readonly secret: string
  readonly peerKey: string
  /** `ADDRESS:PORT`. */
  readonly endpoint: string
  /** Inner address with the length of its network's prefix. */
  readonly address: string
  readonly mtu: number
  /** What goes through the tunnel, in CIDR notation. */
  readonly target: string
}

/** The same program alone, as a client of somebody else, on a machine that is there. */
export async function wireguardGoClient(
  place: Place,
  { secret, peerKey, endpoint, address, mtu, target }: WireguardSettings,
): Promise<AsyncDisposable & { readonly about: string }> {
  const program = await wireguardGoProgram()
  await using made = new AsyncDisposableStack()
  const folder = await mkdtemp(join(tmpdir(), 'weft-bench-'))
  made.defer(() => rm(folder, { recursive: true }))
  await chmod(folder, 0o755)
  const side = await newSide(made, { index: 0, place, folder: join(folder, 'client') })
  await mkdir(join(side.folder, 'wireguard'))
  await side.start([...words(program), '-f', DEVICE])
  const settings = [
    `private_key=${secret}`,
    `public_key=${peerKey}`,
    `endpoint=${endpoint}`,
    `allowed_ip=${target}`,
  ]
  const socket = join(side.folder, `wireguard/${DEVICE}.sock`)
  await eventually(() => configureWireguard(socket, settings), START_MS)
  await place.ip(
    `link set ${DEVICE} mtu ${mtu} txqueuelen ${DEVICE_QUEUE_PACKETS} up`,
    `address add ${address} dev ${DEVICE}`,
    `route replace ${target} dev ${DEVICE}`,
  )
  const owned = made.move()
  return {
    about: `${version(program)}, its defaults, MTU ${mtu}`,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

export async function nebula(prefix: string): Promise<TunnelPeer> {
  const PORT = 4242
  const BUFFER_BYTES = 10 << 20
  const [program, certifier] = await goPrograms({
    path: 'github.com/slackhq/nebula',
    versions: ['v1.12.0', 'v1.11.2', 'v1.11.1'],
    commands: ['cmd/nebula', 'cmd/nebula-cert'],
  })
  const certify = (folder: string, ...argv: string[]): Promise<string> =>
    mustRun(['env', `--chdir=${folder}`, ...words(certifier, PROGRAMS), ...argv])
  return await joinHosts(prefix, {
    name: 'nebula',
    about: `${version(program)}, AES-256-GCM, socket buffers of ${BUFFER_BYTES >> 20} MiB`,
    start: async (sides) => {
      const [{ folder: authority }] = sides
      const keys = ['-ca-crt', join(authority, 'ca.crt'), '-ca-key', join(authority, 'ca.key')]
      await certify(authority, 'ca', '-name', 'bench')
      await onEach(sides, async (side) => {
        const inner = INNER[1 - side.index]
        const networks = `${INNER[side.index]}/24`
        await certify(side.folder, 'sign', ...keys, '-name', 'host', '-networks', networks)
        const anything = [{ port: 'any', proto: 'any', host: 'any' }]
        const settings = {
          pki: {
            ca: await readFile(join(authority, 'ca.crt'), 'utf8'),
            cert: '/run/host.crt',
            key: '/run/host.key',
          },
          static_host_map: { [inner ?? '']: [`${side.other}:${PORT}`] },
          lighthouse: { am_lighthouse: false, hosts: [] },
          listen: {
            host: side.own,
            port: PORT,
            read_buffer: BUFFER_BYTES,
            write_buffer: BUFFER_BYTES,
          },
          cipher: 'aes',
          tun: { dev: DEVICE, mtu: MTU, tx_queue: DEVICE_QUEUE_PACKETS },
          firewall: { outbound: anything, inbound: anything },
          logging: { level: 'warning' },
        }
        await writeFile(join(side.folder, 'nebula.yaml'), JSON.stringify(settings))
        await side.start([...words(program), '-config', '/run/nebula.yaml'])
      })
    },
  })
}

export async function tinc(prefix: string): Promise<TunnelPeer> {
  const PORT = 6550
  const NAMES = ['one', 'two'] as const
  const program = await debianProgram('tincd', '--version')
  const keys = NAMES.map(() =>
    generateKeyPairSync('rsa', {
      modulusLength: 2048,
      publicKeyEncoding: { type: 'pkcs1', format: 'pem' },
      privateKeyEncoding: { type: 'pkcs1', format: 'pem' },
    }),
  )
  return await joinHosts(prefix, {
    name: 'tinc',
    about: `${version(program)}, AES-256-CBC with SHA-256, its defaults`,
    start: (sides) =>
      onEach(sides, async ({ index, folder, start }) => {
        await mkdir(join(folder, 'tinc/hosts'), { recursive: true })
        const settings = [
          `Name = ${NAMES[index]}`,
          `ConnectTo = ${NAMES[1 - index]}`,
          'AddressFamily = ipv4',
          'Device = /dev/net/tun',
          `Interface = ${DEVICE}`,
        ]
        await writeFile(join(folder, 'tinc/tinc.conf'), lines(settings))
        await writeFile(join(folder, 'tinc/rsa_key.priv'), keys[index]?.privateKey ?? '')
        for (const [other, name] of NAMES.entries()) {
          const host = [
            `Address = ${UNDERLAY[other]}`,
            `Port = ${PORT}`,
            `Subnet = ${INNER[other]}/32`,
            'Cipher = aes-256-cbc',
            'Digest = sha256',
          ]
          const content = lines(host) + keys[other]?.publicKey
          await writeFile(join(folder, `tinc/hosts/${name}`), content)
        }
        await start([...words(program), '-c', '/run/tinc', '--pidfile=/run/tinc.pid', '-D'])
      }),
  })
}

export async function n2n(prefix: string): Promise<TunnelPeer> {
  const SUPERNODE_PORT = 7654
  const program = await debianProgram('edge', '-h')
  const supernode = await debianProgram('supernode', '-h')
  return await joinHosts(prefix, {
    name: 'n2n',
    about: `${version(program)}, Twofish, its defaults`,
    start: async (sides) => {
      const [first] = sides
      await first.start([...words(supernode), '-l', String(SUPERNODE_PORT)])
      await onEach(sides, async ({ index, start }) => {
        await start([
          ...[...words(program), '-d', DEVICE, '-a', INNER[index], '-s', '255.255.255.0'],
          ...['-c', 'bench', '-k', 'benchbenchbench1', '-M', String(MTU)],
          ...['-l', `${first.own}:${SUPERNODE_PORT}`],
        ])
      })
    },
  })
}

/** In user space: the kernel here has no part of it. */
export async function openvpn(prefix: string): Promise<TunnelPeer> {
  const PORT = 1194
  const program = await debianProgram('openvpn', '--version')
  const settings = [
    ...['--proto', 'udp4', '--dev', DEVICE, '--dev-type', 'tun', '--tun-mtu', String(MTU)],
    ...['--disable-dco', '--data-ciphers', 'AES-256-GCM', '--mssfix', '0', '--fast-io'],
    ...['--sndbuf', '0', '--rcvbuf', '0', '--txqueuelen', String(DEVICE_QUEUE_PACKETS)],
    ...['--cert', '/run/host.crt', '--key', '/run/host.key', '--lport', String(PORT)],
  ]
  return await joinHosts(prefix, {
    name: 'openvpn',
    about: `${version(program)}, user space, AES-256-GCM, no compression, fast-io, socket buffers of the system, mssfix 0`,
    start: async (sides) => {
      const fingerprints = await Promise.all(sides.map(({ folder }) => selfSigned(folder)))
      await onEach(sides, async ({ index, own, other, start }) => {
        const role = index === 0 ? ['--tls-server', '--dh', 'none'] : ['--tls-client']
        await start([
          ...[...words(program), ...settings, ...role],
          ...['--local', own, '--remote', other, String(PORT)],
          ...['--peer-fingerprint', fingerprints[1 - index] ?? ''],
        ])
      })
    },
  })
}

/** Joins two hosts by a tunnel whose ends are in the hosts themselves. */
async function joinHosts(prefix: string, { name, about, start }: Tunnel): Promise<TunnelPeer> {
  await using made = new AsyncDisposableStack()
  const [one, two] = await twoHosts(made, prefix)
  const folder = await mkdtemp(join(tmpdir(), 'weft-bench-'))
  made.defer(() => rm(folder, { recursive: true }))
  await chmod(folder, 0o755)
  const sides = [
    await newSide(made, { index: 0, place: one, folder: join(folder, 'one') }),
    await newSide(made, { index: 1, place: two, folder: join(folder, 'two') }),
  ] as const
  try {
    await start(sides)
    await onEach(sides, setUpDevice)
    await one.mustRun(['ping', '-c', '1', '-w', String(START_MS / 1000), '-q', INNER[1]])
    await one.mustRun(['ping', ...SETTLE, INNER[1]])
  } catch (error) {
    const logs = await Promise.all(sides.map((side) => lastLines(side)))
    throw new Error(`${name} does not start:\n${logs.join('\n')}`, { cause: error })
  }
  const same = `inner MTU ${MTU}, device queue of ${DEVICE_QUEUE_PACKETS} packets`
  return { ...peer(name, made, one, two, [one, two]), about: `${about}, ${same}` }
}

async function newSide(
  made: AsyncDisposableStack,
  { index, place, folder }: Pick<Side, 'index' | 'place' | 'folder'>,
): Promise<Side> {
  await mkdir(join(folder, 'programs'), { recursive: true })
  const [first, second] = UNDERLAY
  const [own, other] = index === 0 ? [first, second] : [second, first]
  const start = async (argv: readonly string[]): Promise<void> => {
    await mustRun(['chown', '-R', CONFINED_OWNER, folder])
    made.use(place.start(confined(folder, argv)))
  }
  return { index, place, own, other, folder, start }
}

/** Gives the tunnel's device the same address, MTU and queue, whoever made it. */
async function setUpDevice({ index, place }: Side): Promise<void> {
  await eventually(
    () =>
      place.ip(
        `link set ${DEVICE} mtu ${MTU} txqueuelen ${DEVICE_QUEUE_PACKETS} up`,
        `address replace ${INNER[index]}/24 dev ${DEVICE}`,
      ),
    START_MS,
  )
}

async function onEach(
  sides: readonly [Side, Side],
  work: (side: Side) => Promise<void>,
): Promise<void> {
  await Promise.all(sides.map((side) => work(side)))
}

async function lastLines({ folder }: Side): Promise<string> {
  const log = await readFile(join(folder, 'log'), 'utf8').catch(() => 'it has said nothing')
  return log.trimEnd().split('\n').slice(-LOG_TAIL_LINES).join('\n')
}

/** A key pair in hexadecimal digits. */
function x25519(): { readonly secret: string; readonly open: string } {
  const { d = '', x = '' } = generateKeyPairSync('x25519').privateKey.export({ format: 'jwk' })
  const hex = (word: string): string => Buffer.from(word, 'base64url').toString('hex')
  return { secret: hex(d), open: hex(x) }
}

/** Makes a key and a certificate that it signs itself; returns the certificate's SHA-256. */
async function selfSigned(folder: string): Promise<string> {
  const certificate = join(folder, 'host.crt')
  await mustRun([
    ...['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'],
    ...['-nodes', '-keyout', join(folder, 'host.key'), '-out', certificate],
    ...['-days', '2', '-subj', '/CN=bench'],
  ])
  return new X509Certificate(await readFile(certificate)).fingerprint256
}

/** Words that start a program, by default on a side. */
function words(program: Program | undefined, root = '/run/programs'): readonly string[] {
  return program?.argv(root) ?? []
}

function version(program: Program | undefined): string {
  return program?.version ?? ''
}

function lines(all: readonly string[]): string {
  return `${all.join('\n')}\n`
}
