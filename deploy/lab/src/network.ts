import { formatIpAddress } from '@weft/net'
import { beginMapping } from './nat.ts'
import {
  formatInterfaceAddress,
  type HostPlan,
  type InterfaceAddress,
  type LabPlan,
  type UnderlayPlan,
} from './plan.ts'
import { inNamespace, ip, mustRun } from './shell.ts'

const MANAGEMENT_BITS = 24
/**
 * Without an address of its own a bridge takes that of a port, so another one when that port is taken out, and nobody reaches it
 * until neighbours have asked again. No two of the lab's bridges are on one wire.
 */
const BRIDGE_MAC = '02:77:65:66:74:01'

/**
 * Builds the namespaces of a lab and the wires between them: the management network around the control services, and the
 * underlay around the router, some of it behind NATs. Nothing of it is in the machine's own namespace.
 */
export async function buildNetwork(plan: LabPlan): Promise<void> {
  await ip(plan.namespaces.map((namespace) => `netns add ${namespace}`))
  await ip([
    ...plan.hosts.flatMap((host) => wires(plan, host)),
    ...directWire(plan),
    ...natWires(plan),
  ])
  await Promise.all([
    buildControl(plan),
    buildRouter(plan),
    ...plan.underlays.map((underlay) => buildNat(plan, underlay)),
    ...plan.hosts.map((host) => buildHost(host)),
    ...plan.endpoints.map((endpoint) => ip(['link set lo up'], endpoint.namespace)),
  ])
}

/** A host's wires to the management network and, where there is one, to the router or the NAT before it. */
function wires(plan: LabPlan, host: HostPlan): string[] {
  const management = `link add mgmt0 netns ${host.namespace} type veth peer name m-${host.name} netns ${plan.controlNamespace}`
  const nat = plan.underlays.find(({ name }) => name === host.underlay)?.nat
  const next = nat?.namespace ?? plan.routerNamespace
  if (next === undefined) return [management]
  return [
    management,
    `link add ${host.underlayDevice} mtu ${host.underlayMtuBytes} netns ${host.namespace} type veth peer name u-${host.name} mtu ${host.underlayMtuBytes} netns ${next}`,
  ]
}

/** From each NAT to the router. */
function natWires(plan: LabPlan): string[] {
  return plan.underlays.flatMap(({ nat, mtuBytes }) =>
    nat === undefined
      ? []
      : [
          `link add wan0 mtu ${mtuBytes} netns ${nat.namespace} type veth peer name ${nat.routerDevice} mtu ${mtuBytes} netns ${plan.routerNamespace}`,
        ],
  )
}

/** Without a router the two hosts share one wire. */
function directWire(plan: LabPlan): string[] {
  const [a, b] = plan.hosts
  if (plan.routerNamespace !== undefined || a === undefined || b === undefined) return []
  return [
    `link add ${a.underlayDevice} mtu ${a.underlayMtuBytes} netns ${a.namespace} type veth peer name ${b.underlayDevice} mtu ${b.underlayMtuBytes} netns ${b.namespace}`,
  ]
}

async function buildControl(plan: LabPlan): Promise<void> {
  await ip(
    [
      'link set lo up',
      `link add mgmt0 address ${BRIDGE_MAC} type bridge`,
      `address add ${plan.controlAddress}/${MANAGEMENT_BITS} dev mgmt0`,
      'link set mgmt0 up',
      ...plan.hosts.flatMap((host) => [
        `link set m-${host.name} master mgmt0`,
        `link set m-${host.name} up`,
      ]),
    ],
    plan.controlNamespace,
  )
}

/** One bridge for each underlay, with the router's address, or its NAT's wire; and forwarding between them. */
async function buildRouter(plan: LabPlan): Promise<void> {
  const { routerNamespace } = plan
  if (routerNamespace === undefined) return
  const segment = (underlay: UnderlayPlan): string[] => {
    const { nat } = underlay
    if (nat === undefined) return bridgeLines(plan, underlay, `br-${underlay.name}`)
    return [addressLine(nat.routerDevice, nat.routerAddress), `link set ${nat.routerDevice} up`]
  }
  await ip(['link set lo up', ...plan.underlays.flatMap(segment)], routerNamespace)
  await forward(routerNamespace)
}

/** The NAT of an underlay that has one. */
async function buildNat(plan: LabPlan, underlay: UnderlayPlan): Promise<void> {
  const { nat } = underlay
  if (nat === undefined) return
  await ip(
    ['link set lo up', ...bridgeLines(plan, underlay, 'lan0'), addressLine('wan0', nat.address)],
    nat.namespace,
  )
  await forward(nat.namespace)
  await beginMapping(nat, nat.kind)
}

/** A bridge between the hosts of an underlay, with the address of their gateway. */
function bridgeLines(plan: LabPlan, underlay: UnderlayPlan, device: string): string[] {
  const hosts = plan.hosts.filter((host) => host.underlay === underlay.name)
  return [
    `link add ${device} address ${BRIDGE_MAC} type bridge mcast_snooping 0`,
    `link set ${device} up mtu ${underlay.mtuBytes}`,
    ...underlay.gateways.map((gateway) => addressLine(device, gateway)),
    ...hosts.flatMap(({ name }) => [
      `link set u-${name} master ${device}`,
      `link set u-${name} up`,
    ]),
  ]
}

/** Makes a namespace a router. */
async function forward(namespace: string): Promise<void> {
  await mustRun([
    ...inNamespace(namespace),
    'sh',
    '-c',
    'echo 1 > /proc/sys/net/ipv4/ip_forward && echo 1 > /proc/sys/net/ipv6/conf/all/forwarding',
  ])
}

async function buildHost(host: HostPlan): Promise<void> {
  await ip(
    [
      'link set lo up',
      `address add ${host.managementAddress}/${MANAGEMENT_BITS} dev mgmt0`,
      'link set mgmt0 up',
      ...host.underlayAddresses.map((address) => addressLine(host.underlayDevice, address)),
      `link set ${host.underlayDevice} up`,
      ...host.gateways.map((gateway) => `route add default via ${formatIpAddress(gateway)}`),
    ],
    host.namespace,
  )
}

/** Addresses are usable at once: nobody else is there who could have the same. */
function addressLine(device: string, address: InterfaceAddress): string {
  const isV6 = address.address.family === 6
  return `address add ${formatInterfaceAddress(address)} dev ${device}${isV6 ? ' nodad' : ''}`
}
