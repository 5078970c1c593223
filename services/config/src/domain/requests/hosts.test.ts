import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'
import {
  HostExistsError,
  HostInUseError,
  InvalidAddressError,
  InvalidArgumentError,
  RevisionConflictError,
  TenantInUseError,
  UnderlayAddressTakenError,
  ZoneInUseError,
  ZoneNotFoundError,
} from '@weft/errors'
import {
  CreateHostRequest,
  UpdateHostRequest,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import { ip, TestWorld } from '../test-world.ts'
import { createHost, deleteHost, updateHost } from './hosts.ts'
import { deleteTenant } from './tenants.ts'
import { deleteZone, updateZone } from './zones.ts'

let world: TestWorld

beforeEach(() => {
  world = new TestWorld()
  world.zone('lab')
})

function create(fields: Partial<CreateHostRequest>): ReturnType<typeof createHost> {
  const request = CreateHostRequest.create({ name: 'alpha', ...fields })
  return createHost(world.database, request, world.caller())
}

function update(name: string, address: string, expectedRevision = 0n) {
  const addresses = [{ address: ip(address), zone: 'lab' }]
  const request = UpdateHostRequest.create({ name, addresses, expectedRevision })
  return updateHost(world.database, request, world.caller())
}

test('a host has addresses of both families in its zones', () => {
  const host = world.host('alpha', ['192.0.2.1@lab', '2001:db8::1@lab'])
  assert.deepEqual(
    host.underlayAddresses.map(({ address, zoneId }) => [address.length, zoneId]),
    [
      [4, 1],
      [16, 1],
    ],
  )
  assert.deepEqual([...world.database.hostsOfZone(1)], [host.id])
})

test('underlay addresses that no packet could be sent to are refused', () => {
  for (const text of ['0.0.0.0', '127.0.0.1', '224.0.0.1', '::1', 'ff02::1', 'fe80::1']) {
    const addresses = [{ address: ip(text), zone: 'lab' }]
    assert.throws(() => create({ addresses }), InvalidAddressError, text)
  }
  const short = [{ address: Buffer.alloc(2), zone: 'lab' }]
  assert.throws(() => create({ addresses: short }), InvalidAddressError)
})

test('unknown zones, repeated addresses and those of other hosts are refused', () => {
  world.host('beta', ['192.0.2.2@lab'])
  const at = (text: string, zone = 'lab') => ({ address: ip(text), zone })
  assert.throws(() => create({ addresses: [at('192.0.2.1', 'moon')] }), ZoneNotFoundError)
  assert.throws(() => create({ addresses: [at('192.0.2.2')] }), UnderlayAddressTakenError)
  const twice = [at('192.0.2.1'), at('192.0.2.1')]
  assert.throws(() => create({ addresses: twice }), InvalidArgumentError)
})

test('a kind of host that is none, and bad capabilities, are refused', () => {
  assert.throws(() => create({ kind: 9 as 1 }), InvalidArgumentError)
  assert.throws(() => create({ capabilities: ['Carrier VXLAN'] }), InvalidArgumentError)
  world.host('alpha')
  assert.throws(() => create({}), HostExistsError)
})

test('an update replaces the addresses, keeps the rest, and frees what was given up', () => {
  const before = world.host('alpha', ['192.0.2.1@lab'])
  const after = world.run(update('alpha', '192.0.2.3', before.meta?.revision))
  assert.equal(after.id, before.id)
  assert.deepEqual(after.underlayAddresses[0]?.address, ip('192.0.2.3'))
  assert.equal(after.meta?.createdRevision, before.meta?.createdRevision)
  world.host('beta', ['192.0.2.1@lab'])
  assert.throws(() => update('alpha', '192.0.2.1'), UnderlayAddressTakenError)
  assert.throws(() => update('alpha', '192.0.2.4', before.meta?.revision), RevisionConflictError)
})

test('a host says where its sealed transport listens, and keeps its addresses when only that changes', () => {
  const before = world.host('alpha', ['192.0.2.1@lab'])
  assert.equal(before.sealedListener, undefined)
  const configured = [{ address: ip('203.0.113.7'), port: 4_500, kind: 0 as const }]
  const request = { name: 'alpha', sealedListener: { port: 4_501, configured } }

  const after = world.run(
    updateHost(world.database, UpdateHostRequest.create(request), world.caller()),
  )

  assert.equal(after.sealedListener?.port, 4_501)
  assert.equal(after.sealedListener.configured[0]?.kind, 2)
  assert.deepEqual(after.underlayAddresses, before.underlayAddresses)
  assert.deepEqual(world.run(update('alpha', '192.0.2.3')).sealedListener, after.sealedListener)
})

test('ports and places where no sealed transport can be are refused', () => {
  const at = (text: string, port = 4_500) => ({ address: ip(text), port, kind: 0 as const })
  const refused = [
    { port: 70_000, configured: [] },
    { port: 0, configured: [at('203.0.113.7', 0)] },
    { port: 0, configured: [at('203.0.113.7', 65_536)] },
    { port: 0, configured: [at('224.0.0.1')] },
    { port: 0, configured: [at('fe80::1')] },
    { port: 0, configured: Array.from({ length: 9 }, (_, index) => at(`203.0.113.${index}`)) },
  ]
  for (const sealedListener of refused) {
    assert.throws(() => create({ sealedListener }), JSON.stringify(sealedListener))
  }
})

test('what is in use is not removed: host with endpoints, zone with hosts, tenant with networks', () => {
  world.tenant('acme')
  world.network('acme/blue', '10.20.0.0/16')
  const alpha = world.host('alpha', ['192.0.2.1@lab'])
  const web = world.assign(world.endpoint('acme/blue/web'), alpha)
  const named = (name: string) => ({ idempotencyKey: '', name })
  assert.throws(() => world.runAll(deleteHost(named('alpha'))), HostInUseError)
  assert.throws(() => deleteZone(world.database, named('lab')), ZoneInUseError)
  assert.throws(() => deleteTenant(world.database, named('acme')), TenantInUseError)
  assert.equal(web.hostId, alpha.id)
  assert.equal(world.runAll(deleteHost(named('beta'))), false)
  assert.equal(world.run(deleteZone(world.database, named('moon'))), false)
  assert.equal(world.run(deleteTenant(world.database, named('nobody'))), false)
})

test('a zone changes its trust, at the revision that the caller saw', () => {
  const change = (trusted: boolean, expectedRevision: bigint) =>
    updateZone(
      world.database,
      { idempotencyKey: '', name: 'lab', trusted, expectedRevision },
      world.caller(),
    )
  assert.equal(world.run(change(false, 1n)).trusted, false)
  assert.throws(() => change(true, 1n), RevisionConflictError)
  assert.equal(world.run(change(true, 0n)).trusted, true)
})
