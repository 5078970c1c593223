import assert from 'node:assert/strict'
import { copyFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir, userInfo } from 'node:os'
import { basename, dirname, join } from 'node:path'
import test from 'node:test'
import { createDomain } from '@weft/domain/create'
import { NODE_FLAGS, stage } from '@weft/lab'
import { parsePrefix } from '@weft/net'
import { connect } from '@weft/sdk'
import { GenericContainer, Network, type StartedTestContainer, Wait } from 'testcontainers'
import { mustRun } from '../support/place.ts'
import { findEngine } from './engine.ts'

const engine = await findEngine()
const reason = typeof engine === 'string' ? engine : false
const IMAGE = 'weftline-test/services:1'
/** Anybody but root: the image has no users of its own. Whoever is not root can give folders to nobody else. */
const USER = userInfo().uid === 0 ? '65534:65534' : `${userInfo().uid}:${userInfo().gid}`
const NATS_URL = 'tls://nats:4222'
const CONFIG_LISTEN = 'unix:/sockets/grpc.sock'

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
  const sockets = await giveFolder(join(folder, 'sockets'))
  const audit = await giveFolder(join(folder, 'audit'))
  const domain = await makeDomain(join(folder, 'domain'))
  await buildImage(join(folder, 'image'))

  const network = await new Network().start()
  made.defer(async () => {
    await network.stop()
  })
  const startNats = (): Promise<StartedTestContainer> =>
    new GenericContainer(IMAGE)
      .withCommand(['/nats-server', '--config', 'nats.conf'])
      .withWorkingDir('/nats')
      .withUser(USER)
      .withNetwork(network)
      .withNetworkAliases('nats')
      .withBindMounts([{ source: join(domain, 'nats'), target: '/nats' }])
      .withWaitStrategy(Wait.forLogMessage('Server is ready'))
      .start()
  const startConfig = (): Promise<StartedTestContainer> =>
    new GenericContainer(IMAGE)
      .withCommand(['/node', ...NODE_FLAGS, '/config.mjs'])
      .withUser(USER)
      .withNetwork(network)
      .withEnvironment({
        NATS_URL,
        WEFT_CONFIG_LISTEN: CONFIG_LISTEN,
        WEFT_CONFIG_AUTHORITY: '/authority',
        WEFT_CONFIG_AUDIT_FOLDER: '/audit',
        WEFT_IDENTITY_DIR: '/identity',
        WEFT_REPLICA_ID: 'one',
      })
      .withBindMounts([
        { source: join(domain, 'authority'), target: '/authority' },
        { source: join(domain, 'services/config'), target: '/identity' },
        { source: sockets, target: '/sockets' },
        { source: audit, target: '/audit' },
      ])
      .withWaitStrategy(Wait.forLogMessage(/"ready"/))
      .start()

  const ref = { tenant: 'acme', network: 'blue', endpoint: 'web' }
  const before = await use(async (weft) => {
    const prefix = parsePrefix('10.20.0.0/24')
    assert.ok(prefix !== undefined)
    await weft.tenants.create({ name: ref.tenant })
    await weft.networks.create({ ...ref, prefixes: [prefix] })
    return await weft.endpoints.create(ref)
  })
  const after = await use((weft) => weft.endpoints.get(ref))
  assert.deepEqual(after, before)

  /** Starts both containers, calls config and stops them. */
  async function use<T>(call: (weft: ReturnType<typeof connect>) => Promise<T>): Promise<T> {
    await using running = new AsyncDisposableStack()
    const nats = await startNats()
    running.defer(async () => void (await nats.stop()))
    const config = await startConfig()
    running.defer(async () => void (await config.stop()))
    await using weft = connect({
      context: {
        control: `unix:${join(sockets, 'grpc.sock')}`,
        identity: join(domain, 'owner'),
        tenant: ref.tenant,
        hosts: {},
        localHost: undefined,
      },
    })
    return await call(weft)
  }
})

/** A folder of the containers' user. */
async function giveFolder(path: string): Promise<string> {
  await mkdir(path)
  await giveAll(path)
  return path
}

/** Makes a domain, whose parts that go into containers belong to the containers' user. */
async function makeDomain(out: string): Promise<string> {
  const nowhere = ['127.0.0.1:1']
  const { folder } = await createDomain({
    name: 'test.weft',
    places: {
      config: [CONFIG_LISTEN],
      enrolment: nowhere,
      locationResolver: nowhere,
      routingPolicy: nowhere,
      bus: [NATS_URL],
    },
    out,
    now: new Date(),
  })
  for (const part of ['nats', 'authority', 'services']) await giveAll(join(folder, part))
  return folder
}

async function giveAll(path: string): Promise<void> {
  await mustRun(['chown', '-R', USER, path])
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
  await writeFile(join(folder, 'Dockerfile'), 'FROM scratch\nCOPY . /\n')
  const image = await GenericContainer.fromDockerfile(folder).build(IMAGE, { deleteOnExit: false })
  assert.ok(image !== undefined)
}

/** Absolute paths of what the dynamic linker would load; nothing for a static program. */
async function librariesOf(program: string): Promise<string[]> {
  const output = await mustRun(['sh', '-c', `ldd ${program} 2>/dev/null || true`])
  return [...output.matchAll(/(\/\S+) \(0x/g)].map((match) => match[1] ?? '')
}
