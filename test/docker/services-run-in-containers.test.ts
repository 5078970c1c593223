import assert from 'node:assert/strict'
import { chmod, copyFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import test from 'node:test'
import { NODE_FLAGS, stage } from '@weft/lab'
import { parsePrefix } from '@weft/net'
import { connect } from '@weft/sdk'
import { GenericContainer, Network, type StartedTestContainer, Wait } from 'testcontainers'
import { mustRun } from '../support/place.ts'
import { findEngine } from './engine.ts'

const engine = await findEngine()
const reason = typeof engine === 'string' ? engine : false
const IMAGE = 'weftline-test/services:1'
/** Anybody: the image has no users of its own. */
const USER = '65534:65534'

test('config and NATS run in containers made FROM scratch, and what was acknowledged outlives both', {
  skip: reason,
}, async () => {
  if (typeof engine === 'string') return
  await using made = new AsyncDisposableStack()
  made.use(engine)
  process.env['DOCKER_HOST'] = engine.host
  // The sweeper would be fetched from a registry; what this test starts it stops itself.
  process.env['TESTCONTAINERS_RYUK_DISABLED'] = 'true'
  const folder = await mkdtemp(join(tmpdir(), 'weft-test-'))
  made.defer(() => rm(folder, { recursive: true, force: true }))
  const sockets = await openFolder(join(folder, 'sockets'))
  const store = await openFolder(join(folder, 'store'))
  await buildImage(join(folder, 'image'))

  const network = await new Network().start()
  made.defer(async () => {
    await network.stop()
  })
  const startNats = (): Promise<StartedTestContainer> =>
    new GenericContainer(IMAGE)
      .withCommand(['/nats-server', '--config', '/nats.conf'])
      .withUser(USER)
      .withNetwork(network)
      .withNetworkAliases('nats')
      .withBindMounts([{ source: store, target: '/store' }])
      .withWaitStrategy(Wait.forLogMessage('Server is ready'))
      .start()
  const startConfig = (): Promise<StartedTestContainer> =>
    new GenericContainer(IMAGE)
      .withCommand(['/node', ...NODE_FLAGS, '/config.mjs'])
      .withUser(USER)
      .withNetwork(network)
      .withEnvironment({
        NATS_URL: 'nats://nats:4222',
        WEFT_CONFIG_LISTEN: 'unix:/sockets/grpc.sock',
        WEFT_REPLICA_ID: 'one',
      })
      .withBindMounts([{ source: sockets, target: '/sockets' }])
      .withWaitStrategy(Wait.forLogMessage(/"ready"/))
      .start()

  const ref = { tenant: 'acme', network: 'blue', endpoint: 'web' }
  const before = await use(await startNats(), await startConfig(), async (weft) => {
    const prefix = parsePrefix('10.20.0.0/24')
    assert.ok(prefix !== undefined)
    await weft.tenants.create({ name: ref.tenant })
    await weft.networks.create({ ...ref, prefixes: [prefix] })
    return await weft.endpoints.create(ref)
  })
  const after = await use(await startNats(), await startConfig(), (weft) => weft.endpoints.get(ref))
  assert.deepEqual(after, before)

  /** Calls config, then stops both containers. */
  async function use<T>(
    nats: StartedTestContainer,
    config: StartedTestContainer,
    call: (weft: ReturnType<typeof connect>) => Promise<T>,
  ): Promise<T> {
    const control = `unix:${join(sockets, 'grpc.sock')}`
    try {
      await using weft = connect({
        context: { control, tenant: ref.tenant, hosts: {}, localHost: undefined },
      })
      return await call(weft)
    } finally {
      await config.stop()
      await nats.stop()
    }
  }
})

/** A folder that any user may write to. */
async function openFolder(path: string): Promise<string> {
  await mkdir(path)
  await chmod(path, 0o777)
  return path
}

/** An image with nothing in it but our bundles, Node, nats-server and the libraries that these two are linked with. */
async function buildImage(folder: string): Promise<void> {
  await mkdir(folder)
  const staged = await stage()
  const programs = ['node', 'nats-server'].map((name) => join(staged, name))
  const libraries = (await Promise.all(programs.map(librariesOf))).flat()
  for (const path of [...programs, join(staged, 'config.mjs')])
    await copyFile(path, join(folder, basename(path)))
  for (const path of new Set(libraries)) {
    await mkdir(join(folder, dirname(path)), { recursive: true })
    await copyFile(path, join(folder, path))
  }
  const settings = 'jetstream { store_dir: "/store", sync_interval: always }\n'
  await writeFile(join(folder, 'nats.conf'), settings)
  await writeFile(join(folder, 'Dockerfile'), 'FROM scratch\nCOPY . /\n')
  const image = await GenericContainer.fromDockerfile(folder).build(IMAGE, { deleteOnExit: false })
  assert.ok(image !== undefined)
}

/** Absolute paths of what the dynamic linker would load; nothing for a static program. */
async function librariesOf(program: string): Promise<string[]> {
  const output = await mustRun(['sh', '-c', `ldd ${program} 2>/dev/null || true`])
  return [...output.matchAll(/(\/\S+) \(0x/g)].map((match) => match[1] ?? '')
}
