import type { WeftError } from '@weft/errors'
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

/** What the gauges show. */
export interface Shown {
  readonly counts: () => { readonly [K in Kind]: number }
  readonly queueDepth: () => number
  readonly isController: () => boolean
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

  /** Shows the gauges until the returned function is called. */
  observe({ counts, queueDepth, isController }: Shown): () => void {
    const stops = [
      records.observe((report) => {
        for (const [kind, count] of Object.entries(counts())) report(count, { kind })
      }),
      queue.observe((report) => report(queueDepth(), {})),
      controllers.observe((report) => report(isController() ? 1 : 0, {})),
    ]
    return () => {
      for (const stop of stops) stop()
    }
  }
}
