import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Bus, events as busEvents, connectBus, memoryBus } from '@weft/bus'
import { forAccounts, openBusSeed, pushAccount } from '@weft/bus/operator'
import { type Credentials, openStatement } from '@weft/identity'
import { VOID_KEY_LIFE_MS } from '@weft/identity/authority'
import { Host, RevokedKey } from '@weft/proto/weftline/config/v1/records.ts'
import { Revocations, Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import { createLogger } from '@weft/telemetry'
import { eventually, startDomainNats } from '@weft/testing'
import { busAdmin } from '../src/bus-admin.ts'
import { limits } from '../src/domain/limits.ts'
import { Events } from '../src/events.ts'
import { Replica } from '../src/replica.ts'
import { Revoker, TOLD_MAX } from '../src/revocations.ts'
import { site } from './site.ts'

const HOUR_MS = 3_600_000

test('the record of a void key is kept for as long as those who hear of the key remember it', () => {
  assert.equal(limits.voidKeyLifeMs, VOID_KEY_LIFE_MS)
})

test('keys that hosts replaced push nobody out of what is told who was revoked before', async () => {
  await using bus = memoryBus().connect()
  const replica = new Replica()
  const nowMs = Date.now()
  const [lost, removed, living] = [1, 2, 3]
  putHost(replica, lost, nowMs - 3 * HOUR_MS)
  putVoidKey(replica, removed, removed, nowMs - 2 * HOUR_MS)
  putHost(replica, living)
  for (let number = 0; number < TOLD_MAX; number++) {
    putVoidKey(replica, 1_000 + number, living, nowMs - HOUR_MS)
  }
  const told = listen(bus)
  const refused: (readonly string[])[] = []

  await using _ = revoker(bus, replica, refused)

  await eventually(() => told.length > 0 && refused.length > 0)
  const [{ keys } = { keys: [] }] = told
  assert.equal(keys.length, TOLD_MAX)
  assert.deepEqual(
    keys.slice(0, 2).map(({ identityKey }) => identityKey),
    [keyOf(removed), keyOf(lost)],
  )
  assert.deepEqual(refused[0]?.slice(0, 2), [busKeyOf(removed), busKeyOf(lost)])
})

test('of a revoked host every key is told at once, also one that it had just replaced', async () => {
  await using bus = memoryBus().connect()
  const replica = new Replica()
  const told = listen(bus)
  const refused: (readonly string[])[] = []
  await using _ = revoker(bus, replica, refused)
  const nowMs = Date.now()
  const [host, former] = [1, 2]
  putHost(replica, host)
  putVoidKey(replica, former, host, nowMs + HOUR_MS)

  putHost(replica, host, nowMs)

  await eventually(() => told.some(({ keys }) => keys.length > 0))
  const named = told.at(-1)?.keys.map(({ identityKey, hostId }) => [identityKey, hostId])
  assert.deepEqual(
    new Set(named?.map(([key]) => String(key))),
    new Set([String(keyOf(host)), String(keyOf(former))]),
  )
  assert.deepEqual(
    named?.map(([, hostId]) => hostId),
    [host, host],
  )
  await eventually(() => refused.at(-1)?.length === 2)
})

test('the bus is told whom it has to refuse also after a revoked host was removed', async () => {
  await using bus = memoryBus().connect()
  const replica = new Replica()
  const refused: (readonly string[])[] = []
  await using _ = revoker(bus, replica, refused)
  const nowMs = Date.now()
  putHost(replica, 1, nowMs)
  // Its removal puts the key among the void ones while the host is still there: it is void twice then.
  putVoidKey(replica, 1, 1, nowMs)
  await eventually(() => refused.length > 0)
  removeHost(replica, 1)

  putHost(replica, 2, nowMs)

  await eventually(() => refused.at(-1)?.includes(busKeyOf(2)) === true)
  assert.deepEqual(new Set(refused.at(-1)), new Set([busKeyOf(1), busKeyOf(2)]))
})

test('a bus that was away is told again whom it has to refuse', async () => {
  const hub = memoryBus()
  await using bus = hub.connect()
  const replica = new Replica()
  putHost(replica, 1, Date.now() - HOUR_MS)
  const refused: (readonly string[])[] = []
  await using _ = revoker(bus, replica, refused)
  await eventually(() => refused.length === 1)

  hub.setReachable(false)
  hub.setReachable(true)

  await eventually(() => refused.length === 2)
  assert.deepEqual(refused, [[busKeyOf(1)], [busKeyOf(1)]])
})

test('a server that is back with the account of long ago refuses again who was revoked', async () => {
  await using nats = await startDomainNats()
  const { operator } = nats
  const host = nats.credentials({ kind: 'host', id: 7 })
  await using system = await connect(nats.url, nats.credentials({ kind: 'system' }))
  const admin = busAdmin({
    system,
    accounts: forAccounts((name) => operator.accounts[name].publicKey),
    signingSeed: operator.signing.seed,
  })
  const user = openBusSeed('user', host.bus?.seed ?? new Uint8Array()).publicKey
  await admin.refuse([user])
  await assert.rejects(connect(nats.url, host), { code: 'unauthenticated' })
  await pushAccount(system, operator.accountJwts.hosts)
  await (await connect(nats.url, host))[Symbol.asyncDispose]()

  await admin.refuse([user])

  await assert.rejects(connect(nats.url, host), { code: 'unauthenticated' })
})

function connect(url: string, credentials: Credentials): Promise<Bus> {
  const log = createLogger({ service: 'test', level: 'silent' })
  return connectBus({ servers: [url], credentials, name: 'test', log, connectTimeoutMs: 2_000 })
}

function revoker(bus: Bus, replica: Replica, refused: (readonly string[])[]): Revoker {
  return new Revoker({
    bus,
    busAdmin: {
      refuse: async (users) => {
        refused.push(users)
      },
    },
    replica,
    replicaId: 'replica-1',
    directoryKey: site.domain.directoryKey,
    lastKnown: { write: async () => undefined },
    isLeading: () => true,
    events: new Events(createLogger({ service: 'config', level: 'silent' })),
  })
}

function putHost(replica: Replica, id: number, revokedAtMs = 0): void {
  const revokedAtUnixMs = BigInt(revokedAtMs)
  const keys = { identityKey: keyOf(id), busKey: busKeyOf(id) }
  const record = Host.create({ id, name: `host-${id}`, ...keys, revokedAtUnixMs })
  replica.apply({ kind: 'host', id, record }, replica.database.revision + 1n)
}

function removeHost(replica: Replica, id: number): void {
  replica.apply({ kind: 'host', id, record: undefined }, replica.database.revision + 1n)
}

/** A key that a host had before; its number is also the record's. */
function putVoidKey(replica: Replica, id: number, hostId: number, atMs: number): void {
  const keys = { identityKey: keyOf(id), busKey: busKeyOf(id) }
  const record = RevokedKey.create({ id, hostId, ...keys, revokedAtUnixMs: BigInt(atMs) })
  replica.apply({ kind: 'revokedKey', id, record }, replica.database.revision + 1n)
}

function keyOf(number: number): Buffer {
  const key = Buffer.alloc(32, 'key')
  key.writeUInt32BE(number)
  return key
}

function busKeyOf(number: number): string {
  return `U${String(number).padStart(55, 'A')}`
}

/** Every statement of revocations from now on. */
function listen(bus: Bus): Revocations[] {
  const told: Revocations[] = []
  bus.subscribe(busEvents.keyRevoked.pattern(), Signed, (statement) => {
    told.push(openStatement('revocations', statement, Revocations, site.config.directoryKey))
  })
  return told
}
