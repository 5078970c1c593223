import type { WeftError } from '@weft/errors'
import { counter, gauge, type Logger, SparseLog } from '@weft/telemetry'
import type { Location } from './domain/location-table.ts'

const reports = counter({
  name: 'weft_location_reports_total',
  help: 'Reports of hosts by outcome: stored, kept (nothing new), or the code of the error',
  labels: ['outcome'],
})

const renewals = counter({
  name: 'weft_location_renewals_refused_total',
  help: 'Lease renewals that were refused, by the code of the error',
  labels: ['code'],
})

const revocations = counter({
  name: 'weft_location_revocations_refused_total',
  help: 'Messages about void keys that the directory did not sign',
})

const resolutions = counter({
  name: 'weft_location_resolutions_total',
  help: 'Pairs that were resolved, by mechanism or the code of the error',
  labels: ['outcome'],
})

const leases = gauge({
  name: 'weft_location_leases',
  help: 'Hosts that keep their lease and hosts that let it run out',
  labels: ['state'],
})

const revisions = gauge({
  name: 'weft_location_revision',
  help: 'Revision to which the copy of a bucket has caught up',
  labels: ['bucket'],
})

/** What the gauges show. */
export interface Observation {
  readonly leases: { readonly fresh: number; readonly overdue: number }
  readonly configRevision: bigint
  readonly locationRevision: bigint
}

/** What happens here that somebody may want to hear of. */
export class Events {
  readonly #log: Logger
  /** Hosts may send as much as they like. */
  readonly #warnings: SparseLog

  constructor(log: Logger) {
    this.#log = log
    this.#warnings = new SparseLog(log)
  }

  reportStored(location: Location): void {
    const { endpointId, hostId, reporterHostId } = location
    const [epoch, revision] = [Number(location.epoch), Number(location.revision)]
    reports.add(1, { outcome: 'stored' })
    this.#log.debug(
      { endpointId, hostId, reporterHostId, epoch, revision },
      'a location was stored',
    )
  }

  reportKept(endpointId: number, hostId: number): void {
    reports.add(1, { outcome: 'kept' })
    this.#log.debug({ endpointId, hostId }, 'a report brought nothing new')
  }

  reportRefused(endpointId: number, hostId: number, error: WeftError): void {
    reports.add(1, { outcome: error.code })
    this.#warnings.warn(
      'report',
      { endpointId, hostId, code: error.code, facts: error.facts },
      'a report was refused',
    )
  }

  renewalRefused(hostId: number, error: WeftError): void {
    renewals.add(1, { code: error.code })
    this.#warnings.warn(
      'renewal',
      { hostId, code: error.code, facts: error.facts },
      'a lease renewal was refused',
    )
  }

  revocationsRefused(error: WeftError): void {
    revocations.add(1, {})
    this.#warnings.warn(
      'revocations',
      { code: error.code, facts: error.facts },
      'a message about void keys was refused',
    )
  }

  resolved(mechanism: string): void {
    resolutions.add(1, { outcome: mechanism })
  }

  resolveRefused(error: WeftError): void {
    resolutions.add(1, { outcome: error.code })
    this.#log.debug({ code: error.code, facts: error.facts }, 'a pair could not be resolved')
  }

  /** Its endpoint was deleted. */
  locationRemoved(endpointId: number): void {
    this.#log.debug({ endpointId }, 'the location of a deleted endpoint was removed')
  }

  /** Another replica, or this one at its next start, removes it. */
  locationNotRemoved(endpointId: number, error: WeftError): void {
    this.#log.warn(
      { endpointId, code: error.code, facts: error.facts },
      'the location of a deleted endpoint could not be removed',
    )
  }

  /** What is known stays in force; nothing is taken as deleted. */
  storeLostWrites(bucket: string, reason: string): void {
    this.#log.error({ bucket, reason }, 'a bucket lost writes: what is known stays in force')
  }

  /** Shows the gauges until the returned function is called. */
  observe(read: () => Observation): () => void {
    const stopLeases = leases.observe((report) => {
      const { fresh, overdue } = read().leases
      report(fresh, { state: 'fresh' })
      report(overdue, { state: 'overdue' })
    })
    const stopRevisions = revisions.observe((report) => {
      const { configRevision, locationRevision } = read()
      report(Number(configRevision), { bucket: 'config' })
      report(Number(locationRevision), { bucket: 'locations' })
    })
    return () => {
      stopLeases()
      stopRevisions()
    }
  }
}
