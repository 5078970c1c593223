import { formatIpAddress } from '@weft/net'
import type { NatPlan } from './plan.ts'
import { inNamespace, ip, mustRun } from './shell.ts'
import type { NatKind } from './topology.ts'

/** How a NAT maps: as its kind does, or to this one UDP port towards everybody, as after a restart that gave it another one. */
export type NatMapping = NatKind | { readonly port: number }

/** Ports of an address-dependent NAT: one for each of so many classes of addresses. */
const ADDRESS_PORTS_FIRST = 20_000
const ADDRESS_CLASSES = 256

/** Forgets every mapping, as a home router does that is switched off and on, and maps so from then on. */
export async function remap(nat: NatPlan, mapping: NatMapping): Promise<void> {
  // Masquerading ends the mappings of a device that goes down.
  await ip(['link set wan0 down'], nat.namespace)
  await beginMapping(nat, mapping)
}

/** Sets the rules and opens the way outside. */
export async function beginMapping(nat: NatPlan, mapping: NatMapping): Promise<void> {
  await mustRun([...inNamespace(nat.namespace), 'nft', '-f', '-'], { input: natRules(mapping) })
  await ip(
    ['link set wan0 up', `route replace default via ${formatIpAddress(nat.routerAddress.address)}`],
    nat.namespace,
  )
}

/**
 * Rules for `nft -f`. What comes from outside and belongs to no mapping is dropped before conntrack keeps it: kept, it would
 * take the port that the host behind is about to send by, which would then get another one.
 */
export function natRules(mapping: NatMapping): string {
  return `
table ip nat
delete table ip nat
table ip nat {
  chain outward {
    type nat hook postrouting priority srcnat
    oifname "wan0" ${masquerade(mapping)}
  }
  chain inward {
    type filter hook forward priority filter
    iifname "wan0" ct state != { established, related } drop
  }
  chain own {
    type filter hook input priority filter
    iifname "wan0" drop
  }
}
`
}

function masquerade(mapping: NatMapping): string {
  if (typeof mapping === 'object') return `meta l4proto udp masquerade to :${mapping.port}`
  switch (mapping) {
    // Linux keeps the port that the host sends by wherever nobody else has it.
    case 'endpoint-independent':
      return 'masquerade'
    case 'symmetric':
      return 'masquerade fully-random'
    case 'address-dependent': {
      const ports = Array.from(
        { length: ADDRESS_CLASSES },
        (_, index) => `${index} : ${ADDRESS_PORTS_FIRST + index}`,
      )
      return `meta l4proto udp masquerade to : jhash ip daddr mod ${ADDRESS_CLASSES} seed 0x77656674 map { ${ports.join(', ')} }`
    }
  }
}
