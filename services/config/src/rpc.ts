import { randomBytes, randomUUID } from 'node:crypto'
import type { Bus } from '@weft/bus'
import { InvalidArgumentError } from '@weft/errors'
import type { ConfigServiceService } from '@weft/proto/weftline/config/v1/config_service.ts'
import { Endpoint, Host, Network, Tenant, Zone } from '@weft/proto/weftline/config/v1/records.ts'
import type { CallContext, Handlers } from '@weft/rpc'
import manifest from '../package.json' with { type: 'json' }
import type { Commits } from './commits.ts'
import type { Controller } from './controller.ts'
import type { Database } from './domain/database.ts'
import { limits } from './domain/limits.ts'
import {
  endpointsAfter,
  hostsAfter,
  networksAfter,
  pageOf,
  tenantsAfter,
  zonesAfter,
} from './domain/pages.ts'
import {
  assignEndpoint,
  createEndpoint,
  deleteEndpoint,
  endpointWithKey,
  releaseEndpoint,
} from './domain/requests/endpoints.ts'
import { createHost, deleteHost, hostWithKey, updateHost } from './domain/requests/hosts.ts'
import {
  createNetwork,
  deleteNetwork,
  networkNamed,
  requiredName,
} from './domain/requests/networks.ts'
import type { Caller, Plan } from './domain/requests/plan.ts'
import { createTenant, deleteTenant, tenantNamed } from './domain/requests/tenants.ts'
import { createZone, deleteZone, updateZone, zoneNamed } from './domain/requests/zones.ts'
import type { Replica } from './replica.ts'

export interface ConfigApi {
  readonly bus: Bus
  readonly busServers: readonly string[]
  readonly replicaId: string
  readonly replica: Replica
  readonly commits: Commits
  readonly controller: Controller
}

export function configHandlers(api: ConfigApi): Handlers<typeof ConfigServiceService> {
  const { commits, replica } = api
  const { database } = replica

  /** Makes the request's plan and commits it. */
  const write = <Q extends { readonly idempotencyKey: string }, T>(
    plan: (database: Database, request: Q, caller: Caller) => Plan<T>,
    request: Q,
    context: CallContext,
  ): Promise<T> => {
    const caller = callerOf(request.idempotencyKey, context)
    return commits.commit({
      what: context.method.slice(context.method.lastIndexOf('/') + 1),
      idempotencyKey: caller.idempotencyKey,
      signal: context.signal,
      plan: (current) => plan(current, request, caller),
    })
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
    async listTenants({ page }) {
      const items = tenantsAfter(database, page?.token ?? '')
      const { records, nextToken } = pageOf(items, page?.size ?? 0, sizeIn(Tenant))
      return { tenants: records, nextToken }
    },
    async deleteTenant(request, context) {
      return { deleted: await write(deleteTenant, request, context) }
    },

    async createZone(request, context) {
      return { zone: await write(createZone, request, context) }
    },
    async getZone({ name }) {
      return { zone: zoneNamed(database, name) }
    },
    async listZones({ page }) {
      const items = zonesAfter(database, page?.token ?? '')
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
    async getHost({ key }) {
      return { host: hostWithKey(database, key) }
    },
    async listHosts({ page }) {
      const items = hostsAfter(database, page?.token ?? '')
      const { records, nextToken } = pageOf(items, page?.size ?? 0, sizeIn(Host))
      return { hosts: records, nextToken }
    },
    async updateHost(request, context) {
      return { host: await write(updateHost, request, context) }
    },
    async deleteHost(request, context) {
      return { deleted: await write(deleteHost, request, context) }
    },

    async createNetwork(request, context) {
      return { network: await write(createNetwork, request, context) }
    },
    async getNetwork({ name }) {
      const network = networkNamed(database, requiredName(name))
      return { network, endpointCount: database.endpointNames(network.id)?.size ?? 0 }
    },
    async listNetworks({ tenant, page }) {
      const only = tenant === '' ? undefined : tenantNamed(database, tenant)
      const items = networksAfter(database, only, page?.token ?? '')
      const { records, nextToken } = pageOf(items, page?.size ?? 0, sizeIn(Network))
      return { networks: records, nextToken }
    },
    async deleteNetwork(request, context) {
      return { deleted: await write(deleteNetwork, request, context) }
    },

    async createEndpoint(request, context) {
      return { endpoint: await write(createEndpoint, request, context) }
    },
    async getEndpoint({ key }) {
      const { endpoint, network } = surroundings(endpointWithKey(database, key))
      return { endpoint, network }
    },
    async listEndpoints({ network: name, page }) {
      const tenant = name?.tenant ? tenantNamed(database, name.tenant) : undefined
      const network = name?.network ? networkNamed(database, name) : undefined
      const items = endpointsAfter(database, tenant, network, page?.token ?? '')
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

function callerOf(idempotencyKey: string, { peer }: CallContext): Caller {
  if (idempotencyKey.length > limits.idempotencyKeyLength || !/^[!-~]*$/.test(idempotencyKey)) {
    throw new InvalidArgumentError({
      field: 'idempotency_key',
      problem: `it is not up to ${limits.idempotencyKeyLength} printable characters without spaces`,
      remedy: 'give a UUID',
    })
  }
  return {
    idempotencyKey: idempotencyKey === '' ? randomUUID() : idempotencyKey,
    writtenBy: peer,
    nowUnixMs: Date.now(),
    random: randomBytes,
  }
}

function sizeIn<T>(codec: {
  encode(message: T): { finish(): Uint8Array }
}): (message: T) => number {
  return (message) => codec.encode(message).finish().byteLength
}
