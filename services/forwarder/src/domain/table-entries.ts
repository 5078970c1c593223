import type { IpAddress } from '@weft/net'
import { isStationMac } from '@weft/net'
import type { Row } from './rows.ts'

/** VXLAN Network Identifiers have 24 bits (RFC 7348, 5). */
const VNI_MAX = 0xff_ffff
/** The same bounds as the shuttle's. */
const MTU_BYTES_MIN = 1_280
const MTU_BYTES_MAX = 65_000

/**
 * Why the data plane of host `hostId` would refuse what the row says, and with it every table that holds it; undefined if
 * it would not. These are the shuttle's own checks of single entries.
 */
export function entryProblem(row: Row, hostId: number): string | undefined {
  switch (row.kind) {
    case 'statement':
      return undefined
    case 'network': {
      const { id, vni, mtuBytes } = row.value
      if (id === 0) return '0 is no id of a network'
      if (vni === 0 || vni > VNI_MAX) return `${vni} is no VNI`
      return mtuBytes < MTU_BYTES_MIN || mtuBytes > MTU_BYTES_MAX
        ? `${mtuBytes} is no MTU of a network`
        : undefined
    }
    case 'endpoint': {
      const { id, mac, addresses } = row.value
      if (id === 0) return '0 is no id of an endpoint'
      if (!isStationMac(mac)) return 'its MAC is not that of one device'
      return addresses.every(isOfOneDevice) ? undefined : 'an address is not that of one device'
    }
    case 'peer': {
      const { hostId: id, addresses } = row.value
      if (id === 0 || id === hostId) return 'it is no other host'
      return addresses.every(({ address }) => isOfOneDevice(address))
        ? undefined
        : 'an address is not that of one host'
    }
    case 'self':
      return row.value.addresses.every(({ address }) => isOfOneDevice(address))
        ? undefined
        : 'an address is not that of one host'
  }
}

/** Neither unspecified nor multicast. */
function isOfOneDevice({ family, value }: IpAddress): boolean {
  if (value === 0n) return false
  return family === 4 ? value >> 28n !== 0xen : value >> 120n !== 0xffn
}
