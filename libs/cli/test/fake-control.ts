import { NetworkExistsError, NetworkNotFoundError, UnimplementedError } from '@weft/errors'
import { ConfigServiceService } from '@weft/proto/weftline/config/v1/config_service.ts'
import { Encryption, Network, Tenant } from '@weft/proto/weftline/config/v1/records.ts'
import { type Handlers, implement, type Server, serve } from '@weft/rpc'
import { createLogger } from '@weft/telemetry'

/** A control server with one tenant, which keeps networks in memory and notes the keys of what it was asked. */
export interface FakeControl extends AsyncDisposable {
  readonly address: string
  readonly idempotencyKeys: string[]
}

export async function startFakeControl(): Promise<FakeControl> {
  const networks = new Map<string, Network>()
  const idempotencyKeys: string[] = []
  const handlers: Partial<Handlers<typeof ConfigServiceService>> = {
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
        encryption: Encryption.ENCRYPTION_OUTSIDE_TRUSTED_ZONES,
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
    async deleteNetwork(request) {
      return { deleted: networks.delete(request.name?.network ?? '') }
    },
  }
  const server: Server = await serve({
    listen: ['127.0.0.1:0'],
    services: [implement(ConfigServiceService, withRest(handlers))],
    log: createLogger({ service: 'fake-control', level: 'silent' }),
  })
  return {
    address: server.addresses[0] ?? '',
    idempotencyKeys,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  }
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
