import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { type Bus, memoryBus } from '@weft/bus'
import { asWeftError, GrpcStatus, type WeftError } from '@weft/errors'
import { generateIdentityKey, publicKeyOf, signStatement } from '@weft/identity'
import { AuditServiceService, Head } from '@weft/proto/weftline/audit/v1/audit.ts'
import { OpenConnection } from '@weft/proto/weftline/common/v1/common.ts'
import {
  ConfigServiceService,
  CreateEndpointRequest,
  CreateHostRequest,
  CreateLoginCodeRequest,
  CreateNetworkRequest,
  CreateTokenRequest,
  CreateUserRequest,
  CreateZoneRequest,
  UpdateHostRequest,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  CertificateServiceService,
  LoginStatement,
  RotationStatement,
} from '@weft/proto/weftline/config/v1/enrolment.ts'
import { HostKind, Role } from '@weft/proto/weftline/config/v1/records.ts'
import { TenantLockServiceService } from '@weft/proto/weftline/config/v1/tenant_lock_service.ts'
import { PublicKeys } from '@weft/proto/weftline/identity/v1/identity.ts'
import { connect, type ServiceDefinition } from '@weft/rpc'
import { eventually, type TestCredentials } from '@weft/testing'
import { newHostKeys } from './domain.ts'
import {
  bytesOf,
  connectToEnrol,
  credentialsOf,
  furnish,
  type Reachable,
  type Subscriber,
  sayConnections,
  site,
  startReplica,
} from './site.ts'

/*
 * Two tenants, acme and rival. Whoever belongs to acme calls every method of config, over TLS as it is deployed, with all the
 * ways in which a request names something of rival. Everything of rival has its name in it, so that an answer that tells any
 * of it is seen by that.
 */
const RIVAL = 'rival'

/** Requests of a method that name what belongs to rival. */
type Cases<S> = {
  readonly [K in keyof S]: (
    rival: Rival,
  ) => S[K] extends { requestDeserialize(bytes: Buffer): infer Q } ? readonly Q[] : never
}

interface Rival {
  readonly hostId: number
  readonly endpointId: number
  readonly tokenId: number
  readonly writer: string
}

const network = { tenant: RIVAL, network: 'rival-net' }
const endpoint = { ...network, endpoint: 'rival-web' }
const page = { size: 0, token: '' }
/** An endpoint of rival, by name, by id, and under the name of a tenant of one's own. */
const endpointKeys = ({ endpointId }: Rival) =>
  [
    { $case: 'name', value: endpoint },
    { $case: 'name', value: { ...endpoint, tenant: 'acme' } },
    { $case: 'id', value: endpointId },
  ] as const
const grants = [{ tenant: RIVAL, role: Role.ROLE_OWNER }]
const asked = <T extends object>(fields: T): T & { idempotencyKey: string } => ({
  idempotencyKey: randomUUID(),
  ...fields,
})

// A method that has no line here does not build.
const configCases: Cases<typeof ConfigServiceService> = {
  createTenant: () => [asked({ name: 'rival-2', labels: {} })],
  getTenant: () => [{ name: RIVAL }],
  listTenants: () => [{ page }],
  deleteTenant: () => [asked({ name: RIVAL })],
  createZone: () => [CreateZoneRequest.create(asked({ name: 'rival-zone-2' }))],
  getZone: () => [{ name: 'rival-zone' }],
  listZones: () => [{ page }],
  updateZone: () => [asked({ name: 'rival-zone', trusted: false, expectedRevision: 0n })],
  deleteZone: () => [asked({ name: 'rival-zone' })],
  createHost: () => [
    CreateHostRequest.create(
      asked({ name: 'rival-peer', kind: HostKind.HOST_KIND_VXLAN_PEER, addresses: [] }),
    ),
  ],
  getHost: ({ hostId }) => [
    { key: { $case: 'name', value: 'rival-host' } },
    { key: { $case: 'id', value: hostId } },
  ],
  listHosts: () => [{ page }],
  updateHost: () => [UpdateHostRequest.create(asked({ name: 'rival-host' }))],
  deleteHost: () => [asked({ name: 'rival-host' })],
  listHostConnections: () => [{ host: 'rival-host' }],
  createNetwork: () => [
    CreateNetworkRequest.create(
      asked({ name: { tenant: RIVAL, network: 'rival-net-2' }, prefixes: [] }),
    ),
  ],
  getNetwork: () => [{ name: network }, { name: { ...network, tenant: 'acme' } }],
  listNetworks: () => [
    { tenant: RIVAL, page },
    { tenant: '', page },
  ],
  deleteNetwork: () => [asked({ name: network })],
  createEndpoint: () => [
    CreateEndpointRequest.create(asked({ name: { ...network, endpoint: 'rival-spy' } })),
    CreateEndpointRequest.create(
      asked({ name: { ...network, tenant: 'acme', endpoint: 'rival-spy' } }),
    ),
  ],
  getEndpoint: (rival) => endpointKeys(rival).map((key) => ({ key })),
  listEndpoints: () => [
    { network, page },
    { network: { tenant: RIVAL, network: '' }, page },
    { network: undefined, page },
  ],
  deleteEndpoint: () => [asked({ name: endpoint })],
  assignEndpoint: (rival) =>
    [rival.hostId, ownHostId].flatMap((hostId) =>
      endpointKeys(rival).map((key) => asked({ key, hostId })),
    ),
  releaseEndpoint: ({ endpointId, hostId }) => [
    asked({ endpointId, hostId }),
    asked({ endpointId, hostId: ownHostId }),
  ],
  createToken: () => [CreateTokenRequest.create(asked({ tenants: [RIVAL] }))],
  listTokens: () => [{ page }],
  revokeToken: ({ tokenId }) => [asked({ id: tokenId })],
  revokeHost: () => [asked({ name: 'rival-host', reason: 'out of malice' })],
  createUser: () => [asked({ name: 'rival-user-2', grants })],
  listUsers: () => [{ page }],
  updateUser: () => [
    asked({ name: 'rival-user', grants: [], expectedRevision: 0n }),
    asked({ name: 'of-acme-1', grants, expectedRevision: 0n }),
  ],
  deleteUser: () => [asked({ name: 'rival-user' })],
  createLoginCode: () => [CreateLoginCodeRequest.create(asked({ user: 'rival-user' }))],
  getServerInfo: () => [{}],
}

const lockCases: Cases<typeof TenantLockServiceService> = {
  putStatement: () => [
    asked({
      tenant: RIVAL,
      statement: signStatement('tenant-lock', Buffer.alloc(0), generateIdentityKey()),
    }),
  ],
  listStatements: () => [{ tenant: RIVAL, page }],
  listProposals: () => [{ tenant: RIVAL, hosts: ['rival-host'], page }],
  deleteStatement: () => [asked({ tenant: RIVAL, id: 1 })],
}

const certificateCases: Cases<typeof CertificateServiceService> = {
  renew: () => [{}],
  rotateKeys: ({ hostId }) => {
    const { message, identity } = newHostKeys()
    const newKeys = signStatement('rotation-new', PublicKeys.encode(message).finish(), identity)
    const payload = RotationStatement.encode({ hostId, newKeys }).finish()
    return [asked({ statement: signStatement('rotation', payload, identity) })]
  },
  // Names nobody: who calls it leaves.
  leave: () => [],
}

const auditCases: Cases<typeof AuditServiceService> = {
  listEntries: ({ writer }) => [{ writer, fromNumber: 0n, size: 0 }],
  listWriters: () => [{}],
}

const SERVICES = [
  serviceOf('ConfigService', ConfigServiceService, configCases),
  serviceOf('TenantLockService', TenantLockServiceService, lockCases),
  serviceOf('CertificateService', CertificateServiceService, certificateCases),
  serviceOf('AuditService', AuditServiceService, auditCases),
]

const ROLES = [Role.ROLE_OWNER, Role.ROLE_OPERATOR, Role.ROLE_SUBSCRIBER, Role.ROLE_AUDITOR]

let opened = new AsyncDisposableStack()
let replica: Reachable
let rival: Rival
let ownHostId = 0
/** Everybody who belongs to acme, and a service, by a name. */
let callers: ReadonlyMap<string, TestCredentials>

before(async () => {
  await using opening = new AsyncDisposableStack()
  const bus = opening.use(memoryBus().connect())
  replica = opening.use(await startReplica(bus))
  const subscriber = await furnish(replica)
  await furnishRival(subscriber)
  await reportRival(bus)
  const own = await subscriber.host('alpha', undefined, undefined, ['acme'])
  ownHostId = own.id
  await subscriber.assign(await subscriber.endpoint('blue', 'web'), own)
  const users = ROLES.map(async (role, index) => {
    const name = `of-acme-${index + 1}`
    return [name, await userWith(name, 'acme', role)] as const
  })
  callers = new Map([
    ...(await Promise.all(users)),
    ['a host of acme', credentialsOf(own)],
    ['another service', site.domain.credentials({ kind: 'service', id: 'routing-policy' })],
  ])
  opened = opening.move()
})
after(() => opened.disposeAsync())

for (const { name, methods } of SERVICES) {
  describe(`${name}, called by whoever belongs to another tenant`, () => {
    for (const method of methods) {
      test(`tells and changes nothing by ${method.name}`, async () => {
        const stateBefore = await stateOfRival()
        for (const [who, credentials] of callers) {
          for (const request of method.requests(rival)) {
            const outcome = await method.call(credentials, request)
            if (outcome instanceof Error) assertRefused(outcome, who)
            else assert(!textOf(outcome).includes(RIVAL), `${who} is told ${textOf(outcome)}`)
          }
        }
        assert.equal(await stateOfRival(), stateBefore)
      })
    }
  })
}

describe('the owner of the domain', () => {
  // What shows that the tests above would see something.
  for (const method of SERVICES[0]?.methods ?? []) {
    if (!/^(?:get|list)/.test(method.name) || method.name === 'getServerInfo') continue
    test(`is told of rival by ${method.name}`, async () => {
      const answers = await Promise.all(
        method.requests(rival).map((request) => method.call(site.owner, request)),
      )
      assert(answers.some((answer) => !(answer instanceof Error) && textOf(answer).includes(RIVAL)))
    })
  }
})

interface Method {
  readonly name: string
  readonly requests: (rival: Rival) => readonly unknown[]
  /** The answer, or the error that came. */
  readonly call: (credentials: TestCredentials, request: unknown) => Promise<unknown>
}

function serviceOf<S extends ServiceDefinition>(
  name: string,
  definition: S,
  cases: Cases<S>,
): { readonly name: string; readonly methods: readonly Method[] } {
  const named = cases as { readonly [method: string]: (rival: Rival) => readonly unknown[] }
  assert.deepEqual(Object.keys(named).sort(), Object.keys(definition).sort())
  const methods = Object.entries(named).map(([method, requests]) => ({
    name: method,
    requests,
    call: async (credentials: TestCredentials, request: unknown): Promise<unknown> => {
      await using client = connect(replica.address, definition, {
        retries: false,
        security: { kind: 'mutual-tls', credentials, peer: 'config' },
      })
      const calls = client as unknown as {
        readonly [name: string]: (request: unknown) => Promise<unknown>
      }
      return await calls[method]?.(request).catch(asWeftError)
    },
  }))
  return { name, methods }
}

/** Nothing but that it is not allowed, or not there. */
function assertRefused(error: Error, who: string): void {
  const { code, grpcStatus } = error as WeftError
  const isRefusal =
    grpcStatus === GrpcStatus.PermissionDenied ||
    grpcStatus === GrpcStatus.NotFound ||
    grpcStatus === GrpcStatus.Unauthenticated ||
    code === 'statement-refused'
  assert(isRefusal, `${who}: ${code}: ${error.message}`)
}

async function furnishRival(subscriber: Subscriber): Promise<void> {
  const { client } = subscriber
  await subscriber.tenant(RIVAL)
  await subscriber.zone('rival-zone')
  const prefixes = [{ address: bytesOf('10.66.0.0'), lengthBits: 24 }]
  await client.createNetwork(CreateNetworkRequest.create(asked({ name: network, prefixes })))
  const { endpoint: created } = await client.createEndpoint(
    CreateEndpointRequest.create(asked({ name: endpoint })),
  )
  const host = await subscriber.host('rival-host', undefined, undefined, [RIVAL])
  const labels = { of: RIVAL }
  const tokenFields = { tenants: [RIVAL], hostName: 'rival-host-2', labels }
  const { token } = await client.createToken(CreateTokenRequest.create(asked(tokenFields)))
  await userWith('rival-user', RIVAL, Role.ROLE_OWNER)
  assert(created && token)
  await subscriber.assign(created, host)
  const security = { kind: 'mutual-tls', credentials: site.owner, peer: 'config' } as const
  await using audit = connect(replica.address, AuditServiceService, { security })
  const [writer = ''] = await eventually(async () => {
    const { heads } = await audit.listWriters({})
    const writers = heads.map(({ payload }) => Head.decode(payload).writer)
    return writers.length > 0 && writers
  })
  rival = { hostId: host.id, endpointId: created.id, tokenId: token.id, writer }
}

/** Has the host of rival report a connection to a host of rival. */
async function reportRival(bus: Bus): Promise<void> {
  const { host } = await replica.client.getHost({ key: { $case: 'name', value: 'rival-host' } })
  assert(host)
  sayConnections(bus, host, { connections: [OpenConnection.create({ hostId: host.id })] })
  await eventually(async () => {
    const { connections } = await replica.client.listHostConnections({ host: 'rival-host' })
    return connections.length === 1
  })
}

/** A user with a role in one tenant, who has logged in. */
async function userWith(name: string, tenant: string, role: Role): Promise<TestCredentials> {
  const { client } = replica
  const { user } = await client.createUser(
    CreateUserRequest.create(asked({ name, grants: [{ tenant, role }] })),
  )
  const { text } = await client.createLoginCode(
    CreateLoginCodeRequest.create(asked({ user: name })),
  )
  const key = generateIdentityKey()
  const keys = PublicKeys.create({ identity: publicKeyOf(key) })
  const payload = LoginStatement.encode(LoginStatement.create({ code: text, keys })).finish()
  await using enrolment = connectToEnrol(replica)
  await enrolment.login({
    idempotencyKey: randomUUID(),
    statement: signStatement('login', payload, key),
  })
  assert(user)
  return site.domain.credentials({ kind: 'user', id: user.id }, { key })
}

/** All that the owner sees of the domain, as text. */
async function stateOfRival(): Promise<string> {
  const { client } = replica
  const lists = await Promise.all([
    client.listTenants({ page }),
    client.listZones({ page }),
    client.listHosts({ page }),
    client.listNetworks({ tenant: RIVAL, page }),
    client.listEndpoints({ network: { tenant: RIVAL, network: '' }, page }),
    client.listTokens({ page }),
    client.listUsers({ page }),
  ])
  return textOf(lists)
}

/** JSON, in which bytes are read as text as well, so that no form of a name is missed. */
function textOf(value: unknown): string {
  return JSON.stringify(value, (_key, part: unknown) => {
    if (typeof part === 'bigint') return String(part)
    const bytes = part as { type?: string; data?: number[] } | null
    if (bytes?.type === 'Buffer' && bytes.data) return Buffer.from(bytes.data).toString('latin1')
    return part
  })
}
