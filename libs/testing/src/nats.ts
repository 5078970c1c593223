import { type ChildProcess, spawn } from 'node:child_process'
import { createHash, createPublicKey, type KeyObject } from 'node:crypto'
import { once } from 'node:events'
import { constants } from 'node:fs'
import { access, mkdir, writeFile } from 'node:fs/promises'
import { createConnection, createServer, type Socket } from 'node:net'
import { delimiter, dirname, join } from 'node:path'
import { createServer as createTlsServer } from 'node:tls'
import {
  type AccountName,
  accountOf,
  type BusOperator,
  type BusPrincipal,
  createBusOperator,
  limitedUserJwt,
  natsServerConfig,
  newBusKeys,
  newBusLogin,
} from '@weft/bus/operator'
import { type TestCredentials, type TestDomain, type TestMember, testDomain } from './domain.ts'
import { eventually } from './eventually.ts'
import { freePort, temporaryFolder } from './machine.ts'

/** What a server that did not start has said. */
const LOG_TAIL_LENGTH = 2000

/** A real nats-server with JetStream on a loopback port, with a store of its own. */
export interface TestNats extends AsyncDisposable {
  /** `nats://127.0.0.1:port`; stays the same over restarts. */
  readonly url: string
  /** Stops it as a crash does (SIGKILL); the files stay. */
  kill(): Promise<void>
  /** Starts it again on the same files. */
  start(): Promise<void>
}

/** Starts one without identities, for what is no bus of ours. It syncs every write, as a deployment does. */
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
  const server = starting.use(await startServer(config, () => isAnswering(port)))
  const running = starting.move()
  return {
    url: `nats://127.0.0.1:${port}`,
    kill: () => server.kill(),
    start: () => server.start(),
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  }
}

/** A nats-server as a domain runs it: operator mode, TLS with certificates on both sides, and nothing else. */
export interface TestDomainNats extends TestNats {
  readonly domain: TestDomain
  readonly operator: BusOperator
  /** Where its monitoring answers, `http://127.0.0.1:port`. */
  readonly monitorUrl: string
  /** Where JetStream keeps its files. */
  readonly storeFolder: string
  /** What the others of its cluster call it. */
  readonly serverName: string
  /** `127.0.0.1:port` for the others of its cluster. */
  readonly routeAddress: string
  /** What it shows to its clients and to the others of its cluster. */
  readonly server: TestCredentials
  /** Credentials with a login that allows what the policy allows this principal; valid for a day. */
  credentials(principal: BusPrincipal): TestCredentials
  /** Credentials of a user who may do everything in an account: for what a test arranges. */
  wideCredentials(account?: AccountName): TestCredentials
}

export interface TestDomainNatsOptions {
  /** A new one by default. */
  readonly domain?: TestDomain
  /** A new one by default. */
  readonly operator?: BusOperator
  /** Whose certificate it shows; that of the service `nats` by default. */
  readonly shows?: TestMember
  /** What waits for one client at most. */
  readonly pendingMaxBytes?: number
}

/** Starts one alone. */
export async function startDomainNats(options?: TestDomainNatsOptions): Promise<TestDomainNats> {
  const [nats] = await startDomainCluster(1, options)
  if (!nats) throw new Error('there is no server')
  return nats
}

/** Starts several that form a cluster; dispose each of them. */
export async function startDomainCluster(
  size: number,
  options: TestDomainNatsOptions = {},
): Promise<TestDomainNats[]> {
  const domain = options.domain ?? testDomain()
  const now = new Date()
  const operator = options.operator ?? createBusOperator({ domain: domain.name, now })
  const server = options.shows
    ? domain.credentials(options.shows)
    : domain.credentials({ kind: 'service', id: 'nats' }, { addresses: ['127.0.0.1'] })
  const ports = await Promise.all(Array.from({ length: size * 3 }, freePort))
  const routes = ports.slice(0, size)
  const cluster = {
    name: 'test',
    routes: routes.map((port) => `127.0.0.1:${port}`),
    serverKeys: [keyPin(server.identityKey)],
  }
  await using starting = new AsyncDisposableStack()
  const servers = routes.map(async (routePort, index) => {
    const [port = 0, monitorPort = 0] = ports.slice(size + index * 2)
    await using opened = new AsyncDisposableStack()
    const folder = opened.use(await temporaryFolder())
    const serverName = `test-${index + 1}`
    const file = (name: string): string => join(folder.path, name)
    await mkdir(file('accounts'))
    await writeFile(file('operator.jwt'), operator.operatorJwt)
    for (const [name, jwt] of Object.entries(operator.accountJwts)) {
      const { publicKey } = operator.accounts[name as AccountName]
      await writeFile(file(`accounts/${publicKey}.jwt`), jwt)
    }
    const tls = { chain: file('chain.pem'), key: file('key.pem'), roots: file('roots.pem') }
    await writeFile(tls.chain, server.tls.chainPem)
    await writeFile(tls.key, server.tls.keyPem, { mode: 0o600 })
    await writeFile(tls.roots, server.tls.rootsPem)
    await writeFile(
      file('nats.conf'),
      natsServerConfig({
        name: serverName,
        listen: `127.0.0.1:${port}`,
        monitorPort,
        storeFolder: file('store'),
        operatorFile: file('operator.jwt'),
        systemAccount: operator.accounts.system.publicKey,
        accountsFolder: file('accounts'),
        tls,
        ...(size > 1 && { cluster: { ...cluster, listen: `127.0.0.1:${routePort}` } }),
        ...(options.pendingMaxBytes && { pendingMaxBytes: options.pendingMaxBytes }),
      }),
    )
    const monitorUrl = `http://127.0.0.1:${monitorPort}`
    const isHealthy = async (): Promise<boolean> => (await fetch(`${monitorUrl}/healthz`)).ok
    const process = opened.use(await startServer(file('nats.conf'), isHealthy))
    const running = opened.move()
    const expiresAt = new Date(now.getTime() + 24 * 3_600_000)
    const nats: TestDomainNats = {
      url: `nats://127.0.0.1:${port}`,
      monitorUrl,
      storeFolder: file('store'),
      serverName,
      routeAddress: `127.0.0.1:${routePort}`,
      server,
      domain,
      operator,
      kill: () => process.kill(),
      start: () => process.start(),
      credentials(principal) {
        const account = operator.accounts[accountOf(principal)].seed
        const bus = newBusLogin({ account, principal, now: new Date(), expiresAt })
        return domain.credentials(memberOf(principal), { bus })
      },
      wideCredentials(account = 'control') {
        const { publicKey, seed } = newBusKeys('user')
        const jwt = limitedUserJwt({
          account: operator.accounts[account].seed,
          publicKey,
          name: 'test',
          permissions: { publish: ['>'], subscribe: ['>'] },
          now: new Date(),
          expiresAt,
          subscriptionsMax: -1,
          payloadMaxBytes: -1,
        })
        const bus = { jwt, seed, inboxPrefix: '_INBOX.test' }
        return domain.credentials({ kind: 'user', id: 1 }, { bus })
      },
      [Symbol.asyncDispose]: () => running.disposeAsync(),
    }
    return starting.use(nats)
  })
  const started = await Promise.all(servers)
  starting.move()
  return started
}

/** Greets and answers pings as a server of some version does; that is all it can. */
export interface FakeNats extends AsyncDisposable {
  /** `nats://127.0.0.1:port` */
  readonly url: string
}

/** Starts one that says it is `version`, such as `2.10.27`; with TLS first if it is given a domain. */
export async function startFakeNats(version: string, domain?: TestDomain): Promise<FakeNats> {
  const port = await freePort()
  const info = {
    server_id: 'fake',
    version,
    max_payload: 1_048_576,
    headers: true,
    proto: 1,
    tls_required: domain !== undefined,
  }
  const greet = (socket: Socket): void => {
    socket.on('error', () => undefined)
    socket.write(`INFO ${JSON.stringify(info)}\r\n`)
    socket.on('data', (data) => {
      if (data.includes('PING')) socket.write('PONG\r\n')
    })
  }
  const tls = domain?.credentials({ kind: 'service', id: 'nats' }).tls
  const server = tls
    ? createTlsServer({ cert: tls.chainPem, key: tls.keyPem, ca: tls.rootsPem }, greet)
    : createServer(greet)
  server.listen(port, '127.0.0.1')
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

interface Server extends AsyncDisposable {
  kill(): Promise<void>
  start(): Promise<void>
}

async function startServer(config: string, isReady: () => Promise<boolean>): Promise<Server> {
  const binary = await findNatsServer()
  let process: ChildProcess | undefined
  const kill = async (): Promise<void> => {
    if (!process || process.exitCode !== null || process.signalCode !== null) return
    process.kill('SIGKILL')
    await once(process, 'exit')
  }
  const start = async (): Promise<void> => {
    const started = spawn(binary, ['-c', config], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    process = started
    let log = ''
    started.stderr.on('data', (data: Buffer) => {
      log = (log + data.toString()).slice(-LOG_TAIL_LENGTH)
    })
    await eventually(async () => {
      if (started.exitCode !== null) throw new Error(`nats-server ended: ${log}`)
      return isReady()
    })
  }
  try {
    await start()
  } catch (error) {
    await kill()
    throw error
  }
  return { kill, start, [Symbol.asyncDispose]: kill }
}

/** Who on the bus has the certificate of whom. */
function memberOf(principal: BusPrincipal): TestMember {
  if (principal.kind === 'host') return { kind: 'host', id: principal.id }
  return { kind: 'service', id: principal.kind === 'service' ? principal.name : 'config' }
}

function keyPin(key: KeyObject): string {
  const der = createPublicKey(key).export({ format: 'der', type: 'spki' })
  return createHash('sha256').update(der).digest('hex')
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
