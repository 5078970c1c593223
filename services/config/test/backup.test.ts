import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { cp, readFile, rm, writeFile } from 'node:fs/promises'
import { join as joinPath } from 'node:path'
import { test } from 'node:test'
import { type Bus, connectBus, events } from '@weft/bus'
import {
  asWeftError,
  BrokenInputError,
  CertificateRefusedError,
  HostRevokedError,
  TokenRefusedError,
  UnavailableError,
} from '@weft/errors'
import { openStatement, signStatement } from '@weft/identity'
import { RenewalStatement } from '@weft/proto/weftline/config/v1/enrolment.ts'
import type { Host } from '@weft/proto/weftline/config/v1/records.ts'
import { Revocations, Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import { createLogger } from '@weft/telemetry'
import { eventually, startDomainNats, type TestDomainNats, temporaryFolder } from '@weft/testing'
import { newHostKeys } from './domain.ts'
import {
  connectAs,
  connectToEnrol,
  credentialsOf,
  furnish,
  join,
  openRows,
  rowsOf,
  Subscriber,
  site,
  startReplica,
} from './site.ts'

/** Each try may wait as long as a call may take, while watches and the audit log find their streams again. */
const A_MINUTE_MS = 60_000

const log = createLogger({ service: 'test', level: 'silent' })

test('a store from a backup is noticed, given up only on purpose, and then nothing goes back', async () => {
  await using nats = await startDomainNats({ domain: site.domain, operator: site.operator })
  await using folder = await temporaryFolder()
  await using bus = await connect(nats)
  const auditFolder = joinPath(folder.path, 'audit')
  await using before = await startReplica(bus, { auditFolder })
  const told = listen(bus)
  const subscriber = await furnish(before)
  const alpha = await subscriber.host('alpha')
  const token = await subscriber.token()
  const backup = joinPath(folder.path, 'backup')
  const backedUpAt = await revisionOf(before)
  await restarted(nats, bus, () => cp(nats.storeFolder, backup, { recursive: true }))
  // What the backup does not know: a host by the token, a network, and that alpha is revoked.
  const betaKeys = newHostKeys()
  const beta = await eventually(() => join(before, token, betaKeys, 'beta'))
  await subscriber.network('red', '10.30.0.0/16')
  await before.client.revokeHost({ idempotencyKey: randomUUID(), name: 'alpha', reason: 'stolen' })
  await eventually(() => told.some(({ keys }) => keys.some(({ hostId }) => hostId === alpha.id)))
  const lastBefore = await revisionOf(before)
  const newestRow = await newestRevisionOf(bus, beta.hostId)
  const numberBefore = told.at(-1)?.number ?? 0n

  await restarted(nats, bus, async () => {
    await rm(nats.storeFolder, { recursive: true })
    await cp(backup, nats.storeFolder, { recursive: true })
  })

  // Whoever ran meanwhile writes nothing.
  await eventually(() => isLossTold(subscriber), A_MINUTE_MS)
  await before[Symbol.asyncDispose]()
  for (const acceptLossAfter of [undefined, Number(backedUpAt) - 1]) {
    const options = { auditFolder, ...(acceptLossAfter !== undefined && { acceptLossAfter }) }
    await assert.rejects(startReplica(bus, options), (error) => {
      assert(error instanceof UnavailableError)
      assert.match(error.message, new RegExp(`at revision ${backedUpAt}.* knew .*from a backup`))
      assert.match(error.remedy, new RegExp(`WEFT_CONFIG_ACCEPT_LOSS_AFTER=${backedUpAt}`))
      return true
    })
  }
  told.length = 0
  await using after = await startReplica(bus, { auditFolder, acceptLossAfter: Number(backedUpAt) })
  assert((await revisionOf(after)) > lastBefore)
  // The token may have been used, and was.
  for (const keys of [newHostKeys(), betaKeys]) {
    await assert.rejects(join(after, token, keys, 'beta'), (error) => {
      assert(error instanceof TokenRefusedError)
      assert.equal(error.reason, 'revoked')
      return true
    })
  }
  await eventually(() => told.length > 0)
  assert((told[0]?.number ?? 0n) > numberBefore)
  assert(told[0]?.keys.some(({ identityKey }) => identityKey.equals(alpha.identityKey)))
  await assertOut(after, alpha)
  const gamma = await new Subscriber(after).host('gamma')
  assert(gamma.id > beta.hostId && gamma.id > Number(lastBefore))
  await eventually(async () => (await newestRevisionOf(bus, gamma.id)) > newestRow)
  await after[Symbol.asyncDispose]()
  // From now on by the records alone, and without being told to give anything up.
  await rm(joinPath(auditFolder, 'last-known.binpb'))
  await using again = await startReplica(bus, { auditFolder })
  const { host } = await again.client.getHost({ key: { $case: 'id', value: alpha.id } })
  assert.notEqual(host?.revokedAtUnixMs, 0n)
  await assertOut(again, alpha)
})

test('a store from a backup is noticed by who wrote to it before its watch was back', async () => {
  await using nats = await startDomainNats({ domain: site.domain, operator: site.operator })
  await using folder = await temporaryFolder()
  await using bus = await connect(nats)
  await using replica = await startReplica(bus)
  const subscriber = await furnish(replica)
  const backup = joinPath(folder.path, 'backup')
  await restarted(nats, bus, () => cp(nats.storeFolder, backup, { recursive: true }))
  // At once: a watch pauses for up to 100 ms before it is set up again.
  await eventually(() => subscriber.network('red', '10.30.0.0/16'))
  await restarted(nats, bus, async () => {
    await rm(nats.storeFolder, { recursive: true })
    await cp(backup, nats.storeFolder, { recursive: true })
  })

  await eventually(() => isLossTold(subscriber), A_MINUTE_MS)
})

test('what a replica knew last is believed only as the directory signed it', async () => {
  await using nats = await startDomainNats({ domain: site.domain, operator: site.operator })
  await using folder = await temporaryFolder()
  await using bus = await connect(nats)
  const auditFolder = joinPath(folder.path, 'audit')
  await using first = await startReplica(bus, { auditFolder })
  await furnish(first)
  await first[Symbol.asyncDispose]()
  const path = joinPath(auditFolder, 'last-known.binpb')
  const statement = Signed.decode(await readFile(path))
  const { number } = openStatement('revocations', statement, Revocations, site.config.directoryKey)
  assert.equal(number, await lastRevision(bus))

  const payload = Revocations.encode({ number: 1n, keys: [] }).finish()
  const forged = signStatement('revocations', payload, site.config.identityKey)
  await writeFile(path, Signed.encode(forged).finish())

  await assert.rejects(startReplica(bus, { auditFolder }), BrokenInputError)
})

/** Whether a write is refused because the store lost others. */
async function isLossTold(subscriber: Subscriber): Promise<boolean> {
  const error = await subscriber.tenant(randomUUID()).then(() => undefined, asWeftError)
  return error instanceof UnavailableError && /lost writes/.test(error.message)
}

function connect(nats: TestDomainNats): Promise<Bus> {
  const servers = [nats.url]
  return connectBus({ servers, credentials: nats.wideCredentials(), name: 'test', log })
}

/** Does something to the files of a server while it is down. */
async function restarted(nats: TestDomainNats, bus: Bus, work: () => Promise<void>): Promise<void> {
  await nats.kill()
  await work()
  await nats.start()
  await eventually(() => bus.ping().then(() => true))
}

type Replica = Awaited<ReturnType<typeof startReplica>>

async function revisionOf(replica: Replica): Promise<bigint> {
  return (await replica.client.getServerInfo({})).revision
}

async function lastRevision(bus: Bus): Promise<bigint> {
  await using fresh = await startReplica(bus)
  return await revisionOf(fresh)
}

/** Of the VN database, in the rows of a host, which has some. */
async function newestRevisionOf(bus: Bus, hostId: number): Promise<bigint> {
  const rows = await eventually(async () => {
    const found = await rowsOf(await openRows(bus), hostId)
    return found.size > 0 && found
  })
  return [...rows.values()].reduce(
    (newest, { configRevision }) => (configRevision > newest ? configRevision : newest),
    0n,
  )
}

function listen(bus: Bus): Revocations[] {
  const told: Revocations[] = []
  bus.subscribe(events.keyRevoked.pattern(), Signed, (statement) => {
    told.push(openStatement('revocations', statement, Revocations, site.config.directoryKey))
  })
  return told
}

/** A host gets nothing any more, neither by its certificate nor by a proof of its key. */
async function assertOut(replica: Replica, host: Host): Promise<void> {
  await using client = connectAs(credentialsOf(host), replica.address)
  const key = { $case: 'id', value: host.id } as const
  await assert.rejects(client.getHost({ key }), CertificateRefusedError)
  await using enrolment = connectToEnrol(replica)
  const sentAtUnixMs = BigInt(Date.now())
  const payload = RenewalStatement.encode({ hostId: host.id, sentAtUnixMs }).finish()
  const statement = signStatement('renewal', payload, credentialsOf(host).identityKey)
  await assert.rejects(enrolment.renewExpired({ statement }), HostRevokedError)
}
