import { InvalidNameError } from '@weft/errors'
import { firstAddress, formatIpAddress, type IpAddress, type Prefix } from '@weft/net'
import {
  NAT_OUTSIDE,
  type NatKind,
  natPlace,
  type Topology,
  type TopologyEndpoint,
  tenantOf,
} from './topology.ts'

/** The lab that is meant when no name is given. */
export const DEFAULT_LAB_NAME = 'weft'

/** Longest lab name: with it, the names of namespaces stay readable. */
const LAB_NAME_MAX = 12
/** User ids that systemd leaves to nobody (60578-61183), in slots of 64 for labs that run side by side. */
const UID_BASE = 60_608
const UIDS_PER_LAB = 64
const UID_SLOTS = 8
const UNDERLAY_FIRST_HOST = 11n

/** Ports of the control services on the management network; a replica takes the port of its service. */
export const PORTS = {
  nats: 4222,
  natsMonitor: 8222,
  config: 7001,
  enrolment: 7051,
  resolver: 7101,
  policy: 7201,
  metrics: 9100,
} as const

/** An address with the length of its subnet, for `ip address add`. */
export interface InterfaceAddress {
  readonly address: IpAddress
  readonly lengthBits: number
}

export interface HostPlan {
  readonly name: string
  readonly kind: 'weft' | 'vxlan-peer'
  /** What its data plane is said to do; by default what `weft join` says. */
  readonly capabilities: readonly string[] | undefined
  readonly namespace: string
  readonly folder: string
  readonly zone: string
  readonly underlay: string
  readonly underlayDevice: string
  readonly underlayMtuBytes: number
  readonly underlayAddresses: readonly InterfaceAddress[]
  /** Next hops to everything else, none on a wire without a router. */
  readonly gateways: readonly IpAddress[]
  readonly managementAddress: string
  /** Where the host API listens. */
  readonly hostApi: string
  /** Where the machine's own BPF file system is mounted, the shuttle's alone. */
  readonly bpffs: string
}

export interface EndpointPlan extends TopologyEndpoint {
  readonly namespace: string
}

export interface UnderlayPlan {
  readonly name: string
  readonly mtuBytes: number
  /** Of the router, or of the NAT where there is one. */
  readonly gateways: readonly InterfaceAddress[]
  readonly nat: NatPlan | undefined
}

/** The NAT between an underlay and the router. */
export interface NatPlan {
  readonly kind: NatKind
  readonly namespace: string
  /** At the router, its end of the wire. */
  readonly routerDevice: string
  readonly routerAddress: InterfaceAddress
  /** As which everybody outside sees what is behind it. */
  readonly address: InterfaceAddress
}

/** Every name, address and number of a lab, derived from its topology and name alone. */
export interface LabPlan {
  readonly name: string
  readonly tenant: string
  /** Owner of each network of the topology, by its name. */
  readonly tenantOfNetwork: (network: string) => string
  /** Everything that the lab writes is in here. */
  readonly folder: string
  readonly controlNamespace: string
  readonly routerNamespace: string | undefined
  readonly controlAddress: string
  readonly uidBase: number
  readonly underlays: readonly UnderlayPlan[]
  readonly hosts: readonly HostPlan[]
  readonly endpoints: readonly EndpointPlan[]
  readonly namespaces: readonly string[]
  /** A device node for TUN that anyone may open, as udev sets /dev/net/tun up on most machines. */
  readonly tunNode: string
}

/** Folder of the lab of that name. */
export function labFolder(name: string): string {
  return name === DEFAULT_LAB_NAME ? '/run/weft-lab' : `/run/weft-lab-${name}`
}

/** @throws InvalidNameError for a lab name that cannot be part of namespace names */
export function planLab(topology: Topology, name: string = DEFAULT_LAB_NAME): LabPlan {
  if (!/^[a-z][a-z0-9]*$/.test(name) || name.length > LAB_NAME_MAX) {
    const problem = `a lab's has a-z and 0-9 only, at most ${LAB_NAME_MAX} of them`
    throw new InvalidNameError({ kind: 'lab', name, problem })
  }
  const folder = labFolder(name)
  const controlNamespace = `${name}-control`
  const routerNamespace = topology.router ? `${name}-router` : undefined

  const underlays = topology.underlays.map(
    (underlay, index): UnderlayPlan => ({
      name: underlay.name,
      mtuBytes: underlay.mtuBytes,
      gateways: underlay.prefixes.map((prefix) => nth(prefix, 1n)),
      nat: underlay.nat && planNat(name, underlay.name, underlay.nat, index),
    }),
  )
  const nats = underlays.flatMap(({ nat }) => nat ?? [])
  const hosts = topology.hosts.map((host, index): HostPlan => {
    const underlay = topology.underlays.find((candidate) => candidate.name === host.underlay)
    if (underlay === undefined) throw new RangeError(`topology without underlay ${host.underlay}`)
    return {
      name: host.name,
      kind: host.kind,
      capabilities: host.capabilities,
      namespace: `${name}-${host.name}`,
      folder: `${folder}/${host.name}`,
      zone: underlay.zone,
      underlay: underlay.name,
      underlayDevice: 'under0',
      underlayMtuBytes: underlay.mtuBytes,
      underlayAddresses: underlay.prefixes.map((prefix) =>
        nth(prefix, UNDERLAY_FIRST_HOST + BigInt(index)),
      ),
      gateways: topology.router ? underlay.prefixes.map((prefix) => nth(prefix, 1n).address) : [],
      managementAddress: `198.18.0.${11 + index}`,
      hostApi: `unix:${folder}/${host.name}/api/host.sock`,
      bpffs: `${folder}/${host.name}/bpf`,
    }
  })
  const endpoints = topology.endpoints.map((endpoint) => planEndpoint(name, endpoint))
  return {
    name,
    tenant: topology.tenant,
    tenantOfNetwork: (network) => tenantOf(topology, network),
    folder,
    controlNamespace,
    routerNamespace,
    controlAddress: '198.18.0.1',
    uidBase: UID_BASE + UIDS_PER_LAB * uidSlot(name),
    underlays,
    hosts,
    endpoints,
    namespaces: [
      controlNamespace,
      ...(routerNamespace === undefined ? [] : [routerNamespace]),
      ...nats.map((nat) => nat.namespace),
      ...hosts.map((host) => host.namespace),
      ...endpoints.map((endpoint) => endpoint.namespace),
    ],
    tunNode: `${folder}/dev/tun`,
  }
}

/** The namespace that stands for an endpoint's container. */
export function planEndpoint(labName: string, endpoint: TopologyEndpoint): EndpointPlan {
  return { ...endpoint, namespace: `${labName}-${endpoint.network}-${endpoint.name}` }
}

/** A subnet of four addresses between the router and the NAT. */
function planNat(labName: string, underlay: string, kind: NatKind, index: number): NatPlan {
  const lengthBits = 30
  const at = (offset: number): InterfaceAddress => ({
    ...nth(NAT_OUTSIDE, BigInt(4 * index + offset)),
    lengthBits,
  })
  return {
    kind,
    namespace: `${labName}-${natPlace(underlay)}`,
    routerDevice: natPlace(underlay),
    routerAddress: at(1),
    address: at(2),
  }
}

/** Text for `ip address add`. */
export function formatInterfaceAddress({ address, lengthBits }: InterfaceAddress): string {
  return `${formatIpAddress(address)}/${lengthBits}`
}

function nth(prefix: Prefix, offset: bigint): InterfaceAddress {
  const { family, value } = firstAddress(prefix)
  return { address: { family, value: value + offset }, lengthBits: prefix.lengthBits }
}

/** The default lab has slot 0; others share the rest by name. */
function uidSlot(name: string): number {
  if (name === DEFAULT_LAB_NAME) return 0
  let hash = 0
  for (const character of name) hash = (hash * 31 + (character.codePointAt(0) ?? 0)) >>> 0
  return 1 + (hash % (UID_SLOTS - 1))
}
