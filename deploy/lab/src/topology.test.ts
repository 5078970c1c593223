import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BrokenInputError, InvalidArgumentError, InvalidNameError } from '@weft/errors'
import { formatIpAddress } from '@weft/net'
import { natRules } from './nat.ts'
import { formatInterfaceAddress, planLab } from './plan.ts'
import { processesOf } from './processes.ts'
import { BUILT_IN_TOPOLOGIES, loadTopology, parseTopology } from './topology.ts'

const SMALL = `
zones:
  - { name: lab, trusted: true }
underlays:
  - { name: one, zone: lab, prefixes: [172.31.1.0/24] }
hosts:
  - { name: alpha, underlay: one }
networks:
  - { name: blue, prefixes: [10.20.0.0/16] }
endpoints:
  - { network: blue, name: web, host: alpha, addresses: [10.20.0.11] }
`

test('the built-in topologies are sound', () => {
  for (const name of BUILT_IN_TOPOLOGIES) assert(loadTopology(name).hosts.length >= 2, name)
})

test('routed joins three underlays, one of them dual-stack, and has two networks with the same addresses', () => {
  const { underlays, networks, endpoints } = loadTopology('routed')
  assert.equal(underlays.length, 3)
  assert.equal(underlays.filter((underlay) => underlay.prefixes.length === 2).length, 1)
  const addressesOf = (network: string): string[] =>
    endpoints.filter((e) => e.network === network).flatMap((e) => e.addresses.map(formatIpAddress))
  assert(addressesOf('red').every((address) => addressesOf('blue').includes(address)))
  assert.equal(networks.length, 2)
})

test('each underlay of nat that is behind a NAT has one of its own, with an address outside', () => {
  const { underlays, namespaces } = planLab(loadTopology('nat'))
  assert.deepEqual(
    underlays.map(({ name, nat }) => [
      name,
      nat?.kind,
      nat?.namespace,
      nat && formatInterfaceAddress(nat.address),
    ]),
    [
      ['east', 'endpoint-independent', 'weft-nat-east', '203.0.113.2/30'],
      ['west', 'endpoint-independent', 'weft-nat-west', '203.0.113.6/30'],
      ['public', undefined, undefined, undefined],
    ],
  )
  for (const { nat } of underlays) assert(!nat || namespaces.includes(nat.namespace))
})

test('the kind of a NAT decides by which port others see a host', () => {
  assert.match(natRules('endpoint-independent'), /oifname "wan0" masquerade\n/)
  assert.match(natRules('symmetric'), /masquerade fully-random\n/)
  assert.match(natRules('address-dependent'), /jhash ip daddr mod 256 .*255 : 20255 }\n/)
  assert.match(natRules({ port: 30_001 }), /masquerade to :30001\n/)
})

test('what is left out has a default', () => {
  const topology = parseTopology(SMALL, 'small.yaml')
  assert.equal(topology.tenant, 'lab')
  assert.equal(topology.router, true)
  assert.equal(topology.underlays[0]?.mtuBytes, 1500)
  assert.equal(topology.networks[0]?.mtuBytes, 1320)
  assert.equal(topology.hosts[0]?.kind, 'weft')
})

test('red of routed belongs to a tenant that is locked, and blue to one that is not', () => {
  const topology = loadTopology('routed')
  const plan = planLab(topology)
  assert.deepEqual(topology.locked, ['vault'])
  assert.equal(plan.tenantOfNetwork('red'), 'vault')
  assert.equal(plan.tenantOfNetwork('blue'), 'lab')
  assert.equal(plan.tenantOfNetwork('made later'), 'lab')
})

test('a name that nothing has is refused with its place', () => {
  const text = SMALL.replace('host: alpha', 'host: omega')
  assert.throws(() => parseTopology(text, 'small.yaml'), {
    name: 'BrokenInputError',
    message: /small\.yaml:11:39 .*endpoints\.0\.host: there is no omega; known: alpha/,
  })
})

const WRONG: readonly (readonly [string, string, string, RegExp])[] = [
  [
    'a host that is there twice',
    'hosts:',
    'hosts:\n  - { name: alpha, underlay: one }',
    /alpha is there twice/,
  ],
  [
    'a host with the name of a place of the lab',
    'name: alpha',
    'name: router',
    /router is the lab's own place/,
  ],
  ['an address outside the prefixes', '10.20.0.11', '10.21.0.11', /it is in no prefix of blue/],
  ['a prefix with host bits', '10.20.0.0/16', '10.20.0.1/16', /is no prefix/],
  [
    'a name that is too long for a device',
    'name: one',
    'name: a-very-long-name',
    /at most 11 characters/,
  ],
  [
    'a locked tenant without a network',
    'zones:',
    'locked: [vault]\nzones:',
    /there is no vault; known: lab/,
  ],
  [
    'a NAT before IPv6',
    'prefixes: [172.31.1.0/24]',
    'prefixes: ["fd00:31:1::/64"], nat: symmetric',
    /behind a NAT there is IPv4 alone/,
  ],
  [
    'a NAT of no known kind',
    'prefixes: [172.31.1.0/24]',
    'prefixes: [172.31.1.0/24], nat: open',
    /underlays\.0\.nat/,
  ],
  [
    'a NAT before the addresses of NATs',
    'prefixes: [172.31.1.0/24]',
    'prefixes: [203.0.113.0/25], nat: symmetric',
    /203\.0\.113\.0\/24 is for the NATs' own addresses/,
  ],
  [
    'a NAT that has a port for each address before two hosts',
    'prefixes: [172.31.1.0/24] }\nhosts:',
    'prefixes: [172.31.1.0/24], nat: address-dependent }\nhosts:\n  - { name: beta, underlay: one }',
    /an address-dependent NAT of the lab serves one host/,
  ],
  [
    'a host with the name of a NAT',
    'prefixes: [172.31.1.0/24] }\nhosts:',
    'prefixes: [172.31.1.0/24], nat: symmetric }\nhosts:\n  - { name: nat-one, underlay: one }',
    /nat-one is the lab's own place/,
  ],
  ['an unknown field', 'zones:', 'colour: blue\nzones:', /colour/],
  [
    'no router between several things',
    'hosts:',
    'router: false\nhosts:',
    /exactly one underlay and two hosts/,
  ],
]
for (const [what, from, to, message] of WRONG) {
  test(`${what} is refused`, () => {
    assert.throws(
      () => parseTopology(SMALL.replace(from, to), 'small.yaml'),
      (error) => error instanceof BrokenInputError && message.test(error.message),
    )
  })
}

test('a file that is not there is named', () => {
  assert.throws(() => loadTopology('/nowhere.yaml'), InvalidArgumentError)
})

test('every process of a lab has its own user but who keeps the certificate of nats, and only the shuttle and its helper have capabilities', () => {
  const plan = planLab(loadTopology('routed'))
  const processes = processesOf(plan, { configReplicas: 3 })
  const alone = processes.filter(({ name }) => name !== 'nats-certificate')
  assert.equal(new Set(processes.map(({ uid }) => uid)).size, alone.length)
  assert.equal(new Set(alone.map(({ uid }) => uid)).size, alone.length)
  const privileged = processes.filter((process) => process.capabilities.length > 0)
  assert(privileged.every(({ name }) => name.startsWith('shuttle@') || name.startsWith('netns@')))
  assert.equal(privileged.length, 6)
})

test('the user ids of a lab with the most hosts stay in its slot', () => {
  const hosts = Array.from(
    { length: 16 },
    (_, index) => `  - { name: h${index}, underlay: one }`,
  ).join('\n')
  const text = SMALL.replace('  - { name: alpha, underlay: one }', hosts).replace(
    'host: alpha',
    'host: h0',
  )
  const plan = planLab(parseTopology(text, 'wide.yaml'))
  const uids = processesOf(plan, { configReplicas: 4 }).map((process) => process.uid)
  assert(Math.max(...uids) < plan.uidBase + 64)
})

test('labs of different names share no namespace, folder or user', () => {
  const [a, b] = [planLab(loadTopology('pair')), planLab(loadTopology('pair'), 'other')]
  assert.deepEqual(
    a.namespaces.filter((namespace) => b.namespaces.includes(namespace)),
    [],
  )
  assert.notEqual(a.folder, b.folder)
  assert.notEqual(a.uidBase, b.uidBase)
})

test('a lab name that cannot be part of a namespace name is refused', () => {
  for (const name of ['', 'Lab', 'a-b', '../x', 'muchtoolongname']) {
    assert.throws(() => planLab(loadTopology('pair'), name), InvalidNameError)
  }
})

test('settings of one process go over those of the lab', () => {
  const plan = planLab(loadTopology('pair'))
  const config = processesOf(plan, { env: { config: { WEFT_LOG_LEVEL: 'debug' } } }).find(
    ({ name }) => name === 'config',
  )
  assert.equal(config?.env['WEFT_LOG_LEVEL'], 'debug')
  assert.equal(config?.env['NATS_URL'], 'tls://198.18.0.1:4222')
})
