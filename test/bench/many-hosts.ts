import { generateKeyPairSync } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  CandidateKind,
  Carrier,
  Cipher,
  ConnectionState,
} from '@weft/proto/weftline/common/v1/common.ts'
import type { Peer } from '@weft/proto/weftline/shuttle/v1/shuttle.ts'
import { ROOT } from '../check/repository.ts'
import { NewPlace } from '../support/place.ts'
import type { RunContext } from './context.ts'
import { judge, median, type Result } from './result.ts'
import { LoneShuttle, SEAL_DEVICE } from './shuttle.ts'

const HOSTS = 1000
const PROGRAM = join(ROOT, 'libs/shuttle/target/release/weft-crowd')
const SHUTTLE_HOST_ID = 1
const SHUTTLE_ADDRESS = '192.0.2.1'
const CROWD_ADDRESS = '192.0.2.2'
/** The hosts' own addresses, from this one on; RFC 2544 keeps them for benchmarks. */
const FIRST_ADDRESS = [198, 18, 16, 1] as const
const HOSTS_PREFIX = '198.18.16.0/20'
const PORT = 61_820
const NETWORK_ID = 5
const MTU = 1320
/** By then the shuttle has asked two of them where it is seen from, as every shuttle does at first. */
const SETTLE_MS = 2000
const GIVE_UP_MS = 30_000
/** By then the last probes and keepalives that follow handshakes have been. */
const IDLE_MS = 15_000
const MEBIBYTE = 1024 ** 2

type Beginner = 'shuttle' | 'hosts'

/**
 * A real shuttle that opens sessions with a thousand hosts at once, which are one process of the real protocol engine: begun by the shuttle,
 * since a frame waits for each of them, and begun by all of them. The time ends when the last session is there on both sides, hellos
 * and sub-sessions agreed. Both processes, and the keys' mathematics of both sides, share the machine.
 */
export async function manyHosts(context: RunContext): Promise<Result[]> {
  const rounds: Record<Beginner, Crowded[]> = { shuttle: [], hosts: [] }
  for (let round = 0; round < context.runs; round++) {
    for (const beginner of ['shuttle', 'hosts'] as const) {
      context.signal.throwIfAborted()
      rounds[beginner].push(await crowd(context.prefix, beginner))
    }
  }
  const all = [...rounds.shuttle, ...rounds.hosts]
  return [
    judgeTime('begun by the shuttle', rounds.shuttle),
    judgeTime('begun by the hosts', rounds.hosts),
    judge(
      {
        bench: `sealed: shuttle's memory with ${HOSTS} idle sessions`,
        unit: 'MiB',
        ours: Math.max(...all.map(({ idleMib }) => idleMib)),
        samples: all.length,
        offered: `the most of all runs; ${mib(all, 'emptyMib')} MiB before there were peers, ${mib(all, 'busyMib')} MiB right after the handshakes`,
      },
      { kind: 'at-most', value: 64 },
    ),
  ]
}

function judgeTime(name: string, rounds: readonly Crowded[]): Result {
  const middle = (of: (round: Crowded) => number): string => median(rounds.map(of)).toFixed(2)
  return judge(
    {
      bench: `sealed: ${HOSTS} handshakes, ${name}`,
      unit: 's',
      ours: median(rounds.map(({ lastS }) => lastS)),
      samples: rounds.length,
      offered: [
        `half of them after ${middle(({ p50S }) => p50S)} s, the longest run ${Math.max(...rounds.map(({ lastS }) => lastS)).toFixed(2)} s`,
        `CPU of the shuttle ${middle(({ cpuS }) => cpuS)} s`,
        `first frames that did not arrive at once ${Math.max(...rounds.map(({ lost }) => lost))}`,
      ].join('; '),
    },
    { kind: 'at-most', value: 2 },
  )
}

function mib(rounds: readonly Crowded[], of: 'emptyMib' | 'busyMib'): string {
  return Math.max(...rounds.map((round) => round[of])).toFixed(1)
}

interface Crowded {
  readonly p50S: number
  /** When the last session was there. */
  readonly lastS: number
  /** Of the shuttle, until the bench has heard that all are there. */
  readonly cpuS: number
  readonly emptyMib: number
  readonly busyMib: number
  readonly idleMib: number
  /** Frames for hosts without a session that were sent in vain. */
  readonly lost: number
}

/** What the crowd tells. */
interface Told {
  readonly event: string
  readonly established: number
  readonly p50_ns: number
  readonly last_ns: number
  readonly frames_sent: number
  readonly frames_arrived: number
}

async function crowd(prefix: string, beginner: Beginner): Promise<Crowded> {
  await using made = new AsyncDisposableStack()
  const [place, hosts] = await twoPlaces(made, prefix)
  const shuttle = made.use(await LoneShuttle.start(place))
  const own = x25519()
  await shuttle.seal(own.secret, PORT)
  const emptyMib = shuttle.residentBytes() / MEBIBYTE

  const folder = await mkdtemp(join(tmpdir(), 'weft-bench-crowd-'))
  made.defer(() => rm(folder, { recursive: true }))
  const keys = Array.from({ length: HOSTS }, () => x25519())
  const keysFile = join(folder, 'keys')
  await writeFile(keysFile, keys.map(({ secret }) => `${secret.toString('hex')}\n`).join(''), {
    mode: 0o600,
  })
  const running = made.use(
    hosts.start([
      ...[PROGRAM, '--keys', keysFile, '--shuttle', `${SHUTTLE_ADDRESS}:${PORT}`],
      ...['--shuttle-key', own.open.toString('hex'), '--first', FIRST_ADDRESS.join('.')],
      ...['--port', String(PORT), '--give-up-ms', String(GIVE_UP_MS)],
      ...(beginner === 'shuttle'
        ? ['--frames-netns', place.path, '--frames-device', SEAL_DEVICE]
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

  const cpuBefore = shuttle.cpuSeconds()
  process.kill(running.pid, 'SIGUSR1')
  await running.until('"established"', 2 * GIVE_UP_MS)
  const cpuS = shuttle.cpuSeconds() - cpuBefore
  const busyMib = shuttle.residentBytes() / MEBIBYTE
  await sleep(IDLE_MS)
  const idleMib = shuttle.residentBytes() / MEBIBYTE
  await checkAllOpen(shuttle)
  const lines = await running.stop()
  const told = lines.map((line) => JSON.parse(line) as Told)
  const established = told.find(({ event }) => event === 'established')
  const result = told.find(({ event }) => event === 'result')
  if (established?.established !== HOSTS || result === undefined) {
    throw new Error(`${established?.established} of ${HOSTS} hosts have a session`)
  }
  return {
    p50S: established.p50_ns / 1e9,
    lastS: established.last_ns / 1e9,
    cpuS,
    emptyMib,
    busyMib,
    idleMib,
    lost: result.frames_sent - result.frames_arrived,
  }
}

/** Figures of sessions that the shuttle does not have would be of something else. */
async function checkAllOpen(shuttle: LoneShuttle): Promise<void> {
  const connections = await shuttle.connections()
  const open = connections.filter(
    ({ state, cipher }) =>
      state === ConnectionState.CONNECTION_STATE_OPEN && cipher === Cipher.CIPHER_AES_256_GCM,
  )
  if (open.length !== HOSTS) {
    throw new Error(`the shuttle has ${open.length} of ${HOSTS} sessions by AES-256-GCM`)
  }
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
  await place.ip(`route add ${HOSTS_PREFIX} via ${CROWD_ADDRESS}`)
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

function x25519(): { readonly secret: Buffer; readonly open: Buffer } {
  const { d = '', x = '' } = generateKeyPairSync('x25519').privateKey.export({ format: 'jwk' })
  return { secret: Buffer.from(d, 'base64url'), open: Buffer.from(x, 'base64url') }
}
