/** One real shuttle and many hosts that are one process, on a wire of their own. */
import { generateKeyPairSync } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { CandidateKind, Carrier } from '@weft/proto/weftline/common/v1/common.ts'
import type { Peer } from '@weft/proto/weftline/shuttle/v1/shuttle.ts'
import { ROOT } from '../check/repository.ts'
import { LoneShuttle, SEAL_DEVICE } from './lone-shuttle.ts'
import { NewPlace, type Running } from './place.ts'

const PROGRAM = join(ROOT, 'libs/shuttle/target/release/weft-crowd')
const SHUTTLE_HOST_ID = 1
const SHUTTLE_ADDRESS = '192.0.2.1'
/** Of the crowd's namespace; the hosts have others. */
export const CROWD_ADDRESS = '192.0.2.2'
/** The hosts' own addresses, from this one on; RFC 2544 keeps them for benchmarks. */
const FIRST_ADDRESS = [198, 18, 16, 1] as const
const HOSTS_PREFIX = '198.18.16.0/20'
const PORT = 61_820
const NETWORK_ID = 5
const MTU = 1320
/** By then the shuttle has asked two of them where it is seen from, as every shuttle does at first. */
const SETTLE_MS = 2000
const GIVE_UP_MS = 30_000

export interface CrowdOptions {
  readonly hosts: number
  /** Who begins the first handshakes: the shuttle, since a frame waits for each of the hosts, or all of them. */
  readonly beginner: 'shuttle' | 'hosts'
  /** How often in a round every host changes its keys, and how far apart, at least 500 ms. */
  readonly changes?: { readonly count: number; readonly everyMs: number }
}

/** What the crowd tells of its first handshakes. */
export interface Opened {
  readonly established: number
  /** When half of the sessions were there, and when the last one. */
  readonly p50_ns: number
  readonly last_ns: number
  readonly frames_sent: number
  readonly frames_arrived: number
}

/** What it tells of a round in which all changed their keys. */
export interface Changed {
  readonly begun: number
  readonly done: number
  readonly p50_ns: number
  readonly longest_ns: number
}

export class Crowd implements AsyncDisposable {
  readonly shuttle: LoneShuttle
  readonly shuttleAddress: string = SHUTTLE_ADDRESS
  readonly port: number = PORT
  /** The shuttle's public key, in hexadecimal digits. */
  readonly key: string
  /** The namespace at the other end of the wire. */
  readonly place: NewPlace
  /** What the shuttle had in memory before it had peers. */
  readonly emptyBytes: number
  readonly #running: Running
  readonly #roundMs: number
  readonly #owned: AsyncDisposableStack
  #rounds = 0

  private constructor(
    parts: Pick<Crowd, 'shuttle' | 'key' | 'place' | 'emptyBytes'>,
    running: Running,
    roundMs: number,
    owned: AsyncDisposableStack,
  ) {
    this.shuttle = parts.shuttle
    this.key = parts.key
    this.place = parts.place
    this.emptyBytes = parts.emptyBytes
    this.#running = running
    this.#roundMs = roundMs
    this.#owned = owned
  }

  /**
   * Starts both; nobody has a session yet.
   *
   * @param prefix of the namespaces' names
   */
  static async start(prefix: string, { hosts, beginner, changes }: CrowdOptions): Promise<Crowd> {
    await using made = new AsyncDisposableStack()
    const [place, crowdPlace] = await twoPlaces(made, prefix)
    const shuttle = made.use(await LoneShuttle.start(place))
    const own = x25519()
    await shuttle.seal(own.secret, PORT)
    const emptyBytes = shuttle.residentBytes()

    const keys = Array.from({ length: hosts }, () => x25519())
    const running = made.use(
      crowdPlace.start([
        ...[
          PROGRAM,
          '--keys',
          await keysFile(made, keys),
          '--shuttle',
          `${SHUTTLE_ADDRESS}:${PORT}`,
        ],
        ...['--shuttle-key', own.open.toString('hex'), '--first', FIRST_ADDRESS.join('.')],
        ...['--port', String(PORT), '--give-up-ms', String(GIVE_UP_MS)],
        ...(beginner === 'shuttle'
          ? ['--frames-netns', place.path, '--frames-device', SEAL_DEVICE]
          : []),
        ...(changes
          ? ['--changes', String(changes.count), '--change-every-ms', String(changes.everyMs)]
          : []),
      ]),
    )
    await running.until('"ready"')
    await shuttle.applyTables(SHUTTLE_HOST_ID, [
      {
        $case: 'putNetwork',
        value: {
          networkId: NETWORK_ID,
          vni: NETWORK_ID,
          mtuBytes: MTU,
          gatewayIpv4: Buffer.from([10, 20, 0, 1]),
          gatewayIpv6: Buffer.alloc(0),
        },
      },
      ...keys.map(({ open }, index) => ({ $case: 'putPeer', value: peerOf(index, open) }) as const),
    ])
    await sleep(SETTLE_MS)
    const parts = { shuttle, key: own.open.toString('hex'), place: crowdPlace, emptyBytes }
    const roundMs = changes ? changes.count * changes.everyMs : 0
    return new Crowd(parts, running, roundMs, made.move())
  }

  /** Has all of them open their sessions. */
  async open(): Promise<Opened> {
    this.#goOn()
    return parse<Opened>(await this.#running.until('"established"', 2 * GIVE_UP_MS))
  }

  /** Has all of them change their keys for a round, and waits for those that take longer. */
  async change(): Promise<Changed> {
    this.#goOn()
    const event = `"changed ${++this.#rounds}"`
    return parse<Changed>(await this.#running.until(event, this.#roundMs + 2 * GIVE_UP_MS))
  }

  /** Ends the hosts; returns what became of their frames in all. */
  async stop(): Promise<Opened> {
    const lines = await this.#running.stop()
    return parse<Opened>(lines.at(-1) ?? 'null')
  }

  #goOn(): void {
    process.kill(this.#running.pid, 'SIGUSR1')
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#owned.disposeAsync()
  }
}

function parse<T>(line: string): T {
  return JSON.parse(line) as T
}

interface Keys {
  readonly secret: Buffer
  readonly open: Buffer
}

async function keysFile(made: AsyncDisposableStack, keys: readonly Keys[]): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'weft-crowd-'))
  made.defer(() => rm(folder, { recursive: true }))
  const file = join(folder, 'keys')
  await writeFile(file, keys.map(({ secret }) => `${secret.toString('hex')}\n`).join(''), {
    mode: 0o600,
  })
  return file
}

/** The shuttle's namespace and that of the hosts, behind one address, so that there is one neighbour. */
async function twoPlaces(
  made: AsyncDisposableStack,
  prefix: string,
): Promise<[NewPlace, NewPlace]> {
  const place = made.use(await NewPlace.make(`${prefix}-shuttle`))
  const hosts = made.use(await NewPlace.make(`${prefix}-crowd`))
  await place.ip(`link add under0 type veth peer name under0 netns ${hosts.namespace}`)
  await place.ip(`address add ${SHUTTLE_ADDRESS}/24 dev under0`, 'link set under0 up')
  await hosts.ip(
    `address add ${CROWD_ADDRESS}/24 dev under0`,
    'link set under0 up',
    `route add local ${HOSTS_PREFIX} dev lo`,
  )
  await place.ip(`route add default via ${CROWD_ADDRESS}`)
  return [place, hosts]
}

function peerOf(index: number, publicKey: Buffer): Peer {
  return {
    hostId: SHUTTLE_HOST_ID + 1 + index,
    carrier: Carrier.CARRIER_SEALED,
    localAddress: Buffer.alloc(0),
    remoteAddress: Buffer.alloc(0),
    foreign: false,
    networkIds: [NETWORK_ID],
    sealed: {
      publicKey,
      candidates: [
        { address: addressOf(index), port: PORT, kind: CandidateKind.CANDIDATE_KIND_OWN },
      ],
      presharedKey: Buffer.alloc(0),
      previousPublicKey: Buffer.alloc(0),
    },
  }
}

function addressOf(index: number): Buffer {
  const address = Buffer.from(FIRST_ADDRESS)
  address.writeUInt32BE(address.readUInt32BE() + index)
  return address
}

function x25519(): Keys {
  const { d = '', x = '' } = generateKeyPairSync('x25519').privateKey.export({ format: 'jwk' })
  return { secret: Buffer.from(d, 'base64url'), open: Buffer.from(x, 'base64url') }
}
