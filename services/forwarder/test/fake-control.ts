import { authoriser, configAccess, locationAccess, routingAccess } from '@weft/access'
import { type Bus, events } from '@weft/bus'
import {
  EndpointAttachedElsewhereError,
  EndpointNotFoundError,
  UnimplementedError,
} from '@weft/errors'
import { verifyReport } from '@weft/identity/host-signature'
import { Carrier, Mechanism } from '@weft/proto/weftline/common/v1/common.ts'
import { ConfigServiceService } from '@weft/proto/weftline/config/v1/config_service.ts'
import { Encryption, Endpoint, Network } from '@weft/proto/weftline/config/v1/records.ts'
import {
  Connection,
  LocationChange,
  LocationReport,
  LocationReportReply,
  LocationServiceService,
  type Resolution,
} from '@weft/proto/weftline/location/v1/location.ts'
import { Fact, RoutingServiceService } from '@weft/proto/weftline/routing/v1/routing.ts'
import { type Handlers, type Implementation, implement, type Server, serve } from '@weft/rpc'
import { createLogger } from '@weft/telemetry'
import type { TestDomain } from '@weft/testing'

const log = createLogger({ service: 'fake-control', level: 'silent' })

export const network: Network = Network.fromPartial({
  id: 5,
  tenantId: 3,
  name: 'blue',
  vni: 100,
  prefixes: [{ address: Buffer.from([10, 20, 0, 0]), lengthBits: 16 }],
  mtuBytes: 1320,
  encryption: Encryption.ENCRYPTION_OUTSIDE_TRUSTED_ZONES,
})

/** Endpoint number `id` of network blue: 10.20.0.`id`. */
export function endpoint(id: number, name: string, hostId = 0): Endpoint {
  return Endpoint.fromPartial({
    id,
    networkId: network.id,
    name,
    mac: Buffer.from([2, 0, 0, 0, 0, id]),
    addresses: [Buffer.from([10, 20, 0, id])],
    hostId,
    meta: { revision: BigInt(100 + id) },
  })
}

/** Where each service is served. */
export interface ControlAddresses {
  readonly config: string
  readonly resolver: string
  readonly policy: string
}

/** Every tenant is carried by every host. */
const authorise = authoriser({
  world: {
    tenantIdOf: () => network.tenantId,
    tenantOfNetwork: () => network.tenantId,
    tenantOfEndpoint: () => network.tenantId,
    grantsOf: () => [],
    mayCarry: () => true,
  },
})

/** What the forwarder needs of the three services, in memory. */
export class FakeControl {
  readonly #domain: TestDomain
  /** Of the host that reports. */
  readonly hostKey: Buffer
  readonly endpoints: Map<number, Endpoint> = new Map()
  /** Where endpoints were reported. */
  readonly located: Map<number, { hostId: number; epoch: bigint; sequence: bigint }> = new Map()
  /** By which two hosts are joined. */
  carrier: Carrier = Carrier.CARRIER_VXLAN
  /** Pairs of hosts that share no trusted zone. */
  readonly apart: Set<number> = new Set()
  /** What is other than it should be in answers to an attach. */
  lie: { tenantName?: string; network?: Network; endpoint?: Endpoint } = {}
  /** Called before a release is done, which waits for it. */
  beforeRelease: () => Promise<void> = async () => {}
  readonly calls = { resolve: 0, decide: 0, assign: 0, release: 0 }
  #servers: Server[] = []

  /** `hostKey`: identity key of the only host whose reports it believes. */
  constructor(domain: TestDomain, hostKey: Buffer) {
    this.#domain = domain
    this.hostKey = hostKey
  }

  async listen(addresses: ControlAddresses): Promise<void> {
    const serveAs = async (
      id: 'config' | 'location-resolver' | 'routing-policy',
      address: string,
      service: Implementation,
    ) => {
      const credentials = this.#domain.credentials({ kind: 'service', id })
      const security = { kind: 'mutual-tls', credentials, authorise } as const
      this.#servers.push(await serve({ listen: [address], services: [service], security, log }))
    }
    const { config, resolver, policy } = addresses
    await serveAs('config', config, implement(ConfigServiceService, this.#config(), configAccess))
    await serveAs(
      'location-resolver',
      resolver,
      implement(LocationServiceService, this.#resolver(), locationAccess),
    )
    await serveAs(
      'routing-policy',
      policy,
      implement(RoutingServiceService, this.#policy(), routingAccess),
    )
  }

  async stop(): Promise<void> {
    await Promise.all(this.#servers.map((server) => server[Symbol.asyncDispose]()))
    this.#servers = []
  }

  /** Takes location reports from this bus. */
  takeReports(bus: Bus): AsyncDisposable {
    return bus.respond(
      events.endpointReported.pattern(),
      { request: LocationReport, reply: LocationReportReply },
      (report) => {
        verifyReport(report, this.hostKey)
        const { endpointId, hostId, sequence, change } = report
        const before = this.located.get(endpointId)
        if (change === LocationChange.LOCATION_CHANGE_DETACHED) {
          if (before?.hostId === hostId) this.located.delete(endpointId)
          return { outcome: { $case: 'gone', value: true } }
        }
        const epoch = before?.hostId === hostId ? before.epoch : (before?.epoch ?? 0n) + 1n
        this.located.set(endpointId, { hostId, epoch, sequence })
        return LocationReportReply.fromPartial({
          outcome: { $case: 'location', value: { endpointId, hostId, epoch } },
        })
      },
      { queue: 'fake-resolver' },
    )
  }

  #config(): Handlers<ConfigServiceService> {
    const served: Partial<Handlers<ConfigServiceService>> = {
      assignEndpoint: async ({ key, hostId }) => {
        this.calls.assign++
        const found = this.#find(key)
        if (found.hostId !== 0 && found.hostId !== hostId) {
          throw new EndpointAttachedElsewhereError({
            endpoint: found.name,
            host: `${found.hostId}`,
          })
        }
        found.hostId = hostId
        return { endpoint: found, network, tenantName: 'acme', ...this.lie }
      },
      releaseEndpoint: async ({ endpointId, hostId }) => {
        this.calls.release++
        await this.beforeRelease()
        const found = this.endpoints.get(endpointId)
        if (found?.hostId !== hostId) return { released: false }
        found.hostId = 0
        return { released: true }
      },
      getEndpoint: async ({ key }) => ({ endpoint: this.#find(key), network }),
      getServerInfo: async () => ({
        version: '0.1.0',
        replicaId: 'fake',
        revision: 1n,
        isController: true,
        busServer: '',
        busConnected: true,
      }),
    }
    return allOf(ConfigServiceService, served)
  }

  #resolver(): Handlers<LocationServiceService> {
    return allOf(LocationServiceService, {
      resolve: async ({ queries }) => {
        if (queries.length > 0) this.calls.resolve++
        return {
          resolutions: queries.map(({ sourceEndpointId, targetEndpointId }) =>
            this.#resolve(sourceEndpointId, targetEndpointId),
          ),
          locationRevision: 10n,
          configRevision: 20n,
          horizonMs: 60_000n,
        }
      },
    })
  }

  #resolve(sourceId: number, targetId: number): Resolution {
    const source = this.located.get(sourceId)
    const target = this.located.get(targetId)
    if (!source || !target) {
      const value = { code: 'endpoint-not-located', message: 'nowhere', facts: {}, remedy: '' }
      return { outcome: { $case: 'error', value } }
    }
    if (this.apart.has(target.hostId)) {
      const value = { code: 'no-common-trusted-zone', message: 'apart', facts: {}, remedy: 'join' }
      return { outcome: { $case: 'error', value } }
    }
    const isSame = source.hostId === target.hostId
    const value = Connection.fromPartial({
      sourceEndpointId: sourceId,
      targetEndpointId: targetId,
      mechanism: isSame ? Mechanism.MECHANISM_SAME_HOST : Mechanism.MECHANISM_DIRECT,
      carrier: isSame ? Carrier.CARRIER_NONE : this.carrier,
      targetHostId: target.hostId,
      targetEpoch: target.epoch,
    })
    return { outcome: { $case: 'connection', value } }
  }

  #policy(): Handlers<RoutingServiceService> {
    return allOf(RoutingServiceService, {
      decide: async ({ connections }) => {
        if (connections.length > 0) this.calls.decide++
        return {
          decisions: connections.map(() => ({
            protocol: 'shortest-path',
            rule: 'default',
            dependsOn: [Fact.FACT_NETWORK, Fact.FACT_SOURCE, Fact.FACT_TARGET],
            error: undefined,
          })),
          revision: 1n,
          horizonMs: 60_000n,
        }
      },
    })
  }

  #find(
    key:
      | { $case: 'name'; value: { endpoint: string } }
      | { $case: 'id'; value: number }
      | undefined,
  ): Endpoint {
    const found = [...this.endpoints.values()].find((candidate) =>
      key?.$case === 'id' ? candidate.id === key.value : candidate.name === key?.value.endpoint,
    )
    if (found) return found
    throw new EndpointNotFoundError({
      endpoint: key?.$case === 'name' ? key.value.endpoint : (key?.value ?? 0),
    })
  }
}

/** Handlers of which all others are refused. */
function allOf<S extends object>(definition: S, served: Partial<Handlers<S>>): Handlers<S> {
  const refused = Object.keys(definition).map((method) => [
    method,
    async () => {
      throw new UnimplementedError({ what: method })
    },
  ])
  return { ...(Object.fromEntries(refused) as Handlers<S>), ...served }
}
