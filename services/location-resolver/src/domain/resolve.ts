import {
  DifferentNetworksError,
  EncryptionUnavailableError,
  EndpointNotFoundError,
  EndpointNotLocatedError,
  NetworkNotFoundError,
  NoCommonTrustedZoneError,
} from '@weft/errors'
import { carrierBetween, type IpAddress } from '@weft/net'
import type { ConfigView, Endpoint, Host, Network } from './config-view.ts'
import type { Location, LocationTable } from './location-table.ts'

/** How two endpoints are joined, with what that needs. */
export type Connection = {
  readonly source: Endpoint
  readonly target: Endpoint
  readonly network: Network
  readonly sourceHost: Host
  readonly targetHost: Host
  /** Fencing number of the target's location, 0n on a foreign host. */
  readonly targetEpoch: bigint
} & (
  | { readonly mechanism: 'same-host' }
  | {
      readonly mechanism: 'direct'
      readonly carrier: 'vxlan'
      readonly sourceAddress: IpAddress
      readonly targetAddress: IpAddress
    }
  | { readonly mechanism: 'direct'; readonly carrier: 'sealed' }
)

/**
 * Where the endpoint is: where its assigned host observed it, or, on a foreign host, for which nobody reports, where it is
 * assigned. Undefined if it is nowhere, only at a host to which it is no longer assigned, or at one whose key is void.
 */
export function locate(
  config: ConfigView,
  locations: LocationTable,
  endpointId: number,
): Location | undefined {
  const endpoint = config.endpoints.get(endpointId)
  if (endpoint === undefined || endpoint.hostId === 0) return undefined
  const host = config.hosts.get(endpoint.hostId)
  if (host?.isRevoked) return undefined
  if (host?.isForeign) return foreignLocation(endpoint)
  const observed = locations.get(endpointId)
  return observed?.hostId === endpoint.hostId ? observed : undefined
}

/**
 * Determines the mechanism for a pair of endpoints and works out what it needs.
 *
 * @throws EndpointNotFoundError, EndpointNotLocatedError: one of the two is not known, or is nowhere.
 * @throws DifferentNetworksError
 * @throws NoCommonTrustedZoneError, EncryptionUnavailableError: their hosts cannot be joined.
 */
export function resolve(
  config: ConfigView,
  locations: LocationTable,
  sourceId: number,
  targetId: number,
): Connection {
  const source = endpointOf(config, sourceId)
  const target = endpointOf(config, targetId)
  if (source.networkId !== target.networkId) {
    throw new DifferentNetworksError({ source: source.name, target: target.name })
  }
  const network = config.networks.get(source.networkId)
  if (network === undefined) throw new NetworkNotFoundError({ network: source.networkId })
  const { host: sourceHost } = whereabouts(config, locations, source)
  const { host: targetHost, epoch: targetEpoch } = whereabouts(config, locations, target)
  const ends = { source, target, network, sourceHost, targetHost, targetEpoch }
  if (sourceHost.id === targetHost.id) return { ...ends, mechanism: 'same-host' }

  const choice = carrierBetween(
    config.linkEndOf(sourceHost),
    config.linkEndOf(targetHost),
    network.encryption,
  )
  if (choice.carrier === 'refused') {
    const hosts = { source: sourceHost.name, target: targetHost.name }
    throw choice.reason === 'encryption-required'
      ? new EncryptionUnavailableError({ network: network.name, ...hosts })
      : new NoCommonTrustedZoneError(hosts)
  }
  const mechanism = 'direct'
  if (choice.carrier === 'sealed') return { ...ends, mechanism, carrier: 'sealed' }
  const { local: sourceAddress, remote: targetAddress } = choice
  return { ...ends, mechanism, carrier: 'vxlan', sourceAddress, targetAddress }
}

function endpointOf(config: ConfigView, id: number): Endpoint {
  const endpoint = config.endpoints.get(id)
  if (endpoint === undefined) throw new EndpointNotFoundError({ endpoint: id })
  return endpoint
}

function whereabouts(
  config: ConfigView,
  locations: LocationTable,
  endpoint: Endpoint,
): { host: Host; epoch: bigint } {
  const location = locate(config, locations, endpoint.id)
  const host = location && config.hosts.get(location.hostId)
  if (location === undefined || host === undefined) {
    throw new EndpointNotLocatedError({ endpoint: endpoint.name })
  }
  return { host, epoch: location.epoch }
}

function foreignLocation(endpoint: Endpoint): Location {
  return {
    endpointId: endpoint.id,
    networkId: endpoint.networkId,
    addresses: endpoint.addresses,
    hostId: endpoint.hostId,
    epoch: 0n,
    leaseId: '',
    observedAtUnixMs: 0n,
    hostSignature: Buffer.alloc(0),
    report: Buffer.alloc(0),
    revision: 0n,
    reportSequence: 0n,
    reporterHostId: 0,
  }
}
