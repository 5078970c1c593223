import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { constants } from 'node:fs'
import { access, writeFile } from 'node:fs/promises'
import { createConnection, createServer } from 'node:net'
import { delimiter, dirname, join } from 'node:path'
import { eventually } from './eventually.ts'
import { freePort, temporaryFolder } from './machine.ts'

/** A real nats-server with JetStream on a loopback port, with a store of its own. */
export interface TestNats extends AsyncDisposable {
  /** `nats://127.0.0.1:port`; stays the same over restarts. */
  readonly url: string
  /** Stops it as a crash does (SIGKILL); the files stay. */
  kill(): Promise<void>
  /** Starts it again on the same files. */
  start(): Promise<void>
}

/** Starts one. It syncs every write, as a deployment does. */
export async function startNats(): Promise<TestNats> {
  await using starting = new AsyncDisposableStack()
  const folder = starting.use(await temporaryFolder())
  const port = await freePort()
  const config = join(folder.path, 'nats.conf')
  await writeFile(
    config,
    `listen: "127.0.0.1:${port}"
jetstream { store_dir: ${JSON.stringify(join(folder.path, 'store'))}, sync_interval: always }
`,
  )
  const binary = await findNatsServer()
  let process: ChildProcess | undefined
  const kill = async (): Promise<void> => {
    if (!process || process.exitCode !== null || process.signalCode !== null) return
    process.kill('SIGKILL')
    await once(process, 'exit')
  }
  const start = async (): Promise<void> => {
    process = spawn(binary, ['-c', config], { stdio: 'ignore' })
    await eventually(() => isAnswering(port))
  }
  starting.defer(kill)
  await start()
  const running = starting.move()
  return {
    url: `nats://127.0.0.1:${port}`,
    kill,
    start,
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  }
}

/** Greets and answers pings as a server of some version does; that is all it can. */
export interface FakeNats extends AsyncDisposable {
  /** `nats://127.0.0.1:port` */
  readonly url: string
}

/** Starts one that says it is `version`, such as `2.10.27`. */
export async function startFakeNats(version: string): Promise<FakeNats> {
  const port = await freePort()
  const info = { server_id: 'fake', version, max_payload: 1_048_576, headers: true, proto: 1 }
  const server = createServer((socket) => {
    socket.on('error', () => undefined)
    socket.write(`INFO ${JSON.stringify(info)}\r\n`)
    socket.on('data', (data) => {
      if (data.includes('PING')) socket.write('PONG\r\n')
    })
  }).listen(port, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `nats://127.0.0.1:${port}`,
    async [Symbol.asyncDispose]() {
      server.close()
      await once(server, 'close')
    },
  }
}

/** NATS_SERVER_BIN, else `.tools/bin/nats-server` in this folder or one above, else on PATH. */
export async function findNatsServer(): Promise<string> {
  const { NATS_SERVER_BIN, PATH = '' } = process.env
  if (NATS_SERVER_BIN) return NATS_SERVER_BIN
  const candidates: string[] = []
  for (let folder = process.cwd(); ; folder = dirname(folder)) {
    candidates.push(join(folder, '.tools/bin/nats-server'))
    if (folder === dirname(folder)) break
  }
  candidates.push(...PATH.split(delimiter).map((folder) => join(folder, 'nats-server')))
  for (const candidate of candidates) {
    const isThere = await access(candidate, constants.X_OK).then(
      () => true,
      () => false,
    )
    if (isThere) return candidate
  }
  throw new Error('nats-server is not installed: npm run setup, or set NATS_SERVER_BIN')
}

async function isAnswering(port: number): Promise<boolean> {
  const socket = createConnection(port, '127.0.0.1')
  try {
    await once(socket, 'data')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}
