import { ipToBytes, macToBytes, parseIpAddress, parseMacAddress, parsePrefix } from '@weft/net'
import type { Prefix } from '@weft/proto/weftline/common/v1/common.ts'
import {
  AssignEndpointRequest,
  CreateEndpointRequest,
  CreateHostRequest,
  CreateNetworkRequest,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  Encryption,
  type Endpoint,
  type Host,
  HostKind,
  type Network,
} from '@weft/proto/weftline/config/v1/records.ts'
import { type Change, Database } from './database.ts'
import { assignEndpoint, createEndpoint } from './requests/endpoints.ts'
import { createHost } from './requests/hosts.ts'
import { createNetwork } from './requests/networks.ts'
import type { Caller, Plan, Step } from './requests/plan.ts'
import { createTenant } from './requests/tenants.ts'
import { createZone } from './requests/zones.ts'

/** A database for tests: plans are applied at once, and every change is kept. */
export class TestWorld {
  readonly database: Database = new Database()
  readonly changes: Change[] = []
  nowUnixMs = 1_000
  #keys = 0
  #random = 0

  caller(idempotencyKey: string = `key-${++this.#keys}`): Caller {
    return {
      idempotencyKey,
      writtenBy: 'test',
      nowUnixMs: this.nowUnixMs,
      random: (sizeBytes) => Buffer.alloc(sizeBytes).fill(++this.#random),
    }
  }

  /** Applies what a plan writes and answers its result. */
  run<T>({ write, result }: Plan<T>): T {
    if (write) {
      const change = this.database.apply(write, this.database.revision + 1n)
      if (change) this.changes.push(change)
    }
    return result()
  }

  /** Applies all steps and answers the result of the last one. */
  runAll(steps: readonly Step[]): unknown {
    let result: unknown
    for (const step of steps) result = this.run(step(this.database, this.caller()))
    return result
  }

  tenant(name: string): void {
    this.run(createTenant(this.database, { idempotencyKey: '', name, labels: {} }, this.caller()))
  }

  zone(name: string, trusted = true): void {
    const request = { idempotencyKey: '', name, trusted, labels: {} }
    this.run(createZone(this.database, request, this.caller()))
  }

  /** `addresses` as `address@zone`. */
  host(
    name: string,
    addresses: readonly string[] = [],
    kind: HostKind = HostKind.HOST_KIND_WEFT,
  ): Host {
    const request = CreateHostRequest.create({
      name,
      kind,
      addresses: addresses.map((text) => {
        const [address = '', zone = ''] = text.split('@')
        return { address: ip(address), zone }
      }),
    })
    return this.run(createHost(this.database, request, this.caller()))
  }

  /** `path` as `tenant/network`. */
  network(path: string, ...prefixes: readonly string[]): Network {
    const request = CreateNetworkRequest.create({
      name: networkName(path),
      prefixes: prefixes.map(prefix),
      encryption: Encryption.ENCRYPTION_OUTSIDE_TRUSTED_ZONES,
    })
    return this.run(createNetwork(this.database, request, this.caller()))
  }

  /** `path` as `tenant/network/endpoint`. */
  endpoint(
    path: string,
    given: {
      readonly addresses?: readonly string[]
      readonly mac?: string
      readonly allowed?: readonly string[]
      readonly vxlanPeer?: string
    } = {},
  ): Endpoint {
    const request = CreateEndpointRequest.create({
      name: endpointName(path),
      addresses: (given.addresses ?? []).map(ip),
      mac: given.mac === undefined ? Buffer.alloc(0) : mac(given.mac),
      allowedPrefixes: (given.allowed ?? []).map(prefix),
      vxlanPeer: given.vxlanPeer ?? '',
    })
    return this.run(createEndpoint(this.database, request, this.caller()))
  }

  assign(endpoint: Endpoint, host: Host): Endpoint {
    const request = AssignEndpointRequest.create({
      key: { $case: 'id', value: endpoint.id },
      hostId: host.id,
    })
    return this.run(assignEndpoint(this.database, request, this.caller()))
  }
}

export function networkName(path: string): { tenant: string; network: string } {
  const [tenant = '', network = ''] = path.split('/')
  return { tenant, network }
}

export function endpointName(path: string): { tenant: string; network: string; endpoint: string } {
  const [tenant = '', network = '', endpoint = ''] = path.split('/')
  return { tenant, network, endpoint }
}

export function ip(text: string): Buffer {
  const address = parseIpAddress(text)
  if (!address) throw new TypeError(`${text} is no address`)
  return ipToBytes(address)
}

export function mac(text: string): Buffer {
  const parsed = parseMacAddress(text)
  if (parsed === undefined) throw new TypeError(`${text} is no MAC`)
  return macToBytes(parsed)
}

export function prefix(text: string): Prefix {
  const parsed = parsePrefix(text)
  if (!parsed) throw new TypeError(`${text} is no prefix`)
  return { address: ipToBytes(parsed.address), lengthBits: parsed.lengthBits }
}
