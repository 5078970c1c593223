import {
  ClientKeyTakenError,
  DeviceAlreadyAttachedError,
  OtherClientAttachedError,
  type WeftError,
} from '@weft/errors'
import { addressBits, contains, type IpAddress } from '@weft/net'
import type { HostRows } from './host-rows.ts'
import type { Endpoint, Network } from './rows.ts'

/** What joins an endpoint to the host: a device in a network namespace, a TAP device of the host, or a tunnel to a client. */
export type Attachment = DeviceAttachment | ClientAttachment

export type DeviceAttachment =
  | {
      readonly kind: 'netns'
      readonly path: string
      /** Name inside the namespace. */
      readonly device: string
      /** Whether routes are left alone. */
      readonly keepRoutes: boolean
    }
  | { readonly kind: 'tap'; readonly device: string }

/** A client of the WireGuard protocol. Keys are X25519, in hexadecimal digits. */
export interface ClientAttachment {
  readonly kind: 'wireguard'
  readonly publicKey: string
  /** A secret; empty for none. */
  readonly presharedKey: string
  /** The tunnel key of this host that the client was told. */
  readonly hostKey: string
}

/** An endpoint that is attached here, with all that is needed to attach it again when nothing answers. */
export interface Port {
  readonly endpoint: Endpoint
  readonly network: Network
  readonly attachment: Attachment
  readonly attachedAtUnixMs: number
  /** Revision of the VN database at which the endpoint was seen assigned to this host. */
  readonly assignedRevision: bigint
  /** Number of the report by which the location was claimed. */
  readonly sequence: bigint
}

/** An endpoint that was detached here, and of which somebody has still to be told. */
export interface Release {
  /** `tenant/network/endpoint`. */
  readonly name: string
  readonly endpointId: number
  readonly networkId: number
  readonly addresses: readonly IpAddress[]
  readonly sequence: bigint
}

/** Names an endpoint as subscribers do. */
export interface EndpointName {
  readonly tenant: string
  readonly network: string
  readonly endpoint: string
}

/** What is attached at this host. */
export class Ports {
  readonly #byId: Map<number, Port> = new Map()

  get size(): number {
    return this.#byId.size
  }

  [Symbol.iterator](): IterableIterator<Port> {
    return this.#byId.values()
  }

  get(endpointId: number): Port | undefined {
    return this.#byId.get(endpointId)
  }

  find(name: EndpointName): Port | undefined {
    return this.#find(
      ({ endpoint, network }) =>
        endpoint.name === name.endpoint &&
        network.name === name.network &&
        network.tenant === name.tenant,
    )
  }

  set(port: Port): void {
    this.#byId.set(port.endpoint.id, port)
  }

  delete(endpointId: number): boolean {
    return this.#byId.delete(endpointId)
  }

  /**
   * The port that the endpoint already has with this very attachment, undefined if it has none.
   * @throws DeviceAlreadyAttachedError, OtherClientAttachedError or ClientKeyTakenError if the endpoint has another
   * attachment, or the device or client another endpoint
   */
  findSame(name: EndpointName, attachment: Attachment): Port | undefined {
    const present = this.find(name)
    if (present) {
      if (isSameAttachment(present.attachment, attachment)) return present
      throw otherwiseAttached(present, attachment)
    }
    const holder = this.#find((port) => isSameDevice(port.attachment, attachment))
    if (holder) throw takenBy(holder, attachment)
    return undefined
  }

  /**
   * Ports whose endpoint was observed at another host later than here: forwarding for them would be wrong. An epoch
   * grows with every change of host, so the row of the other host outranks the claim that was made here.
   */
  fencedBy(rows: HostRows, hostId: number, epochs: ReadonlyMap<number, bigint>): Port[] {
    return [...this].filter(({ endpoint }) => {
      const row = rows.endpoints.get(endpoint.id)?.value
      const claimed = epochs.get(endpoint.id)
      return row && row.hostId !== hostId && claimed !== undefined && row.epoch > claimed
    })
  }

  // A host has at most a few hundred ports, and names are looked up only when somebody types them.
  #find(matches: (port: Port) => boolean): Port | undefined {
    for (const port of this) if (matches(port)) return port
    return undefined
  }
}

/** `tenant/network/endpoint`. */
export function portName({ network, endpoint }: Port): string {
  return nameText({ tenant: network.tenant, network: network.name, endpoint: endpoint.name })
}

export function nameText({ tenant, network, endpoint }: EndpointName): string {
  return `${tenant}/${network}/${endpoint}`
}

/** For people: the device, and the namespace that it is in, or the client by its public key. */
export function attachmentText(attachment: Attachment): string {
  switch (attachment.kind) {
    case 'netns':
      return `${attachment.device} in ${attachment.path}`
    case 'tap':
      return attachment.device
    case 'wireguard':
      return `WireGuard client ${keyText(attachment.publicKey)}`
  }
}

/** The prefix lengths by which the endpoint reaches its neighbours, one for each of its addresses. */
export function prefixLengths(network: Network, endpoint: Endpoint): number[] {
  return endpoint.addresses.map((address) => {
    const prefix = network.prefixes.find((candidate) => contains(candidate, address))
    return prefix?.lengthBits ?? addressBits(address.family)
  })
}

/** Why the device or client of a port can be attached as no other endpoint. */
function takenBy(holder: Port, attachment: Attachment): WeftError {
  const name = portName(holder)
  return attachment.kind === 'wireguard'
    ? new ClientKeyTakenError({ key: keyText(attachment.publicKey), holder: `endpoint ${name}` })
    : new DeviceAlreadyAttachedError({ device: attachmentText(attachment), holder: name })
}

/** Why an endpoint that is attached cannot be attached in another way. */
function otherwiseAttached(present: Port, wanted: Attachment): WeftError {
  const name = portName(present)
  const { attachment } = present
  if (attachment.kind !== 'wireguard') {
    return new DeviceAlreadyAttachedError({ device: attachmentText(attachment), holder: name })
  }
  const problem = isSameDevice(attachment, wanted)
    ? attachment.presharedKey === ''
      ? 'it has no preshared key'
      : 'its preshared key, which is told only once, is another one'
    : 'that is another one'
  return new OtherClientAttachedError({
    endpoint: name,
    key: keyText(attachment.publicKey),
    problem,
  })
}

/** As WireGuard writes keys. */
function keyText(hex: string): string {
  return Buffer.from(hex, 'hex').toString('base64')
}

function isSameDevice(a: Attachment, b: Attachment): boolean {
  switch (a.kind) {
    case 'netns':
      return b.kind === 'netns' && a.path === b.path && a.device === b.device
    case 'tap':
      return b.kind === 'tap' && a.device === b.device
    case 'wireguard':
      return b.kind === 'wireguard' && a.publicKey === b.publicKey
  }
}

function isSameAttachment(a: Attachment, b: Attachment): boolean {
  if (!isSameDevice(a, b)) return false
  if (a.kind === 'netns' && b.kind === 'netns') return a.keepRoutes === b.keepRoutes
  return a.kind !== 'wireguard' || b.kind !== 'wireguard' || a.presharedKey === b.presharedKey
}
