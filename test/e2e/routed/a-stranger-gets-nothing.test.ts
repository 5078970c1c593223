import assert from 'node:assert/strict'
import { join } from 'node:path'
import test from 'node:test'
import { readIdentity } from '@weft/domain'
import { pemOfKey } from '@weft/identity'
import { type Lab, PORTS } from '@weft/lab'
import { testDomain } from '@weft/testing'
import { ROOT } from '../../check/repository.ts'
import { ping } from '../../support/probe.ts'
import { BLUE, establish, routedLab } from '../support/blue.ts'
import type { Knocked, KnockPlan, Shown } from '../support/knock.ts'
import { at } from '../support/lab.ts'
import { identityOf, PrivateFolder } from '../support/members.ts'
import { makeStranger } from '../support/stranger.ts'

const KNOCK = join(ROOT, 'test/e2e/support/knock.ts')
const REPLICAS = 3
const [web, , api] = BLUE
const UNIMPLEMENTED = 'grpc 12'
const UNAUTHENTICATED = 'grpc 16'

/** Things of every kind that a server has to offer; each rpc of each service is in the matrix of libs/access. */
const METHODS = [
  '/weftline.config.v1.ConfigService/GetServerInfo',
  '/weftline.config.v1.ConfigService/ListHosts',
  '/weftline.config.v1.ConfigService/CreateToken',
  '/weftline.config.v1.ConfigService/RevokeHost',
  '/weftline.config.v1.CertificateService/Renew',
  '/weftline.config.v1.EnrolmentService/Join',
  '/weftline.location.v1.LocationService/Resolve',
  '/weftline.location.v1.LocationService/WatchLocations',
  '/weftline.routing.v1.RoutingService/Decide',
  '/grpc.health.v1.Health/Check',
  '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo',
  '/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo',
]

test('who does not belong is let in nowhere, and all servers go on', async () => {
  const lab = await routedLab()
  await establish(lab, web, [api])
  await using stranger = await makeStranger(lab)
  const before = running(lab)
  const { services, enrolment, nats } = listenersOf(lab)
  const shown = whatStrangersShow()

  const knocked = await knock(stranger, {
    shown,
    grpc: [...services, ...enrolment],
    methods: METHODS,
    nats: [nats],
    nonsense: [...services, ...enrolment, nats],
  })

  const servers = services.length + enrolment.length
  assert.equal(knocked.length, shown.length * (servers * METHODS.length + 1) + servers + 1)
  for (const one of knocked) {
    // Whoever enrols has no certificate: that listener says what is wrong, and that it has nothing else to offer.
    const isOpen = enrolment.includes(one.at) && hasTls13(one)
    const refusals = isOpen ? [UNAUTHENTICATED, UNIMPLEMENTED] : [UNAUTHENTICATED]
    if (one.answer.startsWith('grpc')) {
      assert.ok(hasTls13(one) && refusals.includes(one.answer), JSON.stringify(one))
    }
    assert.notEqual(one.answer, 'let in', JSON.stringify(one))
    assert.notEqual(one.answer, 'data', JSON.stringify(one))
    assert.equal(one.bytes, 0, `${JSON.stringify(one)}: something was told to a stranger`)
  }
  assert.deepEqual(running(lab), before, 'a process was started anew')
  assert.equal((await lab.client.serverInfo()).busConnected, true)
  const { received } = await ping(at(lab, web.name), api.ip4, { 'timeout-ms': 5000 })
  assert.equal(received, 1)
})

test('a certificate of the domain is no login of the bus, and what refuses strangers lets members in', async () => {
  const lab = await routedLab()
  await using stranger = await makeStranger(lab)
  const { services, nats } = listenersOf(lab)
  const [config = ''] = services
  const host = await shownBy(identityOf(lab, 'gamma'), 'a host')
  const owner = await shownBy(lab.context.identity ?? '', 'the owner')

  const knocked = await knock(stranger, {
    shown: [host, owner],
    grpc: [config],
    methods: METHODS.slice(0, 1),
    nats: [nats],
    nonsense: [],
  })

  assert.deepEqual(
    knocked.map(({ at: address, shown, answer }) => [address, shown, answer]),
    [host, owner].flatMap(({ name }) => [
      [config, name, 'data'],
      [nats, name, 'Authorization Violation'],
    ]),
  )
})

test('nothing listens on the management network but what has to', async () => {
  const lab = await routedLab()
  const { services, enrolment, nats } = listenersOf(lab)
  const metrics = lab.processes().flatMap(({ metricsListen }) => metricsListen ?? [])
  const { controlAddress, hosts } = lab.plan
  const known = new Set([...services, ...enrolment, nats, ...metrics])
  for (const [place, address] of [
    ['control', controlAddress] as const,
    ...hosts.map(({ name, managementAddress }) => [name, managementAddress] as const),
  ]) {
    const table = await at(lab, place).mustRun(['ss', '-H', '--tcp', '--listening', '--numeric'])
    const listening = table
      .trimEnd()
      .split('\n')
      .map((row) => row.trim().split(/\s+/)[3] ?? '')
      .filter((local) => local !== '' && !local.startsWith('127.'))
    for (const local of listening) {
      assert.ok(local.startsWith(`${address}:`), `${place} listens at ${local}`)
      assert.ok(known.has(local), `${place} listens at ${local}`)
    }
  }
})

/** A domain of the same name, with nothing else in common. */
function whatStrangersShow(): Shown[] {
  const other = testDomain({ domain: 'lab.weft' })
  const service = other.credentials({ kind: 'service', id: 'config' }).tls
  const user = other.credentials({ kind: 'user', id: 1 }).tls
  return [
    { name: 'no TLS', isPlain: true },
    { name: 'no certificate' },
    { name: 'a service of another authority', chainPem: service.chainPem, keyPem: service.keyPem },
    { name: 'an owner of another authority', chainPem: user.chainPem, keyPem: user.keyPem },
    { name: 'TLS 1.2', tlsVersion: 'TLSv1.2' },
  ]
}

function hasTls13({ shown }: Knocked): boolean {
  return shown !== 'no TLS' && shown !== 'TLS 1.2' && shown !== 'nonsense'
}

/** What a member shows, but for its login of the bus. */
async function shownBy(folder: string, name: string): Promise<Shown> {
  const stored = await readIdentity(folder)
  assert.ok(stored !== undefined, folder)
  const { certificates, intermediatesPem, keys } = stored
  const chainPem = (certificates[0]?.pem ?? '') + intermediatesPem
  return { name, chainPem, keyPem: pemOfKey(keys.identity) }
}

interface Listeners {
  readonly services: readonly string[]
  readonly enrolment: readonly string[]
  readonly nats: string
}

function listenersOf(lab: Lab): Listeners {
  const address = (port: number): string => `${lab.plan.controlAddress}:${port}`
  const replicas = (port: number): string[] =>
    Array.from({ length: REPLICAS }, (_, index) => address(port + index))
  return {
    services: [...replicas(PORTS.config), address(PORTS.resolver), address(PORTS.policy)],
    enrolment: replicas(PORTS.enrolment),
    nats: address(PORTS.nats),
  }
}

function running(lab: Lab): readonly (readonly [name: string, pid: number | undefined])[] {
  return lab.processes().map(({ name, ref }) => [name, ref?.pid] as const)
}

async function knock(
  place: Awaited<ReturnType<typeof makeStranger>>,
  plan: KnockPlan,
): Promise<Knocked[]> {
  using folder = new PrivateFolder()
  const file = folder.write('plan.json', JSON.stringify(plan))
  const lines = await place.mustRun([process.execPath, KNOCK, file], 60_000)
  return lines
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Knocked)
}
