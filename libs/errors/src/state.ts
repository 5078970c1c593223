import { WeftError } from './weft-error.ts'

export class TenantNotFoundError extends WeftError {
  constructor(facts: { tenant: string | number }) {
    super(
      'tenant-not-found',
      `there is no tenant ${facts.tenant}`,
      facts,
      'list them with: weft tenant ls',
    )
  }
}

export class ZoneNotFoundError extends WeftError {
  constructor(facts: { zone: string | number }) {
    super('zone-not-found', `there is no zone ${facts.zone}`, facts, 'list them with: weft zone ls')
  }
}

export class NetworkNotFoundError extends WeftError {
  constructor(facts: { network: string | number; tenant?: string }) {
    const scope = facts.tenant === undefined ? '' : ` of tenant ${facts.tenant}`
    super(
      'network-not-found',
      `there is no network ${facts.network}${scope}`,
      facts,
      'list them with: weft network ls',
    )
  }
}

export class HostNotFoundError extends WeftError {
  constructor(facts: { host: string | number }) {
    super('host-not-found', `there is no host ${facts.host}`, facts, 'list them with: weft host ls')
  }
}

export class EndpointNotFoundError extends WeftError {
  constructor(facts: { endpoint: string | number; network?: string }) {
    const scope = facts.network === undefined ? '' : ` in network ${facts.network}`
    super(
      'endpoint-not-found',
      `there is no endpoint ${facts.endpoint}${scope}`,
      facts,
      'list them with: weft endpoint ls',
    )
  }
}

export class PortNotFoundError extends WeftError {
  constructor(facts: { endpoint: string | number; host: string | number }) {
    super(
      'port-not-found',
      `endpoint ${facts.endpoint} has no port at host ${facts.host}`,
      facts,
      'list the ports of the host with: weft port ls',
    )
  }
}

/** The endpoint exists, but no host has said that it is there. */
export class EndpointNotLocatedError extends WeftError {
  constructor(facts: { endpoint: string | number }) {
    super(
      'endpoint-not-located',
      `endpoint ${facts.endpoint} is not attached at any host`,
      facts,
      'attach it with: weft endpoint attach',
    )
  }
}

export class UserNotFoundError extends WeftError {
  constructor(facts: { user: string | number }) {
    super('user-not-found', `there is no user ${facts.user}`, facts, 'list them with: weft user ls')
  }
}

export class TokenNotFoundError extends WeftError {
  constructor(facts: { token: number }) {
    super(
      'token-not-found',
      `there is no token ${facts.token}`,
      facts,
      'list them with: weft token ls',
    )
  }
}

export class NetnsMissingError extends WeftError {
  constructor(facts: { path: string; problem?: string }) {
    const problem = facts.problem === undefined ? '' : `: ${facts.problem}`
    super(
      'netns-missing',
      `there is no network namespace at ${facts.path}${problem}`,
      facts,
      'create it with: ip netns add NAME, and give /run/netns/NAME or /proc/PID/ns/net',
    )
  }
}

export class DeviceMissingError extends WeftError {
  constructor(facts: { device: string }) {
    super(
      'device-missing',
      `there is no network device ${facts.device}`,
      facts,
      'list the devices with: ip link',
    )
  }
}

export class TenantExistsError extends WeftError {
  constructor(facts: { tenant: string }) {
    super('tenant-exists', `tenant ${facts.tenant} exists`, facts, 'choose another name')
  }
}

export class ZoneExistsError extends WeftError {
  constructor(facts: { zone: string }) {
    super('zone-exists', `zone ${facts.zone} exists`, facts, 'choose another name')
  }
}

export class NetworkExistsError extends WeftError {
  constructor(facts: { network: string; tenant: string }) {
    super(
      'network-exists',
      `network ${facts.network} of tenant ${facts.tenant} exists`,
      facts,
      'choose another name',
    )
  }
}

export class HostExistsError extends WeftError {
  constructor(facts: { host: string }) {
    super('host-exists', `host ${facts.host} exists`, facts, 'choose another name')
  }
}

export class EndpointExistsError extends WeftError {
  constructor(facts: { endpoint: string; network: string }) {
    super(
      'endpoint-exists',
      `endpoint ${facts.endpoint} of network ${facts.network} exists`,
      facts,
      'choose another name',
    )
  }
}

export class UserExistsError extends WeftError {
  constructor(facts: { user: string }) {
    super('user-exists', `user ${facts.user} exists`, facts, 'choose another name')
  }
}

export class AddressTakenError extends WeftError {
  constructor(facts: { address: string; network: string; holder: string }) {
    super(
      'address-taken',
      `address ${facts.address} of network ${facts.network} is taken by endpoint ${facts.holder}`,
      facts,
      'choose another address, or leave it out',
    )
  }
}

export class MacTakenError extends WeftError {
  constructor(facts: { mac: string; network: string; holder: string }) {
    super(
      'mac-taken',
      `MAC ${facts.mac} of network ${facts.network} is taken by endpoint ${facts.holder}`,
      facts,
      'choose another MAC, or leave it out',
    )
  }
}

export class VniTakenError extends WeftError {
  constructor(facts: { vni: number; holder: string }) {
    super(
      'vni-taken',
      `VNI ${facts.vni} is taken by network ${facts.holder}`,
      facts,
      'choose another VNI, or leave it out',
    )
  }
}

export class UnderlayAddressTakenError extends WeftError {
  constructor(facts: { address: string; zone: string; holder: string }) {
    super(
      'underlay-address-taken',
      `underlay address ${facts.address} of zone ${facts.zone} is taken by host ${facts.holder}`,
      facts,
      'give the address by which this host alone is reached in the zone',
    )
  }
}

export class TenantInUseError extends WeftError {
  constructor(facts: { tenant: string; networks: number }) {
    super(
      'tenant-in-use',
      `tenant ${facts.tenant} has ${counted(facts.networks, 'network')}`,
      facts,
      'remove its networks first: weft network rm',
    )
  }
}

export class ZoneInUseError extends WeftError {
  constructor(facts: { zone: string; hosts: number }) {
    super(
      'zone-in-use',
      `zone ${facts.zone} has addresses of ${counted(facts.hosts, 'host')}`,
      facts,
      'remove the hosts or their addresses in it first',
    )
  }
}

export class NetworkInUseError extends WeftError {
  constructor(facts: { network: string; endpoints: number }) {
    super(
      'network-in-use',
      `network ${facts.network} has ${counted(facts.endpoints, 'endpoint')}`,
      facts,
      'remove its endpoints first: weft endpoint rm',
    )
  }
}

export class HostInUseError extends WeftError {
  constructor(facts: { host: string; endpoints: number }) {
    super(
      'host-in-use',
      `host ${facts.host} has ${counted(facts.endpoints, 'endpoint')}`,
      facts,
      'detach them first: weft port detach',
    )
  }
}

export class EndpointInUseError extends WeftError {
  constructor(facts: { endpoint: string; host: string }) {
    super(
      'endpoint-in-use',
      `endpoint ${facts.endpoint} is attached at host ${facts.host}`,
      facts,
      'detach it first: weft port detach',
    )
  }
}

export class NetworkFullError extends WeftError {
  constructor(facts: { network: string; prefix: string; used: number | bigint }) {
    super(
      'network-full',
      `network ${facts.network} has no free address in ${facts.prefix} (${facts.used} used)`,
      facts,
      'add a prefix to the network, or remove an endpoint',
    )
  }
}

export class LimitReachedError extends WeftError {
  /** `what` in the plural, for example `networks of tenant blue`. */
  constructor(facts: { what: string; limit: number; remedy?: string }) {
    super(
      'limit-reached',
      `there are already ${facts.limit} ${facts.what}, and no more are allowed`,
      facts,
      facts.remedy ?? 'remove what is not needed',
    )
  }
}

export class EndpointAttachedElsewhereError extends WeftError {
  constructor(facts: { endpoint: string; host: string }) {
    super(
      'endpoint-attached-elsewhere',
      `endpoint ${facts.endpoint} is attached at host ${facts.host}`,
      facts,
      `detach it at ${facts.host} first: weft port detach`,
    )
  }
}

/** A host speaks for an endpoint that is not assigned to it. */
export class EndpointNotAssignedError extends WeftError {
  constructor(facts: { endpoint: string | number; host: string | number }) {
    super(
      'endpoint-not-assigned',
      `endpoint ${facts.endpoint} is not assigned to host ${facts.host}`,
      facts,
      'attach it at this host: weft endpoint attach',
    )
  }
}

export class DeviceAlreadyAttachedError extends WeftError {
  constructor(facts: { device: string; holder: string }) {
    super(
      'device-already-attached',
      `device ${facts.device} is already attached to endpoint ${facts.holder}`,
      facts,
      `detach ${facts.holder} first: weft port detach`,
    )
  }
}

/** A device of that name is there, and it is not ours to use. */
export class DeviceNameTakenError extends WeftError {
  constructor(facts: { device: string; where: string }) {
    super(
      'device-name-taken',
      `${facts.where} already has a device named ${facts.device}`,
      facts,
      'choose another device name',
    )
  }
}

/** A WireGuard client has a key that somebody else has. */
export class ClientKeyTakenError extends WeftError {
  /** `holder`: who has it, for example `endpoint lab/blue/phone`. */
  constructor(facts: { key: string; holder: string }) {
    super(
      'client-key-taken',
      `the key ${facts.key} is that of ${facts.holder} already`,
      facts,
      'give each client a key of its own: without --public-key a new one is made',
    )
  }
}

/** The endpoint has another client, or this one with another preshared key. */
export class OtherClientAttachedError extends WeftError {
  constructor(facts: { endpoint: string; key: string; problem: string }) {
    super(
      'other-client-attached',
      `endpoint ${facts.endpoint} is attached already, as the WireGuard client with key ${facts.key}: ${facts.problem}`,
      facts,
      `to put another in its place, detach it first, which cuts it off: weft port detach ${facts.endpoint}`,
    )
  }
}

export class IdempotencyMismatchError extends WeftError {
  constructor(facts: { key: string }) {
    super(
      'idempotency-mismatch',
      `idempotency key ${facts.key} was used for a different request`,
      facts,
      'make a new key for a new request',
    )
  }
}

/** Somebody else wrote meanwhile. `actual` is left out where the store does not tell it. */
export class RevisionConflictError extends WeftError {
  constructor(facts: { what: string; expected: bigint; actual?: bigint }) {
    const actual = facts.actual === undefined ? '' : `, it is at ${facts.actual}`
    super(
      'revision-conflict',
      `${facts.what} is not at revision ${facts.expected}${actual}`,
      facts,
      'read it again and repeat the change',
    )
  }
}

function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`
}
