import type { WeftError } from '@weft/errors'
import { CLOCK_TOLERANCE_MS } from '@weft/identity/authority'
import type { Host, User } from '@weft/proto/weftline/config/v1/records.ts'
import { counter, gauge, histogram, type Logger } from '@weft/telemetry'
import type { Kind, Write } from './domain/database.ts'

const writes = histogram<'kind' | 'action'>({
  name: 'weft_config_write_duration_seconds',
  help: 'Time from the turn of a request to its acknowledged write, by kind of record',
  labels: ['kind', 'action'],
})

const repeats = counter<'reason'>({
  name: 'weft_config_write_repeats_total',
  help: 'Writes that were tried again, by reason',
  labels: ['reason'],
})

const rows = counter({
  name: 'weft_config_rows_written_total',
  help: 'Rows of hosts that were written or removed by this replica',
})

const records = gauge<'kind'>({
  name: 'weft_config_records',
  help: 'Records of the VN database, by kind',
  labels: ['kind'],
})

const queue = gauge({ name: 'weft_config_write_queue', help: 'Requests that wait to be written' })

const controllers = gauge({
  name: 'weft_config_is_controller',
  help: '1 while this replica writes the rows of hosts',
})

const renewals = counter<'kind'>({
  name: 'weft_config_certificates_renewed_total',
  help: 'Certificates that were renewed, by kind of holder',
  labels: ['kind'],
})

const enrolments = counter<'outcome'>({
  name: 'weft_config_enrolments_total',
  help: 'Hosts that joined, users that logged in, and enrolments that were refused before they were looked at',
  labels: ['outcome'],
})

const refusedReports = counter<'reason'>({
  name: 'weft_config_connection_reports_refused_total',
  help: 'Reports of hosts on their open connections that were not believed, by reason',
  labels: ['reason'],
})

const connections = gauge({
  name: 'weft_config_open_connections',
  help: 'Open connections that hosts reported lately, each once by each of its two hosts',
})

const authorityEnds = gauge({
  name: 'weft_config_authority_left_seconds',
  help: 'Time until the certificate of the authority ends; alert long before, nothing is issued after it',
})

/** What the gauges show. */
export interface Shown {
  readonly counts: () => { readonly [K in Kind]: number }
  readonly queueDepth: () => number
  readonly isController: () => boolean
  readonly connectionCount: () => number
  readonly authorityEnds: () => Date
}

/** What happens here that somebody may want to hear of. */
export class Events {
  readonly #log: Logger

  constructor(log: Logger) {
    this.#log = log
  }

  recordWritten({ kind, id, record }: Write, durationMs: number): void {
    const action = record ? 'put' : 'remove'
    writes.record(durationMs / 1000, { kind, action })
    this.#log.debug({ kind, id, action }, 'a record was written')
  }

  writeRepeated(reason: string): void {
    repeats.add(1, { reason })
  }

  /** A newer replica may have written it. */
  recordNotUnderstood(key: string): void {
    this.#log.warn({ key }, 'a record of the VN database is of no kind that this version knows')
  }

  /** It may be from a stranger, or come late: nothing is lost, hosts say everything again. */
  connectionsRefused(hostId: number, { code, message }: WeftError): void {
    refusedReports.add(1, { reason: code })
    this.#log.debug({ hostId, code, problem: message }, 'a report of connections was refused')
  }

  storeLost(reason: string, revision: bigint): void {
    this.#log.error(
      { reason, revision: String(revision) },
      'the store of the VN database lost writes: what is known is kept, and nothing is written',
    )
  }

  locationsLost(reason: string): void {
    this.#log.error({ reason }, 'the bucket of locations lost writes: known locations are kept')
  }

  controllerStarted(revision: bigint): void {
    this.#log.info({ revision: String(revision) }, 'this replica writes the rows of hosts')
  }

  controllerStopped(): void {
    this.#log.info('this replica does not write the rows of hosts any more')
  }

  controllerFailed({ code, message }: WeftError): void {
    this.#log.warn({ code, problem: message }, 'the rows of hosts could not be written')
  }

  rowsWritten(count: number): void {
    rows.add(count, {})
    this.#log.debug({ count }, 'rows of hosts were written')
  }

  /** `skewMs`: by how much the clock of the host is ahead. */
  hostJoined({ id, name }: Host, skewMs: number): void {
    enrolments.add(1, { outcome: 'joined' })
    this.#log.info({ host: name, id, skewMs }, 'a host joined')
    if (Math.abs(skewMs) > CLOCK_TOLERANCE_MS) {
      this.#log.warn({ host: name, id, skewMs }, 'the clock of a new host is wrong')
    }
  }

  userLoggedIn({ id, name }: User): void {
    enrolments.add(1, { outcome: 'logged-in' })
    this.#log.info({ user: name, id }, 'a user logged in')
  }

  enrolmentRefused(method: string, reason: string): void {
    enrolments.add(1, { outcome: reason })
    this.#log.debug({ method, reason }, 'an enrolment was refused')
  }

  certificateRenewed(kind: 'host' | 'user' | 'service'): void {
    renewals.add(1, { kind })
  }

  keysRotated({ id, name }: Host): void {
    this.#log.info({ host: name, id }, 'a host has new keys')
  }

  revocationsTold(count: number, number: bigint): void {
    this.#log.info({ count, number: String(number) }, 'void keys were told to everybody')
  }

  lastKnownNotKept({ code, message }: WeftError): void {
    this.#log.warn(
      { code, problem: message },
      'what is known is not kept on disk: a store from a backup would not be noticed',
    )
  }

  /** `from`: revision of the store; `known`: what was known before. */
  lossAccepted(loss: {
    readonly from: bigint
    readonly known: bigint
    readonly voided: number
    readonly revoked: number
  }): void {
    const { from, known, voided, revoked } = loss
    this.#log.warn(
      { from: String(from), known: String(known), voided, revoked },
      'the store is from a backup: what came after was given up; unused tokens are void, and void keys were revoked again',
    )
  }

  busUsersNotRefused({ code, message }: WeftError): void {
    this.#log.warn({ code, problem: message }, 'the bus could not be told of revoked users yet')
  }

  authorityEndsSoon(at: Date): void {
    this.#log.warn(
      { at: at.toISOString() },
      'the authority ends soon: run weft authority renew, with the root of the domain',
    )
  }

  authorityRenewed(at: Date): void {
    this.#log.info({ at: at.toISOString() }, 'the authority was renewed')
  }

  authorityNotTaken({ code, message, remedy }: WeftError): void {
    this.#log.error(
      { code, problem: message, remedy },
      'the authority in its folder cannot be used, so the one before goes on',
    )
  }

  ownerSeeded(id: number): void {
    this.#log.info({ id }, 'the domain is new: its owner was made')
  }

  /** Shows the gauges until the returned function is called. */
  observe({
    counts,
    queueDepth,
    isController,
    connectionCount,
    authorityEnds: ends,
  }: Shown): () => void {
    const stops = [
      records.observe((report) => {
        for (const [kind, count] of Object.entries(counts())) report(count, { kind })
      }),
      queue.observe((report) => report(queueDepth(), {})),
      controllers.observe((report) => report(isController() ? 1 : 0, {})),
      connections.observe((report) => report(connectionCount(), {})),
      authorityEnds.observe((report) => report((ends().getTime() - Date.now()) / 1000, {})),
    ]
    return () => {
      for (const stop of stops) stop()
    }
  }
}
