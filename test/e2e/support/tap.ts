import type { Lab } from '@weft/lab'
import { formatMacAddress } from '@weft/net'
import { address, at } from './lab.ts'

export interface TapOptions {
  readonly host: string
  readonly device: string
  /** Of network blue. */
  readonly endpoint: string
  readonly addresses: readonly string[]
  /** Whether frames carry the header of virtio's offloads. */
  readonly withOffloads: boolean
}

/**
 * Makes an endpoint and a TAP device at a host, and attaches it.
 * @param made removes them again
 * @returns the endpoint's MAC address
 */
export async function attachTap(
  lab: Lab,
  made: AsyncDisposableStack,
  { host, device, endpoint, addresses, withOffloads }: TapOptions,
): Promise<string> {
  const place = at(lab, host)
  const ref = { tenant: lab.plan.tenant, network: 'blue', endpoint }
  const { mac } = await lab.client.endpoints.create({ ...ref, addresses: addresses.map(address) })
  made.defer(async () => {
    await lab.client.endpoints.delete(ref)
  })
  await place.ip(`tuntap add dev ${device} mode tap${withOffloads ? ' vnet_hdr' : ''}`)
  made.defer(() => place.ip(`link delete ${device}`))
  await lab.client.host(host).attach(ref, { kind: 'tap', device })
  made.defer(async () => {
    await lab.client.host(host).detach(ref)
  })
  return formatMacAddress(mac)
}
