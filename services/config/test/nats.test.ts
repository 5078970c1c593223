import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join as joinPath } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { buckets, connectBus, hostRowKey, hostRowPrefix } from '@weft/bus'
import { ExitCode, TokenRefusedError, WeftError } from '@weft/errors'
import type { BusLogin } from '@weft/identity'
import { ListEndpointsRequest } from '@weft/proto/weftline/config/v1/config_service.ts'
import type { Endpoint, Host } from '@weft/proto/weftline/config/v1/records.ts'
import { SignedHostRow } from '@weft/proto/weftline/config/v1/rows.ts'
import { createLogger } from '@weft/telemetry'
import { eventually, startDomainNats, temporaryFolder } from '@weft/testing'
import { newHostKeys } from './domain.ts'
import { type ReplicaProcess, startProcess } from './process.ts'
import {
  type ConfigClient,
  furnish,
  join,
  locate,
  openRows,
  rowsOf,
  Subscriber,
  site,
} from './site.ts'

const log = createLogger({ service: 'test', level: 'silent' })

test('200 creates and assigns at once against three replicas, one of them killed: no address twice, nothing acknowledged is lost', async (context) => {
  await using nats = await startDomainNats({ domain: site.domain, operator: site.operator })
  await using opened = new AsyncDisposableStack()
  const replicas = await startThree(nats.url, opened)
  const subscriber = await furnish(replicas[0])
  const alpha = await subscriber.host('alpha')
  const beta = await subscriber.host('beta')
  const startedAt = performance.now()

  const attaching = Array.from({ length: 200 }, (_, index) =>
    attach(replicas, index, index % 2 ? alpha : beta),
  )
  await Promise.any(attaching)
  await replicas[1].kill()
  const acknowledged = await Promise.all(attaching)

  report(context, '200 creates and assigns', startedAt)
  const [, , survivor] = replicas
  const stored = new Map<number, Endpoint>()
  for (const endpoint of await allEndpoints(survivor.client)) stored.set(endpoint.id, endpoint)
  assert.equal(stored.size, 200)
  const addresses = [...stored.values()].flatMap((endpoint) =>
    endpoint.addresses.map((bytes) => bytes.toString('hex')),
  )
  assert.equal(new Set(addresses).size, 400)
  for (const endpoint of acknowledged) {
    assert.deepEqual(stored.get(endpoint.id)?.addresses, endpoint.addresses)
    assert.equal(stored.get(endpoint.id)?.hostId, endpoint.hostId)
  }
})

test('when the replica that writes the rows is killed, another one goes on', async (context) => {
  await using nats = await startDomainNats({ domain: site.domain, operator: site.operator })
  await using opened = new AsyncDisposableStack()
  const replicas = await startThree(nats.url, opened)
  await using bus = await connectBus({
    servers: [nats.url],
    credentials: nats.wideCredentials(),
    name: 'test',
    log,
  })
  const rows = await openRows(bus)
  const subscriber = await furnish(replicas[0])
  const alpha = await subscriber.host('alpha')
  await eventually(async () => (await rowsOf(rows, alpha.id)).has(`self.${alpha.id}`))
  const leader = await eventually(async () => {
    for (const replica of replicas) {
      if ((await replica.client.getServerInfo({})).isController) return replica
    }
    return undefined
  })
  const other = replicas.find((replica) => replica !== leader)
  assert(other)

  await leader.kill()

  const startedAt = performance.now()
  const beta = await new Subscriber(other).host('beta')
  await eventually(async () => (await rowsOf(rows, beta.id)).has(`self.${beta.id}`))
  report(context, 'rows written by another replica', startedAt)
})

test('a nats-server killed and started again under writes loses nothing, and all rows come back', async (context) => {
  await using nats = await startDomainNats({ domain: site.domain, operator: site.operator })
  await using opened = new AsyncDisposableStack()
  const replicas = await startThree(nats.url, opened)
  await using bus = await connectBus({
    servers: [nats.url],
    credentials: nats.wideCredentials(),
    name: 'test',
    log,
  })
  const subscriber = await furnish(replicas[0])
  const alpha = await subscriber.host('alpha')
  const beta = await subscriber.host('beta')
  const first = await attach(replicas, 1_000, alpha)
  await attach(replicas, 1_001, beta)
  await using locations = await connectBus({
    servers: [nats.url],
    credentials: nats.wideCredentials('location'),
    name: 'test',
    log,
  })
  await locate(locations, first, alpha)

  const attaching = Array.from({ length: 60 }, (_, index) => attach(replicas, index, alpha))
  await Promise.any(attaching)
  await nats.kill()
  await delay(500)
  await nats.start()
  const startedAt = performance.now()
  const acknowledged = await Promise.all(attaching)

  report(context, 'all writes acknowledged after the restart', startedAt)
  const stored = await allEndpoints(replicas[2].client)
  assert.equal(stored.length, 62)
  const ids = new Set(stored.map(({ id }) => id))
  for (const { id } of acknowledged) assert(ids.has(id))
  assert.equal(new Set(stored.map(({ addresses }) => addresses[0]?.toString('hex'))).size, 62)
  await eventually(async () => {
    const found = await rowsOf(await openRows(bus), beta.id)
    const row = found.get(`endpoint.${first.id}`)?.row
    return (
      found.has(`self.${beta.id}`) &&
      row?.$case === 'endpoint' &&
      row.value.locationHostId === alpha.id
    )
  })
  report(context, 'all rows written again after the restart', startedAt)
})

test('of 100 that join with one token at three replicas exactly one wins, also if one is killed', async () => {
  await using nats = await startDomainNats({ domain: site.domain, operator: site.operator })
  await using opened = new AsyncDisposableStack()
  const replicas = await startThree(nats.url, opened)
  const token = await new Subscriber(replicas[0]).token()

  const joining = Array.from({ length: 100 }, async (_, index) => {
    const keys = newHostKeys()
    for (let attempt = 0; ; attempt++) {
      const replica = replicas[(index + attempt) % 3] ?? replicas[0]
      try {
        return (await join(replica, token, keys, `host-${index}`)).hostId
      } catch (error) {
        if (!mayBeRepeated(error) || attempt > 30) throw error
      }
    }
  })
  await Promise.any(joining)
  await replicas[1].kill()
  const outcomes = await Promise.allSettled(joining)

  assert.equal(outcomes.filter(({ status }) => status === 'fulfilled').length, 1)
  for (const outcome of outcomes) {
    if (outcome.status === 'fulfilled') continue
    assert(outcome.reason instanceof TokenRefusedError, String(outcome.reason))
    assert.equal(outcome.reason.reason, 'used')
  }
  const { hosts } = await replicas[2].client.listHosts({ page: undefined })
  assert.equal(hosts.length, 1)
})

test('a host is on the bus by what it got when it joined, reads its rows, and is cut off when revoked', async () => {
  await using nats = await startDomainNats({ domain: site.domain, operator: site.operator })
  await using replica = await startProcess(nats.url, 'replica-1')
  const keys = newHostKeys()
  const credentials = await join(replica, await new Subscriber(replica).token(), keys, 'alpha')
  const member = { kind: 'host', id: credentials.hostId } as const
  const login: BusLogin = {
    jwt: credentials.busJwt,
    seed: keys.busSeed,
    inboxPrefix: `_INBOX.host.${credentials.hostId}`,
  }
  const own = site.domain.credentials(member, { key: keys.identity, bus: login })
  const connectHost = () =>
    connectBus({
      servers: [nats.url],
      credentials: own,
      name: 'alpha',
      log,
      connectTimeoutMs: 3_000,
    })
  await using bus = await connectHost()
  const rows = await bus.openBucket(buckets.hosts, SignedHostRow, { access: 'watch' })
  const stop = new AbortController()
  reading: for await (const batch of rows.watch(hostRowPrefix(member.id), stop)) {
    for (const event of batch) {
      if (event.kind === 'put' && event.key === hostRowKey(member.id, 'self', member.id)) {
        break reading
      }
    }
  }
  stop.abort()

  await replica.client.revokeHost({ idempotencyKey: randomUUID(), name: 'alpha', reason: 'lost' })

  await eventually(() => bus.state !== 'connected')
  await assert.rejects(connectHost())
})

test('buf curl lists and calls the service by reflection', async () => {
  await using nats = await startDomainNats({ domain: site.domain, operator: site.operator })
  await using replica = await startProcess(nats.url, 'replica-1')
  await using folder = await temporaryFolder()
  const cert = joinPath(folder.path, 'owner.pem')
  const key = joinPath(folder.path, 'owner.key')
  await writeFile(cert, site.owner.tls.chainPem)
  await writeFile(key, site.owner.tls.keyPem, { mode: 0o600 })
  await furnish(replica)
  const buf = fileURLToPath(new URL('../../../node_modules/.bin/buf', import.meta.url))
  const url = `https://${replica.address}/weftline.config.v1.ConfigService/ListNetworks`

  const { stdout } = await promisify(execFile)(buf, [
    'curl',
    '--protocol=grpc',
    ...['--cert', cert, '--key', key],
    // It looks for a DNS name; that of a service is its URI.
    '--insecure',
    url,
  ])

  const { networks } = JSON.parse(stdout) as { networks: { name: string }[] }
  assert.deepEqual(
    networks.map(({ name }) => name),
    ['blue'],
  )
})

type Three = readonly [ReplicaProcess, ReplicaProcess, ReplicaProcess]

async function startThree(natsUrl: string, opened: AsyncDisposableStack): Promise<Three> {
  const start = async (replicaId: string) => opened.use(await startProcess(natsUrl, replicaId))
  return Promise.all([start('replica-1'), start('replica-2'), start('replica-3')])
}

/** Creates an endpoint and assigns it, as a caller does that knows all replicas: one that does not answer is left for the next, with the same keys. */
async function attach(replicas: Three, index: number, host: Host): Promise<Endpoint> {
  const createKey = randomUUID()
  const assignKey = randomUUID()
  for (let attempt = 0; ; attempt++) {
    const replica = replicas[(index + attempt) % 3] ?? replicas[0]
    const subscriber = new Subscriber(replica)
    try {
      const endpoint = await subscriber.endpoint('blue', `e${index}`, createKey)
      return await subscriber.assign(endpoint, host, assignKey)
    } catch (error) {
      if (!mayBeRepeated(error) || attempt > 30) throw error
    }
  }
}

function mayBeRepeated(error: unknown): boolean {
  return error instanceof WeftError && error.exitCode === ExitCode.Unavailable
}

async function allEndpoints(client: ConfigClient): Promise<Endpoint[]> {
  const found: Endpoint[] = []
  let token = ''
  do {
    const page = { size: 1000, token }
    const { endpoints, nextToken } = await client.listEndpoints(
      ListEndpointsRequest.create({ page }),
    )
    found.push(...endpoints)
    token = nextToken
  } while (token !== '')
  return found
}

function report(context: TestContext, what: string, startedAt: number): void {
  context.diagnostic(`${what}: ${Math.round(performance.now() - startedAt)} ms`)
}
