import type { Bus } from '@weft/bus'
import type { Dependency } from './dependency.ts'
import type { HostRows } from './domain/host-rows.ts'

/** How far what this host knows can be trusted to be what is true now. */
export class Standing {
  readonly #rows: HostRows
  readonly #answering: readonly Dependency[]
  #bus: Bus | undefined
  #isFromDisk = true
  #inStepAtMs: number

  /** `answering`: those whose answers are cached. */
  constructor(rows: HostRows, answering: readonly Dependency[], nowMs: number) {
    this.#rows = rows
    this.#answering = answering
    this.#inStepAtMs = nowMs
  }

  /** No complete set of rows has come since the start. */
  get isFromDisk(): boolean {
    return this.#isFromDisk
  }

  /** The rows are what the controller says, and its next word would reach us. */
  get isInStep(): boolean {
    return this.#bus?.state === 'connected' && !this.#isFromDisk && !this.#rows.isResyncing
  }

  /** All that gives or voids an answer is there: an answer that nobody voided holds. */
  get isConfirmed(): boolean {
    return this.isInStep && this.#answering.every(({ isAnswering }) => isAnswering)
  }

  busOpened(bus: Bus): void {
    this.#bus = bus
  }

  /** Called after each batch of rows and at short intervals: notes whether the rows are in step. */
  note(nowMs: number): void {
    if (this.#bus && !this.#rows.isResyncing && this.#rows.self) this.#isFromDisk = false
    if (this.isInStep) this.#inStepAtMs = nowMs
  }

  /** Milliseconds since the rows were in step, or since the start. */
  tableAgeMs(nowMs: number): number {
    this.note(nowMs)
    return nowMs - this.#inStepAtMs
  }
}
