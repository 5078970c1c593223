/** A shuttle alone, without a forwarder: benches and scenarios drive it as one does. */
import { readFileSync } from 'node:fs'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { OpenConnection } from '@weft/proto/weftline/common/v1/common.ts'
import { SealingServiceService } from '@weft/proto/weftline/shuttle/v1/sealing.ts'
import { ShuttleServiceService, type TableChange } from '@weft/proto/weftline/shuttle/v1/shuttle.ts'
import { type Client, connect } from '@weft/rpc'
import { ROOT } from '../check/repository.ts'
import { eventually } from './eventually.ts'
import type { Place, Running } from './place.ts'

/** Its TAP of what is sealed. */
export const SEAL_DEVICE = 'wl-seal'
const PROGRAM = join(ROOT, 'libs/shuttle/target/release/weft-shuttle')
const START_MS = 15_000
const KIBIBYTE = 1024
/** Ticks of /proc/PID/stat in a second. */
const TICKS_PER_SECOND = 100

/** Gives it a bpffs that goes with it. */
const RUN = 'mkdir "$0/bpf"; mount -t bpf bpf "$0/bpf"; exec "$@"'

export class LoneShuttle implements AsyncDisposable {
  readonly #running: Running
  readonly #owned: AsyncDisposableStack
  readonly #shuttle: Client<ShuttleServiceService>
  readonly #sealing: Client<SealingServiceService>

  private constructor(running: Running, owned: AsyncDisposableStack, socket: string) {
    const options = { security: { kind: 'socket-mode' }, retries: false } as const
    this.#running = running
    this.#owned = owned
    this.#shuttle = owned.use(connect(socket, ShuttleServiceService, options))
    this.#sealing = owned.use(connect(socket, SealingServiceService, options))
  }

  /** Runs in a namespace until the block ends; as root, which changes nothing of what is measured. */
  static async start(place: Place): Promise<LoneShuttle> {
    await using made = new AsyncDisposableStack()
    const folder = await mkdtemp(join(tmpdir(), 'weft-shuttle-'))
    made.defer(() => rm(folder, { recursive: true }))
    await mkdir(join(folder, 'state'))
    const socket = join(folder, 'shuttle.sock')
    const running = made.use(
      place.start([
        ...['unshare', '--mount', 'sh', '-e', '-c', RUN, folder, PROGRAM],
        ...['--socket', socket, '--admit-uid', String(process.getuid?.() ?? 0)],
        ...['--bpffs', join(folder, 'bpf'), '--state-folder', join(folder, 'state')],
      ]),
    )
    await running.until('"ready"', START_MS)
    const shuttle = new LoneShuttle(running, made.move(), `unix:${socket}`)
    await eventually(() => shuttle.#shuttle.getInfo({}), START_MS)
    return shuttle
  }

  /** Lets it seal with this key; without a key log, by the fastest cipher. */
  async seal(privateKey: Buffer, listenPort: number): Promise<void> {
    await this.#sealing.configureSealing({
      privateKey,
      previousPrivateKey: Buffer.alloc(0),
      listenPort,
      keyLogPath: '',
      offloadsOff: [],
      chacha20Only: false,
      trustedUnixMs: 0n,
    })
  }

  /** Puts tables in force that have nothing else. */
  async applyTables(
    localHostId: number,
    changes: readonly NonNullable<TableChange['change']>[],
  ): Promise<void> {
    await this.#shuttle.applyTables(
      only({
        baseRevision: 0n,
        revision: 1n,
        localHostId,
        changes: changes.map((change) => ({ change, deletePeerCarrier: 0 })),
      }),
    )
  }

  /** How it stands with every sealed peer. */
  async connections(): Promise<readonly OpenConnection[]> {
    const enough = new AbortController()
    const all: OpenConnection[] = []
    for await (const said of this.#sealing.watchSealed({}, { signal: enough.signal })) {
      all.push(...said.connections)
      if (said.snapshotComplete) break
    }
    enough.abort()
    return all
  }

  /** What it dropped of what came sealed, and refused of handshakes, by reason. */
  async refused(): Promise<ReadonlyMap<string, number>> {
    const { sealed } = await this.#shuttle.getInfo({})
    const counts = new Map<string, number>()
    // Packets and handshakes may be dropped for a reason of the same name.
    for (const part of [sealed?.drops ?? {}, sealed?.refusals ?? {}]) {
      for (const [reason, count] of Object.entries(part)) {
        counts.set(reason, (counts.get(reason) ?? 0) + Number(count))
      }
    }
    return counts
  }

  residentBytes(): number {
    const status = readFileSync(`/proc/${this.#running.pid}/status`, 'utf8')
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0) * KIBIBYTE
  }

  /** Time that cores have spent in it, its part of the kernel's included. */
  cpuSeconds(): number {
    const stat = readFileSync(`/proc/${this.#running.pid}/stat`, 'utf8')
    // proc_pid_stat(5): fields 14 and 15 are utime and stime; the second, in parentheses, may hold spaces.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#owned.disposeAsync()
  }
}

async function* only<T>(message: T): AsyncGenerator<T, void, undefined> {
  yield message
}
