import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { formatIpAddress } from '@weft/net'
import fc from 'fast-check'
import { HostRows } from './host-rows.ts'
import { type Port, Ports } from './ports.ts'
import type { Endpoint, Row, RowChange } from './rows.ts'
import { endpointOf, HERE, networkOf, peerOf, put, selfOf } from './samples.ts'
import { type NetworkEntry, SwitchTable, type TableChange } from './switch-table.ts'

class World {
  readonly rows: HostRows = new HostRows()
  readonly ports: Ports = new Ports()
  readonly table: SwitchTable = new SwitchTable(HERE, this.rows, this.ports)
  #revision = 0n

  put(row: Row): this {
    this.#revision++
    return this.apply(put(row, this.#revision, this.#revision))
  }

  apply(change: RowChange): this {
    for (const touched of this.rows.apply(change)) this.table.touch(touched)
    return this
  }

  attach(id: number): this {
    this.ports.set(portOf(id))
    this.table.touchPort(id, 1)
    return this
  }

  detach(id: number): this {
    this.ports.delete(id)
    this.table.touchPort(id, 1)
    return this
  }
}

function portOf(id: number): Port {
  return {
    endpoint: endpointOf(id, { hostId: HERE }),
    network: networkOf(1),
    attachment: { kind: 'tap', device: `tap${id}` },
    attachedAtUnixMs: 0,
    assignedRevision: 1n,
    sequence: 1n,
  }
}

function joinedWorld(): World {
  return new World()
    .put({ kind: 'self', value: selfOf() })
    .put({ kind: 'network', value: networkOf(1) })
    .put({ kind: 'peer', value: peerOf(2) })
    .put({ kind: 'endpoint', value: endpointOf(20, { hostId: 2 }) })
    .attach(10)
}

function peersOf(changes: readonly TableChange[]) {
  return changes.flatMap((change) => (change.kind === 'put-peer' ? [change.value] : []))
}

describe('the switch table', () => {
  test('the first changes are all that there is, and then none', () => {
    const { table } = joinedWorld()

    const kinds = table.takeChanges().map(({ kind }) => kind)

    assert.deepEqual(kinds, ['put-network', 'put-peer', 'put-endpoint', 'put-endpoint'])
    assert.deepEqual(table.takeChanges(), [])
    assert.deepEqual(table.sizes, { networks: 1, endpoints: 2, peers: 1 })
  })

  test('a peer has the carrier and the networks that both hosts have', () => {
    const [peer] = peersOf(joinedWorld().table.takeChanges())

    assert.equal(peer?.carrier, 'vxlan')
    assert.equal(peer && formatIpAddress(peer.local), '192.0.2.1')
    assert.equal(peer && formatIpAddress(peer.remote), '192.0.2.2')
    assert.deepEqual(peer?.networkIds, [1])
  })

  test('a peer without an endpoint of a network gets no broadcasts of it', () => {
    const world = joinedWorld().put({ kind: 'network', value: networkOf(2) })

    assert.deepEqual(peersOf(world.table.takeChanges())[0]?.networkIds, [1])
  })

  test('one more endpoint is one change', () => {
    const world = joinedWorld()
    world.table.takeChanges()

    world.put({ kind: 'endpoint', value: endpointOf(21, { hostId: 2 }) })

    assert.deepEqual(
      world.table.takeChanges().map(({ kind }) => kind),
      ['put-endpoint'],
    )
  })

  test('the last endpoint at a peer takes the peer with it', () => {
    const world = joinedWorld()
    world.table.takeChanges()

    world.apply({ kind: 'delete', rowKind: 'endpoint', id: 20 })

    assert.deepEqual(world.table.takeChanges(), [
      { kind: 'delete-endpoint', id: 20 },
      { kind: 'delete-peer', id: 2, carrier: 'vxlan' },
    ])
  })

  test('a network that demands encryption goes to no peer in the plain', () => {
    const world = joinedWorld()
    world.table.takeChanges()

    world.put({ kind: 'network', value: networkOf(1, { encryption: 'required' }) })

    assert.deepEqual(
      world.table.takeChanges().map(({ kind }) => kind),
      ['put-network', 'delete-peer'],
    )
    const join = world.table.join(10, 20)
    assert.equal(join.kind === 'refused' && join.reason, 'encryption-unavailable')
  })

  test('a host in no common zone is refused', () => {
    const world = joinedWorld().put({ kind: 'peer', value: peerOf(2, 7) })

    const join = world.table.join(10, 20)

    assert.equal(join.kind === 'refused' && join.reason, 'no-common-trusted-zone')
    assert.deepEqual(peersOf(world.table.takeChanges()), [])
  })

  test('an endpoint that the rows have here and that is not attached is not in the table', () => {
    const world = joinedWorld()
      .put({ kind: 'endpoint', value: endpointOf(11, { hostId: HERE }) })
      .put({ kind: 'endpoint', value: endpointOf(12, { hostId: 0 }) })

    assert.equal(world.table.endpoint(11), undefined)
    assert.equal(world.table.endpoint(12), undefined)
    assert.equal(world.attach(11).table.endpoint(11)?.hostId, HERE)
  })

  test('what was attached and goes away is deleted', () => {
    const world = joinedWorld()
    world.table.takeChanges()

    assert.deepEqual(world.detach(10).table.takeChanges().at(-1), {
      kind: 'delete-endpoint',
      id: 10,
    })
  })

  test('two endpoints that are attached here are joined on the host', () => {
    const join = joinedWorld().attach(11).table.join(10, 11)

    assert.equal(join.kind === 'joined' && join.mechanism, 'same-host')
  })

  test('endpoints of different networks are never joined', () => {
    const world = joinedWorld()
      .put({ kind: 'network', value: networkOf(2) })
      .put({ kind: 'endpoint', value: endpointOf(30, { networkId: 2 }) })

    assert.equal(world.table.join(10, 30).kind, 'unknown')
  })

  test('of two networks with one VNI the one that was there counts, until it goes', () => {
    const world = joinedWorld()
    const networks = () =>
      world.table.takeChanges().flatMap((change) => {
        const isNetwork = change.kind === 'put-network' || change.kind === 'delete-network'
        return isNetwork ? [`${change.kind} ${'id' in change ? change.id : change.value.id}`] : []
      })
    world.put({ kind: 'network', value: networkOf(5, { vni: 300 }) })
    networks()

    world.put({ kind: 'network', value: networkOf(4, { vni: 300 }) })
    assert.deepEqual(networks(), [])
    assert.equal(world.table.passedOverCount, 1)
    world.apply({ kind: 'delete', rowKind: 'network', id: 5 })

    assert.deepEqual(networks(), ['put-network 4', 'delete-network 5'])
    assert.equal(world.table.passedOverCount, 0)
  })

  test('what is attached here has its MAC, whatever rows have it too', () => {
    const world = joinedWorld()
      .put({ kind: 'endpoint', value: endpointOf(9, { mac: endpointOf(11).mac }) })
      .put({ kind: 'endpoint', value: endpointOf(8, { mac: endpointOf(10).mac }) })
    world.table.takeChanges()
    assert.equal(world.table.endpoint(9)?.hostId, 2)
    assert.equal(world.table.endpoint(8), undefined)

    world.attach(11).table.takeChanges()

    assert.equal(world.table.endpoint(9), undefined)
    assert.equal(world.table.endpoint(11)?.hostId, HERE)
  })

  test('an endpoint comes and goes with its network', () => {
    const world = joinedWorld().put({
      kind: 'endpoint',
      value: endpointOf(30, { networkId: 2 }),
    })
    world.table.takeChanges()
    assert.equal(world.table.endpoint(30), undefined)

    world.put({ kind: 'network', value: networkOf(2) })
    assert.equal(put30(world.table.takeChanges()), 'put-endpoint')

    world.apply({ kind: 'delete', rowKind: 'network', id: 2 })
    assert.equal(put30(world.table.takeChanges()), 'delete-endpoint')
  })

  test('whatever rows come, no table has a VNI or MAC twice, or an endpoint without its network', () => {
    const step = fc.record({
      what: fc.constantFrom('endpoint', 'no endpoint', 'network', 'no network', 'attach', 'detach'),
      id: fc.integer({ min: 10, max: 15 }),
      key: fc.integer({ min: 1, max: 4 }),
      isTaken: fc.boolean(),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const world = joinedWorld()
        const applied = new Map<string, unknown>()
        for (const { what, id, key, isTaken } of steps) {
          if (what === 'endpoint') {
            const mac = endpointOf(key).mac
            world.put({
              kind: 'endpoint',
              value: endpointOf(id, { mac, networkId: 1 + (key % 2) }),
            })
          } else if (what === 'network') {
            world.put({ kind: 'network', value: networkOf(id % 3, { vni: 100 + key }) })
          } else if (what === 'no endpoint') {
            world.apply({ kind: 'delete', rowKind: 'endpoint', id })
          } else if (what === 'no network') {
            world.apply({ kind: 'delete', rowKind: 'network', id: id % 3 })
          } else if (what === 'attach') world.attach(id)
          else world.detach(id)
          if (isTaken) take(applied, world.table.takeChanges())
        }
        take(applied, world.table.takeChanges())
        assertTakeable([...applied.values()])
        world.table.forgetTaken()
        const whole = new Map<string, unknown>()
        take(whole, world.table.takeChanges())
        assert.deepEqual(new Map([...applied].sort(byKey)), new Map([...whole].sort(byKey)))
      }),
    )
  })

  test('deltas lead to the same table as writing everything, for any history', () => {
    const step = fc.record({
      what: fc.constantFrom('endpoint', 'gone', 'peer', 'attach', 'detach', 'take'),
      id: fc.integer({ min: 10, max: 16 }),
      hostId: fc.integer({ min: 0, max: 4 }),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const world = joinedWorld()
        const applied = new Map<string, unknown>()
        for (const { what, id, hostId } of steps) {
          if (what === 'endpoint') {
            world.put({ kind: 'endpoint', value: endpointOf(id, { hostId }) })
          } else if (what === 'gone') world.apply({ kind: 'delete', rowKind: 'endpoint', id })
          else if (what === 'peer' && hostId > 1) world.put({ kind: 'peer', value: peerOf(hostId) })
          else if (what === 'attach') world.attach(id)
          else if (what === 'detach') world.detach(id)
          else take(applied, world.table.takeChanges())
        }
        take(applied, world.table.takeChanges())
        const whole = new Map<string, unknown>()
        take(whole, new SwitchTable(HERE, world.rows, world.ports).takeChanges())
        assert.deepEqual(new Map([...applied].sort(byKey)), new Map([...whole].sort(byKey)))
      }),
    )
  })
})

function put30(changes: readonly TableChange[]): string | undefined {
  return changes.find((change) =>
    'value' in change
      ? change.kind === 'put-endpoint' && change.value.id === 30
      : change.kind === 'delete-endpoint' && change.id === 30,
  )?.kind
}

function assertTakeable(entries: readonly unknown[]): void {
  const networks = entries.filter(
    (entry) => typeof entry === 'object' && entry && 'vni' in entry,
  ) as NetworkEntry[]
  const endpoints = entries.filter(
    (entry) => typeof entry === 'object' && entry && 'mac' in entry,
  ) as Endpoint[]
  assert.equal(new Set(networks.map(({ vni }) => vni)).size, networks.length)
  const macs = new Set(endpoints.map(({ networkId, mac }) => `${networkId} ${mac}`))
  assert.equal(macs.size, endpoints.length)
  const ids = new Set(networks.map(({ id }) => id))
  assert(endpoints.every(({ networkId }) => ids.has(networkId)))
}

/** Applies changes as the data plane does. */
function take(applied: Map<string, unknown>, changes: readonly TableChange[]): void {
  for (const change of changes) {
    const [verb, kind] = change.kind.split('-')
    if ('value' in change) {
      const { value } = change
      applied.set(
        `${kind} ${'hostId' in value && kind === 'peer' ? value.hostId : 'id' in value ? value.id : 0}`,
        value,
      )
    } else {
      assert.equal(verb, 'delete')
      assert.equal(applied.delete(`${kind} ${change.id}`), true, 'only what is there is deleted')
    }
  }
}

function byKey([a]: [string, unknown], [b]: [string, unknown]): number {
  return a < b ? -1 : 1
}
