import type { WeftError } from '@weft/errors'
import { counter, histogram, type Logger } from '@weft/telemetry'
import { type Port, portName } from './domain/ports.ts'
import type { MovedAside } from './store.ts'

const tablesAppliedTotal = counter<'kind'>({
  name: 'weft_forwarder_tables_applied_total',
  help: 'Table revisions handed to the shuttle, by kind: delta, replace',
  labels: ['kind'],
})
const tableChangesTotal = counter({
  name: 'weft_forwarder_table_changes_total',
  help: 'Table changes handed to the shuttle',
})
const missesTotal = counter<'outcome'>({
  name: 'weft_forwarder_misses_total',
  help: 'First packets, by outcome: answered, own, refused, unresolved',
  labels: ['outcome'],
})
const missSeconds = histogram<'source'>({
  name: 'weft_forwarder_miss_seconds',
  help: 'From a miss to its answer, by source: cache, asked',
  labels: ['source'],
})
const reportsTotal = counter<'outcome'>({
  name: 'weft_forwarder_location_reports_total',
  help: 'Location reports, by outcome: acknowledged, rejected, lost',
  labels: ['outcome'],
})
const portEventsTotal = counter<'event'>({
  name: 'weft_forwarder_port_events_total',
  help: 'Ports by what happened to them: attached, detached, lost, fenced',
  labels: ['event'],
})

/** What happens at this host that somebody may want to know: for each, its log line and its counters in one place. */
export class Events {
  readonly #log: Logger

  constructor(log: Logger) {
    this.#log = log
  }

  stateMovedAside({ path, movedTo, problem }: MovedAside): void {
    this.#log.error({ path, movedTo, problem }, 'a state file is broken and was moved aside')
  }

  stateLoaded(facts: { rows: number; ports: number }): void {
    this.#log.info(facts, 'started from disk')
  }

  stateNotWritten(error: unknown): void {
    this.#log.error({ err: error }, 'the state cannot be written to disk')
  }

  hostUnknown(host: string, error: WeftError): void {
    this.#log.warn(
      { host, code: error.code },
      `waiting to learn the id of this host: ${error.message}`,
    )
  }

  dependencyLost(name: string, error: string): void {
    this.#log.warn({ dependency: name, error }, 'does not answer: what is known is used')
  }

  dependencyFound(name: string): void {
    this.#log.info({ dependency: name }, 'answers')
  }

  shuttleJoined(facts: { instanceId: string; version: string; isNewInstance: boolean }): void {
    this.#log.info(facts, 'joined the shuttle')
  }

  shuttleLost(error: unknown): void {
    this.#log.warn({ err: error }, 'lost the shuttle: packets go on by what it has')
  }

  tablesApplied(facts: { revision: bigint; changes: number; isReplace: boolean }): void {
    tablesAppliedTotal.add(1, { kind: facts.isReplace ? 'replace' : 'delta' })
    tableChangesTotal.add(facts.changes, {})
    this.#log.debug({ ...facts, revision: `${facts.revision}` }, 'applied tables')
  }

  tablesNotApplied(error: unknown): void {
    this.#log.warn({ err: error }, 'the shuttle did not take the tables: all of them follow')
  }

  resyncBegun(reason: string): void {
    this.#log.info(
      { reason },
      'the rows of this host come anew: the present tables stay until all are there',
    )
  }

  resyncEnded(facts: { rows: number }): void {
    this.#log.info(facts, 'the rows of this host are complete')
  }

  missesAnswered(facts: {
    answered: number
    own: number
    refused: number
    unresolved: number
    wasAsked: boolean
    durationMs: number
  }): void {
    const { answered, own, refused, unresolved, wasAsked, durationMs } = facts
    missesTotal.add(answered, { outcome: 'answered' })
    missesTotal.add(own, { outcome: 'own' })
    missesTotal.add(refused, { outcome: 'refused' })
    missesTotal.add(unresolved, { outcome: 'unresolved' })
    missSeconds.record(durationMs / 1000, { source: wasAsked ? 'asked' : 'cache' })
    this.#log.trace(facts, 'answered misses')
  }

  flowsNotWritten(error: unknown): void {
    this.#log.warn({ err: error }, 'flows could not be brought up to date: they are tried again')
  }

  backgroundFailed(error: unknown): void {
    this.#log.warn(
      { err: error },
      'work in the background failed: it is done again when something changes',
    )
  }

  portAttached(port: Port): void {
    portEventsTotal.add(1, { event: 'attached' })
    this.#log.info({ port: portName(port), endpointId: port.endpoint.id }, 'attached a port')
  }

  portDetached(port: Port): void {
    portEventsTotal.add(1, { event: 'detached' })
    this.#log.info({ port: portName(port), endpointId: port.endpoint.id }, 'detached a port')
  }

  portLost(port: Port, problem: string): void {
    portEventsTotal.add(1, { event: 'lost' })
    this.#log.warn({ port: portName(port), problem }, 'the device or namespace of a port is gone')
  }

  portFenced(port: Port): void {
    portEventsTotal.add(1, { event: 'fenced' })
    this.#log.warn(
      { port: portName(port) },
      'the endpoint is not assigned to this host any more: detached its port',
    )
  }

  attachFailed(port: string, error: WeftError): void {
    this.#log.info({ port, code: error.code }, `attach failed and was undone: ${error.message}`)
  }

  undoFailed(port: string, error: unknown): void {
    this.#log.warn(
      { port, err: error },
      'a step of a failed attach could not be undone: it is tried again',
    )
  }

  locationAcknowledged(): void {
    reportsTotal.add(1, { outcome: 'acknowledged' })
  }

  locationRejected(endpointId: number, error: WeftError): void {
    reportsTotal.add(1, { outcome: 'rejected' })
    this.#log.warn(
      { endpointId, code: error.code },
      `a location report was rejected: ${error.message}`,
    )
  }

  locationLost(endpointId: number, error: WeftError): void {
    reportsTotal.add(1, { outcome: 'lost' })
    this.#log.debug(
      { endpointId, code: error.code },
      'a location report was not acknowledged: it is repeated',
    )
  }

  releaseWaits(endpointId: number, error: WeftError): void {
    this.#log.debug(
      { endpointId, code: error.code },
      'a detached endpoint could not be released yet',
    )
  }
}
