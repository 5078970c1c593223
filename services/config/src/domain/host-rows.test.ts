import assert from 'node:assert/strict'
import { test } from 'node:test'
import { UpdateHostRequest } from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  type Endpoint,
  type Host,
  HostKind,
  type StoredStatement,
} from '@weft/proto/weftline/config/v1/records.ts'
import type { HostRow } from '@weft/proto/weftline/config/v1/rows.ts'
import { Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import { Membership, TenantStatement } from '@weft/proto/weftline/identity/v1/tenant_lock.ts'
import { ConnectionReport } from '@weft/proto/weftline/status/v1/status.ts'
import fc from 'fast-check'
import type { Write } from './database.ts'
import { HostRows, type RowKey } from './host-rows.ts'
import { Locations } from './locations.ts'
import { OpenConnections } from './open-connections.ts'
import { deleteEndpoint, releaseEndpoint } from './requests/endpoints.ts'
import { deleteHost, updateHost } from './requests/hosts.ts'
import { updateZone } from './requests/zones.ts'
import { endpointName, ip, TestWorld } from './test-world.ts'

type Rows = Map<string, HostRow['row']>

/** Rows that are kept as the controller keeps them: only what a change is said to affect is derived again. */
class KeptRows {
  readonly world: TestWorld = new TestWorld()
  readonly locations: Locations = new Locations()
  readonly rows: HostRows = new HostRows(this.world.database, this.locations)
  readonly kept: Rows = new Map()
  touched = 0

  constructor() {
    this.world.tenant('acme')
    this.world.zone('lab')
    for (const network of ['blue', 'red']) this.world.network(`acme/${network}`, '10.20.0.0/24')
    this.step(() => undefined)
  }

  /** Does something, then derives anew what it affected. */
  step<T>(act: () => T): T {
    const result = act()
    for (const change of this.world.changes.splice(0)) this.rows.affectedBy(change, this.#derive)
    return result
  }

  locate(endpoint: Endpoint, host: Host | undefined): void {
    const report = Buffer.from('as it was signed')
    if (host) this.locations.put(endpoint.id, { hostId: host.id, epoch: 1n, report })
    else this.locations.delete(endpoint.id)
    this.rows.affectedByLocation(endpoint.id, this.#derive)
  }

  fromScratch(): Rows {
    const rows: Rows = new Map()
    for (const key of this.rows.allKeys()) {
      const row = this.rows.row(key)
      if (row) rows.set(textOf(key), row.row)
    }
    return rows
  }

  readonly #derive = (key: RowKey): void => {
    this.touched++
    const row = this.rows.row(key)
    if (row) this.kept.set(textOf(key), row.row)
    else this.kept.delete(textOf(key))
  }
}

function textOf({ hostId, kind, id }: RowKey): string {
  return `${hostId}.${kind}.${id}`
}

const release = (kept: KeptRows, endpoint: Endpoint) => {
  const { database } = kept.world
  const request = {
    idempotencyKey: '',
    endpointId: endpoint.id,
    hostId: database.endpoint(endpoint.id)?.hostId ?? 0,
  }
  kept.world.run(releaseEndpoint(database, request, kept.world.caller()))
}

const revoke = (kept: KeptRows, { id }: Host) => {
  const host = kept.world.database.host(id)
  assert(host)
  const record = { ...host, revokedAtUnixMs: 1_000n }
  kept.step(() => kept.world.run({ write: { kind: 'host', id, record }, result: () => undefined }))
}

test('rows that are kept by changes equal rows that are derived from scratch, for any history', () => {
  const step = fc.record({
    kind: fc.constantFrom(
      'assign',
      'assign',
      'assign',
      'release',
      'locate',
      'locate',
      'lose',
      'remove',
      'address',
      'trust',
      'drop-host',
      'revoke',
      'say',
      'say',
      'unsay',
      'rotate',
    ),
    host: fc.integer({ min: 0, max: 3 }),
    endpoint: fc.integer({ min: 0, max: 7 }),
    flag: fc.boolean(),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const kept = new KeptRows()
      const { world } = kept
      const { database } = world
      const hostName = (index: number) => `host-${index}`
      const hostAt = (index: number) =>
        database.host(database.hostNames.get(hostName(index)) ?? 0) ??
        kept.step(() =>
          world.host(
            hostName(index),
            [`192.0.2.${index + 1}@lab`],
            index === 3 ? HostKind.HOST_KIND_VXLAN_PEER : HostKind.HOST_KIND_WEFT,
          ),
        )
      const endpointAt = (index: number, peer: string) => {
        const path = `acme/${index % 2 ? 'blue' : 'red'}/e${index}`
        const names = database.endpointNames(
          database.networkNames(1)?.get(index % 2 ? 'blue' : 'red') ?? 0,
        )
        return (
          database.endpoint(names?.get(`e${index}`) ?? 0) ??
          kept.step(() => world.endpoint(path, peer === '' ? {} : { vxlanPeer: peer }))
        )
      }
      for (const { kind, host: hostIndex, endpoint: endpointIndex, flag } of steps) {
        const host = hostAt(hostIndex)
        const isForeign = host.kind === HostKind.HOST_KIND_VXLAN_PEER
        const endpoint = endpointAt(endpointIndex, isForeign && flag ? host.name : '')
        const assigned = database.endpoint(endpoint.id)?.hostId ?? 0
        const isRevoked = host.revokedAtUnixMs > 0n
        if (kind === 'assign' && assigned === 0 && !isForeign && !isRevoked) {
          kept.step(() => world.assign(endpoint, host))
        } else if (kind === 'release') {
          kept.step(() => release(kept, endpoint))
        } else if (kind === 'locate') {
          kept.locate(endpoint, host)
        } else if (kind === 'lose') {
          kept.locate(endpoint, undefined)
        } else if (kind === 'remove') {
          kept.step(() => {
            if (database.host(assigned)?.kind === HostKind.HOST_KIND_WEFT) release(kept, endpoint)
            const name = endpointName(
              `acme/${endpointIndex % 2 ? 'blue' : 'red'}/e${endpointIndex}`,
            )
            world.run(deleteEndpoint(database, { idempotencyKey: '', name }))
          })
        } else if (kind === 'address') {
          kept.step(() => {
            const addresses = flag
              ? [{ address: ip(`198.51.100.${hostIndex + 1}`), zone: 'lab' }]
              : []
            const request = UpdateHostRequest.create({ name: host.name, addresses })
            world.run(updateHost(database, request, world.caller()))
          })
        } else if (kind === 'trust') {
          kept.step(() => {
            const request = { idempotencyKey: '', name: 'lab', trusted: flag, expectedRevision: 0n }
            world.run(updateZone(database, request, world.caller()))
          })
        } else if (kind === 'drop-host' && database.networksOfHost(host.id).size === 0) {
          kept.step(() => world.runAll(deleteHost({ name: host.name })))
        } else if (kind === 'revoke' && !isForeign) {
          revoke(kept, host)
        } else if (kind === 'rotate') {
          const identityKey = Buffer.alloc(flag ? 32 : 0, endpointIndex)
          const record = { ...host, identityKey }
          kept.step(() => world.run({ write: { kind: 'host', id: host.id, record }, result }))
        } else if (kind === 'say' || kind === 'unsay') {
          const id = 1_000_000 + endpointIndex
          const record = statement(id, aboutOf(endpointIndex, endpoint, host, flag))
          const write: Write = { kind: 'statement', id, record }
          kept.step(() =>
            world.run({ write: kind === 'say' ? write : { ...write, record: undefined }, result }),
          )
        }
        assert.deepEqual(kept.kept, kept.fromScratch())
      }
    }),
    { numRuns: 150 },
  )
})

const result = (): undefined => undefined

/** The first and second key, the second of which may end the lock, or something about the endpoint's network. */
function aboutOf(
  index: number,
  { networkId }: Endpoint,
  { id: hostId }: Host,
  flag: boolean,
): Partial<TenantStatement> {
  if (index < 3) {
    const publicKey = Buffer.alloc(index === 2 && flag ? 0 : 32, 1)
    return { number: BigInt(index), about: { $case: 'key', value: { publicKey } } }
  }
  const about: TenantStatement['about'] =
    index % 2 === 0
      ? { $case: 'network', value: { networkId, network: 'blue', vni: 1 } }
      : { $case: 'membership', value: { ...Membership.create(), networkId, hostId } }
  return { number: 1n, about }
}

/** As it is stored; nobody verifies it here. */
function statement(id: number, content: Partial<TenantStatement>): StoredStatement {
  const tenantId = 1
  const payload = TenantStatement.encode(TenantStatement.create({ ...content, tenantId })).finish()
  const signed = Signed.create({ payload: Buffer.from(payload) })
  return { id, tenantId, statement: signed, meta: undefined }
}

/** Two hosts in blue and one in red only. */
function threeHosts() {
  const kept = new KeptRows()
  const { world } = kept
  const host = (name: string, address: string) =>
    kept.step(() => world.host(name, [`${address}@lab`]))
  const alpha = host('alpha', '192.0.2.1')
  const beta = host('beta', '192.0.2.2')
  const gamma = host('gamma', '192.0.2.3')
  const assigned = (path: string, at: Host) => {
    const endpoint = kept.step(() => world.endpoint(path))
    return kept.step(() => world.assign(endpoint, at))
  }
  const web = assigned('acme/blue/web', alpha)
  const api = assigned('acme/blue/api', beta)
  const other = assigned('acme/red/other', gamma)
  return { kept, alpha, beta, gamma, web, api, other }
}

function keysOf(kept: KeptRows, host: Host): string[] {
  return [...kept.kept.keys()].filter((key) => key.startsWith(`${host.id}.`)).sort()
}

test('a host without an endpoint of a network gets nothing of it', () => {
  const { kept, gamma, other } = threeHosts()
  const networkId = other.networkId
  assert.deepEqual(keysOf(kept, gamma), [
    `${gamma.id}.endpoint.${other.id}`,
    `${gamma.id}.network.${networkId}`,
    `${gamma.id}.self.${gamma.id}`,
  ])
})

test('an endpoint has a row at another host only once it is located where it is assigned', () => {
  const { kept, alpha, beta, gamma, api } = threeHosts()
  const atAlpha = `${alpha.id}.endpoint.${api.id}`
  assert.equal(kept.kept.has(atAlpha), false)
  kept.locate(api, gamma)
  assert.equal(kept.kept.has(atAlpha), false)
  kept.locate(api, beta)
  const row = kept.kept.get(atAlpha)
  assert.equal(row?.$case === 'endpoint' && row.value.locationHostId, beta.id)
})

test('its own host has the row from the assignment on, without a location', () => {
  const { kept, beta, api } = threeHosts()
  const own = () => {
    const row = kept.kept.get(`${beta.id}.endpoint.${api.id}`)
    return row?.$case === 'endpoint' ? row.value.locationHostId : undefined
  }
  assert.equal(own(), 0)
  kept.locate(api, beta)
  assert.equal(own(), beta.id)
  kept.step(() => release(kept, api))
  assert.equal(own(), undefined)
})

test('the last endpoint of a network takes all its rows with it, and the peers', () => {
  const { kept, alpha, beta, api } = threeHosts()
  kept.step(() => release(kept, api))
  assert.deepEqual(keysOf(kept, beta), [`${beta.id}.self.${beta.id}`])
  assert.equal(kept.kept.has(`${alpha.id}.peer.${beta.id}`), false)
})

test('an endpoint of a foreign VXLAN peer is located where it is assigned, and the peer gets no rows', () => {
  const { kept, alpha } = threeHosts()
  const { world } = kept
  const peer = kept.step(() => world.host('peer', ['192.0.2.9@lab'], HostKind.HOST_KIND_VXLAN_PEER))
  const edge = kept.step(() => world.endpoint('acme/blue/edge', { vxlanPeer: 'peer' }))
  const row = kept.kept.get(`${alpha.id}.endpoint.${edge.id}`)
  assert.equal(row?.$case === 'endpoint' && row.value.locationHostId, peer.id)
  assert.equal(kept.kept.get(`${alpha.id}.peer.${peer.id}`)?.$case, 'peer')
  assert.deepEqual(keysOf(kept, peer), [])
})

test("a revoked host has no rows, is nobody's peer, and nothing is located at it", () => {
  const { kept, alpha, beta, api, web } = threeHosts()
  kept.locate(web, alpha)
  kept.locate(api, beta)
  assert.equal(kept.kept.has(`${alpha.id}.endpoint.${api.id}`), true)

  revoke(kept, beta)

  assert.deepEqual(keysOf(kept, beta), [])
  assert.deepEqual(
    keysOf(kept, alpha),
    [
      `${alpha.id}.endpoint.${web.id}`,
      `${alpha.id}.network.${web.networkId}`,
      `${alpha.id}.self.${alpha.id}`,
    ].sort(),
  )
})

test('a network or tenant that is written again reaches the hosts that have it', () => {
  const { kept, alpha, web } = threeHosts()
  const { database } = kept.world
  const network = database.network(web.networkId)
  const tenant = database.tenant(network?.tenantId ?? 0)
  assert(network && tenant)
  const write = (write: Write) =>
    kept.step(() => kept.world.run({ write, result: () => undefined }))
  write({ kind: 'network', id: network.id, record: { ...network, mtuBytes: 1400 } })
  write({ kind: 'tenant', id: tenant.id, record: { ...tenant, name: 'renamed' } })
  const row = kept.kept.get(`${alpha.id}.network.${network.id}`)
  assert(row?.$case === 'network')
  assert.equal(row.value.network?.mtuBytes, 1400)
  assert.equal(row.value.tenantName, 'renamed')
})

test('a peer is told by its own places first, then by configured and observed ones, each once', () => {
  const world = new TestWorld()
  world.tenant('acme')
  world.zone('lab')
  world.network('acme/blue', '10.20.0.0/24')
  const connections = new OpenConnections()
  const rows = new HostRows(world.database, new Locations(), connections)
  const own = Array.from({ length: 14 }, (_, index) => `192.0.2.${index + 1}@lab`)
  const alpha = world.host('alpha', own)
  const beta = world.host('beta', ['198.51.100.1@lab'])
  for (const host of [alpha, beta]) {
    world.assign(world.endpoint(`acme/blue/${host.name}`), host)
  }
  const place = (text: string, port: number) => ({ address: ip(text), port, kind: 2 as const })
  const sealedListener = {
    port: 4_501,
    configured: [place('203.0.113.7', 4_500), place('192.0.2.1', 4_501)],
  }
  const record = { ...alpha, tunnelStatement: Signed.create({}), sealedListener }
  world.run({ write: { kind: 'host', id: alpha.id, record }, result })
  const observed = [place('203.0.113.7', 4_500), place('203.0.113.9', 4_000)]
  const report = ConnectionReport.create({ hostId: alpha.id, sentAtUnixMs: 1n })
  connections.take({ ...report, observed }, 0)
  const visited: RowKey[] = []
  rows.affectedByObserved(alpha.id, (key) => visited.push(key))

  assert(
    visited.some(
      ({ hostId, kind, id }) => hostId === beta.id && kind === 'peer' && id === alpha.id,
    ),
  )
  const row = rows.row({ hostId: beta.id, kind: 'peer', id: alpha.id })?.row
  assert(row?.$case === 'peer')
  const places = row.value.candidates.map(({ address, port }) => `${address.at(3)}:${port}`)
  assert(places.length <= 16)
  assert.equal(new Set(places).size, places.length)
  assert.deepEqual(places.slice(0, 2), ['1:4501', '2:4501'])
  assert.deepEqual(places.slice(-2), ['7:4500', '9:4000'])
  const back = rows.row({ hostId: alpha.id, kind: 'peer', id: beta.id })?.row
  // Of its tunnel key nobody has said anything.
  assert(back?.$case === 'peer' && back.value.candidates.length === 0)
})

test('a change touches only the rows that it concerns', () => {
  const { kept, alpha } = threeHosts()
  const { world } = kept
  for (let count = 0; count < 200; count++) {
    const endpoint = kept.step(() => world.endpoint(`acme/blue/e${count}`))
    kept.step(() => world.assign(endpoint, alpha))
  }
  kept.touched = 0
  const one = kept.step(() => world.endpoint('acme/blue/one'))
  kept.step(() => world.assign(one, alpha))
  kept.locate(one, alpha)
  // Two hosts have blue: each is told of the endpoint at its making, its assignment and its location.
  assert.equal(kept.touched, 6)
})

test('of a locked tenant a host has what is said of its networks, and what hosts there reported', () => {
  const { kept, alpha, beta, gamma, api } = threeHosts()
  const { database } = kept.world
  const { networkId } = api
  const identityKey = Buffer.alloc(32, 7)
  const put = (write: Write) => kept.step(() => kept.world.run({ write, result }))
  put({ kind: 'host', id: beta.id, record: { ...beta, identityKey } })
  kept.locate(api, beta)
  const placement = (): object | undefined => {
    const row = kept.kept.get(`${alpha.id}.endpoint.${api.id}`)
    return row?.$case === 'endpoint' ? row.value.placement : undefined
  }
  const say = (id: number, content: Partial<TenantStatement>) =>
    put({ kind: 'statement', id, record: statement(id, content) })
  const statementsAt = (host: Host) =>
    keysOf(kept, host).filter((key) => key.includes('.statement.'))
  const publicKey = Buffer.alloc(32, 1)

  say(101, { number: 1n, about: { $case: 'key', value: { publicKey } } })
  assert.equal(placement(), undefined)
  say(102, {
    number: 1n,
    about: { $case: 'network', value: { networkId, network: 'blue', vni: 1 } },
  })

  assert.deepEqual(placement(), { report: Buffer.from('as it was signed'), signerKey: identityKey })
  assert.deepEqual(statementsAt(alpha), [`${alpha.id}.statement.101`, `${alpha.id}.statement.102`])
  // It has another network of the tenant.
  assert.deepEqual(statementsAt(gamma), [`${gamma.id}.statement.101`])

  const unlocked = { $case: 'key', value: { publicKey: Buffer.alloc(0) } } as const
  say(103, { number: 2n, about: unlocked })
  assert.equal(placement(), undefined)
  assert.equal(database.locks.chain(1)?.isLocked, false)
})
