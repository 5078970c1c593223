import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'
import {
  AddressOutsidePrefixError,
  AddressReservedError,
  AddressTakenError,
  EndpointAttachedElsewhereError,
  EndpointExistsError,
  EndpointInUseError,
  EndpointNotFoundError,
  HostNotFoundError,
  InvalidAddressError,
  InvalidArgumentError,
  InvalidMacError,
  InvalidNameError,
  InvalidPrefixError,
  LimitReachedError,
  MacTakenError,
  NetworkFullError,
  NetworkNotFoundError,
} from '@weft/errors'
import { formatIpAddress, ipFromBytes } from '@weft/net'
import { CreateEndpointRequest } from '@weft/proto/weftline/config/v1/config_service.ts'
import { Endpoint, HostKind, Network } from '@weft/proto/weftline/config/v1/records.ts'
import fc from 'fast-check'
import { limits } from '../limits.ts'
import { endpointName, ip, TestWorld } from '../test-world.ts'
import { assignEndpoint, createEndpoint, deleteEndpoint, releaseEndpoint } from './endpoints.ts'

let world: TestWorld

beforeEach(() => {
  world = new TestWorld()
  world.tenant('acme')
  world.network('acme/blue', '10.20.0.0/16', 'fd20::/64')
})

function addressesOf(endpoint: Endpoint): string[] {
  return endpoint.addresses.map((bytes) => {
    const address = ipFromBytes(bytes)
    return address ? formatIpAddress(address) : '?'
  })
}

function tenantId(name: string): number {
  return world.database.tenantNames.get(name) ?? 0
}

/** An endpoint without addresses, as only a replica hears of it. */
function put(fields: Pick<Endpoint, 'id' | 'networkId' | 'name'>): void {
  const mac = Buffer.alloc(6)
  mac.writeUInt32BE(fields.id, 2)
  const record = Endpoint.create({ ...fields, mac })
  world.run({ write: { kind: 'endpoint', id: fields.id, record }, result: () => 0 })
}

function remove(path: string) {
  return deleteEndpoint(world.database, { idempotencyKey: '', name: endpointName(path) })
}

function assign(endpointId: number, hostId: number, key?: string) {
  const request = {
    idempotencyKey: '',
    key: { $case: 'id' as const, value: endpointId },
    hostId,
  }
  return assignEndpoint(world.database, request, world.caller(key))
}

function release(endpointId: number, hostId: number) {
  return releaseEndpoint(world.database, { idempotencyKey: '', endpointId, hostId }, world.caller())
}

test('a tenant that has its endpoints, in whichever networks, keeps no other tenant from any', () => {
  const { id: blue } = world.endpoint('acme/blue/web')
  const networks = ['acme/blue', 'acme/red'].map((path, index) =>
    index === 0 ? world.database.endpoint(blue)?.networkId : world.network(path, '10.30.0.0/16').id,
  )
  // The last one is told before its network is.
  const late = Number(world.database.revision) + 1_000_000
  const count = limits.endpointsPerTenant - 1
  for (let number = 0; number < count; number++) {
    const networkId = number === count - 1 ? late : (networks[number % 2] ?? 0)
    put({ id: 1_000_000 + number, networkId, name: `e-${number}` })
  }
  assert.equal(world.database.endpointCountOf(tenantId('acme')), count)
  const record = Network.create({ id: late, tenantId: tenantId('acme'), name: 'late', vni: 77 })
  world.run({ write: { kind: 'network', id: late, record }, result: () => 0 })
  assert.equal(world.database.endpointCountOf(tenantId('acme')), limits.endpointsPerTenant)

  assert.throws(
    () => world.endpoint('acme/red/more'),
    (error) => error instanceof LimitReachedError && /endpoints of tenant acme/.test(error.message),
  )

  world.tenant('other')
  world.network('other/blue', '10.20.0.0/16')
  world.endpoint('other/blue/web')
  world.run(remove('acme/blue/web'))
  world.endpoint('acme/red/more')
  assert.equal(world.database.endpointCountOf(tenantId('other')), 1)
})

test('an endpoint gets the lowest free address of each family after the reserved one', () => {
  assert.deepEqual(addressesOf(world.endpoint('acme/blue/web')), ['10.20.0.2', 'fd20::2'])
  assert.deepEqual(addressesOf(world.endpoint('acme/blue/db')), ['10.20.0.3', 'fd20::3'])
  world.run(remove('acme/blue/web'))
  assert.deepEqual(addressesOf(world.endpoint('acme/blue/api')), ['10.20.0.2', 'fd20::2'])
})

test('an address that was asked for is given, and the other family gets a free one', () => {
  const endpoint = world.endpoint('acme/blue/web', { addresses: ['10.20.0.11'] })
  assert.deepEqual(addressesOf(endpoint), ['10.20.0.11', 'fd20::2'])
})

test('addresses outside the prefixes, reserved, taken, repeated and malformed are refused', () => {
  world.endpoint('acme/blue/web', { addresses: ['10.20.0.11'] })
  const attempt =
    (...addresses: string[]) =>
    () =>
      world.endpoint('acme/blue/x', { addresses })
  assert.throws(attempt('10.21.0.1'), AddressOutsidePrefixError)
  assert.throws(attempt('fd21::1'), AddressOutsidePrefixError)
  assert.throws(attempt('10.20.0.1'), AddressReservedError)
  assert.throws(attempt('fd20::1'), AddressReservedError)
  assert.throws(attempt('10.20.0.0'), AddressReservedError)
  assert.throws(attempt('10.20.255.255'), /broadcast/)
  assert.throws(attempt('10.20.0.11'), AddressTakenError)
  assert.throws(attempt('10.20.0.12', '10.20.0.12'), InvalidArgumentError)
  const request = CreateEndpointRequest.create({
    name: endpointName('acme/blue/x'),
    addresses: [Buffer.alloc(3)],
  })
  const malformed = () => createEndpoint(world.database, request, world.caller())
  assert.throws(malformed, InvalidAddressError)
  assert.equal(world.database.counts.endpoint, 1)
})

test('a full network says so, and has room again once an endpoint is removed', () => {
  world.network('acme/tiny', '10.9.0.0/29')
  for (let count = 0; count < 5; count++) world.endpoint(`acme/tiny/e${count}`)
  assert.throws(() => world.endpoint('acme/tiny/e5'), NetworkFullError)
  assert.throws(
    () => world.endpoint('acme/tiny/e5'),
    /network tiny has no free address in 10\.9\.0\.0\/29 \(5 used\)/,
  )
  world.run(remove('acme/tiny/e3'))
  assert.deepEqual(addressesOf(world.endpoint('acme/tiny/e5')), ['10.9.0.5'])
})

test('a second prefix of a family is used when the first is full', () => {
  world.network('acme/two', '10.9.0.0/30', '10.9.1.0/30')
  assert.deepEqual(addressesOf(world.endpoint('acme/two/a')), ['10.9.0.2'])
  assert.deepEqual(addressesOf(world.endpoint('acme/two/b')), ['10.9.1.2'])
  assert.throws(() => world.endpoint('acme/two/c'), NetworkFullError)
})

test('no address and no MAC is ever held twice, whatever is created and removed', () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant('auto'), name: fc.integer({ min: 0, max: 30 }) }),
    fc.record({
      kind: fc.constant('given'),
      name: fc.integer({ min: 0, max: 30 }),
      host: fc.integer({ min: 0, max: 31 }),
    }),
    fc.record({ kind: fc.constant('remove'), name: fc.integer({ min: 0, max: 30 }) }),
  )
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
      world = new TestWorld()
      world.tenant('acme')
      world.network('acme/n', '10.9.0.0/27', 'fd20::/124')
      const living = new Map<string, Endpoint>()
      for (const { kind, name, ...rest } of steps) {
        const path = `acme/n/e${name}`
        try {
          if (kind === 'remove') {
            if (world.run(remove(path))) living.delete(path)
          } else {
            const given = 'host' in rest ? { addresses: [`10.9.0.${rest.host}`] } : {}
            living.set(path, world.endpoint(path, given))
          }
        } catch {
          // Refused: nothing may have changed, which the sets below show.
        }
        const held = [...living.values()].flatMap(addressesOf)
        const macs = [...living.values()].map(({ mac }) => mac.toString('hex'))
        assert.equal(new Set(held).size, held.length)
        assert.equal(new Set(macs).size, macs.length)
        assert.equal(world.database.counts.endpoint, living.size)
      }
    }),
    { numRuns: 60 },
  )
})

test('a MAC that was asked for is given; group, zero, short and taken ones are refused', () => {
  const web = world.endpoint('acme/blue/web', { mac: '02:00:00:00:00:0b' })
  assert.equal(web.mac.toString('hex'), '02000000000b')
  const attempt = (text: string) => () => world.endpoint('acme/blue/x', { mac: text })
  assert.throws(attempt('01:00:5e:00:00:01'), InvalidMacError)
  assert.throws(attempt('00:00:00:00:00:00'), InvalidMacError)
  assert.throws(attempt('02:00:00:00:00:0b'), MacTakenError)
  const request = CreateEndpointRequest.create({
    name: endpointName('acme/blue/x'),
    mac: Buffer.alloc(5),
  })
  assert.throws(() => createEndpoint(world.database, request, world.caller()), InvalidMacError)
})

test('without a MAC it goes with the address, so that the next owner of the address has the same', () => {
  const given = { addresses: ['10.20.0.11'] }
  const mac = world.endpoint('acme/blue/web', given).mac.toString('hex')
  assert.equal(mac, '02570a14000b')
  assert.equal(world.run(remove('acme/blue/web')), true)
  assert.equal(world.endpoint('acme/blue/next', given).mac.toString('hex'), mac)
  const taken = world.endpoint('acme/blue/taker', { mac: '02:57:0a:14:00:0c' })
  const other = world.endpoint('acme/blue/other', { addresses: ['10.20.0.12'] })
  assert.notEqual(other.mac.toString('hex'), taken.mac.toString('hex'))
})

test('the same MAC and address may be in two networks', () => {
  world.network('acme/red', '10.20.0.0/16')
  const given = { addresses: ['10.20.0.11'], mac: '02:00:00:00:00:0b' }
  world.endpoint('acme/blue/web', given)
  assert.deepEqual(addressesOf(world.endpoint('acme/red/web', given)), ['10.20.0.11'])
})

test('allowed prefixes may be wider than the network, not inside it', () => {
  const allowed = ['172.16.5.0/24', '0.0.0.0/0']
  assert.equal(world.endpoint('acme/blue/gw', { allowed }).allowedPrefixes.length, 2)
  const attempt = (text: string) => () => world.endpoint('acme/blue/x', { allowed: [text] })
  assert.throws(attempt('10.20.5.0/24'), InvalidPrefixError)
  assert.throws(attempt('10.20.0.0/16'), InvalidPrefixError)
  assert.throws(attempt('172.16.5.1/24'), InvalidPrefixError)
})

test('unknown networks and hosts, and bad names, are refused', () => {
  assert.throws(() => world.endpoint('acme/red/web'), NetworkNotFoundError)
  assert.throws(() => world.endpoint('acme/blue/Web'), InvalidNameError)
  assert.throws(() => world.endpoint('acme/blue/w', { vxlanPeer: 'nobody' }), HostNotFoundError)
  world.endpoint('acme/blue/web')
  assert.throws(() => world.endpoint('acme/blue/web'), EndpointExistsError)
  assert.throws(() => assign(999, 1), EndpointNotFoundError)
  assert.throws(() => assign(world.endpoint('acme/blue/a').id, 999), HostNotFoundError)
})

test('an endpoint is assigned to one host at a time, and may be assigned anew once it is released', () => {
  const alpha = world.host('alpha')
  const beta = world.host('beta')
  const web = world.endpoint('acme/blue/web')
  assert.equal(world.run(assign(web.id, alpha.id)).hostId, alpha.id)
  const { revision } = world.database
  assert.equal(world.run(assign(web.id, alpha.id)).hostId, alpha.id)
  assert.equal(world.database.revision, revision)
  assert.throws(() => assign(web.id, beta.id), EndpointAttachedElsewhereError)
  assert.throws(() => remove('acme/blue/web'), EndpointInUseError)
  assert.equal(world.run(release(web.id, beta.id)), false)
  assert.equal(world.run(release(web.id, alpha.id)), true)
  assert.equal(world.run(release(web.id, alpha.id)), false)
  assert.equal(world.run(assign(web.id, beta.id)).hostId, beta.id)
  assert.equal(world.run(release(999, alpha.id)), false)
})

test('a request to assign that comes late, after a release, does not assign again', () => {
  const alpha = world.host('alpha')
  const web = world.endpoint('acme/blue/web')
  world.run(assign(web.id, alpha.id, 'attach-1'))
  world.run(release(web.id, alpha.id))
  const { revision } = world.database
  assert.equal(world.run(assign(web.id, alpha.id, 'attach-1')).hostId, alpha.id)
  assert.equal(world.database.revision, revision)
  assert.equal(world.database.endpoint(web.id)?.hostId, 0)
})

test('an endpoint of a foreign VXLAN peer is assigned at once, and may be removed as it is', () => {
  world.zone('lab')
  const peer = world.host('peer', ['192.0.2.9@lab'], HostKind.HOST_KIND_VXLAN_PEER)
  const alpha = world.host('alpha')
  const edge = world.endpoint('acme/blue/edge', { vxlanPeer: 'peer' })
  assert.equal(edge.hostId, peer.id)
  assert.throws(() => world.endpoint('acme/blue/x', { vxlanPeer: 'alpha' }), InvalidArgumentError)
  assert.throws(() => assign(world.endpoint('acme/blue/y').id, peer.id), InvalidArgumentError)
  assert.throws(() => assign(edge.id, alpha.id), EndpointAttachedElsewhereError)
  assert.equal(world.run(remove('acme/blue/edge')), true)
})

test('what a newer version stored in a record stays when it is written again', () => {
  const alpha = world.host('alpha')
  const web = world.endpoint('acme/blue/web', { addresses: ['10.20.0.11'] })
  web._unknownFields = { 802: [Buffer.from([3, 1, 2, 3])] }
  if (web.meta) web.meta._unknownFields = { 802: [Buffer.from([1, 9])] }
  const assigned = world.run(assign(web.id, alpha.id))
  assert.deepEqual(assigned._unknownFields, web._unknownFields)
  assert.deepEqual(assigned.meta?._unknownFields, { 802: [Buffer.from([1, 9])] })
  assert.deepEqual(assigned.addresses[0], ip('10.20.0.11'))
})
