import assert from 'node:assert/strict'
import { test } from 'node:test'
import { connect as connectTls } from 'node:tls'
import type { TlsMaterial } from '@weft/identity'
import { createLogger } from '@weft/telemetry'
import { eventually, startDomainCluster, type TestDomainNats } from '@weft/testing'
import type { NatsBus } from '../src/connect.ts'
import { type Bus, buckets, connectBus, events, hostRowKey, keepMirror } from '../src/index.ts'
import type { BusPrincipal } from '../src/policy.ts'
import { jetStreamApi } from '../src/server-subjects.ts'
import { collect } from './conformance.ts'
import { text } from './text-codec.ts'

const log = createLogger({ service: 'test', level: 'silent' })

test('of three servers the leader is killed: writes, watches, readers, hosts and requests go on', async () => {
  await using stack = new AsyncDisposableStack()
  const servers = await startDomainCluster(3)
  for (const server of servers) stack.use(server)
  const config = stack.use(
    await connect(servers, { kind: 'service', name: 'config', replica: '1' }),
  )
  const hostsAdmin = stack.use(await connect(servers, { kind: 'hosts-admin' }))
  const resolver = stack.use(
    await connect(servers, { kind: 'service', name: 'location-resolver', replica: '1' }),
  )
  const host = stack.use(await connect(servers, { kind: 'host', id: 7 }))
  const records = await eventually(() => config.openBucket(buckets.config, text))
  const rows = await eventually(() => config.openBucket(buckets.hosts, text))
  stack.use(keepMirror({ control: config, hostsAdmin, shape: buckets.hosts, log }))
  const texts = { request: text, reply: text }
  const pattern = events.endpointReported.pattern()
  stack.use(resolver.respond(pattern, texts, (message) => `took ${message}`))
  await using watch = collect(
    await host.openBucket(buckets.hosts, text, { access: 'watch' }),
    'host.7',
  )
  await using reading = collect(
    await resolver.openBucket(buckets.config, text, { access: 'remote' }),
    '',
  )
  await records.put('host.7', 'before')
  await rows.put(hostRowKey(7, 'self', 7), 'before')
  await eventually(() => watch.last('host.7.self.7'))
  await eventually(() => reading.last('host.7'))

  const leader = await leaderOf(config, servers)
  await leader.kill()

  const { revision } = await eventually(() => records.put('host.7', 'after'))
  await eventually(() =>
    reading.events.some((event) => 'key' in event && event.revision === revision),
  )
  await eventually(() => rows.put(hostRowKey(7, 'peer', 1), 'after'))
  await eventually(() => watch.last('host.7.peer.1'))
  await eventually(() => host.request(events.endpointReported.subject(7, 1), texts, 'a report'))
  assert.equal((await records.get('host.7'))?.value, 'after')
})

test('only who has the key of the servers opens a route between them', async () => {
  await using stack = new AsyncDisposableStack()
  const servers = await startDomainCluster(2)
  for (const server of servers) stack.use(server)
  const [{ routeAddress, domain, server } = assert.fail()] = servers
  assert.equal(await opensRoute(routeAddress, server.tls), true)
  for (const member of [
    { kind: 'host', id: 7 },
    { kind: 'service', id: 'config' },
    { kind: 'service', id: 'nats' },
  ] as const) {
    const { tls } = domain.credentials(member)
    assert.equal(await opensRoute(routeAddress, tls), false, `${member.kind} ${member.id}`)
  }
})

/** Whether a server answers who shows this on its port for routes, where TLS comes first. */
async function opensRoute(address: string, tls: TlsMaterial): Promise<boolean> {
  const [host = '', port] = address.split(':')
  const socket = connectTls({
    host,
    port: Number(port),
    cert: tls.chainPem,
    key: tls.keyPem,
    ca: tls.rootsPem,
    checkServerIdentity: () => undefined,
  })
  const { promise, resolve } = Promise.withResolvers<boolean>()
  socket.on('error', () => resolve(false))
  socket.on('close', () => resolve(false))
  socket.on('data', () => resolve(true))
  socket.write('CONNECT {"verbose":false,"pedantic":false,"tls_required":true}\r\nPING\r\n')
  const isOpen = await promise
  socket.destroy()
  return isOpen
}

async function leaderOf(bus: Bus, servers: readonly TestDomainNats[]): Promise<TestDomainNats> {
  const { connection } = (bus as NatsBus).host
  const reply = await connection.request(jetStreamApi.streamInfo('config'))
  const { leader } = reply.json<{ cluster: { leader: string } }>().cluster
  const found = servers.find(({ serverName }) => serverName === leader)
  assert(found)
  return found
}

function connect(servers: readonly TestDomainNats[], principal: BusPrincipal): Promise<Bus> {
  const [first] = servers
  assert(first)
  const credentials = first.credentials(principal)
  const urls = servers.map(({ url }) => url)
  return connectBus({ servers: urls, credentials, name: principal.kind, log, replicas: 3 })
}
