import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { type Bus, buckets, memoryBus } from '@weft/bus'
import {
  AuditUnavailableError,
  asWeftError,
  OverloadedError,
  PermissionDeniedError,
  StatementRefusedError,
} from '@weft/errors'
import { generateIdentityKey, signStatement } from '@weft/identity'
import { AuditRecord } from '@weft/proto/weftline/audit/v1/audit.ts'
import {
  AssignEndpointRequest,
  CreateNetworkRequest,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import { RenewalStatement } from '@weft/proto/weftline/config/v1/enrolment.ts'
import { Role } from '@weft/proto/weftline/config/v1/records.ts'
import type { TestCredentials } from '@weft/testing'
import { eventually } from '@weft/testing'
import { AuditBudget, BUDGET_MAX_UNITS } from '../src/audit/budget.ts'
import {
  type ConfigClient,
  connectAs,
  connectToEnrol,
  credentialsOf,
  furnish,
  startReplica,
} from './site.ts'

test('a share of the audit log is used up by its own member only, and comes back with time', () => {
  const budget = new AuditBudget()
  for (let count = 0; count < BUDGET_MAX_UNITS; count++) {
    assert.equal(budget.take('host/7', 1, 0), 0)
  }

  assert.equal(budget.take('host/7', 1, 0), 1_000)
  assert.equal(budget.take('host/7', 50, 10_000), 40_000)

  assert.equal(budget.take('host/8', 1, 0), 0)
  assert.equal(budget.take('host/7', 10, 10_000), 0)
  assert.equal(budget.take('host/7', BUDGET_MAX_UNITS, 10 * 24 * 3_600_000), 0)
})

test('who signs with any key for a host that is there leaves no entry in the audit log', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const alpha = await (await furnish(replica)).host('alpha')
  const before = await entriesIn(bus)
  await using enrolment = connectToEnrol(replica, { retries: false })

  for (let count = 0; count < 15; count++) {
    const statement = renewal(alpha.id, generateIdentityKey())
    await assert.rejects(enrolment.renewExpired({ statement }), StatementRefusedError)
  }

  // Of denials there may be one, and then a count.
  assert.ok((await entriesIn(bus)) - before <= 2)
})

test('a host that has its certificate renewed without end is refused before it fills the audit log', async () => {
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus)
  const alpha = await (await furnish(replica)).host('alpha')
  const before = await entriesIn(bus)
  await using enrolment = connectToEnrol(replica, { retries: false })
  const statement = renewal(alpha.id, credentialsOf(alpha).identityKey)

  const outcomes: PromiseSettledResult<unknown>[] = []
  while (outcomes.length < 520) {
    const some = Array.from({ length: 40 }, () => enrolment.renewExpired({ statement }))
    outcomes.push(...(await Promise.allSettled(some)))
  }

  const refused = outcomes.filter(({ status }) => status === 'rejected')
  // Of those beyond 500, but for what comes back meanwhile.
  assert(refused.length > 0 && refused.length <= 20)
  for (const outcome of refused) {
    assert(outcome.status === 'rejected' && outcome.reason instanceof OverloadedError)
  }
  const renewed = outcomes.length - refused.length
  await eventually(async () => (await entriesIn(bus)) - before >= 2 * renewed)
  assert.equal((await entriesIn(bus)) - before, 2 * renewed)
})

test('what is left of an audit log that is nearly full is for those who run the domain', async () => {
  await using bus = memoryBus().connect()
  let ratio = 0.5
  await using replica = await startReplica(withAuditFilled(bus, () => ratio))
  const subscriber = await furnish(replica)
  const alpha = await subscriber.host('alpha')
  const web = await subscriber.endpoint('blue', 'web')
  const grant = (tenant: string, role: Role) => ({ tenant, role })
  const eve = await subscriber.user('eve', grant('acme', Role.ROLE_OWNER))
  const olga = await subscriber.user('olga', grant('', Role.ROLE_OPERATOR))
  await using asEve = connectAs(eve, replica.address)
  await using asOlga = connectAs(olga, replica.address)
  await using asAlpha = connectAs(credentialsOf(alpha), replica.address)
  await createNetwork(asEve, 'red')

  ratio = 0.8
  const nearlyFull = await eventually(async () => {
    await delay(200)
    const error = await createNetwork(asEve, `n-${randomUUID()}`).then(() => undefined, asWeftError)
    return error instanceof AuditUnavailableError ? error : undefined
  }, 15_000)

  assert.match(nearlyFull.message, /nearly full/)
  assert.match(nearlyFull.remedy, /archive/)
  const key = { $case: 'id', value: web.id } as const
  const assignment = AssignEndpointRequest.create({ key, hostId: alpha.id })
  await assert.rejects(asAlpha.assignEndpoint(assignment), AuditUnavailableError)
  // What gives nobody a new right goes on, and is counted, as is who is denied.
  const before = await entriesIn(bus)
  await using enrolment = connectToEnrol(replica)
  const statement = renewal(alpha.id, credentialsOf(alpha).identityKey)
  assert.equal((await enrolment.renewExpired({ statement })).credentials?.hostId, alpha.id)
  assert.equal(await entriesIn(bus), before)
  for (let count = 0; count < 3; count++) {
    await assert.rejects(asEve.listUsers({ page: undefined }), PermissionDeniedError)
  }
  await delay(1_500)
  assert.equal(await entriesIn(bus), before)
  await createNetwork(asOlga, 'green')
  await replica.client.revokeHost({
    idempotencyKey: randomUUID(),
    name: 'alpha',
    reason: 'it asks',
  })
})

function renewal(hostId: number, key: TestCredentials['identityKey']) {
  const said = { hostId, sentAtUnixMs: BigInt(Date.now()) }
  return signStatement('renewal', RenewalStatement.encode(said).finish(), key)
}

async function createNetwork(client: ConfigClient, network: string): Promise<void> {
  const name = { tenant: 'acme', network }
  const prefixes = [{ address: Buffer.from([10, 30, 0, 0]), lengthBits: 16 }]
  const idempotencyKey = randomUUID()
  await client.createNetwork(CreateNetworkRequest.create({ idempotencyKey, name, prefixes }))
}

async function entriesIn(bus: Bus): Promise<number> {
  const bucket = await bus.openBucket(buckets.audit, AuditRecord)
  const stop = new AbortController()
  let count = 0
  for await (const batch of bucket.watch('entry', { signal: stop.signal })) {
    for (const { kind } of batch) {
      if (kind === 'put') count++
      if (kind === 'snapshot-end') stop.abort()
    }
  }
  return count
}

/** The bus, whose bucket of the audit log says that it is as full as that. */
function withAuditFilled(bus: Bus, ratio: () => number): Bus {
  return overriding(bus, {
    openBucket: async (...[shape, codec]: Parameters<Bus['openBucket']>) => {
      const bucket = await bus.openBucket(shape, codec)
      if (shape.name !== buckets.audit.name) return bucket
      const sizeMaxBytes = 1_000
      return overriding(bucket, {
        fill: async () => ({ sizeBytes: ratio() * sizeMaxBytes, sizeMaxBytes }),
      })
    },
  })
}

function overriding<T extends object>(target: T, methods: { readonly [name: string]: unknown }): T {
  return new Proxy(target, {
    get(_, name) {
      if (typeof name === 'string' && Object.hasOwn(methods, name)) return methods[name]
      const value: unknown = Reflect.get(target, name, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}
