import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync, statSync } from 'node:fs'
import { chmod, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { connect as connectTls } from 'node:tls'
import { isDeepStrictEqual } from 'node:util'
import { type Bus, connectBus } from '@weft/bus'
import {
  accountJwt,
  accountOf,
  type BusService,
  inboxPrefixOf,
  pushAccount,
} from '@weft/bus/operator'
import { InvalidArgumentError } from '@weft/errors'
import type { Credentials } from '@weft/identity'
import { createLogger } from '@weft/telemetry'
import { eventually, findNatsServer, freePort, temporaryFolder } from '@weft/testing'
import { createDomain } from '../src/create.ts'
import { type OwnCredentials, openCredentials, parseDomainFile } from '../src/index.ts'
import { keepTlsFiles } from '../src/tls-files.ts'

const silent = createLogger({ service: 'test', level: 'silent' })
/** How long somebody tries who does not get in. */
const PATIENCE_MS = 1000
const HOUR_MS = 3_600_000
/** The second of the rungs, 12 hours apart, counts for two hours now, and the first does still. */
const AGE_MS = 14 * HOUR_MS

test('nats-server shows the next certificate without the authority, and keeps its connections', async () => {
  await using made = new AsyncDisposableStack()
  const site = made.use(await makeSite())
  let now = Date.now() - 3 * HOUR_MS
  const credentials = made.use(await site.credentials('nats', () => now))
  const nats = made.use(await site.startNats())
  made.use(keeping(site, credentials))
  const first = serialOf(credentials)
  await eventually(async () => (await site.shown()) === first)
  const client = made.use(await site.credentials('location-resolver'))
  const bus = made.use(await connectTo(site, client))
  const before = await site.connections()

  now = Date.now()
  const second = serialOf(credentials)

  assert.notEqual(second, first)
  await eventually(async () => (await site.shown()) === second)
  // One that only looked at the certificate may be listed for a moment longer.
  await eventually(async () => isDeepStrictEqual(await site.connections(), before))
  assert.equal(before.length, 1)
  assert.equal(bus.state, 'connected')
  assert.equal(nats.exitCode, null)
})

test('a nats-server that has read its certificate anew still hears who is revoked', async () => {
  await using made = new AsyncDisposableStack()
  const site = made.use(await makeSite())
  const credentials = made.use(await site.credentials('nats'))
  made.use(await site.startNats())
  made.use(keeping(site, credentials))
  await eventually(async () => (await site.shown()) === serialOf(credentials))
  const member = made.use(await site.credentials('location-resolver'))
  const bus = made.use(await connectTo(site, member))

  await revoke(site, 'location-resolver')

  await eventually(() => bus.state !== 'connected')
  await assert.rejects(connectTo(site, member, AbortSignal.timeout(PATIENCE_MS)))
  const other = made.use(await site.credentials('routing-policy'))
  assert.equal(made.use(await connectTo(site, other)).state, 'connected')
})

test('a nats-server that was started before anybody kept its files reads them', async () => {
  await using made = new AsyncDisposableStack()
  const site = made.use(await makeSite())
  const credentials = made.use(await site.credentials('nats'))
  made.use(await site.startNats())
  assert.notEqual(await site.shown(), serialOf(credentials))
  made.use(keeping(site, credentials))
  await eventually(async () => (await site.shown()) === serialOf(credentials))
})

test('the files are whole, and their owner alone reads them', async () => {
  await using made = new AsyncDisposableStack()
  const site = made.use(await makeSite())
  const credentials = made.use(await site.credentials('nats'))
  made.use(keeping(site, credentials))
  const { tls } = credentials
  const wanted = { 'chain.pem': tls.chainPem, 'key.pem': tls.keyPem, 'roots.pem': tls.rootsPem }
  for (const [name, text] of Object.entries(wanted)) {
    const path = join(site.tls, name)
    await eventually(() => readFileSync(path, 'utf8') === text)
    assert.equal(statSync(path).mode & 0o777, 0o600)
  }
})

test('a process that is no nats-server is never told anything, whatever the PID file says', async () => {
  await using made = new AsyncDisposableStack()
  const site = made.use(await makeSite())
  const credentials = made.use(await site.credentials('nats'))
  const other = spawn('sleep', ['60'], { stdio: 'ignore' })
  made.defer(() => void other.kill('SIGKILL'))
  await once(other, 'spawn')
  await writeFile(site.pidFile, String(other.pid))
  const stop = new AbortController()
  const lines: string[] = []
  const keeper = keep(site, credentials, stop.signal, lines)
  await eventually(() => lines.join('').includes('certificate written'))
  stop.abort()
  await keeper
  assert.equal(other.signalCode, null)
  assert.doesNotMatch(lines.join(''), /was told/)
})

test('a folder that others may enter, and a PID file that is none, are refused with the way out', async () => {
  await using made = new AsyncDisposableStack()
  const site = made.use(await makeSite())
  const credentials = made.use(await site.credentials('nats'))
  const { signal } = new AbortController()
  await writeFile(site.pidFile, 'all of them')
  await assert.rejects(keep(site, credentials, signal), (error: unknown) => {
    assert(error instanceof InvalidArgumentError)
    assert.match(error.remedy, /nats-server --pid/)
    return true
  })
  await chmod(site.tls, 0o755)
  await assert.rejects(keep(site, credentials, signal), { remedy: `chmod 700 ${site.tls}` })
})

/** A domain of which nothing runs but, perhaps, its nats-server. */
interface Site extends AsyncDisposable {
  readonly url: string
  /** The folder of the authority. */
  readonly authority: string
  readonly tls: string
  readonly pidFile: string
  credentials(name: string, now?: () => number): Promise<OwnCredentials>
  startNats(): Promise<ChildProcess & AsyncDisposable>
  /** Serial number of the certificate that the server shows to who connects now. */
  shown(): Promise<string>
  /** The numbers that the server gave to its clients. */
  connections(): Promise<number[]>
}

async function makeSite(): Promise<Site> {
  await using making = new AsyncDisposableStack()
  const temporary = making.use(await temporaryFolder())
  const port = await freePort()
  const monitor = await freePort()
  const url = `nats://127.0.0.1:${port}`
  const nobody = ['127.0.0.1:1']
  const { folder } = await createDomain({
    name: 'test.weft',
    places: {
      config: nobody,
      enrolment: nobody,
      locationResolver: nobody,
      routingPolicy: nobody,
      bus: [url],
    },
    out: join(temporary.path, 'domain'),
    now: new Date(Date.now() - AGE_MS),
  })
  const nats = join(folder, 'nats')
  const identity = join(folder, 'services', 'location-resolver')
  const made = making.move()
  return {
    url,
    authority: join(folder, 'authority'),
    tls: join(nats, 'tls'),
    pidFile: join(nats, 'nats.pid'),
    credentials: (name, now = Date.now) =>
      openCredentials({ folder: join(folder, 'services', name), renew: 'watch', now }),
    async startNats() {
      const argv = ['-c', 'nats.conf', '--pid', 'nats.pid', '-m', String(monitor)]
      const server = spawn(await findNatsServer(), argv, { cwd: nats, stdio: 'ignore' })
      await eventually(async () => (await fetch(`http://127.0.0.1:${monitor}/healthz`)).ok)
      return Object.assign(server, {
        async [Symbol.asyncDispose]() {
          server.kill('SIGKILL')
          await once(server, 'exit')
        },
      })
    },
    async shown() {
      await using client = await openCredentials({ folder: identity, renew: 'watch' })
      const { chainPem: cert, keyPem: key, rootsPem: ca } = client.tls
      const socket = connectTls({ host: '127.0.0.1', port, cert, key, ca })
      await once(socket, 'secureConnect')
      const certificate = socket.getPeerX509Certificate()
      socket.destroy()
      assert(certificate)
      return certificate.serialNumber
    },
    async connections() {
      const answer = await fetch(`http://127.0.0.1:${monitor}/connz`)
      const { connections } = (await answer.json()) as { connections: { cid: number }[] }
      return connections.map(({ cid }) => cid)
    },
    [Symbol.asyncDispose]: () => made.disposeAsync(),
  }
}

function keeping(site: Site, credentials: OwnCredentials): AsyncDisposable {
  const stop = new AbortController()
  const keeper = keep(site, credentials, stop.signal)
  return {
    async [Symbol.asyncDispose]() {
      stop.abort()
      await keeper
    },
  }
}

async function keep(
  site: Site,
  credentials: OwnCredentials,
  signal: AbortSignal,
  lines: string[] = [],
): Promise<void> {
  const stream = { write: (line: string) => void lines.push(line) }
  const log = createLogger({ service: 'test', stream })
  await keepTlsFiles({ credentials, folder: site.tls, pidFile: site.pidFile, log, signal })
}

function connectTo(site: Site, credentials: Credentials, signal?: AbortSignal): Promise<Bus> {
  const servers = [site.url]
  return connectBus({ servers, credentials, name: 'test', log: silent, ...(signal && { signal }) })
}

/** Makes the bus refuse a service, as config would do it. */
async function revoke(site: Site, service: BusService): Promise<void> {
  const read = (name: string): Buffer => readFileSync(join(site.authority, name))
  const file = parseDomainFile(read('domain.json').toString(), 'domain.json')
  await using config = await site.credentials('config')
  const { identity, tls, identityKey, directoryKey } = config
  const login = {
    jwt: read('system-user.jwt').toString(),
    seed: read('system-user.seed'),
    inboxPrefix: inboxPrefixOf({ kind: 'system' }),
  }
  await using system = await connectTo(site, {
    ...{ identity, tls, identityKey, directoryKey, bus: login },
    isRevoked: () => false,
    onChange: () => () => undefined,
  })
  await pushAccount(
    system,
    accountJwt({
      account: accountOf({ kind: 'service', name: service, replica: '1' }),
      ids: file.accounts,
      signingSeed: read('operator-signing.seed'),
      now: new Date(),
      revokedUsers: [file.services[service].busKey],
    }),
  )
}

function serialOf({ tls }: OwnCredentials): string {
  return new X509Certificate(tls.chainPem).serialNumber
}
