import type { WeftError } from '@weft/errors'
import { counter, histogram, type Logger, SparseLog } from '@weft/telemetry'
import { type Port, portName } from './domain/ports.ts'
import type { RowRefusal } from './row-gate.ts'
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

const rowsRefusedTotal = counter<'reason'>({
  name: 'weft_forwarder_rows_refused_total',
  help: 'Rows that were not acted on, by reason: what is wrong with their signature, other-host, other-row, expired, replayed, unusable',
  labels: ['reason'],
})
const rowsPassedOverTotal = counter({
  name: 'weft_forwarder_rows_passed_over_total',
  help: 'Rows that did not count, because another network had their VNI or another endpoint of the network their MAC',
})
const revocationsRefusedTotal = counter({
  name: 'weft_forwarder_revocations_refused_total',
  help: 'Messages about void keys that the directory did not sign',
})

const revocationsPassedTotal = counter<'outcome'>({
  name: 'weft_forwarder_revocations_passed_total',
  help: 'Statements about void keys that other hosts passed on inside the tunnels and the directory signed, by outcome: news, known',
  labels: ['outcome'],
})

const KEYS_LOGGED =
  'the keys of all sealed connections are written to a file: whoever reads it reads all traffic and can pass for this host'

/** What happens at this host that somebody may want to know: for each, its log line and its counters in one place. */
export class Events {
  readonly #log: Logger
  readonly #warnings: SparseLog
  #passedOver = 0
  /** Why this host does not seal; empty while it does. */
  #sealing: string | undefined

  constructor(log: Logger) {
    this.#log = log
    this.#warnings = new SparseLog(log)
  }

  stateMovedAside({ path, movedTo, problem }: MovedAside): void {
    this.#log.error({ path, movedTo, problem }, 'a state file is broken and was moved aside')
  }

  statePutAway(facts: {
    folder: string
    former: { domain: string; hostId: number; host: string; ports: number }
  }): void {
    this.#log.warn(
      facts,
      'this machine was another host before: what that one knew and had attached is put away, as *.former',
    )
  }

  stateLoaded(facts: { rows: number; ports: number }): void {
    this.#log.info(facts, 'started from disk')
  }

  stateNotWritten(error: unknown): void {
    this.#log.error({ err: error }, 'the state cannot be written to disk')
  }

  notEnrolled(folder: string, { message, remedy }: WeftError): void {
    this.#log.warn({ folder, remedy }, `waiting to be enrolled: ${message}`)
  }

  enrolled(facts: { hostId: number; host: string }): void {
    this.#log.info(facts, 'this host is enrolled')
  }

  /** `key`: where it was found; `disk` for our own. */
  rowRefused(reason: RowRefusal, key: string): void {
    rowsRefusedTotal.add(1, { reason })
    this.#warnings.warn('rows', { reason, key }, 'a row was refused, and nothing changed')
  }

  /** `isNews`: it names keys of which this host did not know. */
  revocationsPassed(peerId: number, isNews: boolean): void {
    revocationsPassedTotal.add(1, { outcome: isNews ? 'news' : 'known' })
    if (isNews) this.#log.warn({ peerId }, 'a host passed on that keys are void')
  }

  /** `peerId`: who passed it on; undefined for the bus. */
  revocationsRefused({ code, message }: WeftError, peerId?: number): void {
    revocationsRefusedTotal.add(1, {})
    this.#warnings.warn(
      'revocations',
      { code, problem: message, ...(peerId === undefined ? {} : { peerId }) },
      'a message about void keys was refused',
    )
  }

  peersRevoked(count: number): void {
    this.#log.warn({ count }, 'keys of peers were revoked: nothing goes there or comes from there')
  }

  selfRevoked(): void {
    this.#log.error('the key of this host was revoked: it has to join again with new keys')
  }

  /** `count`: of rows that ended; 0 where all were lost before. */
  rightsEnded(count: number): void {
    this.#log.error(
      { rows: count },
      'the rights of this host were not renewed until their end: what it had by them is taken away',
    )
  }

  /** `tenants`: those whose keys are others than before, each with its number. */
  tenantKeysPinned(tenants: readonly string[]): void {
    this.#log.info({ tenants }, 'keys of locked tenants are noted: nothing else speaks for them')
  }

  /** `tenants`: those of which another key was pinned here than the one that this host was told. */
  tenantKeysContradicted(tenants: readonly string[]): void {
    this.#log.error(
      { tenants },
      'other keys of locked tenants were pinned than tenant-keys tells: those of tenant-keys count. Whoever ran the domain before may have lied to this host',
    )
  }

  /** `tenants`: those that are known to have been locked; `forget`: the file that says that all is believed anew. */
  pinsLost(facts: { tenants: readonly string[]; forget: string }): void {
    const { forget } = facts
    this.#log.error(
      {
        ...facts,
        remedy: `write the lines of weft tenant show into tenant-keys of the identity folder; or, to believe the first key that comes, make an empty file ${forget}; then start again`,
      },
      'the keys of locked tenants that this host knew are lost: nothing of these tenants counts',
    )
  }

  pinsForgotten(): void {
    this.#log.warn(
      'lost keys of locked tenants are given up, as was asked: the first that come are believed',
    )
  }

  /** `networks`: as `tenant/network`. */
  networksNotVouchedFor(networks: readonly string[]): void {
    this.#log.warn(
      { networks },
      'networks of locked tenants do not count: the key of their tenant says nothing of them, or something else',
    )
  }

  /** `networks`: as `tenant/network`. */
  outsideNetworks(networks: readonly string[]): void {
    this.#log.warn(
      { networks, remedy: 'have the holder of the tenant’s key sign: weft tenant sign' },
      'this host is not let into networks of locked tenants: nobody there believes what it says of its endpoints',
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

  sealingConfigured(port: number, isKeyLogged: boolean): void {
    if (this.#sealing !== '') this.#log.info({ port }, 'seals what goes to other hosts')
    this.#sealing = ''
    if (isKeyLogged) {
      this.#warnings.warn('key log', { port }, KEYS_LOGGED)
    }
  }

  sealingUnavailable(problem: string): void {
    if (this.#sealing !== problem) {
      this.#log.error(
        { problem },
        'the shuttle does not take the keys of the sealed transport: nothing is sent plain instead',
      )
    }
    this.#sealing = problem
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

  deletionsApplied(count: number): void {
    this.#log.error(
      { count, remedy: 'see what the shuttle said of the tables, and what config has of it' },
      'the shuttle refuses the tables: only what is to go of them was taken away',
    )
  }

  /** `count`: of rows that do not count at present, because others have their VNI or MAC. */
  rowsPassedOver(count: number): void {
    if (count > this.#passedOver) {
      rowsPassedOverTotal.add(count - this.#passedOver, {})
      const text = 'networks have one VNI, or endpoints of a network one MAC: one of them counts'
      this.#warnings.warn('passed over', { rows: count }, text)
    }
    this.#passedOver = count
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

  /** `device`: what was attached. */
  portNotAdopted(endpointId: number, device: string, why: string): void {
    this.#log.error(
      { endpointId, device, remedy: 'attach it again: weft port attach' },
      `a port is not among those that are written down here, and ${why}: it was detached`,
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
      { endpointId, err: error },
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
