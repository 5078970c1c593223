import { type Bucket, type Bus, locationKey, events as subjects } from '@weft/bus'
import {
  asWeftError,
  RevisionConflictError,
  type UnavailableError,
  UnknownOutcomeError,
} from '@weft/errors'
import { Location as LocationMessage } from '@weft/proto/weftline/location/v1/location.ts'
import { type Location, UNNUMBERED } from './domain/location-table.ts'
import { canJudge, decideReport, type Report } from './domain/report.ts'
import type { Events } from './events.ts'
import { withoutReport } from './messages.ts'
import type { Replica } from './replica.ts'

/** A report loses its turn at most once to each other report of the same endpoint, and a host has few of them under way. */
const WRITE_ATTEMPTS_MAX = 4

/** A report that refers to a revision, or an endpoint, this far ahead is not kept waiting: no replica is so far behind. */
const REVISIONS_AHEAD_MAX = 10_000n

/**
 * The only way to write locations. A record is written only over the one that it was decided by, so an epoch is given
 * once however many replicas write.
 */
export class LocationWriter {
  readonly #bus: Bus
  readonly #bucket: Bucket<LocationMessage>
  readonly #replica: Replica
  readonly #events: Events

  constructor(bus: Bus, bucket: Bucket<LocationMessage>, replica: Replica, events: Events) {
    this.#bus = bus
    this.#bucket = bucket
    this.#replica = replica
    this.#events = events
  }

  /**
   * Decides a report and stores what follows from it; when it returns that is durable. Returns what is stored of the
   * endpoint now. A report that is repeated has no further effect.
   *
   * @throws what `decideReport` throws; UnavailableError: not stored now; UnknownOutcomeError: it may be, so repeat it.
   */
  async take(report: Report): Promise<Location | undefined> {
    const { config, locations } = this.#replica
    const behind = (revision: bigint): UnavailableError =>
      this.#replica.behind(
        `it knows the VN database to revision ${config.revision}, the report refers to ${revision}`,
      )
    for (const revision of [report.configRevision, BigInt(report.endpointId)]) {
      if (revision > config.revision + REVISIONS_AHEAD_MAX) throw behind(revision)
    }
    const canBeJudged = await this.#replica.until(() => canJudge(report, config))
    if (!canBeJudged && config.revision < report.configRevision) {
      throw behind(report.configRevision)
    }
    const before = locations.get(report.endpointId)
    const after = await this.#write(report, before)
    if (after === undefined || after === before) {
      this.#events.reportKept(report.endpointId, report.hostId)
      return after
    }
    this.#replica.putLocation(after)
    if (after.hostId !== before?.hostId) {
      const subject = subjects.endpointMoved.subject(this.#replica.id, after.endpointId)
      this.#bus.publish(subject, LocationMessage, withoutReport(after))
    }
    this.#events.reportStored(after)
    return after
  }

  async #write(report: Report, before: Location | undefined): Promise<Location | undefined> {
    const key = locationKey(report.endpointId)
    let current = before
    for (let attempt = 1; ; attempt++) {
      const decision = decideReport(report, this.#replica.config, current)
      if (decision.kind === 'keep') return current
      try {
        const expectedKeyRevision = current?.revision ?? 0n
        const { revision } = await this.#bucket.put(key, decision.record, { expectedKeyRevision })
        return { ...decision.record, revision }
      } catch (error) {
        // Somebody was faster, or nobody knows whether it was written: what is stored tells, by its report's number.
        const isWorthReading =
          error instanceof RevisionConflictError || error instanceof UnknownOutcomeError
        if (!isWorthReading || attempt === WRITE_ATTEMPTS_MAX) throw error
        current = await this.#read(report.endpointId)
      }
    }
  }

  /** What is stored of an endpoint now. A store that lost writes has less than is known here, which counts all the same. */
  async #read(endpointId: number): Promise<Location | undefined> {
    const { locations } = this.#replica
    const entry = await this.#bucket.get(locationKey(endpointId))
    if (entry) this.#replica.putLocation({ ...entry.value, revision: entry.revision })
    const known = locations.get(endpointId)
    return entry || !known ? known : { ...known, revision: UNNUMBERED }
  }

  /**
   * Removes the record of an endpoint that was deleted. Until then it is kept for its epoch; ids are never reused, so it
   * has no more use. Every replica tries, and one succeeds.
   */
  async removeIfDeleted(endpointId: number): Promise<void> {
    const record = this.#replica.locations.get(endpointId)
    if (record === undefined || !this.#replica.config.isDeletedEndpoint(endpointId)) return
    try {
      const options = { expectedKeyRevision: record.revision }
      await this.#bucket.delete(locationKey(endpointId), options)
      this.#events.locationRemoved(endpointId)
    } catch (error) {
      if (error instanceof RevisionConflictError) return
      this.#events.locationNotRemoved(endpointId, asWeftError(error))
    }
  }
}
