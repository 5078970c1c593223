import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join as joinPath } from 'node:path'
import { test } from 'node:test'
import { memoryBus } from '@weft/bus'
import {
  AuditUnavailableError,
  NetworkExistsError,
  PermissionDeniedError,
  TokenRefusedError,
} from '@weft/errors'
import { AuditPhase, AuditServiceService, type Entry } from '@weft/proto/weftline/audit/v1/audit.ts'
import {
  DeleteNetworkRequest,
  GetTenantRequest,
  RevokeHostRequest,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import { connect } from '@weft/rpc'
import { readAuditFile, verifyAuditCopies } from '@weft/sdk'
import { eventually, temporaryFolder } from '@weft/testing'
import { readChain } from './audit-site.ts'
import { newHostKeys } from './domain.ts'
import {
  connectAs,
  credentialsOf,
  furnish,
  join,
  type Reachable,
  Subscriber,
  site,
  startReplica,
} from './site.ts'

const { AUDIT_PHASE_INTENT, AUDIT_PHASE_DONE, AUDIT_PHASE_DENIED } = AuditPhase

test('what somebody changes is in the audit log: who, from where, what, and the revisions of it', async () => {
  await using folder = await temporaryFolder()
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus, { auditFolder: folder.path })
  const subscriber = await furnish(replica)
  const host = await subscriber.host('alpha')
  const endpoint = await subscriber.endpoint('blue', 'web')
  await subscriber.assign(endpoint, host)
  await replica.client.revokeHost(
    RevokeHostRequest.create({ idempotencyKey: randomUUID(), name: 'alpha', reason: 'stolen' }),
  )

  const report = await verified(replica, folder.path)

  assert.deepEqual(problemsOf(report), [])
  assert.deepEqual(report.unknownOutcomes, [])
  const objects = report.entries.filter(({ phase }) => phase === AUDIT_PHASE_DONE).map(objectOf)
  assert.deepEqual(objects, [
    'make-owner user owner',
    'CreateTenant tenant acme',
    'CreateZone zone lab, trusted',
    'CreateNetwork network acme/blue',
    'CreateToken token for host (any) in zone (none), tenants (all)',
    'Join host alpha',
    'CreateEndpoint endpoint acme/blue/web',
    'AssignEndpoint endpoint acme/blue/web to host alpha',
    'RevokeHost host alpha',
  ])
  const intent = report.entries.find(({ action }) => action.endsWith('/CreateNetwork'))
  assert.equal(intent?.phase, AUDIT_PHASE_INTENT)
  assert.equal(intent.who, 'spiffe://test.weft/user/1')
  assert.match(intent.from, /^127\.0\.0\.1:\d+$/)
  assert.equal(intent.tenant, 'acme')
  const assigned = report.entries.findLast(({ action }) => action.endsWith('/AssignEndpoint'))
  assert(assigned)
  assert.equal(assigned.revisionBefore, endpoint.meta?.revision)
  assert(assigned.revisionAfter > assigned.revisionBefore)
  const revoked = report.entries.findLast(({ action }) => action.endsWith('/RevokeHost'))
  assert.equal(revoked?.reason, 'stolen')
  const joined = report.entries.findLast(({ action }) => action.endsWith('/Join'))
  assert.match(joined?.reason ?? '', /^token \d+$/)
})

test('a request that changes nothing is no entry, whether it was refused or is a repetition', async () => {
  await using folder = await temporaryFolder()
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus, { auditFolder: folder.path })
  const subscriber = await furnish(replica)
  await subscriber.endpoint('blue', 'web', 'the-same-key')
  const before = (await verified(replica, folder.path)).entries.length

  await subscriber.endpoint('blue', 'web', 'the-same-key')
  await assert.rejects(subscriber.network('blue', '10.99.0.0/16'), NetworkExistsError)

  assert.equal((await verified(replica, folder.path)).entries.length, before)
})

test('who is refused is in the audit log, and cannot read it', async () => {
  await using folder = await temporaryFolder()
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus, { auditFolder: folder.path })
  const subscriber = await furnish(replica)
  const alpha = await subscriber.host('alpha')
  const asHost = credentialsOf(alpha)
  await using client = connectAs(asHost, replica.address)
  await using audit = connectToAudit(replica, asHost)
  const removal = DeleteNetworkRequest.create({
    idempotencyKey: randomUUID(),
    name: { tenant: 'acme', network: 'blue' },
  })

  for (let index = 0; index < 5; index++) {
    await assert.rejects(client.deleteNetwork(removal), PermissionDeniedError)
  }
  await assert.rejects(audit.listWriters({}), PermissionDeniedError)
  await assert.rejects(
    join(replica, `weft-join-v1.999999.${'A'.repeat(43)}`, newHostKeys(), 'evil'),
    TokenRefusedError,
  )

  const denials = await eventually(async () => {
    const { entries } = await verified(replica, folder.path)
    const found = entries.filter(({ phase }) => phase === AUDIT_PHASE_DENIED)
    return found.length >= 3 ? found : undefined
  })
  assert.deepEqual(
    denials.map(({ who, action, reason }) => [who, action.split('/')[2], reason]),
    [
      [`spiffe://test.weft/host/${alpha.id}`, 'DeleteNetwork', 'permission-denied: not-for-hosts'],
      [`spiffe://test.weft/host/${alpha.id}`, 'ListWriters', 'permission-denied: not-for-hosts'],
      ['', 'Join', 'token-refused: unknown'],
    ],
  )
})

test('the text of a token is in no copy of the audit log', async () => {
  await using folder = await temporaryFolder()
  await using bus = memoryBus().connect()
  await using replica = await startReplica(bus, { auditFolder: folder.path })
  const subscriber = await furnish(replica)
  const token = await subscriber.token()
  const secret = token.split('.')[2] ?? ''
  assert.equal(secret.length, 43)
  await join(replica, token, newHostKeys(), 'alpha')
  await assert.rejects(
    join(replica, token, newHostKeys(), token),
    (error) => error instanceof Error,
  )
  await assert.rejects(join(replica, token, newHostKeys(), 'beta'), TokenRefusedError)

  await verified(replica, folder.path)

  const [name = ''] = await auditFiles(folder.path)
  const file = await readFile(joinPath(folder.path, name))
  assert(file.includes('alpha'))
  assert(!file.includes(secret))
  assert(!file.includes(Buffer.from(secret, 'base64url')))
})

test('a replica that cannot write its audit log changes nothing and shows everything, until it can', async () => {
  await using folder = await temporaryFolder()
  await using bus = memoryBus().connect()
  await using healthy = await startReplica(bus)
  await furnish(healthy)
  const blocked = joinPath(folder.path, 'audit')
  await writeFile(blocked, 'a file where a folder should be')
  await using replica = await startReplica(bus, { auditFolder: blocked })
  const subscriber = new Subscriber(replica)

  await assert.rejects(subscriber.tenant('other'), (error) => {
    assert(error instanceof AuditUnavailableError)
    assert.match(error.message, /^CreateTenant was not done, because it cannot be audited: file /)
    return true
  })
  const shown = await replica.client.getTenant(GetTenantRequest.create({ name: 'acme' }))
  await rm(blocked)
  await eventually(() => subscriber.tenant('other').then(() => true))

  assert.equal(shown.tenant?.name, 'acme')
  assert.equal((await auditFiles(blocked)).length, 1)
})

function connectToAudit(replica: Reachable, credentials = site.owner) {
  return connect(replica.address, AuditServiceService, {
    security: { kind: 'mutual-tls', credentials, peer: 'config' },
  })
}

/** What both copies of the replica's chain come to once all that was begun has its outcome. */
async function verified(replica: Reachable, folder: string) {
  await using client = connectToAudit(replica)
  const [name = ''] = await auditFiles(folder)
  const writer = name.slice(0, -'.audit'.length)
  return await eventually(async () => {
    const { heads } = await client.listWriters({})
    assert(heads.length > 0)
    const file = readAuditFile('file', await readFile(joinPath(folder, name)))
    const bucket = await readChain(client, writer)
    assert(file)
    const report = verifyAuditCopies(writer, [file, bucket], [site.config.publicKey])
    return report.unknownOutcomes.length === 0 ? report : undefined
  })
}

async function auditFiles(folder: string): Promise<string[]> {
  return (await readdir(folder)).filter((file) => file.endsWith('.audit'))
}

function problemsOf({ findings }: ReturnType<typeof verifyAuditCopies>): string[] {
  return findings.filter(({ severity }) => severity === 'problem').map(({ text }) => text)
}

function objectOf({ action, object }: Entry): string {
  return `${action.split('/').at(-1)} ${object}`
}
