import {
  type Bucket,
  type Bus,
  type Delivery,
  type EventKind,
  follow,
  locationKey,
  recordKey,
  events as subjects,
} from '@weft/bus'
import { asWeftError, PermissionDeniedError, toWire } from '@weft/errors'
import type { Record as StoredRecord } from '@weft/proto/weftline/config/v1/records.ts'
import {
  LeaseRenewal,
  type Location,
  LocationReport,
  LocationReportReply,
} from '@weft/proto/weftline/location/v1/location.ts'
import { itemKinds } from './domain/config-view.ts'
import type { Events } from './events.ts'
import type { LocationWriter } from './location-writer.ts'
import { endpointOfKey, itemFromRecord, itemOfKey, reportFromMessage } from './messages.ts'
import type { Replica } from './replica.ts'

/** Each report goes to one replica. */
const REPORT_QUEUE = 'location-resolver'

/** Reports at work at once; their writes travel together. More wait in the subscription. */
const REPORTS_MAX = 256

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
    *keys() {
      for (const { endpointId } of locations.all()) yield locationKey(endpointId)
    },
    reset(reason) {
      events.storeLostWrites('locations', reason)
      locations.forgetRevisions()
    },
    caughtUp: (revision) => replica.locationsCaughtUp(revision),
  })
}

/** Fills the replica's copy of the VN database from its bucket and keeps it in step. */
export function followRecords(
  bucket: Bucket<StoredRecord>,
  replica: Replica,
  writer: LocationWriter,
  events: Events,
): Promise<AsyncDisposable> {
  const { config } = replica
  return follow(bucket, {
    put({ value }) {
      const item = itemFromRecord(value)
      if (item === undefined) return
      config.put(item)
      if (item.kind === 'endpoint') replica.changes.touch(item.value.id, item.value.networkId)
    },
    delete(key) {
      const item = itemOfKey(key)
      if (item === undefined) return
      const endpoint = item.kind === 'endpoint' ? config.endpoints.get(item.id) : undefined
      config.delete(item.kind, item.id)
      if (item.kind === 'host') replica.leases.forget(item.id)
      if (endpoint === undefined) return
      replica.changes.touch(endpoint.id, endpoint.networkId)
      void writer.removeIfDeleted(endpoint.id)
    },
    *keys() {
      for (const kind of itemKinds) {
        for (const id of config[`${kind}s`].keys()) yield recordKey(kind, id)
      }
    },
    reset: (reason) => events.storeLostWrites('config', reason),
    caughtUp: (revision) => replica.configCaughtUp(revision),
  })
}

/** Takes what hosts observe of their endpoints. */
export function takeReports(bus: Bus, writer: LocationWriter, events: Events): AsyncDisposable {
  const handle = async (
    message: LocationReport,
    delivery: Delivery,
  ): Promise<LocationReportReply> => {
    const { endpointId, hostId } = message
    try {
      checkSender(subjects.endpointReported, delivery, hostId, endpointId)
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
  const handle = ({ hostId, leaseId, leaseTtlMs }: LeaseRenewal, delivery: Delivery): void => {
    try {
      checkSender(subjects.hostRenewed, delivery, hostId, hostId)
    } catch (error) {
      events.renewalRefused(hostId, asWeftError(error))
      return
    }
    if (!replica.config.hosts.has(hostId)) return
    replica.leases.renew({ hostId, leaseId, ttlMs: leaseTtlMs }, performance.now())
  }
  return bus.subscribe(subjects.hostRenewed.pattern(), LeaseRenewal, handle)
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
