import { createHash } from 'node:crypto'
import { auditAccess, authoriser, configAccess, tenantLockAccess, type World } from '@weft/access'
import { writeIdentity } from '@weft/domain'
import {
  EndpointExistsError,
  EndpointNotFoundError,
  HostNotFoundError,
  NetworkExistsError,
  NetworkNotFoundError,
  UnimplementedError,
} from '@weft/errors'
import {
  generateIdentityKey,
  generateTunnelKey,
  openTenantStatement,
  publicKeyOf,
  signStatement,
} from '@weft/identity'
import {
  AuditPhase,
  AuditServiceService,
  Entry,
  Head,
} from '@weft/proto/weftline/audit/v1/audit.ts'
import { Carrier, ConnectionState, OpenConnection } from '@weft/proto/weftline/common/v1/common.ts'
import {
  ConfigServiceService,
  GetServerInfoResponse,
  ListHostConnectionsResponse,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  Encryption,
  Endpoint,
  Host,
  HostKind,
  Network,
  Role,
  StoredStatement,
  Tenant,
  Token,
  TokenPurpose,
  User,
} from '@weft/proto/weftline/config/v1/records.ts'
import { TenantLockServiceService } from '@weft/proto/weftline/config/v1/tenant_lock_service.ts'
import { TenantStatement } from '@weft/proto/weftline/identity/v1/tenant_lock.ts'
import { type Handlers, implement, type Server, serve } from '@weft/rpc'
import { createLogger } from '@weft/telemetry'
import { type TestCredentials, testDomain } from '@weft/testing'

/** A control server with one tenant, which keeps networks in memory and notes the keys of what it was asked. */
export interface FakeControl extends AsyncDisposable {
  readonly address: string
  readonly idempotencyKeys: string[]
  /** By name, all of host alpha. */
  readonly endpoints: Map<string, Endpoint>
  /** What is proposed to be signed for tenant default. */
  readonly proposed: { identityKey: Buffer }
  /** Makes the identity folder of a user who owns the domain. */
  writeOwner(folder: string): Promise<void>
}

/** Text of the tokens that are made here. */
export const TOKEN_TEXT: string = `weft-join-v1.1.${Buffer.alloc(32, 1).toString('base64url')}`

export async function startFakeControl(): Promise<FakeControl> {
  const domain = testDomain()
  const users = new Map<string, User>()
  const networks = new Map<string, Network>()
  const endpoints = new Map<string, Endpoint>()
  const idempotencyKeys: string[] = []
  const proposed = { identityKey: publicKeyOf(generateIdentityKey()) }
  const handlers: Partial<Handlers<typeof ConfigServiceService>> = {
    async getTenant() {
      return { tenant: Tenant.create({ id: 1, name: 'default' }) }
    },
    async listTenants() {
      return { tenants: [Tenant.create({ id: 1, name: 'default' })], nextToken: '' }
    },
    async createNetwork(request) {
      idempotencyKeys.push(request.idempotencyKey)
      const name = request.name?.network ?? ''
      if (networks.has(name)) throw new NetworkExistsError({ tenant: 'default', network: name })
      const network = Network.create({
        id: networks.size + 1,
        tenantId: 1,
        name,
        vni: request.vni || 7,
        prefixes: request.prefixes,
        mtuBytes: request.mtuBytes || 1320,
        encryption: request.encryption || Encryption.ENCRYPTION_OUTSIDE_TRUSTED_ZONES,
        meta: { labels: request.labels },
      })
      networks.set(name, network)
      return { network }
    },
    async getNetwork(request) {
      const name = request.name?.network ?? ''
      const network = networks.get(name)
      if (network === undefined) throw new NetworkNotFoundError({ network: name })
      return { network, endpointCount: 0 }
    },
    /** One network a page, to be asked again. */
    async listNetworks({ page }) {
      const names = [...networks.keys()].sort()
      const at = names.findIndex((name) => name > (page?.token ?? ''))
      const network = networks.get(names[at] ?? '')
      const isLast = at < 0 || at === names.length - 1
      return {
        networks: network === undefined ? [] : [network],
        nextToken: isLast ? '' : (names[at] ?? ''),
      }
    },
    async createEndpoint({ name }) {
      const { endpoint: wanted = '' } = name ?? {}
      if (endpoints.has(wanted)) {
        throw new EndpointExistsError({ network: name?.network ?? '', endpoint: wanted })
      }
      const endpoint = Endpoint.create({
        id: endpoints.size + 1,
        networkId: 1,
        name: wanted,
        mac: Buffer.of(2, 0, 0, 0, 0, 7),
        hostId: 1,
      })
      endpoints.set(wanted, endpoint)
      return { endpoint }
    },
    async getEndpoint({ key }) {
      const name = key?.$case === 'name' ? key.value.endpoint : ''
      const endpoint = endpoints.get(name)
      if (endpoint === undefined) throw new EndpointNotFoundError({ endpoint: name })
      return { endpoint, network: undefined, tenantName: 'default' }
    },
    async deleteEndpoint({ name }) {
      return { deleted: endpoints.delete(name?.endpoint ?? '') }
    },
    async createToken(request) {
      const expiresAtUnixMs = BigInt(Date.now()) + request.ttlMs
      const token = Token.create({
        id: 1,
        purpose: TokenPurpose.TOKEN_PURPOSE_JOIN,
        expiresAtUnixMs,
        hostLabels: request.labels,
      })
      return { token, text: TOKEN_TEXT }
    },
    async createUser(request) {
      const grants = request.grants.map(({ tenant, role }) => ({
        tenantId: tenant === '' ? 0 : 1,
        role,
      }))
      const user = User.create({ id: users.size + 2, name: request.name, grants })
      users.set(user.name, user)
      return { user }
    },
    async getServerInfo() {
      return GetServerInfoResponse.create({ version: 'fake', replicaId: 'fake' })
    },
    async listUsers() {
      return { users: [...users.values()], nextToken: '' }
    },
    async updateUser(request) {
      const grants = request.grants.map(({ tenant, role }) => ({
        tenantId: tenant === '' ? 0 : 1,
        role,
      }))
      const user = User.create({ ...users.get(request.name), grants })
      users.set(user.name, user)
      return { user }
    },
    async getHost({ key }) {
      if (key?.value !== 'alpha' && key?.value !== 1)
        throw new HostNotFoundError({ host: String(key?.value) })
      const host = { id: 1, name: 'alpha', kind: HostKind.HOST_KIND_WEFT }
      return { host: Host.create({ ...host, capabilities: ['carrier-sealed'] }) }
    },
    async listHostConnections() {
      return ListHostConnectionsResponse.create({
        connections: [
          {
            host: 'beta',
            ageMs: 2_000n,
            connection: OpenConnection.create({
              hostId: 2,
              carrier: Carrier.CARRIER_SEALED,
              state: ConnectionState.CONNECTION_STATE_UNREACHABLE,
              reason: 'no-answer',
            }),
          },
        ],
        observed: [{ address: Buffer.of(198, 51, 100, 7), port: 4_000, kind: 3 }],
      })
    },
    async revokeHost(request) {
      if (request.name !== 'alpha') throw new HostNotFoundError({ host: request.name })
      return { host: Host.create({ id: 1, name: 'alpha', revokedAtUnixMs: 1n }) }
    },
    async deleteNetwork(request) {
      return { deleted: networks.delete(request.name?.network ?? '') }
    },
  }
  const credentials = domain.credentials({ kind: 'service', id: 'config' })
  const server: Server = await serve({
    listen: ['127.0.0.1:0'],
    services: [
      implement(ConfigServiceService, withRest(handlers), configAccess),
      implement(TenantLockServiceService, tenantLockHandlers(proposed), tenantLockAccess),
      implement(AuditServiceService, auditHandlers(credentials), auditAccess),
    ],
    log: createLogger({ service: 'fake-control', level: 'silent' }),
    security: {
      kind: 'mutual-tls',
      credentials,
      authorise: authoriser({ world: WORLD }),
    },
  })
  return {
    address: server.addresses[0] ?? '',
    idempotencyKeys,
    endpoints,
    proposed,
    async writeOwner(folder) {
      const owner = domain.credentials({ kind: 'user', id: 1 })
      const keys = { identity: owner.identityKey, tunnel: undefined, busSeed: undefined }
      await writeIdentity(folder, keys, {
        domain: domain.name,
        certificates: [owner.certificate],
        authorities: [domain.intermediate.certificate, domain.root.certificate],
        directoryKey: Buffer.from(owner.directoryKey),
        busJwt: '',
        places: undefined,
        hostId: 0,
        hostName: '',
        horizonUnixMs: 0n,
      })
    },
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  }
}

/** One chain of two entries, a page each. */
function auditHandlers({ identityKey }: TestCredentials): Handlers<typeof AuditServiceService> {
  const entryOf = (number: bigint, previousHash: Buffer): Buffer => {
    const phase = number === 1n ? AuditPhase.AUDIT_PHASE_INTENT : AuditPhase.AUDIT_PHASE_DONE
    const entry = { writer: 'w', number, previousHash, phase, who: 'spiffe://test.weft/user/1' }
    return Buffer.from(Entry.encode(Entry.create({ ...entry, action: '/x/CreateHost' })).finish())
  }
  const hashOf = (bytes: Buffer): Buffer => createHash('sha256').update(bytes).digest()
  const first = entryOf(1n, Buffer.alloc(32))
  const second = entryOf(2n, hashOf(first))
  const head = { writer: 'w', number: 2n, hash: hashOf(second), signedAtUnixMs: 1n }
  return {
    async listEntries({ fromNumber }) {
      return fromNumber <= 1n
        ? { entries: [first], nextNumber: 2n }
        : { entries: [second], nextNumber: 0n }
    },
    async listWriters() {
      return { heads: [signStatement('audit-head', Head.encode(head).finish(), identityKey)] }
    },
  }
}

/** Keeps whatever it is given, and proposes a network with one host, whose key is `proposedKey`. */
function tenantLockHandlers(proposed: {
  identityKey: Buffer
}): Handlers<typeof TenantLockServiceService> {
  const statements = new Map<number, StoredStatement>()
  const tunnelKey = publicKeyOf(generateTunnelKey())
  const propose = (about: TenantStatement['about'], host: string) => ({
    statement: TenantStatement.create({ tenantId: 1, tenant: 'default', about }),
    host,
  })
  return {
    async putStatement({ statement }) {
      const content = openTenantStatement(statement, 'test.weft')
      const subject = ({ about, number }: TenantStatement) =>
        about?.$case === 'key' ? `key ${number}` : about?.$case
      const known = [...statements.values()].find(
        (stored) =>
          subject(TenantStatement.decode(stored.statement?.payload ?? NO_BYTES)) ===
          subject(content),
      )
      const id = known?.id ?? statements.size + 1
      const stored = StoredStatement.create({ id, tenantId: 1, statement })
      statements.set(id, stored)
      return { statement: stored }
    },
    async listStatements() {
      return { statements: [...statements.values()], nextToken: '' }
    },
    async listProposals() {
      const { identityKey } = proposed
      const network = { networkId: 7, network: 'red', vni: 77 }
      const member = { networkId: 7, hostId: 3, identityKey, tunnelKey, plainAddresses: [] }
      const proposals = [
        propose({ $case: 'network', value: network }, ''),
        propose({ $case: 'membership', value: member }, 'alpha'),
      ]
      return { proposals, nextToken: '' }
    },
    async deleteStatement({ id }) {
      return { deleted: statements.delete(id) }
    },
  }
}

const NO_BYTES = Buffer.alloc(0)

/** Nobody may do anything but user 1, who may do everything. */
const WORLD: World = {
  tenantIdOf: (name) => (name === 'default' ? 1 : undefined),
  tenantOfNetwork: () => 1,
  tenantOfEndpoint: () => 1,
  grantsOf: (userId) => (userId === 1 ? [{ tenantId: 0, role: Role.ROLE_OWNER }] : []),
  mayCarry: () => false,
}

function withRest(
  handlers: Partial<Handlers<typeof ConfigServiceService>>,
): Handlers<typeof ConfigServiceService> {
  const rest = Object.keys(ConfigServiceService).map((method) => [
    method,
    async () => {
      throw new UnimplementedError({ what: method })
    },
  ])
  return { ...Object.fromEntries(rest), ...handlers }
}
