import { readFileSync } from 'node:fs'
import { addressField, type Mistake, nameField, prefixField, readDocument } from '@weft/document'
import { InvalidArgumentError } from '@weft/errors'
import { contains, type IpAddress, MTU_DEFAULT_BYTES, type Prefix } from '@weft/net'
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

/** A subnet that hosts are on. */
export interface TopologyUnderlay {
  readonly name: string
  readonly zone: string
  readonly prefixes: readonly Prefix[]
  readonly mtuBytes: number
}

export interface TopologyHost {
  readonly name: string
  readonly underlay: string
  /** A `vxlan-peer` is a machine with a plain VXLAN device that somebody else manages: nothing of ours runs there. */
  readonly kind: 'weft' | 'vxlan-peer'
}

export interface TopologyNetwork {
  readonly name: string
  readonly tenant?: string | undefined
  readonly prefixes: readonly Prefix[]
  readonly mtuBytes: number
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
export const BUILT_IN_TOPOLOGIES = ['routed', 'pair'] as const

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
  for (const [index, underlay] of underlays.entries())
    demand(['underlays', index, 'zone'], zones, underlay.zone)
  for (const [index, host] of hosts.entries()) {
    demand(['hosts', index, 'underlay'], underlays, host.underlay)
    if (RESERVED_PLACES.includes(host.name)) {
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
  if (!topology.router && (underlays.length !== 1 || hosts.length !== 2)) {
    mistakes.push({
      path: ['router'],
      message: 'without a router there are exactly one underlay and two hosts',
    })
  }
  return mistakes
}

/** Namespaces of a lab besides those of hosts and endpoints. */
export const RESERVED_PLACES: readonly string[] = ['control', 'router']
