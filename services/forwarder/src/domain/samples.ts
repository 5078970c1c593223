import { type MacAddress, parseIpAddress, parsePrefix } from '@weft/net'
import type { Endpoint, Network, Peer, Row, RowChange, Self } from './rows.ts'

// Values for the tests of this folder.

export const HERE = 1

export function networkOf(id: number, change: Partial<Network> = {}): Network {
  const prefix = parsePrefix('10.20.0.0/16')
  if (!prefix) throw new Error('the prefix is broken')
  return {
    id,
    tenant: 'acme',
    name: `network${id}`,
    vni: 100 + id,
    prefixes: [prefix],
    mtuBytes: 1320,
    encryption: 'outside-trusted-zones',
    ...change,
  }
}

export function endpointOf(id: number, change: Partial<Endpoint> = {}): Endpoint {
  return {
    id,
    networkId: 1,
    name: `endpoint${id}`,
    mac: id as MacAddress,
    addresses: [address(`10.20.0.${id}`)],
    allowedPrefixes: [],
    hostId: 2,
    epoch: 1n,
    ...change,
  }
}

export function peerOf(hostId: number, zoneId = 1): Peer {
  const at = { address: address(`192.0.2.${hostId}`), zoneId, zoneName: 'lab', trusted: true }
  return {
    hostId,
    name: `host${hostId}`,
    isForeign: false,
    addresses: [at],
    identityKey: keyOfHost(hostId),
  }
}

/** Not a key of anybody's, and another one for each host. */
export function keyOfHost(hostId: number): string {
  return hostId.toString(16).padStart(64, '0')
}

/** A row that came, derived from these states; it holds until `notAfterMs`. */
export function put(
  row: Row,
  config: bigint,
  location = 0n,
  notAfterMs: number = Number.MAX_SAFE_INTEGER,
): RowChange & { readonly kind: 'put' } {
  return {
    kind: 'put',
    row,
    revisions: { config, location },
    notAfterMs,
    proof: Buffer.from(`${config}`),
  }
}

export function selfOf(zoneId = 1): Self {
  const { addresses } = peerOf(HERE, zoneId)
  return { name: 'here', addresses, canSeal: false, sealedPort: 61_820, configured: [] }
}

function address(text: string) {
  const parsed = parseIpAddress(text)
  if (!parsed) throw new Error(`${text} is no address`)
  return parsed
}
