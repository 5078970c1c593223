import type { AuditPhase } from '@weft/proto/weftline/audit/v1/audit.ts'
import { counter, gauge, type Logger } from '@weft/telemetry'

const entries = counter<'phase'>({
  name: 'weft_config_audit_entries_total',
  help: 'Entries that are in both copies of the audit log, by phase',
  labels: ['phase'],
})

const refusals = counter<'reason'>({
  name: 'weft_config_audit_refused_total',
  help: 'Privileged actions that were not done because they could not be recorded, by reason',
  labels: ['reason'],
})

const failures = counter<'copy'>({
  name: 'weft_config_audit_write_failures_total',
  help: 'Tries to write to a copy of the audit log that failed',
  labels: ['copy'],
})

const waiting = gauge({
  name: 'weft_config_audit_queue',
  help: 'Entries that wait to be written',
})

const availability = gauge({
  name: 'weft_config_audit_is_available',
  help: '0 while privileged actions are refused because they cannot be recorded',
})

const fill = gauge({
  name: 'weft_config_audit_bucket_fill_ratio',
  help: 'How full the bucket of the audit log is: at 1 privileged actions are refused, from 0.8 on somebody has to act',
})

const PHASES: { readonly [P in AuditPhase]?: string } = {
  1: 'intent',
  2: 'done',
  3: 'failed',
  4: 'denied',
}

/** What the gauges show. */
export interface ShownAudit {
  readonly queueDepth: () => number
  readonly isAvailable: () => boolean
  /** From 0 to 1; undefined until it is known. */
  readonly bucketFill: () => number | undefined
}

/** What happens to the audit log that somebody may want to hear of. */
export class AuditEvents {
  readonly #log: Logger

  constructor(log: Logger) {
    this.#log = log
  }

  chainStarted(writer: string): void {
    this.#log.info({ writer }, 'a chain of the audit log begins')
  }

  entriesWritten(phases: readonly AuditPhase[]): void {
    for (const phase of phases) entries.add(1, { phase: PHASES[phase] ?? 'other' })
  }

  writeFailed(copy: string, kind: 'file' | 'bucket', error: unknown): void {
    failures.add(1, { copy: kind })
    this.#log.debug({ copy, problem: messageOf(error) }, 'the audit log could not be written')
  }

  refused(reason: 'unavailable' | 'overloaded'): void {
    refusals.add(1, { reason })
  }

  becameUnavailable(problem: string): void {
    this.#log.error({ problem }, 'privileged actions are refused: the audit log cannot be written')
  }

  becameAvailable(): void {
    this.#log.info('the audit log is written again')
  }

  bucketFillsUp(sizeBytes: number, sizeMaxBytes: number): void {
    this.#log.error(
      { sizeBytes, sizeMaxBytes },
      'the bucket of the audit log is nearly full, and then privileged actions are refused: archive it (services/config/README.md, Audit)',
    )
  }

  /** It is tried again. */
  headNotSigned(error: unknown): void {
    this.#log.error({ err: error }, 'the head of the audit log could not be signed')
  }

  /** The last entries of the chain, and its last head, may be in one copy only. */
  endedUnwritten(count: number, problem: string): void {
    this.#log.error({ count, problem }, 'the audit log ends without its last entries')
  }

  /** Shows the gauges until the returned function is called. */
  observe({ queueDepth, isAvailable, bucketFill }: ShownAudit): () => void {
    const stops = [
      waiting.observe((report) => report(queueDepth(), {})),
      availability.observe((report) => report(isAvailable() ? 1 : 0, {})),
      fill.observe((report) => {
        const ratio = bucketFill()
        if (ratio !== undefined) report(ratio, {})
      }),
    ]
    return () => {
      for (const stop of stops) stop()
    }
  }
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
