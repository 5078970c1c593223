import { formatIpAddress } from '@weft/net'
import { formatInterfaceAddress, type HostPlan, type LabPlan, type UnderlayPlan } from './plan.ts'
import { ip, mustRun } from './shell.ts'

const MANAGEMENT_BITS = 24

/**
 * Builds the namespaces of a lab and the wires between them: the management network around the control services, and the
 * underlay around the router. Nothing of it is in the machine's own namespace.
 */
export async function buildNetwork(plan: LabPlan): Promise<void> {
  await ip(plan.namespaces.map((namespace) => `netns add ${namespace}`))
  await ip(plan.hosts.flatMap((host) => wires(plan, host)).concat(directWire(plan)))
  await Promise.all([
    buildControl(plan),
    buildRouter(plan),
    ...plan.hosts.map((host) => buildHost(host)),
    ...plan.endpoints.map((endpoint) => ip(['link set lo up'], endpoint.namespace)),
  ])
}

/** A host's wires to the management network and, where there is one, to the router. */
function wires(plan: LabPlan, host: HostPlan): string[] {
  const management = `link add mgmt0 netns ${host.namespace} type veth peer name m-${host.name} netns ${plan.controlNamespace}`
  if (plan.routerNamespace === undefined) return [management]
  return [
    management,
    `link add ${host.underlayDevice} mtu ${host.underlayMtuBytes} netns ${host.namespace} type veth peer name u-${host.name} mtu ${host.underlayMtuBytes} netns ${plan.routerNamespace}`,
  ]
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
      'link add mgmt0 type bridge',
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

/** One bridge for each underlay, with the router's address, and forwarding between them. */
async function buildRouter(plan: LabPlan): Promise<void> {
  const { routerNamespace } = plan
  if (routerNamespace === undefined) return
  const segment = (underlay: UnderlayPlan): string[] => [
    `link add br-${underlay.name} type bridge mcast_snooping 0`,
    `link set br-${underlay.name} up mtu ${underlay.mtuBytes}`,
    ...underlay.gateways.map((gateway) =>
      addressLine(`br-${underlay.name}`, formatInterfaceAddress(gateway)),
    ),
    ...plan.hosts.flatMap((host) =>
      host.underlay === underlay.name
        ? [`link set u-${host.name} master br-${underlay.name}`, `link set u-${host.name} up`]
        : [],
    ),
  ]
  await ip(['link set lo up', ...plan.underlays.flatMap(segment)], routerNamespace)
  await mustRun([
    ...inNamespace(routerNamespace),
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
      ...host.underlayAddresses.map((address) =>
        addressLine(host.underlayDevice, formatInterfaceAddress(address)),
      ),
      `link set ${host.underlayDevice} up`,
      ...host.gateways.map((gateway) => `route add default via ${formatIpAddress(gateway)}`),
    ],
    host.namespace,
  )
}

/** Addresses are usable at once: nobody else is there who could have the same. */
function addressLine(device: string, address: string): string {
  return `address add ${address} dev ${device}${address.includes(':') ? ' nodad' : ''}`
}

/** Words that run what follows in a namespace. */
export function inNamespace(namespace: string): string[] {
  return ['nsenter', `--net=/run/netns/${namespace}`]
}
