import assert from 'node:assert/strict'
import { beforeEach, describe, test } from 'node:test'
import { hostRowKey } from '@weft/bus'
import {
  generateIdentityKey,
  generateTunnelKey,
  publicKeyOf,
  signReport,
  signStatement,
  signTenantStatement,
  signTunnelKey,
} from '@weft/identity'
import { CARRIER_SEALED } from '@weft/net'
import { Encryption, HostKind, Network } from '@weft/proto/weftline/config/v1/records.ts'
import {
  EndpointRow,
  HostRow,
  PeerRow,
  SelfRow,
  type SignedHostRow,
} from '@weft/proto/weftline/config/v1/rows.ts'
import { TenantStatement } from '@weft/proto/weftline/identity/v1/tenant_lock.ts'
import { LocationChange, LocationReport } from '@weft/proto/weftline/location/v1/location.ts'
import fc from 'fast-check'
import { networkFromRecord } from '../src/decode.ts'
import { HostRows } from '../src/domain/host-rows.ts'
import { type Port, Ports } from '../src/domain/ports.ts'
import type { Endpoint, Network as OwnNetwork } from '../src/domain/rows.ts'
import { SwitchTable } from '../src/domain/switch-table.ts'
import { type Pins, TenantLocks, type TenantPin } from '../src/domain/tenant-locks.ts'
import { RowGate } from '../src/row-gate.ts'

/*
 * Whoever has taken over config holds the directory's key and can sign any row. Here it does so, row by row, at a host
 * that knows the locked tenant acme; nothing of it may come into the tables of the data plane.
 */

const DOMAIN = 'test.weft'
const HERE = 1
const ALPHA = 2
const EVIL = 9
const ACME = 17
const RED = 5
const RED_VNI = 77
const BLUE = 6
/** Attached here, in red and in blue; at alpha; at whoever took over config. */
const OWN = 10
const OWN_BLUE = 11
const WEB = 20
const EVIL_ENDPOINT = 66
const DAY_MS = 24 * 3_600_000
const NOW_MS = 1_800_000_000_000
const END_MS: number = NOW_MS + 30 * DAY_MS

const directoryKey = generateIdentityKey()
const tenantKey = generateIdentityKey()
const nextTenantKey = generateIdentityKey()
const alphaKey = generateIdentityKey()
const evilKey = generateIdentityKey()
const alphaTunnelKey = generateTunnelKey()
const evilTunnelKey = generateTunnelKey()
const alphaTunnel = publicKeyOf(alphaTunnelKey)
const evilTunnel = publicKeyOf(evilTunnelKey)
/** What each says of its own tunnel key. */
const alphaSays = signTunnelKey(alphaTunnelKey, alphaKey)
const evilSays = signTunnelKey(evilTunnelKey, evilKey)
const NO_KEY = Buffer.alloc(0)

type Row = NonNullable<HostRow['row']>
type About = NonNullable<TenantStatement['about']>

let host: LockedHost

beforeEach(() => {
  host = new LockedHost()
  host.give(...honest())
})

test('what the tenant and its hosts have signed counts, and what nobody locked as before', () => {
  assert.deepEqual(host.seen(), {
    networks: [RED, BLUE],
    peers: [`${ALPHA}: ${RED} ${BLUE}`],
    endpoints: [OWN, OWN_BLUE, WEB, 40],
  })
})

describe('whoever holds the directory’s key', () => {
  const web = endpointRow()
  const alpha = peerRow()
  const forgeries: readonly (readonly [string, ...Row[]])[] = [
    [
      'adds an endpoint of its own choice',
      endpoint({ ...web, ...evilEndpoint(), placement: undefined }),
    ],
    ['adds an endpoint that its own host reports', evilPeer(), evilEndpointRow()],
    [
      'adds an endpoint by the word of another one',
      endpoint({ ...web, ...evilEndpoint(), placement: web.placement }),
    ],
    [
      'adds an endpoint by what alpha reported of another network',
      endpoint({
        ...web,
        endpointId: EVIL_ENDPOINT,
        placement: placement({ endpointId: EVIL_ENDPOINT, networkId: BLUE }),
      }),
    ],
    [
      'adds an endpoint that alpha detached',
      endpoint({
        ...web,
        endpointId: EVIL_ENDPOINT,
        placement: placement({
          endpointId: EVIL_ENDPOINT,
          change: LocationChange.LOCATION_CHANGE_DETACHED,
        }),
      }),
    ],
    [
      'adds an endpoint with an address that alpha may not say anything of',
      endpoint({
        ...web,
        endpointId: EVIL_ENDPOINT,
        addresses: [ip(99, 1)],
        placement: placement({ endpointId: EVIL_ENDPOINT, addresses: [ip(99, 1)] }),
      }),
    ],
    [
      'adds an endpoint that may send from anywhere',
      endpoint({
        ...web,
        endpointId: EVIL_ENDPOINT,
        allowedPrefixes: [{ address: Buffer.alloc(4), lengthBits: 0 }],
        placement: placement({
          endpointId: EVIL_ENDPOINT,
          allowedPrefixes: [{ address: Buffer.alloc(4), lengthBits: 0 }],
        }),
      }),
    ],
    ['adds a member', evilPeer(), statement(90, member(EVIL), directoryKey), evilEndpointRow()],
    [
      'adds a member by a key of its own',
      evilPeer(),
      statement(90, member(EVIL), evilKey),
      statement(91, delegate(EVIL), evilKey),
      evilEndpointRow(),
    ],
    [
      'adds a member by what the tenant said of another domain',
      evilPeer(),
      statement(90, member(EVIL), tenantKey, { domain: 'other.weft' }),
      statement(91, delegate(EVIL), tenantKey, { domain: 'other.weft' }),
      evilEndpointRow(),
    ],
    [
      'adds a member by what the tenant said of another network',
      evilPeer(),
      statement(90, { $case: 'membership', value: { ...membership(EVIL), networkId: BLUE } }),
      statement(91, { $case: 'delegation', value: { ...delegation(EVIL), networkId: BLUE } }),
      evilEndpointRow(),
    ],
    [
      'adds a delegate that is no member',
      evilPeer(),
      statement(91, delegate(EVIL), directoryKey),
      evilEndpointRow(),
    ],
    [
      'brings in another key of the tenant',
      statement(90, keyed(evilKey), evilKey, { number: 2n, notAfterUnixMs: 0n }),
      statement(91, keyed(evilKey), directoryKey, { number: 2n, notAfterUnixMs: 0n }),
      statement(92, keyed(evilKey), evilKey, { number: 1n, notAfterUnixMs: 0n }),
      ...evilStatements(),
    ],
    [
      'makes another tenant of the same name',
      statement(90, keyed(evilKey), evilKey, { tenantId: 99, number: 1n, notAfterUnixMs: 0n }),
      ...evilStatements({ tenantId: 99 }),
    ],
    [
      'makes a locked tenant that says the network is its own',
      statement(90, keyed(evilKey), evilKey, { tenant: 'evil', tenantId: 99, notAfterUnixMs: 0n }),
      ...evilStatements({ tenant: 'evil', tenantId: 99 }),
      network(RED, 'evil', 'red', RED_VNI),
    ],
    [
      'says that the tenant is locked no longer',
      statement(90, keyed(undefined), directoryKey, { number: 2n, notAfterUnixMs: 0n }),
      statement(91, keyed(undefined), evilKey, { number: 2n, notAfterUnixMs: 0n }),
      evilPeer(),
      evilEndpointRow(),
    ],
    [
      'says the network is another tenant’s, with another VNI',
      network(RED, 'other', 'red', 666),
      evilPeer(),
      evilEndpointRow(),
    ],
    [
      'adds an endpoint that alpha reported of another host',
      endpoint({
        ...web,
        endpointId: EVIL_ENDPOINT,
        placement: placement({ endpointId: EVIL_ENDPOINT, hostId: EVIL }),
      }),
    ],
    [
      'says the network is another tenant’s',
      network(RED, 'other', 'red', RED_VNI),
      evilPeer(),
      evilEndpointRow(),
    ],
    [
      'gives the network another VNI',
      network(RED, 'acme', 'red', 666),
      evilPeer(),
      evilEndpointRow(),
    ],
    [
      'gives the network another name',
      network(RED, 'acme', 'crimson', RED_VNI),
      evilPeer(),
      evilEndpointRow(),
    ],
    [
      'gives another network the same VNI',
      network(EVIL, 'other', 'red', RED_VNI),
      evilPeer(),
      evilEndpointRow(EVIL),
    ],
    [
      'gives another network the same name',
      network(EVIL, 'acme', 'red', 666),
      evilPeer(),
      evilEndpointRow(EVIL),
    ],
    [
      'says that what is attached here in another network is in this one',
      endpoint({
        ...web,
        endpointId: OWN_BLUE,
        mac: mac(OWN_BLUE),
        locationHostId: HERE,
        placement: undefined,
      }),
    ],
    [
      'makes another network of the tenant',
      network(EVIL, 'acme', 'green', 666),
      evilPeer(),
      evilEndpointRow(EVIL),
    ],
  ]
  for (const [what, ...rows] of forgeries) {
    test(`${what}: in vain`, () => {
      host.give(...rows)

      host.assertNothingForged()
    })
  }

  const others: readonly (readonly [string, Partial<PeerRow>])[] = [
    ['identity', { identityKey: publicKeyOf(evilKey) }],
    ['tunnel', { tunnelKey: evilTunnel }],
    ['address', { addresses: [underlay(EVIL)] }],
    [
      'kind, that needs no keys',
      { kind: HostKind.HOST_KIND_VXLAN_PEER, identityKey: NO_KEY, tunnelKey: NO_KEY },
    ],
  ]
  for (const [what, change] of others) {
    test(`gives a member another ${what}: it is no member`, () => {
      host.give(peer({ ...alpha, ...change }))

      assert.deepEqual(host.seen().peers, [`${ALPHA}: ${BLUE}`])
    })
  }

  test('has the links of a locked network sealed: only with the key of which the member itself says so', () => {
    const sealing = { capabilities: [CARRIER_SEALED], tunnelStatement: alphaSays }
    host.give(
      {
        $case: 'self',
        value: SelfRow.create({ name: 'here', capabilities: [CARRIER_SEALED] }),
      },
      peer({ ...alpha, ...sealing }),
    )
    assert.deepEqual(host.seen().peers, [`${ALPHA}: ${RED} ${BLUE} sealed`])

    // Both are of a host that config made up; the first one with the member's number.
    for (const identity of [alpha.identityKey, publicKeyOf(evilKey)]) {
      const forged = { tunnelKey: evilTunnel, tunnelStatement: evilSays, identityKey: identity }
      host.give(peer({ ...alpha, ...sealing, ...forged }))
      assert.deepEqual(
        host.seen().peers.filter((text) => text.includes(` ${RED} `)),
        [],
      )
    }
  })

  test('makes any history of these: in vain', () => {
    const pool = [
      ...sealedForgeries(),
      ...honest(),
      ...forgeries.flatMap(([, ...rows]) => rows),
      ...others.map(([, change]) => peer({ ...alpha, ...change })),
    ]
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...pool), { maxLength: 40 }), (rows) => {
        const other = new LockedHost()
        other.give(...honest())
        other.give(...rows)
        other.assertNothingForged()
      }),
      { numRuns: 60 },
    )
  })

  const moves: readonly (readonly [string, Partial<EndpointRow>])[] = [
    ['host', { locationHostId: EVIL }],
    ['MAC', { mac: mac(EVIL) }],
    ['address', { addresses: [ip(0, 99)] }],
    ['source', { allowedPrefixes: [{ address: ip(0, 64), lengthBits: 26 }] }],
    ['number', { endpointId: EVIL_ENDPOINT }],
  ]
  for (const [what, change] of moves) {
    test(`gives an endpoint another ${what}: it is not there`, () => {
      host.give(evilPeer(), endpoint({ ...web, ...change }))

      const { endpoints } = host.seen()
      const expected = what === 'number' ? [OWN, OWN_BLUE, WEB, 40] : [OWN, OWN_BLUE, 40]
      assert.deepEqual(endpoints, expected)
    })
  }

  test('replays what the tenant said of a member before: it is none by that', () => {
    const about = { ...membership(), tunnelKey: evilTunnel }
    host.give(
      statement(90, { $case: 'membership', value: about }, tenantKey, { number: 1n }),
      peer({ ...alpha, tunnelKey: evilTunnel }),
    )

    assert.deepEqual(host.seen().peers, [`${ALPHA}: ${BLUE}`])
  })

  for (const [what, id] of [
    ['network', 2],
    ['member', 3],
    ['delegate', 4],
  ] as const) {
    test(`takes away only what the tenant said of a ${what}: nothing is there any more`, () => {
      host.takeAway('statement', id)

      assert.deepEqual(host.seen().endpoints, [OWN, OWN_BLUE, 40])
      assert.deepEqual(host.seen().peers, [`${ALPHA}: ${BLUE}`])
      const red = { id: RED, tenant: 'acme', name: 'red', vni: RED_VNI }
      const member = host.rows.peers.get(ALPHA)?.value ?? assert.fail()
      assert.equal(host.locks.isMember(red, member, undefined), what === 'delegate')
    })
  }

  test('names a network otherwise than its tenant did: it does not count', () => {
    const named = { id: RED, tenant: 'acme', name: 'red', vni: RED_VNI }
    const isVouchedFor = (change: Partial<typeof named>) =>
      host.locks.isVouchedFor({ ...named, ...change })

    assert.equal(isVouchedFor({}), true)
    for (const change of [
      { tenant: 'other' },
      { tenant: 'other', vni: 666 },
      { name: 'crimson' },
      { vni: 666 },
      { id: EVIL },
      { id: EVIL, tenant: 'other' },
      { id: EVIL, vni: 666 },
    ]) {
      assert.equal(isVouchedFor(change), false, JSON.stringify(change))
    }
    assert.equal(isVouchedFor({ id: EVIL, tenant: 'other', vni: 666 }), true)
  })

  test('makes two locked tenants of which each says that a network is its own: the first one has it', () => {
    const as = { tenant: 'evil', tenantId: 99 }
    const value = { networkId: 7, network: 'green', vni: 80 }
    host.give(
      statement(90, keyed(evilKey), evilKey, { ...as, notAfterUnixMs: 0n }),
      statement(91, { $case: 'network', value }, evilKey, as),
    )
    host.give(
      statement(92, { $case: 'network', value }),
      statement(93, { $case: 'network', value: { ...value, networkId: 8 } }),
    )

    const isVouchedFor = (id: number, tenant: string) =>
      host.locks.isVouchedFor({ id, tenant, name: 'green', vni: 80 })
    assert.equal(isVouchedFor(7, 'evil'), true)
    assert.equal(isVouchedFor(7, 'acme'), false)
    assert.equal(isVouchedFor(8, 'acme'), false)
  })

  test('takes away what the tenant said: its network ends there, for good', () => {
    host.takeAway('statement', 1, 2, 3, 4)
    host.give(evilPeer(), evilEndpointRow())
    assert.deepEqual(host.seen().endpoints, [OWN, OWN_BLUE, 40])
    assert.deepEqual(host.seen().peers, [`${ALPHA}: ${BLUE}`])

    const restarted = new LockedHost(host.locks.pins)
    restarted.give(...honest().filter(({ $case }) => $case !== 'statement'))

    assert.deepEqual(restarted.seen().endpoints, [OWN, OWN_BLUE, 40])
    assert.deepEqual(restarted.seen().peers, [`${ALPHA}: ${BLUE}`])
  })

  test('is not believed first by a host that was told the tenant’s key', () => {
    const publicKey = publicKeyOf(tenantKey).toString('hex')
    const fresh = new LockedHost()
    fresh.locks.tell([pinOf('acme', publicKey)])
    fresh.give(statement(1, keyed(evilKey), evilKey, { notAfterUnixMs: 0n }), ...evilStatements())
    fresh.give(network(RED, 'acme', 'red', RED_VNI), evilPeer(), evilEndpointRow())

    fresh.assertNothingForged()
    fresh.give(...honest())
    assert.deepEqual(fresh.seen(), host.seen())
  })
})

describe('a key that a host was told', () => {
  const publicKey = publicKeyOf(tenantKey).toString('hex')

  test('counts against another one that was pinned before, however often that was replaced', () => {
    const poisoned = new LockedHost()
    const keys = [
      statement(90, keyed(evilKey), evilKey, { notAfterUnixMs: 0n }),
      statement(91, keyed(alphaKey), evilKey, { number: 2n, notAfterUnixMs: 0n }),
    ]
    poisoned.give(...keys, ...evilStatements({}, alphaKey), network(RED, 'acme', 'red', RED_VNI))
    const restarted = new LockedHost(poisoned.locks.pins)

    assert.deepEqual(restarted.locks.tell([pinOf('acme', publicKey)]), ['acme'])

    restarted.give(...keys, ...evilStatements({}, alphaKey))
    restarted.assertNothingForged()
    restarted.give(...honest())
    assert.deepEqual(restarted.seen(), host.seen())
  })

  test('changes nothing where what is pinned is that key, or follows from it', () => {
    host.give(statement(6, keyed(nextTenantKey), tenantKey, { number: 2n, notAfterUnixMs: 0n }))
    const { pins } = host.locks

    assert.deepEqual(host.locks.tell([pinOf('acme', publicKey)]), [])

    assert.deepEqual(host.locks.pins, pins)
  })

  test('may be a later one than the host has heard of, and the networks stay the tenant’s', () => {
    const next = { ...pinOf('acme', publicKeyOf(nextTenantKey).toString('hex')), number: 2 }

    assert.deepEqual(host.locks.tell([next]), [])

    assert.deepEqual(host.locks.pins.tenants, [next])
    assert.equal(host.locks.isVouchedFor({ id: RED, tenant: 'other', name: 'x', vni: 9 }), false)
  })
})

test('a later key alone locks nobody whom the host has not met', () => {
  const key = statement(90, keyed(evilKey), evilKey, {
    tenant: 'other',
    tenantId: 99,
    number: 2n,
    notAfterUnixMs: 0n,
  })
  const before = host.seen()

  host.give(key)

  assert.deepEqual(host.seen(), before)
})

describe('a host that cannot tell which key is the tenant’s', () => {
  const junk = Array.from({ length: 4_096 }, (_, index) =>
    pinOf(`junk-${index}`, publicKeyOf(evilKey).toString('hex')),
  )
  const ignorant = [
    ['because it knows too many', { tenants: junk, networks: [] }],
    ['because it lost what it knew', { tenants: [], networks: [], lost: [] }],
  ] as const
  for (const [why, pins] of ignorant) {
    test(`${why}, believes nobody of that tenant`, () => {
      const other = new LockedHost(pins)

      other.give(...honest())

      assert.deepEqual(other.seen(), {
        networks: [RED, BLUE],
        peers: [`${ALPHA}: ${BLUE}`],
        endpoints: [OWN, OWN_BLUE, 40],
      })
      assert.deepEqual(other.locks.pins, pins)
    })
  }

  test('believes nobody of a tenant that was locked, though nothing is said of that', () => {
    const other = new LockedHost({ tenants: [], networks: [], lost: ['acme'] })

    other.give(...honest().filter(({ $case }) => $case !== 'statement'))

    assert.deepEqual(other.seen().endpoints, [OWN, OWN_BLUE, 40])
  })

  test('believes a key that it is told', () => {
    const other = new LockedHost({ tenants: [], networks: [], lost: ['acme'] })
    other.locks.tell([pinOf('acme', publicKeyOf(tenantKey).toString('hex'))])

    other.give(...honest())

    assert.deepEqual(other.seen(), host.seen())
  })
})

describe('the tenant’s key', () => {
  test('is replaced by a key that it signs, which then speaks alone', () => {
    host.give(statement(6, keyed(nextTenantKey), tenantKey, { number: 2n, notAfterUnixMs: 0n }))
    assert.deepEqual(host.seen().endpoints, [OWN, OWN_BLUE, 40])

    host.give(...saidBy(nextTenantKey, 3n))
    assert.deepEqual(host.seen().endpoints, [OWN, OWN_BLUE, WEB, 40])
    host.give(...evilStatements({}, tenantKey), evilPeer(), evilEndpointRow())
    host.assertNothingForged()
  })

  test('ends the lock, and may begin it again', () => {
    host.give(statement(6, keyed(undefined), tenantKey, { number: 2n, notAfterUnixMs: 0n }))
    host.takeAway('statement', 2, 3, 4)
    host.give(endpoint({ ...endpointRow(), placement: undefined }))
    assert.deepEqual(host.seen().endpoints, [OWN, OWN_BLUE, WEB, 40])

    host.give(
      statement(7, keyed(evilKey), evilKey, { number: 3n, notAfterUnixMs: 0n }),
      statement(8, keyed(nextTenantKey), tenantKey, { number: 3n, notAfterUnixMs: 0n }),
    )
    assert.deepEqual(host.seen().endpoints, [OWN, OWN_BLUE, 40])
    assert.deepEqual(
      host.locks.pins.tenants.map(({ number }) => number),
      [3],
    )
  })

  test('is replaced by none out of turn, and by none of another tenant of that name', () => {
    host.give(
      statement(6, keyed(nextTenantKey), tenantKey, { number: 3n, notAfterUnixMs: 0n }),
      statement(7, keyed(nextTenantKey), tenantKey, {
        number: 2n,
        notAfterUnixMs: 0n,
        tenantId: 99,
      }),
    )

    assert.deepEqual(
      host.locks.pins.tenants.map(({ number }) => number),
      [1],
    )
  })

  test('says who may place endpoints, so that a host can tell that it is left out', () => {
    const red = { id: RED, tenant: 'acme', name: 'red', vni: RED_VNI }
    const isDelegate = (hostId: number, key: typeof tenantKey) =>
      host.locks.isDelegate(red, { hostId, identityKey: publicKeyOf(key).toString('hex') })

    assert.equal(isDelegate(ALPHA, alphaKey), true)
    assert.equal(isDelegate(ALPHA, evilKey), false)
    assert.equal(isDelegate(EVIL, evilKey), false)
    host.takeAway('statement', 4)
    assert.equal(isDelegate(ALPHA, alphaKey), false)
  })

  test('says nothing for another tenant of that name', () => {
    host.give(...evilStatements({ tenantId: 99 }, tenantKey))

    host.assertNothingForged()
  })

  test('is believed until the end that it names, and not after', () => {
    host.expire(END_MS - 1)
    assert.deepEqual(host.seen().endpoints, [OWN, OWN_BLUE, WEB, 40])

    host.expire(END_MS)
    assert.deepEqual(host.seen().endpoints, [OWN, OWN_BLUE, 40])
    host.give(...saidBy(tenantKey, 3n, END_MS + DAY_MS))
    assert.deepEqual(host.seen().endpoints, [OWN, OWN_BLUE, WEB, 40])
  })

  test('takes a host in with other keys, and none of its words from before count', () => {
    const about = { ...membership(), identityKey: publicKeyOf(evilKey) }
    host.give(statement(9, { $case: 'membership', value: about }, tenantKey, { number: 9n }))

    assert.deepEqual(host.seen().endpoints, [OWN, OWN_BLUE, 40])
  })

  test('says more than one thing of a network, of which the one with the highest number counts', () => {
    const charter = { networkId: RED, network: 'red', vni: 78 }
    host.give(statement(9, { $case: 'network', value: charter }, tenantKey, { number: 9n }))

    assert.deepEqual(host.seen().endpoints, [OWN, OWN_BLUE, 40])
  })
})

/** A host with an endpoint in acme/red, which is locked, and its rows. */
class LockedHost {
  readonly rows: HostRows = new HostRows()
  readonly locks: TenantLocks = new TenantLocks(this.rows)
  readonly #gate = new RowGate(HERE, () => publicKeyOf(directoryKey), DOMAIN)
  readonly #table: SwitchTable
  readonly #networks = new Map<number, number>()
  /** By host and carrier. */
  readonly #peers = new Map<
    string,
    { readonly hostId: number; readonly at: bigint | string; readonly networks: readonly number[] }
  >()
  readonly #endpoints = new Map<number, Endpoint>()
  #revision = 0n

  constructor(pins: Pins = { tenants: [], networks: [] }) {
    this.locks.restore(pins)
    const ports = new Ports()
    ports.set(portOf(OWN, networkFromRecord(redRecord(), 'acme')))
    const blue = { ...redRecord(), id: BLUE, name: 'blue', vni: 78 }
    ports.set(portOf(OWN_BLUE, networkFromRecord(blue, 'other')))
    this.#table = new SwitchTable(HERE, this.rows, ports, this.locks)
    this.#table.setSealing(true)
  }

  /** Rows as config writes them, each with the directory's signature. */
  give(...rows: readonly Row[]): void {
    for (const row of rows) {
      this.#revision++
      const message = {
        hostId: HERE,
        configRevision: this.#revision,
        locationRevision: 1n,
        row,
        notAfterUnixMs: BigInt(END_MS + 100 * DAY_MS),
      }
      const payload = HostRow.encode(HostRow.create(message)).finish()
      const signed: SignedHostRow = { row: signStatement('host-row', payload, directoryKey) }
      const admission = this.#gate.admit(signed, keyOf(row))
      if (admission.kind === 'row') this.#note(this.rows.apply(admission.change))
    }
  }

  takeAway(rowKind: 'statement', ...ids: readonly number[]): void {
    for (const id of ids) this.#note(this.rows.apply({ kind: 'delete', rowKind, id }))
  }

  expire(nowMs: number): void {
    this.#note(this.rows.expire(nowMs))
  }

  /** Numbers of what the data plane has. */
  seen() {
    this.#take()
    return {
      networks: [...this.#networks.keys()].sort((a, b) => a - b),
      peers: [...this.#peers.values()].map(
        ({ hostId, networks, at }) =>
          `${hostId}: ${networks.join(' ')}${typeof at === 'string' ? ' sealed' : ''}`,
      ),
      endpoints: [...this.#endpoints.keys()].sort((a, b) => a - b),
    }
  }

  /** In the locked network there is nobody but alpha, at its address, with its endpoint as alpha reported it. */
  assertNothingForged(): void {
    const { networks, peers, endpoints } = this.seen()
    assert.equal(this.#networks.get(RED) ?? RED_VNI, RED_VNI)
    const others = networks.filter((id) => id !== RED && id !== BLUE)
    assert.deepEqual(others, [])
    const inRed = [...this.#peers.values()].filter((peer) => peer.networks.includes(RED))
    for (const { hostId, at } of inRed) {
      const expected = typeof at === 'string' ? alphaTunnel.toString('hex') : underlayValue(ALPHA)
      assert.deepEqual([hostId, at], [ALPHA, expected], peers.join())
    }
    assert(
      endpoints.every((id) => id === OWN || id === OWN_BLUE || id === WEB || id === 40),
      endpoints.join(),
    )
    const red = [...this.#endpoints.values()].filter(({ networkId }) => networkId === RED)
    assert(
      red.every(({ id }) => id === OWN || id === WEB),
      red.map(({ id }) => id).join(),
    )
    const present = this.#endpoints.get(WEB)
    if (present) assert.deepEqual([present.hostId, present.mac], [ALPHA, WEB])
  }

  #note(touched: ReturnType<HostRows['apply']>): void {
    if (touched.some(({ kind }) => kind === 'statement')) {
      this.locks.review()
      this.#table.touchLocks()
    }
    for (const row of touched) this.#table.touch(row)
  }

  #take(): void {
    for (const change of this.#table.takeChanges()) {
      switch (change.kind) {
        case 'put-network':
          this.#networks.set(change.value.id, change.value.vni)
          break
        case 'put-peer': {
          const { value } = change
          const { hostId, networkIds: networks, carrier } = value
          const at = value.carrier === 'vxlan' ? value.remote.value : value.tunnelKey
          this.#peers.set(`${hostId} ${carrier}`, { hostId, at, networks })
          break
        }
        case 'put-endpoint':
          this.#endpoints.set(change.value.id, change.value)
          break
        case 'delete-network':
          this.#networks.delete(change.id)
          break
        case 'delete-peer':
          this.#peers.delete(`${change.id} ${change.carrier}`)
          break
        case 'delete-endpoint':
          this.#endpoints.delete(change.id)
          break
      }
    }
  }
}

/** The first key of a tenant, and none before it. */
function pinOf(tenant: string, publicKey: string): TenantPin {
  const key = { publicKey, signer: publicKey, chain: [publicKey] }
  return { tenant, tenantId: ACME, number: 1, ...key }
}

/** Something that is attached here. */
function portOf(id: number, network: OwnNetwork): Port {
  return {
    endpoint: {
      id,
      networkId: network.id,
      name: `own-${id}`,
      mac: id as never,
      addresses: [],
      allowedPrefixes: [],
      hostId: HERE,
      epoch: 1n,
    },
    network,
    attachment: { kind: 'tap', device: `tap${id}` },
    attachedAtUnixMs: 0,
    assignedRevision: 1n,
    sequence: 1n,
  }
}

/** All rows that this host should have: network red of the locked tenant, and blue of another one. */
function honest(): Row[] {
  return [
    statement(1, keyed(tenantKey), tenantKey, { number: 1n, notAfterUnixMs: 0n }),
    ...saidBy(tenantKey, 2n),
    {
      $case: 'self',
      value: SelfRow.create({ name: 'here', addresses: [underlay(HERE)] }),
    },
    network(RED, 'acme', 'red', RED_VNI),
    network(BLUE, 'other', 'blue', 78),
    peer(peerRow()),
    endpoint(endpointRow()),
    endpoint({ ...endpointRow(), endpointId: 40, networkId: BLUE, placement: undefined }),
  ]
}

/** What the tenant says of its network, in the rows 2, 3 and 4. */
function saidBy(key: typeof tenantKey, number: bigint, endMs = END_MS): Row[] {
  const more = { number, notAfterUnixMs: BigInt(endMs) }
  return [
    statement(2, charter(), key, more),
    statement(3, member(ALPHA), key, more),
    statement(4, delegate(ALPHA), key, more),
  ]
}

/** What would make the evil host a member that may place endpoints, if it were the tenant that says so. */
function evilStatements(as: Partial<TenantStatement> = {}, key = evilKey): Row[] {
  const more = { number: 8n, ...as }
  return [
    statement(94, charter(), key, more),
    statement(95, member(EVIL), key, more),
    statement(96, delegate(EVIL), key, more),
    evilPeer(),
    evilEndpointRow(),
  ]
}

function statement(
  id: number,
  about: About,
  key: typeof tenantKey = tenantKey,
  more: Partial<TenantStatement> = {},
): Row {
  const content = TenantStatement.create({
    domain: DOMAIN,
    tenantId: ACME,
    tenant: 'acme',
    number: 1n,
    notAfterUnixMs: BigInt(END_MS),
    ...more,
    about,
  })
  return { $case: 'statement', value: { id, statement: signTenantStatement(content, key) } }
}

function keyed(key: typeof tenantKey | undefined): About {
  return { $case: 'key', value: { publicKey: key ? publicKeyOf(key) : NO_KEY } }
}

function charter(): About {
  return { $case: 'network', value: { networkId: RED, network: 'red', vni: RED_VNI } }
}

function member(hostId: number): About {
  return { $case: 'membership', value: membership(hostId) }
}

function membership(hostId: number = ALPHA) {
  return {
    networkId: RED,
    hostId,
    identityKey: publicKeyOf(hostId === ALPHA ? alphaKey : evilKey),
    tunnelKey: hostId === ALPHA ? alphaTunnel : evilTunnel,
    plainAddresses: [underlay(hostId).address],
  }
}

function delegate(hostId: number): About {
  return { $case: 'delegation', value: delegation(hostId) }
}

function delegation(hostId: number) {
  return {
    networkId: RED,
    delegateKey: publicKeyOf(hostId === ALPHA ? alphaKey : evilKey),
    prefixes: [{ address: ip(0, 0), lengthBits: 24 }],
  }
}

function network(id: number, tenantName: string, name: string, vni: number): Row {
  return {
    $case: 'network',
    value: { network: { ...redRecord(), id, name, vni }, tenantName },
  }
}

function redRecord(): Network {
  return Network.create({
    id: RED,
    name: 'red',
    vni: RED_VNI,
    prefixes: [{ address: ip(0, 0), lengthBits: 16 }],
    mtuBytes: 1320,
    encryption: Encryption.ENCRYPTION_OUTSIDE_TRUSTED_ZONES,
  })
}

function peer(value: PeerRow): Row {
  return { $case: 'peer', value }
}

function peerRow(): PeerRow {
  return PeerRow.create({
    hostId: ALPHA,
    name: 'alpha',
    kind: HostKind.HOST_KIND_WEFT,
    addresses: [underlay(ALPHA)],
    identityKey: publicKeyOf(alphaKey),
    tunnelKey: alphaTunnel,
  })
}

/** Rows in which everything can be sealed, to the member and to others with keys of their own. */
function sealedForgeries(): Row[] {
  const capabilities = [CARRIER_SEALED]
  const addresses = [underlay(HERE)]
  const lies: readonly Partial<PeerRow>[] = [
    { tunnelStatement: alphaSays },
    { tunnelStatement: evilSays },
    { tunnelKey: evilTunnel, tunnelStatement: evilSays },
    { tunnelKey: evilTunnel, tunnelStatement: evilSays, identityKey: publicKeyOf(evilKey) },
    { tunnelStatement: signTunnelKey(alphaTunnelKey, evilKey), identityKey: publicKeyOf(evilKey) },
  ]
  return [
    { $case: 'self', value: SelfRow.create({ name: 'here', addresses, capabilities }) },
    ...lies.map((lie) => peer({ ...peerRow(), capabilities, ...lie })),
    ...lies.map((lie) => peer({ ...peerRow(), hostId: EVIL, capabilities, ...lie })),
  ]
}

function evilPeer(): Row {
  return peer({
    ...peerRow(),
    hostId: EVIL,
    name: 'evil',
    addresses: [underlay(EVIL)],
    identityKey: publicKeyOf(evilKey),
    tunnelKey: evilTunnel,
  })
}

function endpoint(value: EndpointRow): Row {
  return { $case: 'endpoint', value }
}

/** The endpoint web at alpha, as alpha reported it. */
function endpointRow(): EndpointRow {
  return EndpointRow.create({
    endpointId: WEB,
    networkId: RED,
    name: 'web',
    mac: mac(WEB),
    addresses: [ip(0, WEB)],
    allowedPrefixes: [{ address: ip(0, 192), lengthBits: 26 }],
    locationHostId: ALPHA,
    epoch: 1n,
    placement: placement(),
  })
}

function evilEndpoint(networkId = RED) {
  return { endpointId: EVIL_ENDPOINT, networkId, locationHostId: EVIL, name: 'evil' }
}

/** As the evil host reports it. */
function evilEndpointRow(networkId = RED): Row {
  const reported = { endpointId: EVIL_ENDPOINT, networkId, hostId: EVIL }
  return endpoint({
    ...endpointRow(),
    ...evilEndpoint(networkId),
    placement: placement(reported, evilKey),
  })
}

function placement(change: Partial<LocationReport> = {}, key: typeof tenantKey = alphaKey) {
  const report = LocationReport.create({
    change: LocationChange.LOCATION_CHANGE_ATTACHED,
    endpointId: WEB,
    networkId: RED,
    hostId: ALPHA,
    sequence: 1n,
    mac: mac(WEB),
    addresses: [ip(0, WEB)],
    allowedPrefixes: [{ address: ip(0, 192), lengthBits: 26 }],
    ...change,
  })
  const encoded = LocationReport.encode(signReport(report, key)).finish()
  return { report: Buffer.from(encoded), signerKey: publicKeyOf(key) }
}

function underlay(hostId: number) {
  const address = Buffer.from([192, 0, 2, hostId])
  return { address, zoneId: 1, zoneName: 'lab', trusted: true }
}

function underlayValue(hostId: number): bigint {
  return BigInt(underlay(hostId).address.readUInt32BE())
}

function ip(third: number, last: number): Buffer {
  return Buffer.from([10, 20, third, last])
}

function mac(last: number): Buffer {
  return Buffer.from([0, 0, 0, 0, 0, last])
}

function keyOf(row: Row): string {
  switch (row.$case) {
    case 'statement':
      return hostRowKey(HERE, 'statement', row.value.id)
    case 'network':
      return hostRowKey(HERE, 'network', row.value.network?.id ?? 0)
    case 'peer':
      return hostRowKey(HERE, 'peer', row.value.hostId)
    case 'endpoint':
      return hostRowKey(HERE, 'endpoint', row.value.endpointId)
    case 'self':
      return hostRowKey(HERE, 'self', HERE)
  }
}
