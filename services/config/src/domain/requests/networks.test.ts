import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'
import {
  IdempotencyMismatchError,
  InvalidArgumentError,
  InvalidMtuError,
  InvalidNameError,
  InvalidPrefixError,
  InvalidVniError,
  LimitReachedError,
  NetworkExistsError,
  NetworkInUseError,
  PrefixOverlapError,
  TenantNotFoundError,
  VniTakenError,
} from '@weft/errors'
import { LINK_ENCRYPTION_DEFAULT } from '@weft/net'
import { CreateNetworkRequest } from '@weft/proto/weftline/config/v1/config_service.ts'
import { limits } from '../limits.ts'
import { networkName, prefix, TestWorld } from '../test-world.ts'
import { createNetwork, deleteNetwork } from './networks.ts'

let world: TestWorld

beforeEach(() => {
  world = new TestWorld()
  world.tenant('acme')
})

function create(
  path: string,
  fields: Partial<CreateNetworkRequest> = {},
  key?: string,
): ReturnType<typeof createNetwork> {
  const request = CreateNetworkRequest.create({
    name: networkName(path),
    prefixes: [prefix('10.20.0.0/16')],
    ...fields,
  })
  return createNetwork(world.database, request, world.caller(key))
}

test('a network gets an id that is its revision, a VNI, and the default MTU and encryption', () => {
  const network = world.run(create('acme/blue'))

  assert.equal(network.id, 2)
  assert.equal(network.meta?.revision, 2n)
  assert.equal(network.meta?.createdRevision, 2n)
  assert.equal(network.mtuBytes, 1320)
  assert.equal(network.encryption, LINK_ENCRYPTION_DEFAULT === 'required' ? 1 : 2)
  assert.equal(world.database.networkByVni(network.vni), network.id)
})

test('two networks may have the same prefixes, and never have the same VNI', () => {
  const blue = world.run(create('acme/blue'))
  const red = world.run(create('acme/red'))
  assert.notEqual(blue.vni, red.vni)
  assert.throws(() => create('acme/green', { vni: blue.vni }), VniTakenError)
})

test('a tenant that has its networks keeps no other tenant from any', () => {
  world.tenant('other')
  for (let count = 0; count < limits.networksPerTenant; count++) {
    world.run(create(`acme/n-${count}`))
  }

  assert.throws(
    () => create('acme/more'),
    (error) => error instanceof LimitReachedError && /networks of tenant acme/.test(error.message),
  )

  world.run(create('other/blue'))
  const request = { idempotencyKey: '', name: networkName('acme/n-7') }
  world.run(deleteNetwork(world.database, request))
  world.run(create('acme/more'))
})

test('a VNI that was given up is not the next one to be given', () => {
  const blue = world.run(create('acme/blue'))
  const request = { idempotencyKey: '', name: networkName('acme/blue') }
  assert.equal(world.run(deleteNetwork(world.database, request)), true)
  assert.equal(world.database.networkByVni(blue.vni), undefined)
  assert.notEqual(world.run(create('acme/blue')).vni, blue.vni)
})

const refusedPrefixes: readonly (readonly [string, string])[] = [
  ['10.20.0.1/16', 'it has bits set beyond its length'],
  ['10.0.0.0/7', 'it is shorter than /8'],
  ['10.20.0.0/31', 'it is too small for a gateway and an endpoint'],
  ['10.20.0.0/32', 'it is too small for a gateway and an endpoint'],
  ['127.0.0.0/8', 'it has addresses that are not unicast'],
  ['224.0.0.0/8', 'it has addresses that are not unicast'],
  ['0.0.0.0/8', 'it has addresses that are not unicast'],
  ['fe80::/64', 'it is link-local'],
  ['ff02::/64', 'it has addresses that are not unicast'],
  ['fd20::/127', 'it is too small for a gateway and an endpoint'],
  ['::/8', 'it is shorter than /16'],
]
for (const [text, problem] of refusedPrefixes) {
  test(`prefix ${text} is refused: ${problem}`, () => {
    assert.throws(
      () => create('acme/blue', { prefixes: [prefix(text)] }),
      (error) => error instanceof InvalidPrefixError && error.facts['problem'] === problem,
    )
    assert.equal(world.database.counts.network, 0)
  })
}

test('the refusal of a prefix with host bits suggests the prefix that was meant', () => {
  assert.throws(
    () => create('acme/blue', { prefixes: [prefix('10.20.30.0/16')] }),
    /10\.20\.0\.0\/16|bits/,
  )
  try {
    create('acme/blue', { prefixes: [prefix('10.20.30.0/16')] })
  } catch (error) {
    assert.equal((error as InvalidPrefixError).facts['suggestion'], '10.20.0.0/16')
  }
})

test('a prefix of the wrong number of bytes is refused', () => {
  const prefixes = [{ address: Buffer.alloc(5), lengthBits: 8 }]
  assert.throws(() => create('acme/blue', { prefixes }), InvalidPrefixError)
  const tooLong = [{ address: Buffer.from([10, 0, 0, 0]), lengthBits: 33 }]
  assert.throws(() => create('acme/blue', { prefixes: tooLong }), InvalidPrefixError)
})

test('overlapping prefixes of one network are refused', () => {
  const prefixes = [prefix('10.20.0.0/16'), prefix('10.20.30.0/24')]
  assert.throws(() => create('acme/blue', { prefixes }), PrefixOverlapError)
})

test('a network without prefixes, or with more than 8, is refused', () => {
  assert.throws(() => create('acme/blue', { prefixes: [] }), InvalidArgumentError)
  const many = Array.from({ length: 9 }, (_, index) => prefix(`10.${index}.0.0/16`))
  assert.throws(() => create('acme/blue', { prefixes: many }), InvalidArgumentError)
})

test('the least MTU is 576 bytes, and 1280 where there is IPv6; the largest is 65485', () => {
  assert.equal(world.run(create('acme/low', { mtuBytes: 576 })).mtuBytes, 576)
  assert.equal(world.run(create('acme/high', { mtuBytes: 65_485 })).mtuBytes, 65_485)
  assert.throws(() => create('acme/blue', { mtuBytes: 575 }), InvalidMtuError)
  assert.throws(() => create('acme/blue', { mtuBytes: 65_486 }), InvalidMtuError)
  const prefixes = [prefix('10.20.0.0/16'), prefix('fd20::/64')]
  assert.throws(() => create('acme/blue', { prefixes, mtuBytes: 1279 }), InvalidMtuError)
  assert.equal(world.run(create('acme/blue', { prefixes, mtuBytes: 1280 })).mtuBytes, 1280)
})

test('a VNI of more than 24 bits and an encryption that is none are refused', () => {
  assert.throws(() => create('acme/blue', { vni: 2 ** 24 }), InvalidVniError)
  assert.equal(world.run(create('acme/blue', { vni: 2 ** 24 - 1 })).vni, 2 ** 24 - 1)
  assert.throws(() => create('acme/red', { encryption: 7 as 2 }), InvalidArgumentError)
})

test('names that are too long, have bad characters, are empty or taken are refused', () => {
  world.run(create('acme/blue'))
  assert.throws(() => create('acme/blue'), NetworkExistsError)
  for (const name of ['', 'Blue', 'blue_1', '-blue', 'blue-', 'b'.repeat(64), 'blau.1', 'größe']) {
    assert.throws(() => create(`acme/${name}`), InvalidNameError, name)
  }
  assert.throws(() => create('nobody/blue'), TenantNotFoundError)
  assert.throws(() => create('acme/red', { name: undefined }), InvalidArgumentError)
})

test('a repeated request answers the first result, and a key of another request is refused', () => {
  const first = world.run(create('acme/blue', {}, 'k'))
  const { revision } = world.database
  assert.equal(world.run(create('acme/blue', {}, 'k')), first)
  assert.equal(world.database.revision, revision)
  assert.throws(() => create('acme/red', {}, 'k'), IdempotencyMismatchError)
})

test('labels are kept; too many, and keys with bad characters, are refused', () => {
  const labels = { 'app.kubernetes.io/name': 'web', team: '' }
  assert.deepEqual(world.run(create('acme/blue', { labels })).meta?.labels, labels)
  const many = Object.fromEntries(Array.from({ length: 33 }, (_, index) => [`k${index}`, 'v']))
  assert.throws(() => create('acme/red', { labels: many }), InvalidArgumentError)
  assert.throws(() => create('acme/red', { labels: { 'a b': 'v' } }), InvalidArgumentError)
  assert.throws(() => create('acme/red', { labels: { a: 'v'.repeat(256) } }), InvalidArgumentError)
})

test('a network with endpoints is not removed; removing one that is not there is harmless', () => {
  world.run(create('acme/blue'))
  world.endpoint('acme/blue/web')
  const remove = (path: string) =>
    deleteNetwork(world.database, { idempotencyKey: '', name: networkName(path) })
  assert.throws(() => remove('acme/blue'), NetworkInUseError)
  assert.equal(world.run(remove('acme/red')), false)
  assert.equal(world.run(remove('nobody/red')), false)
})
