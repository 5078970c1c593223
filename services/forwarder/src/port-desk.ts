import {
  asWeftError,
  BrokenInputError,
  EndpointNotAssignedError,
  TenantLockedError,
  WeftError,
} from '@weft/errors'
import type { ConfigServiceService } from '@weft/proto/weftline/config/v1/config_service.ts'
import type { Port as ShuttlePort } from '@weft/proto/weftline/shuttle/v1/shuttle.ts'
import type { Client } from '@weft/rpc'
import type { DataPlane } from './data-plane.ts'
import { endpointFromRecord, networkFromRecord } from './decode.ts'
import type { Dependency } from './dependency.ts'
import { backOffMs } from './domain/back-off.ts'
import type { HostRows } from './domain/host-rows.ts'
import type { Claim } from './domain/location-claims.ts'
import {
  type Attachment,
  attachmentText,
  type DeviceAttachment,
  type EndpointName,
  nameText,
  type Port,
  type Ports,
  portName,
  type Release,
} from './domain/ports.ts'
import type { Network } from './domain/rows.ts'
import type { SwitchTable } from './domain/switch-table.ts'
import { entryProblem } from './domain/table-entries.ts'
import type { Events } from './events.ts'
import type { Locations } from './locations.ts'
import { KeyedLock, pause } from './loop.ts'

const CONFIG_TIMEOUT_MS = 5_000
const LOCATION_TIMEOUT_MS = 5_000
/** How long each of config and location-resolver has to hear of a detach; after that they are told in the background. */
const RELEASE_TIMEOUT_MS = 2_000

/** Answers of config that say that the endpoint is not assigned to this host, or is no more. */
const GONE: ReadonlySet<string> = new Set(['endpoint-not-found', 'network-not-found'])

/** What a detach has come to. */
export interface Detached {
  /** False if there was nothing to undo. */
  readonly detached: boolean
  /** Whether config or location-resolver has not heard of it; they are told until they have. */
  readonly unheard: boolean
}

/** Attaches and detaches: every step is on disk before anybody is told, can be repeated, and is undone if a later one fails. */
export class PortDesk {
  readonly #hostId: number
  readonly #ports: Ports
  readonly #releases: Map<number, Release>
  readonly #rows: HostRows
  readonly #table: SwitchTable
  readonly #dataPlane: DataPlane
  readonly #locations: Locations
  readonly #config: Client<ConfigServiceService>
  readonly #configDependency: Dependency
  readonly #isVouchedFor: (network: Network) => Promise<boolean>
  readonly #hasLocks: () => boolean
  readonly #nextSequence: () => bigint
  readonly #persist: () => Promise<void>
  readonly #events: Events
  readonly #locks: KeyedLock = new KeyedLock()
  /** Endpoints whose attach is under way. */
  readonly #attaching: Set<number> = new Set()
  /** Endpoints whose device or namespace is gone. */
  readonly #lost: Set<number> = new Set()

  constructor(options: {
    readonly hostId: number
    readonly ports: Ports
    readonly releases: Map<number, Release>
    readonly rows: HostRows
    readonly table: SwitchTable
    readonly dataPlane: DataPlane
    readonly locations: Locations
    readonly config: Client<ConfigServiceService>
    readonly configDependency: Dependency
    /** Whether the network counts; waits a little until its tenant, if that is locked, says so. */
    readonly isVouchedFor: (network: Network) => Promise<boolean>
    /** Whether any tenant is locked, as far as this host knows. */
    readonly hasLocks: () => boolean
    readonly nextSequence: () => bigint
    /** Resolves once ports and releases are on disk. */
    readonly persist: () => Promise<void>
    readonly events: Events
  }) {
    this.#hostId = options.hostId
    this.#ports = options.ports
    this.#releases = options.releases
    this.#rows = options.rows
    this.#table = options.table
    this.#dataPlane = options.dataPlane
    this.#locations = options.locations
    this.#config = options.config
    this.#configDependency = options.configDependency
    this.#isVouchedFor = options.isVouchedFor
    this.#hasLocks = options.hasLocks
    this.#nextSequence = options.nextSequence
    this.#persist = options.persist
    this.#events = options.events
  }

  isLost(endpointId: number): boolean {
    return this.#lost.has(endpointId)
  }

  /** Assigns the endpoint to this host and makes the attachment its port. Throws what stands against it, with nothing changed. */
  attach(
    name: EndpointName,
    attachment: Attachment,
    idempotencyKey: string,
  ): Promise<{ readonly port: Port; readonly created: boolean }> {
    return this.#locks.run(nameText(name), async () => {
      const present = this.#ports.findSame(name, attachment)
      if (present) {
        // A device that was lost and made anew is attached again; one that is there is left alone.
        const created = await this.#dataPlane.attachPort(present)
        this.#lost.delete(present.endpoint.id)
        return { port: await this.#told(present, attachment), created }
      }
      try {
        await this.#releaseFirst(name)
        return { port: await this.#attachNew(name, attachment, idempotencyKey), created: true }
      } catch (error) {
        this.#events.attachFailed(nameText(name), asWeftError(error))
        throw error
      }
    })
  }

  /** A client that is attached is told what this host's key is by now. */
  async #told(port: Port, attachment: Attachment): Promise<Port> {
    if (port.attachment.kind !== 'wireguard' || attachment.kind !== 'wireguard') return port
    if (port.attachment.hostKey === attachment.hostKey) return port
    const told = { ...port, attachment }
    this.#ports.set(told)
    await this.#persist()
    return told
  }

  /** Undoes `attach`, and tells config and location-resolver of it. */
  async detach(name: EndpointName): Promise<Detached> {
    const key = nameText(name)
    const detached = await this.#locks.run(key, async () => {
      const port = this.#ports.find(name)
      if (!port) return this.#releaseUnattached(name)
      await this.#dataPlane.detachPort(port.endpoint.id)
      await this.#forget(port)
      this.#events.portDetached(port)
      await this.#dataPlane.sync()
      return port
    })
    if (typeof detached === 'boolean') return { detached, unheard: false }
    // Whoever attaches the endpoint again waits for this, so that a late release cannot undo it.
    const { id } = detached.endpoint
    await this.#locks.run(key, () => this.#settleRelease(id))
    return { detached: true, unheard: this.#releases.has(id) }
  }

  /** Compares what should be attached with what the shuttle has, and brings it about. */
  async compare(): Promise<void> {
    const present = new Map(
      (await this.#dataPlane.listPorts()).map((port) => [port.endpointId, port]),
    )
    for (const port of [...this.#ports]) {
      const found = present.get(port.endpoint.id)
      if (!found || found.lost) await this.#reattach(port)
      else this.#lost.delete(port.endpoint.id)
    }
    for (const [endpointId, port] of present) {
      if (!this.#ports.get(endpointId)) await this.#adoptOrDetach(endpointId, port)
    }
  }

  /** Notes which ports the shuttle has lost. */
  noteLost(ports: readonly ShuttlePort[]): void {
    for (const { endpointId, lost } of ports) {
      const port = this.#ports.get(endpointId)
      if (!lost) this.#lost.delete(endpointId)
      else if (port && !this.#lost.has(endpointId)) {
        this.#lost.add(endpointId)
        this.#events.portLost(port, 'the shuttle says so')
      }
    }
  }

  /** Says all that is attached here once more, and what was detached and not heard. */
  claimAll(): void {
    for (const port of this.#ports) this.#locations.say(claimOf(port))
    for (const release of this.#releases.values()) this.#locations.say(detachedClaim(release))
  }

  /** Says all that is attached here under new numbers: this host has another key, and nobody believes what it signed before. */
  async claimAnew(): Promise<void> {
    for (const port of [...this.#ports]) {
      this.#ports.set({ ...port, sequence: this.#nextSequence() })
    }
    await this.#persist()
    this.claimAll()
  }

  /** Rows came or went: ports whose endpoint is elsewhere by now are detached, and a location that got lost is said again. */
  async compareRows(touched: readonly number[]): Promise<void> {
    for (const port of this.#ports.fencedBy(
      this.#rows,
      this.#hostId,
      this.#locations.claims.epochs,
    )) {
      await this.#fence(port)
    }
    for (const endpointId of touched) {
      const port = this.#ports.get(endpointId)
      if (!port) continue
      const row = this.#rows.endpoints.get(endpointId)?.value
      if (!row) await this.verifyAssignment(endpointId)
      else if (row.hostId === 0 && this.#locations.claims.epochs.has(endpointId)) {
        this.#locations.say(claimOf(port))
      }
    }
  }

  /** Asks config whether the endpoint is still assigned here; detaches its port if it is not. A silent config changes nothing. */
  async verifyAssignment(endpointId: number): Promise<void> {
    const port = this.#ports.get(endpointId)
    if (!port || (await this.#isAssignedHere(endpointId)) !== false) return
    await this.#locks.run(portName(port), async () => {
      if (this.#ports.get(endpointId) === port) await this.#fence(port)
    })
  }

  /** Tells config and location-resolver of detached endpoints until they have heard. */
  async keepReleasing(signal: AbortSignal): Promise<void> {
    for (let attempt = 1; !signal.aborted; attempt++) {
      const waiting = [...this.#releases.values()]
      if (waiting.length === 0) attempt = 0
      for (const { name, endpointId } of waiting) {
        if (signal.aborted) return
        await this.#locks.run(name, () => this.#settleRelease(endpointId))
      }
      await pause(attempt === 0 ? 1_000 : backOffMs(attempt, Math.random(), 500), signal)
    }
  }

  async #attachNew(
    name: EndpointName,
    attachment: Attachment,
    idempotencyKey: string,
  ): Promise<Port> {
    await using undo = new AsyncDisposableStack()
    const assigned = await this.#configDependency.ask(() =>
      this.#config.assignEndpoint(
        { idempotencyKey, key: { $case: 'name', value: name }, hostId: this.#hostId },
        { timeoutMs: CONFIG_TIMEOUT_MS },
      ),
    )
    const { endpoint: record, network, tenantName } = assigned
    if (!record || !network) {
      throw new EndpointNotAssignedError({ endpoint: name.endpoint, host: this.#hostId })
    }
    const port: Port = {
      endpoint: endpointFromRecord(record),
      network: networkFromRecord(network, tenantName),
      attachment,
      attachedAtUnixMs: Date.now(),
      assignedRevision: record.meta?.revision ?? 0n,
      sequence: this.#nextSequence(),
    }
    this.#checkMeant(name, port)
    const endpointId = port.endpoint.id
    this.#attaching.add(endpointId)
    using _attaching = { [Symbol.dispose]: () => this.#attaching.delete(endpointId) }
    // From here on a failure gives the endpoint back, which begins with writing down that it is to be given back.
    undo.defer(() => this.#undo(port, () => this.#settleRelease(endpointId)))
    undo.defer(() => this.#undo(port, () => this.#dataPlane.sync()))
    undo.defer(() => this.#undo(port, () => this.#forget(port)))
    if (!(await this.#isVouchedFor(port.network))) throw notVouchedFor(port)
    // Somebody may have attached the device while config was asked.
    this.#ports.findSame(name, attachment)
    this.#ports.set(port)
    this.#releases.delete(endpointId)
    await this.#persist()
    this.#table.touchPort(endpointId, port.network.id)
    await this.#dataPlane.sync()
    undo.defer(() => this.#undo(port, () => this.#dataPlane.detachPort(endpointId)))
    await this.#dataPlane.attachPort(port)
    await this.#locations.saidWithin(claimOf(port), LOCATION_TIMEOUT_MS)
    undo.move()
    this.#events.portAttached(port)
    return port
  }

  /** Whoever answers for config may answer for another endpoint than was asked for, and the device would be in its network. */
  #checkMeant(name: EndpointName, port: Port): void {
    const { endpoint, network } = port
    const others = [...this.#ports]
    const problem =
      portName(port) !== nameText(name) || endpoint.networkId !== network.id
        ? `it is about ${portName(port)} in network ${endpoint.networkId}, and ${nameText(name)} was asked for`
        : this.#attaching.has(endpoint.id) || this.#ports.get(endpoint.id)
          ? `endpoint ${endpoint.id} is attached here under another name`
          : others.some((other) => isClashing(other.network, network))
            ? `network ${network.id} with VNI ${network.vni} is known here as another one`
            : (entryProblem({ kind: 'network', value: network }, this.#hostId) ??
              entryProblem({ kind: 'endpoint', value: endpoint }, this.#hostId))
    if (problem === undefined) return
    throw new BrokenInputError({ source: 'config', format: 'answer to an attach', problem })
  }

  /** The steps of an undo do not depend on each other: one that fails is left to the work in the background. */
  async #undo(port: Port, step: () => Promise<unknown>): Promise<void> {
    try {
      await step()
    } catch (error) {
      this.#events.undoFailed(portName(port), error)
    }
  }

  /** Takes the port out of what is attached, and writes down whom to tell. */
  async #forget(port: Port): Promise<void> {
    const { id, networkId, addresses } = port.endpoint
    this.#ports.delete(id)
    this.#lost.delete(id)
    const release = {
      name: portName(port),
      endpointId: id,
      networkId,
      addresses,
      sequence: this.#nextSequence(),
    }
    this.#releases.set(id, release)
    this.#table.touchPort(id, networkId)
    await this.#persist()
    this.#locations.say(detachedClaim(release))
  }

  /** A release that config has not answered may still come through, and would undo an attach that came between. */
  async #releaseFirst(name: EndpointName): Promise<void> {
    const text = nameText(name)
    for (const release of [...this.#releases.values()]) {
      if (release.name === text) await this.#tellReleased(release)
    }
  }

  /** Tells location-resolver, then config, that the endpoint is free; what is silent stays to be told. */
  async #settleRelease(endpointId: number): Promise<void> {
    const release = this.#releases.get(endpointId)
    if (!release) return
    try {
      await this.#tellReleased(release)
    } catch (error) {
      this.#events.releaseWaits(endpointId, asWeftError(error))
    }
  }

  async #tellReleased(release: Release): Promise<void> {
    const { endpointId } = release
    await this.#locations.saidWithin(detachedClaim(release), RELEASE_TIMEOUT_MS)
    await this.#release(endpointId)
    if (this.#releases.get(endpointId) !== release) return
    this.#releases.delete(endpointId)
    await this.#persist()
  }

  async #release(endpointId: number): Promise<boolean> {
    try {
      const { released } = await this.#configDependency.ask(() =>
        this.#config.releaseEndpoint(
          { idempotencyKey: crypto.randomUUID(), endpointId, hostId: this.#hostId },
          { timeoutMs: RELEASE_TIMEOUT_MS },
        ),
      )
      return released
    } catch (error) {
      if (error instanceof WeftError && GONE.has(error.code)) return false
      throw error
    }
  }

  /** There is no port, but an attach that nobody finished may have left the endpoint assigned to this host. */
  async #releaseUnattached(name: EndpointName): Promise<boolean> {
    try {
      const { endpoint } = await this.#configDependency.ask(() =>
        this.#config.getEndpoint(
          { key: { $case: 'name', value: name } },
          { timeoutMs: CONFIG_TIMEOUT_MS },
        ),
      )
      return endpoint?.hostId === this.#hostId && (await this.#release(endpoint.id))
    } catch (error) {
      // It is not attached here, and that is what was asked for.
      if (!(error instanceof WeftError)) throw error
      return false
    }
  }

  async #reattach(port: Port): Promise<void> {
    try {
      await this.#dataPlane.attachPort(port)
      this.#lost.delete(port.endpoint.id)
    } catch (error) {
      const { code, message } = asWeftError(error)
      if (code === 'unavailable' || code === 'deadline-exceeded') throw error
      if (!this.#lost.has(port.endpoint.id)) this.#events.portLost(port, message)
      this.#lost.add(port.endpoint.id)
    }
  }

  /**
   * A port that is not written down here: our file was lost, or a detach was not finished. config knows which. But nothing
   * here says in which network it was attached, and where tenants are locked config is not believed as to that.
   */
  async #adoptOrDetach(endpointId: number, found: ShuttlePort): Promise<void> {
    if (this.#releases.has(endpointId)) return this.#dataPlane.detachPort(endpointId)
    const attachment = attachmentOf(found)
    if (!attachment) {
      const why = 'the preshared key of a client is written down nowhere else'
      this.#events.portNotAdopted(endpointId, 'a WireGuard client', why)
      return this.#dataPlane.detachPort(endpointId)
    }
    if (this.#hasLocks()) {
      const why = 'tenants are locked'
      this.#events.portNotAdopted(endpointId, attachmentText(attachment), why)
      return this.#dataPlane.detachPort(endpointId)
    }
    const isAssigned = await this.#isAssignedHere(endpointId)
    if (isAssigned === undefined) return
    if (!isAssigned) return this.#dataPlane.detachPort(endpointId)
    const { endpoint, network, tenantName } = await this.#configDependency.ask(() =>
      this.#config.assignEndpoint(
        {
          idempotencyKey: crypto.randomUUID(),
          key: { $case: 'id', value: endpointId },
          hostId: this.#hostId,
        },
        { timeoutMs: CONFIG_TIMEOUT_MS },
      ),
    )
    if (!endpoint || !network) return
    const port: Port = {
      endpoint: endpointFromRecord(endpoint),
      network: networkFromRecord(network, tenantName),
      attachment,
      attachedAtUnixMs: Date.now(),
      assignedRevision: endpoint.meta?.revision ?? 0n,
      sequence: this.#nextSequence(),
    }
    if (port.endpoint.id !== endpointId || port.endpoint.networkId !== port.network.id) return
    if (!(await this.#isVouchedFor(port.network))) return
    this.#ports.set(port)
    await this.#persist()
    this.#table.touchPort(endpointId, port.network.id)
    await this.#dataPlane.sync()
    this.#locations.say(claimOf(port))
  }

  async #fence(port: Port): Promise<void> {
    const { id, networkId } = port.endpoint
    await this.#dataPlane.detachPort(id)
    this.#ports.delete(id)
    this.#lost.delete(id)
    this.#locations.claims.withdraw(id)
    this.#table.touchPort(id, networkId)
    await this.#persist()
    await this.#dataPlane.sync()
    this.#events.portFenced(port)
  }

  /** Undefined if config does not answer. */
  async #isAssignedHere(endpointId: number): Promise<boolean | undefined> {
    try {
      const { endpoint } = await this.#configDependency.ask(() =>
        this.#config.getEndpoint(
          { key: { $case: 'id', value: endpointId } },
          { timeoutMs: CONFIG_TIMEOUT_MS },
        ),
      )
      return endpoint?.hostId === this.#hostId
    } catch (error) {
      return error instanceof WeftError && GONE.has(error.code) ? false : undefined
    }
  }
}

function claimOf({ endpoint, sequence, assignedRevision }: Port): Claim {
  return {
    change: 'attached',
    endpointId: endpoint.id,
    networkId: endpoint.networkId,
    addresses: endpoint.addresses,
    sources: { mac: endpoint.mac, allowedPrefixes: endpoint.allowedPrefixes },
    sequence,
    configRevision: assignedRevision,
  }
}

/** Two networks with one VNI, or one network with two. */
function isClashing(a: Network, b: Network): boolean {
  return (a.vni === b.vni) !== (a.id === b.id)
}

function notVouchedFor(port: Port): TenantLockedError {
  return new TenantLockedError({
    tenant: port.network.tenant,
    what: `network ${port.network.name} does not count at this host`,
    problem: 'the tenant’s key says nothing of it, or something else',
  })
}

function detachedClaim({ endpointId, networkId, addresses, sequence }: Release): Claim {
  return { change: 'detached', endpointId, networkId, addresses, sequence, configRevision: 0n }
}

/** Undefined for what is no device. */
function attachmentOf(port: ShuttlePort): DeviceAttachment | undefined {
  switch (port.attachment?.$case) {
    case 'netns':
      return { kind: 'netns', ...port.attachment.value }
    case 'tap':
      return { kind: 'tap', device: port.attachment.value.device }
    default:
      return undefined
  }
}
