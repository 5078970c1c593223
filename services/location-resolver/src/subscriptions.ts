import {
  type Bucket,
  type Bus,
  type Delivery,
  type EventKind,
  follow,
  keyTokens,
  locationKey,
  recordKey,
  events as subjects,
} from '@weft/bus'
import { type KeyRefuser, refuseVoidKey } from '@weft/domain'
import {
  asWeftError,
  HostNotFoundError,
  HostRevokedError,
  OverloadedError,
  PermissionDeniedError,
  StatementRefusedError,
  toWire,
} from '@weft/errors'
import { verifyRenewal, verifyReport } from '@weft/identity/host-signature'
import type { Record as StoredRecord } from '@weft/proto/weftline/config/v1/records.ts'
import {
  LeaseRenewal,
  type Location,
  LocationReport,
  LocationReportReply,
} from '@weft/proto/weftline/location/v1/location.ts'
import { type Host, itemKinds } from './domain/config-view.ts'
import type { Events } from './events.ts'
import type { LocationWriter } from './location-writer.ts'
import {
  checkLeaseId,
  endpointOfKey,
  itemFromRecord,
  itemOfKey,
  reportFromMessage,
} from './messages.ts'
import type { Replica } from './replica.ts'

/** Each report goes to one replica. */
const REPORT_QUEUE = 'location-resolver'

/** Reports at work at once; their writes travel together. More wait in the subscription. */
const REPORTS_MAX = 256

/** Of one host, so that a few that report of revisions which never come hold up nobody. No forwarder has more on their way. */
const HOST_REPORTS_MAX = 8

/** Fills the replica's locations from their bucket and keeps them in step. */
export function followLocations(
  bucket: Bucket<Location>,
  replica: Replica,
  writer: LocationWriter,
  events: Events,
): Promise<AsyncDisposable> {
  const { locations } = replica
  return follow(bucket, {
    put({ value, revision }) {
      replica.putLocation({ ...value, revision })
      void writer.removeIfDeleted(value.endpointId)
    },
    delete: (key, revision) => replica.deleteLocation(endpointOfKey(key), revision),
    // Where it was last known to be it stays; reports are refused, since nobody knows which epoch is next.
    damaged: () => undefined,
    *keys() {
      for (const { endpointId } of locations.all()) yield locationKey(endpointId)
    },
    known: () => locations.known,
    reset(reason) {
      events.storeLostWrites('locations', reason)
      locations.forgetRevisions()
    },
    caughtUp: (revision) => replica.locationsCaughtUp(revision),
  })
}

/** Fills the replica's copy of the VN database from its bucket and keeps it in step. */
export function followRecords(
  bucket: Pick<Bucket<StoredRecord>, 'watch'>,
  replica: Replica,
  writer: LocationWriter,
  refuser: KeyRefuser,
  events: Events,
): Promise<AsyncDisposable> {
  const { config, world } = replica
  const rightsChanged = (kind: string | undefined): void => {
    if (kind === 'user') replica.changes.stir()
  }
  const damaged = (key: string): void => {
    const [kind = '', id] = keyTokens(key)
    world.distrust(kind, Number(id))
    rightsChanged(kind)
    const item = itemOfKey(key)
    if (item === undefined) return
    config.distrust(item.kind, item.id)
    if (item.kind !== 'host') return
    for (const { id: endpointId, hostId, networkId } of config.endpoints.values()) {
      if (hostId === item.id) replica.touch(endpointId, networkId)
    }
  }
  return follow(bucket, {
    put({ key, value }) {
      if (value.kind?.$case !== keyTokens(key)[0]) return damaged(key)
      world.put(value)
      rightsChanged(value.kind?.$case)
      refuseVoidKey(value, refuser)
      const item = itemFromRecord(value)
      if (item === undefined) return
      const wasRevoked = item.kind === 'host' && config.hosts.get(item.value.id)?.isRevoked
      config.put(item)
      if (item.kind === 'endpoint') replica.touch(item.value.id, item.value.networkId)
      if (item.kind !== 'host' || !item.value.isRevoked || wasRevoked) return
      for (const { id, hostId, networkId } of config.endpoints.values()) {
        if (hostId === item.value.id) replica.touch(id, networkId)
      }
    },
    delete(key) {
      const [kind = '', id] = keyTokens(key)
      world.delete(kind, Number(id))
      rightsChanged(kind)
      const item = itemOfKey(key)
      if (item === undefined) return
      const endpoint = item.kind === 'endpoint' ? config.endpoints.get(item.id) : undefined
      config.delete(item.kind, item.id)
      if (item.kind === 'host') replica.leases.forget(item.id)
      if (endpoint === undefined) return
      replica.touch(endpoint.id, endpoint.networkId)
      void writer.removeIfDeleted(endpoint.id)
    },
    damaged,
    *keys() {
      // Endpoints before their networks, by which it is known who may hear that they are gone.
      for (const kind of itemKinds) {
        for (const id of config[`${kind}s`].keys()) yield recordKey(kind, id)
      }
      for (const [kind, id] of world.entries()) yield recordKey(kind, id)
    },
    reset: (reason) => events.storeLostWrites('config', reason),
    caughtUp: (revision) => replica.configCaughtUp(revision),
  })
}

/** Takes what hosts observe of their endpoints. */
export function takeReports(
  bus: Bus,
  replica: Replica,
  writer: LocationWriter,
  events: Events,
): AsyncDisposable {
  const atWork = new HostReports()
  const handle = async (
    message: LocationReport,
    delivery: Delivery,
  ): Promise<LocationReportReply> => {
    const { endpointId, hostId } = message
    try {
      checkSender(subjects.endpointReported, delivery, hostId, endpointId)
      using _begun = atWork.begin(hostId)
      // A host may report sooner than its record has come here.
      await replica.until(() => replica.config.revision >= BigInt(hostId))
      verifyReport(message, enrolledHost(replica, hostId).identityKey)
      const location = await writer.take(reportFromMessage(message))
      const isThere = location?.hostId === hostId
      return {
        outcome: isThere ? { $case: 'location', value: location } : { $case: 'gone', value: true },
      }
    } catch (error) {
      events.reportRefused(endpointId, hostId, asWeftError(error))
      return LocationReportReply.create({ outcome: { $case: 'error', value: toWire(error) } })
    }
  }
  return bus.respond(
    subjects.endpointReported.pattern(),
    { request: LocationReport, reply: LocationReportReply },
    handle,
    { queue: REPORT_QUEUE, concurrency: REPORTS_MAX },
  )
}

/** Hears which hosts live. Every replica hears every renewal, for each answers from its own memory. */
export function hearRenewals(bus: Bus, replica: Replica, events: Events): AsyncDisposable {
  const handle = (renewal: LeaseRenewal, delivery: Delivery): void => {
    const { hostId, leaseId, leaseTtlMs, sentAtUnixMs } = renewal
    try {
      checkSender(subjects.hostRenewed, delivery, hostId, hostId)
      verifyRenewal(renewal, enrolledHost(replica, hostId).identityKey)
      checkLeaseId(leaseId)
      const lease = { hostId, leaseId, ttlMs: leaseTtlMs, sentAtUnixMs }
      if (replica.leases.renew(lease, performance.now())) return
      throw new StatementRefusedError({ reason: 'outdated', purpose: 'lease-renewal' })
    } catch (error) {
      events.renewalRefused(hostId, asWeftError(error))
    }
  }
  return bus.subscribe(subjects.hostRenewed.pattern(), LeaseRenewal, handle)
}

/** How many reports of each host are at work. */
class HostReports {
  readonly #counts = new Map<number, number>()

  /** Until it is disposed of, one more is. Throws `OverloadedError` if there are too many already. */
  begin(hostId: number): Disposable {
    const count = (this.#counts.get(hostId) ?? 0) + 1
    if (count > HOST_REPORTS_MAX) {
      throw new OverloadedError({
        what: `taking reports of host ${hostId}`,
        limit: HOST_REPORTS_MAX,
      })
    }
    this.#counts.set(hostId, count)
    return { [Symbol.dispose]: () => this.#end(hostId) }
  }

  #end(hostId: number): void {
    const count = (this.#counts.get(hostId) ?? 1) - 1
    if (count > 0) this.#counts.set(hostId, count)
    else this.#counts.delete(hostId)
  }
}

/** Throws if the host is not known, is revoked, or has no key of its own. */
function enrolledHost({ config }: Replica, hostId: number): Host {
  const host = config.hosts.get(hostId)
  if (host === undefined) throw new HostNotFoundError({ host: hostId })
  if (host.isRevoked) throw new HostRevokedError({ host: host.name })
  if (host.identityKey.length > 0) return host
  throw new PermissionDeniedError({
    what: `speaking for host ${host.name}, which has no identity,`,
    remedy: 'join the domain at that host: weft join',
  })
}

/** Servers can restrict which subjects a host publishes to, not what it writes into a message: the two must agree. */
function checkSender(kind: EventKind, { subject }: Delivery, hostId: number, id: number): void {
  const parsed = kind.parse(subject)
  if (parsed?.sender === String(hostId) && parsed.id === String(id)) return
  throw new PermissionDeniedError({
    what: `speaking for host ${hostId} on ${subject}`,
    remedy: 'send it on the subject of that host',
  })
}
