import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { createDomain } from '@weft/domain/create'
import { eventually, findNatsServer, freePort, temporaryFolder } from '@weft/testing'

const WEFT = fileURLToPath(new URL('../bin/weft.mjs', import.meta.url))
/** The first of the certificates that `weft init` made has ended since, and the second counts. */
const AGE_MS = 26 * 3_600_000

test('`weft certificate keep` gives nats-server what counts now while nobody issues certificates, and ends when told to', async () => {
  await using made = new AsyncDisposableStack()
  const site = made.use(await makeSite())
  const chain = join(site.nats, 'tls/chain.pem')
  const stale = new X509Certificate(readFileSync(chain))
  assert(stale.validToDate.getTime() < Date.now(), 'what the server reads has ended')
  const nats = made.use(await site.startNats())

  const keeper = made.use(site.keep('nats'))

  await eventually(() => nats.output().includes('Reloaded server configuration'))
  const chosen = new X509Certificate(readFileSync(chain))
  assert(chosen.validFromDate.getTime() < Date.now())
  assert(chosen.validToDate.getTime() > Date.now())
  assert.equal(nats.child.exitCode, null)
  keeper.child.kill('SIGTERM')
  await once(keeper.child, 'exit')
  assert.equal(keeper.child.exitCode, 0, keeper.output())
})

test('an identity that is not that of nats is refused, with the folder that is meant', async () => {
  await using made = new AsyncDisposableStack()
  const site = made.use(await makeSite())
  const before = readFileSync(join(site.nats, 'tls/chain.pem'), 'utf8')
  const keeper = made.use(site.keep('config'))
  await once(keeper.child, 'close')
  assert.equal(keeper.child.exitCode, 2)
  assert.match(keeper.output(), /service config.*\ntry: .*services\/nats/)
  assert.equal(readFileSync(join(site.nats, 'tls/chain.pem'), 'utf8'), before)
})

interface Program extends AsyncDisposable {
  readonly child: ChildProcess
  /** What it has said until now. */
  output(): string
}

/** A domain that was made a while ago, and whose services are all away. */
interface Site extends AsyncDisposable {
  /** Folder of nats-server. */
  readonly nats: string
  startNats(): Promise<Program>
  /** Runs the command with the identity of a service. */
  keep(service: string): Program
}

async function makeSite(): Promise<Site> {
  await using making = new AsyncDisposableStack()
  const temporary = making.use(await temporaryFolder())
  const port = await freePort()
  const monitor = await freePort()
  const nobody = ['127.0.0.1:1']
  const { folder } = await createDomain({
    name: 'test.weft',
    places: {
      config: nobody,
      enrolment: nobody,
      locationResolver: nobody,
      routingPolicy: nobody,
      bus: [`nats://127.0.0.1:${port}`],
    },
    out: join(temporary.path, 'domain'),
    now: new Date(Date.now() - AGE_MS),
  })
  const nats = join(folder, 'nats')
  const pidFile = join(nats, 'nats.pid')
  const made = making.move()
  return {
    nats,
    async startNats() {
      const argv = ['-c', 'nats.conf', '--pid', pidFile, '-m', String(monitor)]
      await using started = new AsyncDisposableStack()
      const program = started.use(start(await findNatsServer(), argv, nats))
      await eventually(async () => (await fetch(`http://127.0.0.1:${monitor}/healthz`)).ok)
      started.move()
      return program
    },
    keep(service) {
      const identity = join(folder, 'services', service)
      const words = ['--identity', identity, '--tls', join(nats, 'tls'), '--pid-file', pidFile]
      return start(process.execPath, [WEFT, 'certificate', 'keep', ...words], folder)
    },
    [Symbol.asyncDispose]: () => made.disposeAsync(),
  }
}

function start(program: string, argv: readonly string[], cwd: string): Program {
  const child = spawn(program, argv, { cwd, stdio: ['ignore', 'pipe', 'pipe'] })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (data: Buffer) => {
      text += data.toString()
    })
  }
  return {
    child,
    output: () => text,
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null || child.signalCode !== null) return
      child.kill('SIGKILL')
      await once(child, 'exit')
    },
  }
}
