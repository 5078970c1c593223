import { spawn, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, open, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { eventually } from '../support/eventually.ts'
import { run } from '../support/place.ts'

/** The error that ends dockerd may quote what a program of the system said, on lines of its own. */
const LOG_TAIL_LINES = 3

/** A container engine, found or started. */
export interface Engine extends AsyncDisposable {
  /** For `DOCKER_HOST`. */
  readonly host: string
}

/**
 * The engine that `DOCKER_HOST` names, else one of our own: a dockerd in a network namespace of its own, so that it puts no bridge
 * and no rules into that of the machine. Returns the reason as text where there is neither.
 */
export async function findEngine(): Promise<Engine | string> {
  const host = process.env['DOCKER_HOST']
  if (host !== undefined) return { host, [Symbol.asyncDispose]: async () => {} }
  if (process.getuid?.() !== 0) return 'no DOCKER_HOST, and only root can start an engine'
  if (spawnSync('sh', ['-c', 'command -v dockerd']).status !== 0) {
    return 'no DOCKER_HOST and no dockerd here; apt-get install docker.io'
  }
  return await startEngine()
}

/** The reason as text where the dockerd that is here cannot run. */
async function startEngine(): Promise<Engine | string> {
  await using made = new AsyncDisposableStack()
  const folder = await mkdtemp(join(tmpdir(), 'weft-docker-'))
  made.defer(() => rm(folder, { recursive: true, force: true }))
  const [socket, exec] = [join(folder, 'docker.sock'), join(folder, 'exec')]
  await mkdir(exec)
  const words = ['-H', `unix://${socket}`, '--data-root', join(folder, 'data'), '--exec-root', exec]
  const script = `ip link set lo up && exec dockerd ${words.join(' ')} --pidfile ${join(folder, 'pid')}`
  const log = await open(join(folder, 'dockerd.log'), 'w')
  const child = spawn('unshare', ['--net', 'sh', '-c', script], {
    stdio: ['ignore', 'ignore', log.fd],
  })
  await log.close()
  const ended = new Promise((resolve) => child.once('exit', resolve))
  made.defer(async () => {
    child.kill('SIGTERM')
    await ended
    await run(['umount', join(exec, 'netns/default')])
  })
  const hasEnded = (): boolean => child.exitCode !== null || child.signalCode !== null
  try {
    await eventually(async () => {
      if (!hasEnded()) await askVersion(socket)
    })
  } catch (error) {
    return `no DOCKER_HOST, and dockerd does not answer here: ${(error as Error).message}`
  }
  if (hasEnded()) {
    const lines = (await readFile(join(folder, 'dockerd.log'), 'utf8')).trimEnd().split('\n')
    const end = lines.slice(-LOG_TAIL_LINES).join(' ')
    return `no DOCKER_HOST, and dockerd does not run here: ${end}`
  }
  const owned = made.move()
  return { host: `unix://${socket}`, [Symbol.asyncDispose]: () => owned.disposeAsync() }
}

async function askVersion(socket: string): Promise<void> {
  if (!existsSync(socket)) throw new Error('it has no socket')
  const { code, stderr } = await run(['docker', '-H', `unix://${socket}`, 'version'])
  if (code !== 0) throw new Error(stderr)
}
