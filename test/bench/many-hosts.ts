import { setTimeout as sleep } from 'node:timers/promises'
import { Cipher, ConnectionState } from '@weft/proto/weftline/common/v1/common.ts'
import { Crowd, type CrowdOptions } from '../support/crowd.ts'
import type { LoneShuttle } from '../support/lone-shuttle.ts'
import type { RunContext } from './context.ts'
import { judge, median, type Result } from './result.ts'

const HOSTS = 1000
/** By then the last probes and keepalives that follow handshakes have been. */
const IDLE_MS = 15_000
const MEBIBYTE = 1024 ** 2

type Beginner = CrowdOptions['beginner']

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
      rounds[beginner].push(await crowded(context.prefix, beginner))
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

async function crowded(prefix: string, beginner: Beginner): Promise<Crowded> {
  await using crowd = await Crowd.start(prefix, { hosts: HOSTS, beginner })
  const { shuttle } = crowd
  const cpuBefore = shuttle.cpuSeconds()
  const { established, p50_ns, last_ns } = await crowd.open()
  const cpuS = shuttle.cpuSeconds() - cpuBefore
  const busyMib = shuttle.residentBytes() / MEBIBYTE
  await sleep(IDLE_MS)
  const idleMib = shuttle.residentBytes() / MEBIBYTE
  await checkAllOpen(shuttle)
  const { frames_sent, frames_arrived } = await crowd.stop()
  if (established !== HOSTS) throw new Error(`${established} of ${HOSTS} hosts have a session`)
  return {
    p50S: p50_ns / 1e9,
    lastS: last_ns / 1e9,
    cpuS,
    emptyMib: crowd.emptyBytes / MEBIBYTE,
    busyMib,
    idleMib,
    lost: frames_sent - frames_arrived,
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
