import type { Weft } from '@weft/sdk'
import type { EndpointPlan, LabPlan } from './plan.ts'
import type { Topology } from './topology.ts'

/** Makes what hosts need to join, zones; hosts that others manage; tenants and networks. */
export async function createRecords(weft: Weft, topology: Topology, plan: LabPlan): Promise<void> {
  const tenants = new Set([
    topology.tenant,
    ...topology.networks.map(({ name }) => plan.tenantOfNetwork(name)),
  ])
  await Promise.all([
    ...[...tenants].map((name) => weft.tenants.create({ name })),
    ...topology.zones.map((zone) => weft.zones.create(zone)),
  ])
  await Promise.all([
    ...plan.hosts
      .filter(({ kind }) => kind === 'vxlan-peer')
      .map((host) => weft.hosts.create(hostRequest(host))),
    ...topology.networks.map(({ name, prefixes, mtuBytes, encryption }) =>
      weft.networks.create({
        tenant: plan.tenantOfNetwork(name),
        network: name,
        prefixes,
        mtuBytes,
        ...(encryption && { encryption }),
      }),
    ),
  ])
}

/** Creates an endpoint and joins it, by its namespace or by a TAP device of its host. */
export async function attach(
  weft: Weft,
  plan: LabPlan,
  endpoint: EndpointPlan,
  tap?: string,
): Promise<void> {
  const { network, name, addresses, allow } = endpoint
  const ref = { tenant: plan.tenantOfNetwork(network), network, endpoint: name }
  const isForeign = plan.hosts.find((host) => host.name === endpoint.host)?.kind === 'vxlan-peer'
  await weft.endpoints.create({
    ...ref,
    addresses,
    allow,
    ...(isForeign && { vxlanPeer: endpoint.host }),
  })
  if (isForeign) return
  await weft
    .host(endpoint.host)
    .attach(
      ref,
      tap === undefined
        ? { kind: 'netns', path: `/run/netns/${endpoint.namespace}` }
        : { kind: 'tap', device: tap },
    )
}

function hostRequest(host: LabPlan['hosts'][number]): Parameters<Weft['hosts']['create']>[0] {
  const addresses = host.underlayAddresses.map(({ address }) => ({ address, zone: host.zone }))
  return { name: host.name, kind: host.kind, addresses }
}
