import { readFileSync } from 'node:fs'
import { addressField, type Mistake, nameField, prefixField, readDocument } from '@weft/document'
import { InvalidArgumentError } from '@weft/errors'
import {
  contains,
  firstAddress,
  formatPrefix,
  type IpAddress,
  type LinkEncryption,
  MTU_DEFAULT_BYTES,
  type Prefix,
  parsePrefix,
} from '@weft/net'
import { z } from 'zod'

/** Device names have at most 15 characters, and the lab puts up to 4 of its own before an underlay's or host's. */
const SHORT_NAME_MAX = 11
/** A lab's user ids come in slots of 64: three for each host and a few for the control services. */
const HOSTS_MAX = 16
const ENDPOINTS_MAX = 256

const shortName = nameField.refine(
  (text) => text.length <= SHORT_NAME_MAX,
  `a name here has at most ${SHORT_NAME_MAX} characters`,
)

/** What a lab is made of, checked: every name that it mentions is there. */
export interface Topology {
  /** Owner of the networks that name no other. */
  readonly tenant: string
  /** Tenants whose own keys say who is in their networks. */
  readonly locked: readonly string[]
  readonly zones: readonly TopologyZone[]
  readonly underlays: readonly TopologyUnderlay[]
  /** Whether a router joins the underlays; without one there is one underlay with two hosts, on one wire. */
  readonly router: boolean
  readonly hosts: readonly TopologyHost[]
  /** The first one is meant by a bare endpoint name that several networks have. */
  readonly networks: readonly TopologyNetwork[]
  readonly endpoints: readonly TopologyEndpoint[]
}

export interface TopologyZone {
  readonly name: string
  readonly trusted: boolean
}

/**
 * How a NAT chooses the port that stands for a host's (RFC 4787, 4.1): the same towards everybody, one for each address, or
 * one for each address and port, which many call symmetric. Whatever the kind, it lets in only what comes from where the
 * host has sent to: address and port-dependent filtering (RFC 4787, 5).
 */
export type NatKind = (typeof NAT_KINDS)[number]
const NAT_KINDS = ['endpoint-independent', 'address-dependent', 'symmetric'] as const

/** A subnet that hosts are on. */
export interface TopologyUnderlay {
  readonly name: string
  readonly zone: string
  readonly prefixes: readonly Prefix[]
  readonly mtuBytes: number
  /** Nobody outside reaches it but through a NAT of its own, which this is. */
  readonly nat?: NatKind | undefined
}

export interface TopologyHost {
  readonly name: string
  readonly underlay: string
  /** A `vxlan-peer` is a machine with a plain VXLAN device that somebody else manages: nothing of ours runs there. */
  readonly kind: 'weft' | 'vxlan-peer'
  /** What its data plane is said to do; by default what `weft join` says. */
  readonly capabilities?: readonly string[] | undefined
}

export interface TopologyNetwork {
  readonly name: string
  readonly tenant?: string | undefined
  readonly prefixes: readonly Prefix[]
  readonly mtuBytes: number
  /** By default what `weft network create` says. */
  readonly encryption?: LinkEncryption | undefined
}

export interface TopologyEndpoint {
  readonly network: string
  readonly name: string
  readonly host: string
  /** A family that is not given gets a free address. */
  readonly addresses: readonly IpAddress[]
  /** Sources besides its addresses that it may send from, for one that routes. */
  readonly allow: readonly Prefix[]
}

const topologySchema: z.ZodType<Topology> = z.strictObject({
  tenant: nameField.default('lab'),
  locked: z.array(nameField).default([]),
  zones: z.array(z.strictObject({ name: nameField, trusted: z.boolean() })).min(1),
  underlays: z
    .array(
      z.strictObject({
        name: shortName,
        zone: nameField,
        prefixes: z.array(prefixField).min(1).max(2),
        mtuBytes: z.int().min(1280).max(9000).default(1500),
        nat: z.enum(NAT_KINDS).optional(),
      }),
    )
    .min(1),
  router: z.boolean().default(true),
  hosts: z
    .array(
      z.strictObject({
        name: shortName,
        underlay: shortName,
        kind: z.enum(['weft', 'vxlan-peer']).default('weft'),
        capabilities: z.array(nameField).optional(),
      }),
    )
    .min(1)
    .max(HOSTS_MAX),
  networks: z
    .array(
      z.strictObject({
        name: nameField,
        tenant: nameField.optional(),
        prefixes: z.array(prefixField).min(1),
        mtuBytes: z.int().default(MTU_DEFAULT_BYTES),
        encryption: z.enum(['required', 'outside-trusted-zones']).optional(),
      }),
    )
    .default([]),
  endpoints: z
    .array(
      z.strictObject({
        network: nameField,
        name: nameField,
        host: shortName,
        addresses: z.array(addressField).default([]),
        allow: z.array(prefixField).default([]),
      }),
    )
    .max(ENDPOINTS_MAX)
    .default([]),
})

/** Owner of a network; of one that the topology does not have, the topology's own tenant. */
export function tenantOf({ tenant, networks }: Topology, network: string): string {
  return networks.find(({ name }) => name === network)?.tenant ?? tenant
}

/** Topologies that come with the lab. */
export const BUILT_IN_TOPOLOGIES = ['routed', 'pair', 'nat'] as const

/**
 * Reads a built-in topology by name, else a file.
 * @throws BrokenInputError with line and column of every mistake; InvalidArgumentError for a file that cannot be read
 */
export function loadTopology(nameOrPath: string): Topology {
  const isBuiltIn = BUILT_IN_TOPOLOGIES.some((known) => known === nameOrPath)
  const path = isBuiltIn ? new URL(`../${nameOrPath}.yaml`, import.meta.url) : nameOrPath
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error)
    throw new InvalidArgumentError({
      field: 'topology',
      problem: `${nameOrPath} cannot be read: ${problem}`,
      remedy: `name a file, or one of ${BUILT_IN_TOPOLOGIES.join(', ')}`,
    })
  }
  return parseTopology(text, nameOrPath)
}

/** Parses the text of a topology; `source` names it in errors. */
export function parseTopology(text: string, source: string): Topology {
  return readDocument(text, source, topologySchema, inconsistencies)
}

/** What a schema cannot see: names that nothing has, things that are there twice. */
function inconsistencies(topology: Topology): readonly Mistake[] {
  const mistakes: Mistake[] = []
  const { zones, underlays, hosts, networks, endpoints } = topology
  const places = placesOf(topology)

  const refuseTwice = (list: string, keys: readonly string[]): void => {
    for (const [index, key] of keys.entries()) {
      if (keys.indexOf(key) < index)
        mistakes.push({ path: [list, index], message: `${key} is there twice` })
    }
  }
  refuseTwice(
    'zones',
    zones.map((zone) => zone.name),
  )
  refuseTwice(
    'underlays',
    underlays.map((underlay) => underlay.name),
  )
  refuseTwice(
    'hosts',
    hosts.map((host) => host.name),
  )
  refuseTwice(
    'networks',
    networks.map((network) => network.name),
  )
  refuseTwice(
    'endpoints',
    endpoints.map((endpoint) => `${endpoint.network}/${endpoint.name}`),
  )

  const demand = (
    path: readonly (string | number)[],
    known: readonly { name: string }[],
    wanted: string,
  ): void => {
    if (known.some((entry) => entry.name === wanted)) return
    const names = known.map((entry) => entry.name).join(', ')
    mistakes.push({ path, message: `there is no ${wanted}; known: ${names || 'none'}` })
  }
  const owners = networks.map((network) => ({ name: network.tenant ?? topology.tenant }))
  for (const [index, tenant] of topology.locked.entries()) demand(['locked', index], owners, tenant)
  for (const [index, underlay] of underlays.entries()) {
    demand(['underlays', index, 'zone'], zones, underlay.zone)
    for (const message of natMistakes(topology, underlay)) {
      mistakes.push({ path: ['underlays', index, 'nat'], message })
    }
  }
  for (const [index, host] of hosts.entries()) {
    demand(['hosts', index, 'underlay'], underlays, host.underlay)
    if (places.includes(host.name)) {
      mistakes.push({
        path: ['hosts', index, 'name'],
        message: `${host.name} is the lab's own place`,
      })
    }
  }
  for (const [index, endpoint] of endpoints.entries()) {
    demand(['endpoints', index, 'network'], networks, endpoint.network)
    demand(['endpoints', index, 'host'], hosts, endpoint.host)
    const prefixes = networks.find((network) => network.name === endpoint.network)?.prefixes ?? []
    for (const [position, wanted] of endpoint.addresses.entries()) {
      if (prefixes.length === 0 || prefixes.some((candidate) => contains(candidate, wanted)))
        continue
      mistakes.push({
        path: ['endpoints', index, 'addresses', position],
        message: `it is in no prefix of ${endpoint.network}`,
      })
    }
  }
  for (const [index, { name }] of networks.entries()) {
    if (name !== NAT_WORD || underlays.every(({ nat }) => nat === undefined)) continue
    mistakes.push({
      path: ['networks', index, 'name'],
      message: `${name} names what belongs to the NATs of the lab`,
    })
  }
  if (!topology.router && (underlays.length !== 1 || hosts.length !== 2)) {
    mistakes.push({
      path: ['router'],
      message: 'without a router there are exactly one underlay and two hosts',
    })
  }
  return mistakes
}

/** What cannot be of the NAT of an underlay. */
function natMistakes(topology: Topology, underlay: TopologyUnderlay): readonly string[] {
  const { underlays, hosts, router } = topology
  if (underlay.nat === undefined) return []
  const mistakes: string[] = []
  if (!router) mistakes.push('a NAT needs the router')
  if (underlay.prefixes.some((prefix) => firstAddress(prefix).family !== 4)) {
    mistakes.push('behind a NAT there is IPv4 alone')
  }
  const inside = hosts.filter((host) => host.underlay === underlay.name)
  if (underlay.nat === 'address-dependent' && inside.length > 1) {
    mistakes.push('an address-dependent NAT of the lab serves one host')
  }
  const isTaken = underlays.some(({ prefixes }) =>
    prefixes.some(
      (prefix) =>
        contains(prefix, firstAddress(NAT_OUTSIDE)) || contains(NAT_OUTSIDE, firstAddress(prefix)),
    ),
  )
  if (isTaken) mistakes.push(`${formatPrefix(NAT_OUTSIDE)} is for the NATs' own addresses`)
  return mistakes
}

/** Of the name of a NAT's namespace, before the underlay's. */
const NAT_WORD = 'nat'

/** Where the NATs are for everybody outside (TEST-NET-3 of RFC 5737): a subnet of four addresses for each. */
export const NAT_OUTSIDE: Prefix = mustPrefix('203.0.113.0/24')

/** The place of an underlay's NAT. */
export function natPlace(underlay: string): string {
  return `${NAT_WORD}-${underlay}`
}

/** Namespaces of a lab besides those of hosts and endpoints. */
export function placesOf({ underlays }: Pick<Topology, 'underlays'>): readonly string[] {
  const nats = underlays.filter(({ nat }) => nat !== undefined)
  return ['control', 'router', ...nats.map(({ name }) => natPlace(name))]
}

function mustPrefix(text: string): Prefix {
  const parsed = parsePrefix(text)
  if (parsed === undefined) throw new TypeError(`${text} is no prefix`)
  return parsed
}
