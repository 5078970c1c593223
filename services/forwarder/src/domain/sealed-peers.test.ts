import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { type IpAddress, parseIpAddress } from '@weft/net'
import fc from 'fast-check'
import { HostRows } from './host-rows.ts'
import { InForce } from './in-force.ts'
import { type Port, Ports } from './ports.ts'
import type { Peer, PeerSealing, Row, RowChange } from './rows.ts'
import { endpointOf, HERE, keyOfHost, networkOf, peerOf, put, selfOf } from './samples.ts'
import { type PeerEntry, type SealedPeer, SwitchTable, type TableChange } from './switch-table.ts'

const [OPEN, STRICT] = [1, 2]
const THERE = 2

describe('a peer that can seal', () => {
  test('has an entry for each carrier, with the networks that take it', () => {
    const world = sealingWorld()

    const peers = peersOf(world.table.takeChanges())

    assert.deepEqual(
      peers.map(({ carrier, networkIds }) => [carrier, networkIds]),
      [
        ['vxlan', [OPEN]],
        ['sealed', [STRICT]],
      ],
    )
    const sealed = peers[1] as SealedPeer
    assert.equal(sealed.tunnelKey, sealing().tunnelKey)
    assert.deepEqual(sealed.candidates, sealing().candidates)
    assert.equal(world.table.sizes.peers, 1)
  })

  test('is sealed to in every network where no trusted zone joins it', () => {
    const world = sealingWorld().put({ kind: 'peer', value: sealable(peerOf(THERE, 7)) })

    assert.deepEqual(
      peersOf(world.table.takeChanges()).map(({ carrier, networkIds }) => [carrier, networkIds]),
      [['sealed', [OPEN, STRICT]]],
    )
  })

  test('goes by one carrier alone when a network demands more, and the other entry stays', () => {
    const world = sealingWorld()
    world.table.takeChanges()

    world.put({ kind: 'network', value: networkOf(OPEN, { encryption: 'required' }) })

    const changes = world.table.takeChanges()
    assert.deepEqual(
      peersOf(changes).map(({ carrier, networkIds }) => [carrier, networkIds]),
      [['sealed', [OPEN, STRICT]]],
    )
    assert.deepEqual(
      changes.filter(({ kind }) => kind === 'delete-peer'),
      [{ kind: 'delete-peer', id: THERE, carrier: 'vxlan' }],
    )
  })

  test('is joined sealed by the answers of this host itself', () => {
    const { table } = sealingWorld()

    assert.equal(carrierOf(table, 10, 20), 'vxlan')
    assert.equal(carrierOf(table, 11, 21), 'sealed')
  })

  test('is refused while the data plane does not seal, and nothing is plain instead', () => {
    const world = sealingWorld()
    world.table.takeChanges()

    world.table.setSealing(false)

    assert.deepEqual(world.table.takeChanges(), [
      { kind: 'put-peer', value: { ...plainEntry(), networkIds: [OPEN] } },
      { kind: 'delete-peer', id: THERE, carrier: 'sealed' },
    ])
    const join = world.table.join(11, 21)
    assert.equal(join.kind === 'refused' && join.reason, 'encryption-unavailable')
  })

  test('is refused where this host’s record does not say that it seals', () => {
    const world = sealingWorld().put({ kind: 'self', value: { ...selfOf(), canSeal: false } })

    assert.equal(carrierOf(world.table, 11, 21), 'refused')
  })

  test('is refused where nobody knows its key by its own word', () => {
    const world = sealingWorld().put({ kind: 'peer', value: peerOf(THERE) })

    assert.equal(carrierOf(world.table, 11, 21), 'refused')
    assert.equal(carrierOf(world.table, 10, 20), 'vxlan')
  })

  test('is heard under its former key until that ends, and not longer', () => {
    const former = { tunnelKey: 'f0'.repeat(32), untilMs: 5_000 }
    const world = sealingWorld()
    world.table.endTunnelKeys(1_000)
    world.put({ kind: 'peer', value: sealable(peerOf(THERE), { previous: former }) })
    assert.equal(sealedOf(world.table.takeChanges())?.previousTunnelKey, former.tunnelKey)

    world.table.endTunnelKeys(4_999)
    assert.equal(world.table.hasChanges, false)
    world.table.endTunnelKeys(5_000)

    assert.equal(sealedOf(world.table.takeChanges())?.previousTunnelKey, '')
    assert.equal(world.table.hasChanges, false)
  })

  test('is gone with all its entries the moment its key is revoked', () => {
    const revoked = new Set<string>()
    const world = sealingWorld((key) => revoked.has(key))
    world.table.takeChanges()

    revoked.add(keyOfHost(THERE))
    for (const touched of world.rows.reviewRevocations()) world.table.touch(touched)

    const gone = world.table.takeChanges().filter(({ kind }) => kind === 'delete-peer')
    assert.deepEqual(
      new Set(gone.map((change) => 'carrier' in change && change.carrier)),
      new Set(['sealed', 'vxlan']),
    )
    assert.equal(world.table.join(11, 21).kind, 'unknown')
  })

  test('of a table that is refused, the carrier that is to go goes alone', () => {
    const inForce = new InForce()
    const world = sealingWorld()
    inForce.note(world.table.takeChanges(), true)
    world.put({ kind: 'network', value: networkOf(OPEN, { encryption: 'required' }) })

    const leftovers = inForce.leftovers(world.table.takeChanges(), false)

    assert(leftovers.some((change) => 'carrier' in change && change.carrier === 'vxlan'))
  })

  test('is in no network plain that demands encryption, whatever the history', () => {
    const step = fc.record({
      what: fc.constantFrom('demand', 'zone', 'sealing', 'data plane', 'self', 'take'),
      network: fc.constantFrom(OPEN, STRICT),
      is: fc.boolean(),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const world = sealingWorld()
        const applied = new Map<string, PeerEntry>()
        const demanding = new Set([STRICT])
        let zone = 1
        for (const { what, network, is } of steps) {
          if (what === 'demand') {
            if (is) demanding.add(network)
            else demanding.delete(network)
            const encryption = is ? 'required' : 'outside-trusted-zones'
            world.put({ kind: 'network', value: networkOf(network, { encryption }) })
          } else if (what === 'zone' || what === 'sealing') {
            if (what === 'zone') zone = is ? 1 : 7
            const peer = peerOf(THERE, zone)
            world.put({ kind: 'peer', value: what === 'sealing' && !is ? peer : sealable(peer) })
          } else if (what === 'data plane') world.table.setSealing(is)
          else if (what === 'self') {
            world.put({ kind: 'self', value: { ...selfOf(), canSeal: is } })
          } else take(applied, world.table.takeChanges())
        }
        take(applied, world.table.takeChanges())
        for (const { carrier, networkIds } of applied.values()) {
          if (carrier === 'vxlan') assert(networkIds.every((id) => !demanding.has(id)))
        }
        assert.deepEqual([...applied.values()].sort(byCarrier), [...world.table.peerEntries()])
        world.table.forgetTaken()
        const whole = new Map<string, PeerEntry>()
        take(whole, world.table.takeChanges())
        assert.deepEqual([...whole.values()], [...applied.values()].sort(byCarrier))
      }),
    )
  })
})

class World {
  readonly rows: HostRows
  readonly ports: Ports = new Ports()
  readonly table: SwitchTable
  #revision = 0n

  constructor(isRevoked: (key: string) => boolean) {
    this.rows = new HostRows(isRevoked)
    this.table = new SwitchTable(HERE, this.rows, this.ports)
  }

  put(row: Row): this {
    this.#revision++
    return this.apply(put(row, this.#revision, this.#revision))
  }

  apply(change: RowChange): this {
    for (const touched of this.rows.apply(change)) this.table.touch(touched)
    return this
  }

  attach(id: number, networkId: number): this {
    this.ports.set(portOf(id, networkId))
    this.table.touchPort(id, networkId)
    return this
  }
}

/** Endpoints 10 here and 20 there in a network that trusts zones, 11 and 21 in one that does not. */
function sealingWorld(isRevoked: (key: string) => boolean = () => false): World {
  const world = new World(isRevoked)
    .put({ kind: 'self', value: { ...selfOf(), canSeal: true } })
    .put({ kind: 'network', value: networkOf(OPEN) })
    .put({ kind: 'network', value: networkOf(STRICT, { encryption: 'required' }) })
    .put({ kind: 'peer', value: sealable(peerOf(THERE)) })
    .put({ kind: 'endpoint', value: endpointOf(20, { hostId: THERE, networkId: OPEN }) })
    .put({ kind: 'endpoint', value: endpointOf(21, { hostId: THERE, networkId: STRICT }) })
    .attach(10, OPEN)
    .attach(11, STRICT)
  world.table.setSealing(true)
  return world
}

function sealable(peer: Peer, change: Partial<PeerSealing> = {}): Peer {
  return { ...peer, sealing: { ...sealing(), ...change } }
}

function sealing(): PeerSealing {
  return {
    tunnelKey: '7e'.repeat(32),
    previous: undefined,
    candidates: [{ address: ip('198.51.100.2'), port: 61_820, kind: 'own' }],
  }
}

function plainEntry(): Omit<Extract<PeerEntry, { carrier: 'vxlan' }>, 'networkIds'> {
  const [local, remote] = [ip('192.0.2.1'), ip('192.0.2.2')]
  return { hostId: THERE, carrier: 'vxlan', local, remote, isForeign: false }
}

function portOf(id: number, networkId: number): Port {
  return {
    endpoint: endpointOf(id, { hostId: HERE, networkId }),
    network: networkOf(networkId),
    attachment: { kind: 'tap', device: `tap${id}` },
    attachedAtUnixMs: 0,
    assignedRevision: 1n,
    sequence: 1n,
  }
}

function carrierOf(table: SwitchTable, source: number, target: number): string {
  const join = table.join(source, target)
  return join.kind === 'joined' ? join.carrier : join.kind
}

function peersOf(changes: readonly TableChange[]): PeerEntry[] {
  return changes.flatMap((change) => (change.kind === 'put-peer' ? [change.value] : []))
}

function sealedOf(changes: readonly TableChange[]): SealedPeer | undefined {
  return peersOf(changes).find((entry) => entry.carrier === 'sealed')
}

function take(applied: Map<string, PeerEntry>, changes: readonly TableChange[]): void {
  for (const change of changes) {
    if (change.kind === 'put-peer') {
      applied.set(`${change.value.hostId} ${change.value.carrier}`, change.value)
    } else if (change.kind === 'delete-peer') {
      assert(applied.delete(`${change.id} ${change.carrier}`), 'only what is there is deleted')
    }
  }
}

function byCarrier(a: PeerEntry, b: PeerEntry): number {
  return a.carrier < b.carrier ? 1 : -1
}

function ip(text: string): IpAddress {
  const parsed = parseIpAddress(text)
  assert(parsed)
  return parsed
}
