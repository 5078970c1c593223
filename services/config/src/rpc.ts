import type { Bus } from '@weft/bus'
import { HostNotFoundError, PermissionDeniedError, ZoneNotFoundError } from '@weft/errors'
import { hashOfSecret, newSecret, tokenText } from '@weft/identity'
import type { ConfigServiceService } from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  Endpoint,
  Host,
  Network,
  Tenant,
  Token,
  User,
  Zone,
} from '@weft/proto/weftline/config/v1/records.ts'
import type { CallContext, Handlers } from '@weft/rpc'
import manifest from '../package.json' with { type: 'json' }
import type { Controller } from './controller.ts'
import {
  endpointsAfter,
  hostsAfter,
  isHostIn,
  isZoneIn,
  networksAfter,
  pageOf,
  sizeIn,
  tenantsAfter,
  tokensAfter,
  usersAfter,
  zonesAfter,
} from './domain/pages.ts'
import {
  assignEndpoint,
  createEndpoint,
  deleteEndpoint,
  endpointWithKey,
  releaseEndpoint,
} from './domain/requests/endpoints.ts'
import {
  createHost,
  deleteHost,
  hostWithKey,
  revokeHost,
  updateHost,
} from './domain/requests/hosts.ts'
import {
  createNetwork,
  deleteNetwork,
  networkNamed,
  requiredName,
} from './domain/requests/networks.ts'
import { createTenant, deleteTenant, tenantNamed } from './domain/requests/tenants.ts'
import {
  createLoginCode,
  createToken,
  PRUNED_AT_ONCE,
  pruneTokens,
  revokeToken,
} from './domain/requests/tokens.ts'
import { createUser, deleteUser, updateUser } from './domain/requests/users.ts'
import { createZone, deleteZone, updateZone, zoneNamed } from './domain/requests/zones.ts'
import type { Replica } from './replica.ts'
import type { Requests } from './requests.ts'

interface ConfigApi {
  readonly bus: Bus
  readonly busServers: readonly string[]
  readonly replicaId: string
  readonly replica: Replica
  readonly requests: Requests
  readonly controller: Controller
}

export function configHandlers(api: ConfigApi): Handlers<typeof ConfigServiceService> {
  const { replica, requests } = api
  const { database } = replica
  const write = requests.write.bind(requests)

  /** A host as the caller may see it: who sees one tenant only sees of it that it is there. */
  const shownHost = (host: Host, { caller, scope }: CallContext): Host =>
    scope === 'all' || caller?.identity.kind === 'host'
      ? host
      : Host.create({ id: host.id, name: host.name, kind: host.kind })

  /** Forgets tokens that ran out long ago, for each that is made. */
  const prune = async (context: CallContext): Promise<void> => {
    for (let count = 0; count < PRUNED_AT_ONCE; count++) {
      await requests.commit(pruneTokens, { idempotencyKey: '', about: EXPIRED_TOKEN }, context)
    }
  }

  /** What a network's endpoint is shown with. */
  const surroundings = (endpoint: Endpoint) => {
    const network = database.network(endpoint.networkId)
    const tenantName = database.tenant(network?.tenantId ?? 0)?.name ?? ''
    return { endpoint, network, tenantName }
  }

  return {
    async createTenant(request, context) {
      return { tenant: await write(createTenant, request, context) }
    },
    async getTenant({ name }) {
      return { tenant: tenantNamed(database, name) }
    },
    async listTenants({ page }, { scope }) {
      const items = tenantsAfter(database, scope, page?.token ?? '')
      const { records, nextToken } = pageOf(items, page?.size ?? 0, sizeIn(Tenant))
      return { tenants: records, nextToken }
    },
    async deleteTenant(request, context) {
      return { deleted: await write(deleteTenant, request, context) }
    },

    async createZone(request, context) {
      return { zone: await write(createZone, request, context) }
    },
    async getZone({ name }, { scope }) {
      const zone = zoneNamed(database, name)
      if (!isZoneIn(database, zone.id, scope)) throw new ZoneNotFoundError({ zone: name })
      return { zone }
    },
    async listZones({ page }, { scope }) {
      const items = zonesAfter(database, scope, page?.token ?? '')
      const { records, nextToken } = pageOf(items, page?.size ?? 0, sizeIn(Zone))
      return { zones: records, nextToken }
    },
    async updateZone(request, context) {
      return { zone: await write(updateZone, request, context) }
    },
    async deleteZone(request, context) {
      return { deleted: await write(deleteZone, request, context) }
    },

    async createHost(request, context) {
      return { host: await write(createHost, request, context) }
    },
    async getHost({ key }, context) {
      const host = hostWithKey(database, key)
      const isOwn = context.caller?.identity.kind === 'host'
      if (!isOwn && !isHostIn(database, host.id, context.scope)) {
        throw new HostNotFoundError({ host: key?.value ?? '' })
      }
      return { host: shownHost(host, context) }
    },
    async listHosts({ page }, context) {
      const items = hostsAfter(database, context.scope, page?.token ?? '')
      const { records, nextToken } = pageOf(items, page?.size ?? 0, sizeIn(Host))
      return { hosts: records.map((host) => shownHost(host, context)), nextToken }
    },
    async updateHost(request, context) {
      return { host: await write(updateHost, request, context) }
    },
    async deleteHost(request, context) {
      return { deleted: (await requests.inTurn(deleteHost(request), request, context)) === true }
    },
    async listHostConnections({ host: name }) {
      const { id } = hostWithKey(database, { $case: 'name', value: name })
      const connections = replica.connections.of(id, Date.now()).map(({ connection, ageMs }) => ({
        host: database.host(connection.hostId)?.name ?? '',
        connection,
        ageMs: BigInt(ageMs),
      }))
      return { connections, observed: [...replica.connections.observed(id)] }
    },
    async revokeHost(request, context) {
      return { host: await write(revokeHost, request, context) }
    },

    async createNetwork(request, context) {
      // Which VNIs are taken, and by whom, is nothing that tenants tell each other.
      if (request.vni !== 0 && context.scope !== 'all') {
        throw new PermissionDeniedError({
          what: 'choosing the VNI of a network',
          problem: 'tenants share them all',
          remedy: 'leave it out, and one is chosen; or ask an operator of the domain',
        })
      }
      return { network: await write(createNetwork, request, context) }
    },
    async getNetwork({ name }) {
      const network = networkNamed(database, requiredName(name))
      return { network, endpointCount: database.endpointNames(network.id)?.size ?? 0 }
    },
    async listNetworks({ tenant, page }, { scope }) {
      const only = tenant === '' ? undefined : tenantNamed(database, tenant)
      const items = networksAfter(database, scope, only, page?.token ?? '')
      const { records, nextToken } = pageOf(items, page?.size ?? 0, sizeIn(Network))
      return { networks: records, nextToken }
    },
    async deleteNetwork(request, context) {
      return { deleted: await write(deleteNetwork, request, context) }
    },

    async createEndpoint(request, context) {
      if (request.vxlanPeer !== '' && context.scope !== 'all') {
        throw new PermissionDeniedError({
          what: 'creating an endpoint of a foreign host',
          problem: 'foreign hosts belong to no tenant',
        })
      }
      return { endpoint: await write(createEndpoint, request, context) }
    },
    async getEndpoint({ key }) {
      const { endpoint, network } = surroundings(endpointWithKey(database, key))
      return { endpoint, network }
    },
    async listEndpoints({ network: name, page }, { scope }) {
      const tenant = name?.tenant ? tenantNamed(database, name.tenant) : undefined
      const network = name?.network ? networkNamed(database, name) : undefined
      const items = endpointsAfter(database, scope, tenant, network, page?.token ?? '')
      const { records, nextToken } = pageOf(items, page?.size ?? 0, sizeIn(Endpoint))
      return { endpoints: records, nextToken }
    },
    async deleteEndpoint(request, context) {
      return { deleted: await write(deleteEndpoint, request, context) }
    },
    async assignEndpoint(request, context) {
      return surroundings(await write(assignEndpoint, request, context))
    },
    async releaseEndpoint(request, context) {
      return { released: await write(releaseEndpoint, request, context) }
    },

    async createToken(request, context) {
      await prune(context)
      const secret = newSecret()
      const hash = hashOfSecret(secret)
      const token = await requests.commit(
        (current, caller) => createToken(current, request, hash, caller),
        request,
        context,
      )
      return { token: shownToken(token), text: textOf('join', token, secret, hash) }
    },
    async listTokens({ page }) {
      const items = tokensAfter(database, page?.token ?? '')
      const { records, nextToken } = pageOf(items, page?.size ?? 0, sizeIn(Token))
      return {
        tokens: records.map(shownToken),
        nextToken,
        hostIds: records.map(({ id }) => database.members.hostOfToken(id) ?? 0),
      }
    },
    async revokeToken(request, context) {
      return { revoked: await write(revokeToken, request, context) }
    },

    async createUser(request, context) {
      return { user: await write(createUser, request, context) }
    },
    async listUsers({ page }) {
      const items = usersAfter(database, page?.token ?? '')
      const { records, nextToken } = pageOf(items, page?.size ?? 0, sizeIn(User))
      return { users: records, nextToken }
    },
    async updateUser(request, context) {
      return { user: await write(updateUser, request, context) }
    },
    async deleteUser(request, context) {
      return { deleted: (await requests.inTurn(deleteUser(request), request, context)) === true }
    },
    async createLoginCode(request, context) {
      await prune(context)
      const secret = newSecret()
      const hash = hashOfSecret(secret)
      const token = await requests.commit(
        (current, caller) => createLoginCode(current, request, hash, caller),
        request,
        context,
      )
      return { token: shownToken(token), text: textOf('login', token, secret, hash) }
    },

    async getServerInfo() {
      return {
        version: manifest.version,
        replicaId: api.replicaId,
        revision: database.revision,
        isController: api.controller.isLeading,
        busServer: api.busServers.join(','),
        busConnected: api.bus.state === 'connected',
      }
    },
  }
}

const EXPIRED_TOKEN = { kind: 'token', name: 'that has expired', reason: 'to forget it' } as const

/** Nobody needs the hash of a secret. */
function shownToken(token: Token): Token {
  return { ...token, secretHash: Buffer.alloc(0) }
}

/** Empty where a repeated request found the token of the first one, whose secret is known to nobody here. */
function textOf(kind: 'join' | 'login', token: Token, secret: Buffer, hash: Buffer): string {
  return token.secretHash.equals(hash) ? tokenText(kind, token.id, secret) : ''
}
