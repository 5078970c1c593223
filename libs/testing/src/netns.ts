import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** A network namespace for one test; removed with its devices when disposed. Needs root. */
export interface TestNetns extends AsyncDisposable {
  readonly name: string
  /** `/run/netns/<name>` */
  readonly path: string
  /** Runs a command inside and answers what it wrote. */
  exec(command: string, ...args: readonly string[]): Promise<string>
}

/** Makes one whose name no other test has, with its loopback up. */
export async function createNetns(label: string): Promise<TestNetns> {
  const name = `wefttest-${label}-${randomBytes(4).toString('hex')}`
  await run('ip', ['netns', 'add', name])
  const exec = async (command: string, ...args: readonly string[]): Promise<string> => {
    const { stdout } = await run('ip', ['netns', 'exec', name, command, ...args])
    return stdout
  }
  const netns: TestNetns = {
    name,
    path: `/run/netns/${name}`,
    exec,
    async [Symbol.asyncDispose]() {
      await run('ip', ['netns', 'del', name])
    },
  }
  try {
    await exec('ip', 'link', 'set', 'lo', 'up')
    return netns
  } catch (error) {
    await netns[Symbol.asyncDispose]()
    throw error
  }
}
