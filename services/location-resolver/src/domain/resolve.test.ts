import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isDeepStrictEqual } from 'node:util'
import {
  DifferentNetworksError,
  EncryptionUnavailableError,
  EndpointNotFoundError,
  EndpointNotLocatedError,
  NoCommonTrustedZoneError,
} from '@weft/errors'
import { parseIpAddress } from '@weft/net'
import fc from 'fast-check'
import { ConfigView, type Endpoint, type Host } from './config-view.ts'
import { type Location, LocationTable } from './location-table.ts'
import { type Connection, locate, resolve } from './resolve.ts'

test('endpoints on one host are joined on it', () => {
  const { config, locations } = world()
  place(config, locations, { id: web, hostId: alpha })
  place(config, locations, { id: api, hostId: alpha })

  const connection = resolve(config, locations, web, api)

  assert.equal(connection.mechanism, 'same-host')
  assert.equal(connection.network.vni, 4711)
  assert.equal(connection.target.id, api)
})

test('endpoints on two hosts of a trusted zone are joined directly by VXLAN', () => {
  const { config, locations } = world()
  place(config, locations, { id: web, hostId: alpha })
  place(config, locations, { id: api, hostId: beta })

  const connection = resolve(config, locations, web, api)

  assert.deepEqual(wayOf(connection), {
    mechanism: 'direct',
    carrier: 'vxlan',
    sourceAddress: parseIpAddress('192.0.2.1'),
    targetAddress: parseIpAddress('192.0.2.2'),
  })
  assert.equal(connection.targetEpoch, 1n)
})

test('hosts without a common trusted zone are refused by name, with the remedy', () => {
  const { config, locations } = world()
  config.put({ kind: 'zone', value: { id: zone, name: 'dc', trusted: false } })
  place(config, locations, { id: web, hostId: alpha })
  place(config, locations, { id: api, hostId: beta })

  assert.throws(
    () => resolve(config, locations, web, api),
    (error) => {
      assert(error instanceof NoCommonTrustedZoneError)
      assert.deepEqual(error.facts, { source: 'alpha', target: 'beta' })
      assert.match(error.remedy, /trusted zone/)
      return true
    },
  )
})

test('trust that is withdrawn from a zone ends what was joined over it', () => {
  const { config, locations } = world()
  place(config, locations, { id: web, hostId: alpha })
  place(config, locations, { id: api, hostId: beta })
  assert.equal(resolve(config, locations, web, api).mechanism, 'direct')

  config.delete('zone', zone)

  assert.throws(() => resolve(config, locations, web, api), NoCommonTrustedZoneError)
})

test('a network that demands encryption is refused between hosts, and works on one', () => {
  const { config, locations } = world()
  config.put({ kind: 'network', value: { ...network, encryption: 'required' } })
  place(config, locations, { id: web, hostId: alpha })
  place(config, locations, { id: api, hostId: beta })
  place(config, locations, { id: db, hostId: alpha })

  assert.throws(() => resolve(config, locations, web, api), EncryptionUnavailableError)
  assert.equal(resolve(config, locations, web, db).mechanism, 'same-host')
})

test('a network that demands encryption is joined by the sealed carrier where both hosts have it', () => {
  const { config, locations } = world()
  config.put({ kind: 'network', value: { ...network, encryption: 'required' } })
  place(config, locations, { id: web, hostId: alpha })
  place(config, locations, { id: api, hostId: beta })
  config.put({ kind: 'host', value: host({ id: alpha, name: 'alpha', canSeal: true }) })
  assert.throws(() => resolve(config, locations, web, api), EncryptionUnavailableError)

  config.put({ kind: 'host', value: host({ id: beta, name: 'beta', canSeal: true }) })

  assert.deepEqual(wayOf(resolve(config, locations, web, api)), {
    mechanism: 'direct',
    carrier: 'sealed',
  })
})

test('hosts without a common trusted zone are joined by the sealed carrier if they have it', () => {
  const { config, locations } = world()
  config.put({ kind: 'zone', value: { id: zone, name: 'dc', trusted: false } })
  place(config, locations, { id: web, hostId: alpha })
  place(config, locations, { id: api, hostId: beta })
  config.put({ kind: 'host', value: host({ id: alpha, name: 'alpha', canSeal: true }) })
  config.put({ kind: 'host', value: host({ id: beta, name: 'beta', canSeal: true }) })

  const connection = resolve(config, locations, web, api)
  assert(connection.mechanism === 'direct')
  assert.equal(connection.carrier, 'sealed')
})

test('endpoints of different networks are refused', () => {
  const { config, locations } = world()
  place(config, locations, { id: web, hostId: alpha })
  place(config, locations, { id: api, hostId: alpha, networkId: blue + 1 })

  assert.throws(() => resolve(config, locations, web, api), DifferentNetworksError)
})

test('an endpoint that is unknown, unassigned or not yet observed is named', () => {
  const { config, locations } = world()
  place(config, locations, { id: web, hostId: alpha })
  assert.throws(() => resolve(config, locations, web, api), EndpointNotFoundError)

  config.put({ kind: 'endpoint', value: endpoint({ id: api, hostId: 0 }) })
  assert.throws(() => resolve(config, locations, web, api), EndpointNotLocatedError)

  config.put({ kind: 'endpoint', value: endpoint({ id: api, hostId: beta }) })
  assert.throws(() => resolve(config, locations, api, web), EndpointNotLocatedError)
})

test('an observation counts only at the host to which the endpoint is assigned', () => {
  const { config, locations } = world()
  place(config, locations, { id: web, hostId: alpha })
  assert.equal(locate(config, locations, web)?.hostId, alpha)

  config.put({ kind: 'endpoint', value: endpoint({ id: web, hostId: beta }) })

  assert.equal(locate(config, locations, web), undefined)
})

test('an endpoint on a foreign host is where it is assigned, although nobody reports it', () => {
  const { config, locations } = world()
  place(config, locations, { id: web, hostId: alpha })
  config.put({ kind: 'host', value: host({ id: beta, name: 'foreign', isForeign: true }) })
  config.put({ kind: 'endpoint', value: endpoint({ id: api, hostId: beta }) })

  const connection = resolve(config, locations, web, api)

  assert.equal(connection.mechanism, 'direct')
  assert.equal(connection.targetEpoch, 0n)
  assert.equal(locate(config, locations, api)?.hostId, beta)
})

test('in any fleet both ends choose the same way, and only between addresses of one trusted zone', () => {
  const zones = [1, 2, 3]
  const anyAddress = fc.record({
    address: fc.constantFrom('192.0.2.1', '192.0.2.2', 'fd00::1', 'fd00::2').map(ip),
    zoneId: fc.constantFrom(...zones),
  })
  const anyFleet = fc.record({
    trusted: fc.subarray(zones),
    alpha: fc.array(anyAddress, { maxLength: 3 }),
    beta: fc.array(anyAddress, { maxLength: 3 }),
  })
  fc.assert(
    fc.property(anyFleet, (fleet) => {
      const { config, locations } = world()
      for (const id of zones) {
        const trusted = fleet.trusted.includes(id)
        config.put({ kind: 'zone', value: { id, name: `zone-${id}`, trusted } })
      }
      config.put({
        kind: 'host',
        value: host({ id: alpha, name: 'alpha', addresses: fleet.alpha }),
      })
      config.put({ kind: 'host', value: host({ id: beta, name: 'beta', addresses: fleet.beta }) })
      place(config, locations, { id: web, hostId: alpha })
      place(config, locations, { id: api, hostId: beta })
      const pairs = fleet.alpha.flatMap((here) =>
        fleet.beta
          .filter(({ zoneId }) => zoneId === here.zoneId && fleet.trusted.includes(zoneId))
          .filter(({ address }) => address.family === here.address.family)
          .map((there) => ({ sourceAddress: here.address, targetAddress: there.address })),
      )

      const there = tryResolve(config, locations, web, api)
      const back = tryResolve(config, locations, api, web)

      if (pairs.length === 0) {
        assert.deepEqual([there, back], ['no-common-trusted-zone', 'no-common-trusted-zone'])
        return
      }
      assert(typeof there === 'object' && 'sourceAddress' in there)
      assert(typeof back === 'object' && 'sourceAddress' in back)
      const { sourceAddress, targetAddress } = there
      assert.deepEqual(back, {
        ...there,
        sourceAddress: targetAddress,
        targetAddress: sourceAddress,
      })
      assert(pairs.some((pair) => isDeepStrictEqual(pair, { sourceAddress, targetAddress })))
    }),
  )
})

const zone = 1
const alpha = 2
const beta = 3
const blue = 4
const [web, api, db] = [11, 12, 13]
const network = {
  id: blue,
  name: 'blue',
  vni: 4711,
  mtuBytes: 1320,
  encryption: 'outside-trusted-zones',
} as const

/** Hosts alpha and beta in one trusted zone, and network blue. */
function world(): { config: ConfigView; locations: LocationTable } {
  const config = new ConfigView()
  const at = (address: string): Host['addresses'] => [{ address: ip(address), zoneId: zone }]
  config.put({ kind: 'zone', value: { id: zone, name: 'dc', trusted: true } })
  config.put({ kind: 'network', value: network })
  config.put({
    kind: 'host',
    value: host({ id: alpha, name: 'alpha', addresses: at('192.0.2.1') }),
  })
  config.put({ kind: 'host', value: host({ id: beta, name: 'beta', addresses: at('192.0.2.2') }) })
  config.revision = 100n
  return { config, locations: new LocationTable() }
}

function host(some: Pick<Host, 'id' | 'name'> & Partial<Host>): Host {
  const addresses = [{ address: ip('192.0.2.9'), zoneId: zone }]
  const identityKey = Buffer.alloc(32)
  return { isForeign: false, identityKey, isRevoked: false, addresses, canSeal: false, ...some }
}

function endpoint(some: Pick<Endpoint, 'id'> & Partial<Endpoint>): Endpoint {
  const mac = Buffer.from([2, 0, 0, 0, 0, some.id])
  return { name: `endpoint-${some.id}`, networkId: blue, hostId: 0, mac, addresses: [], ...some }
}

/** Assigns the endpoint to a host and observes it there. */
function place(
  config: ConfigView,
  locations: LocationTable,
  some: Pick<Endpoint, 'id' | 'hostId'> & Partial<Endpoint>,
): void {
  const value = endpoint(some)
  config.put({ kind: 'endpoint', value })
  const location: Location = {
    endpointId: value.id,
    networkId: value.networkId,
    addresses: [],
    hostId: value.hostId,
    epoch: 1n,
    leaseId: '',
    observedAtUnixMs: 0n,
    hostSignature: Buffer.alloc(0),
    report: Buffer.alloc(0),
    revision: 1n,
    reportSequence: 1n,
    reporterHostId: value.hostId,
  }
  locations.put(location)
}

type Way =
  | { readonly mechanism: 'same-host' }
  | { readonly mechanism: 'direct'; readonly carrier: 'sealed' }
  | {
      readonly mechanism: 'direct'
      readonly carrier: 'vxlan'
      readonly sourceAddress: unknown
      readonly targetAddress: unknown
    }

function wayOf(connection: Connection): Way {
  const { mechanism } = connection
  if (mechanism === 'same-host') return { mechanism }
  if (connection.carrier === 'sealed') return { mechanism, carrier: 'sealed' }
  const { carrier, sourceAddress, targetAddress } = connection
  return { mechanism, carrier, sourceAddress, targetAddress }
}

function tryResolve(
  config: ConfigView,
  locations: LocationTable,
  source: number,
  target: number,
): Way | string {
  try {
    return wayOf(resolve(config, locations, source, target))
  } catch (error) {
    if (error instanceof NoCommonTrustedZoneError) return error.code
    throw error
  }
}

function ip(text: string): NonNullable<ReturnType<typeof parseIpAddress>> {
  const address = parseIpAddress(text)
  assert(address !== undefined)
  return address
}
