import { type ChildProcess, fork } from 'node:child_process'
import { join } from 'node:path'
import { ROOT } from '../check/repository.ts'
import { letGo, nextMessage } from './child.ts'
import { interleaved, mediansOf, type Rounds } from './interleaved.ts'
import { judge, type Measured, type Result } from './result.ts'

/** Client and server of one kind each, in two processes; what the kinds are is said there. */
const PROGRAM = join(ROOT, 'libs/rpc/test/calls-process.ts')
const WARM_UP_MS = 2000
const BURST_MS = 2000

/** Unary calls with mutual TLS and authorisation against those of a plain server of grpc-js, over connections that are open. */
export async function mutualTls(rounds: Rounds): Promise<Result[]> {
  await using opened = new AsyncDisposableStack()
  const guarded = opened.use(await Caller.start('guarded'))
  const bare = opened.use(await Caller.start('bare'))
  const bySocket = opened.use(await Caller.start('by-socket'))
  const measured = async (inFlight: number): Promise<Measured> => {
    const contender = (name: string, caller: Caller) => ({
      name,
      measure: () => caller.callsPerSecond(inFlight, BURST_MS),
    })
    for (const caller of [guarded, bare, bySocket]) {
      await caller.callsPerSecond(inFlight, WARM_UP_MS)
    }
    const samples = await interleaved(
      [
        contender('ours', guarded),
        contender('plain grpc-js', bare),
        contender('ours by socket', bySocket),
      ],
      rounds,
    )
    const { ours = null, ...peers } = mediansOf(samples, (callsPerSecond) => callsPerSecond)
    return {
      bench: `calls with mTLS and authorisation: ${inFlight} in flight`,
      unit: 'calls/s',
      ours,
      peers,
      samples: rounds.runs,
    }
  }
  const atLeast = (value: number) => ({ kind: 'at-least', value, versus: 'plain grpc-js' }) as const
  return [judge(await measured(64), atLeast(0.92)), judge(await measured(1), atLeast(0.82))]
}

/** Calls in a process of its own. */
class Caller implements AsyncDisposable {
  readonly #process: ChildProcess

  private constructor(child: ChildProcess) {
    this.#process = child
  }

  static async start(kind: 'guarded' | 'bare' | 'by-socket'): Promise<Caller> {
    const child = fork(PROGRAM, ['client', kind])
    await nextMessage(child)
    return new Caller(child)
  }

  async callsPerSecond(inFlight: number, durationMs: number): Promise<number> {
    this.#process.send({ inFlight, durationMs })
    const { callsPerSecond } = (await nextMessage(this.#process)) as { callsPerSecond: number }
    return callsPerSecond
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await letGo(this.#process)
  }
}
