import { asWeftError, UnavailableError } from '@weft/errors'
import type {
  Flow,
  FlowKey,
  FlowState,
  GetInfoResponse,
  HandleMissesRequest,
  Miss,
  PingRequest,
  PingResponse,
  Port as ShuttlePort,
} from '@weft/proto/weftline/shuttle/v1/shuttle.ts'
import { applyTables, type ShuttleClient } from '@weft/shuttle'
import { untraced } from '@weft/telemetry'
import { attachmentToMessage, changeToMessage, portNetwork, tableEndpoint } from './decode.ts'
import type { Dependency } from './dependency.ts'
import { backOffMs } from './domain/back-off.ts'
import type { HostRows } from './domain/host-rows.ts'
import { InForce } from './domain/in-force.ts'
import { type Port, prefixLengths } from './domain/ports.ts'
import type { SwitchTable, TableChange } from './domain/switch-table.ts'
import type { Events } from './events.ts'
import { Coalesced, pause } from './loop.ts'
import { Outbox } from './outbox.ts'

const TIMEOUT_MS = 5_000
/** Longest wait before the shuttle is tried again: it may be back any moment, on the same machine. */
const RETRY_CAP_MS = 1_000
/** Counters are asked for at most this often, however many ask. */
const COUNTERS_AGE_MAX_MS = 500

/** What the rest of the forwarder does when the data plane speaks. */
export interface DataPlaneListener {
  /** The shuttle is there, and nothing was written to it yet. */
  onFound(): Promise<void>
  /** The shuttle is there and its tables are in step: ports and flows are to be compared. */
  onJoined(): Promise<void>
  /** Resolves when what else decides of tables is decided: without it they would void flows that follow from it. */
  prepared(): Promise<void>
  /** Tables are in force that were not before. */
  onApplied(): void
  onMisses(misses: readonly Miss[], reply: (answers: HandleMissesRequest) => void): void
}

/**
 * The forwarder's side of the shuttle: keeps its tables in step with the switch table, and joins it again whenever it
 * was gone. The shuttle and the kernel go on without us, so what is there is compared before anything is taken away.
 */
export class DataPlane {
  readonly #client: ShuttleClient
  readonly #hostId: number
  readonly #rows: HostRows
  readonly #table: SwitchTable
  readonly #dependency: Dependency
  readonly #events: Events
  readonly #applying: Coalesced = new Coalesced(() => this.#apply())
  #info: GetInfoResponse | undefined
  /** Revision of the tables in force, as far as this process knows. */
  #revision = 0n
  /** The tables in force were not written by this process: what they hold is not known. */
  #isForeign = true
  readonly #inForce: InForce = new InForce()
  #isJoined = false
  #appliedAtMs = Date.now()
  /** Ends the stream of misses, so that the shuttle is joined anew and everything is compared. */
  #leave: () => void = () => {}
  #prepared: () => Promise<void> = async () => {}
  #onApplied: () => void = () => {}
  #ports: { readonly at: number; readonly list: Promise<ShuttlePort[]> } | undefined

  constructor(options: {
    readonly client: ShuttleClient
    readonly hostId: number
    readonly rows: HostRows
    readonly table: SwitchTable
    readonly dependency: Dependency
    readonly events: Events
  }) {
    this.#client = options.client
    this.#hostId = options.hostId
    this.#rows = options.rows
    this.#table = options.table
    this.#dependency = options.dependency
    this.#events = options.events
  }

  /** What the shuttle said of itself when it was asked last. */
  get info(): GetInfoResponse | undefined {
    return this.#info
  }

  get revision(): bigint {
    return this.#revision
  }

  get appliedAtMs(): number {
    return this.#appliedAtMs
  }

  /** Joins the shuttle, and joins it anew whenever it was lost, until the signal is aborted. */
  async run(listener: DataPlaneListener, signal: AbortSignal): Promise<void> {
    this.#prepared = () => listener.prepared()
    this.#onApplied = () => listener.onApplied()
    for (let attempt = 1; !signal.aborted; attempt++) {
      try {
        await this.#join(listener)
        await this.#handleMisses(listener, signal)
        attempt = 0
      } catch (error) {
        this.#dependency.failed(asWeftError(error).message)
        if (this.#isJoined && !signal.aborted) this.#events.shuttleLost(error)
      }
      this.#isJoined = false
      if (!signal.aborted) await pause(backOffMs(attempt, Math.random(), 50, RETRY_CAP_MS), signal)
    }
  }

  /** Hands the changes of the switch table over; resolves once all that were made before the call are in force. */
  sync(): Promise<void> {
    return this.#applying.run()
  }

  /** Resolves once no tables are on their way. */
  settled(): Promise<void> {
    return this.#applying.idle()
  }

  /** Makes the attachment a port; false if it was one already. */
  async attachPort(port: Port): Promise<boolean> {
    const { endpoint, network, attachment } = port
    const { created } = await this.#client.attachPort(
      {
        endpoint: tableEndpoint({ ...endpoint, hostId: this.#hostId }),
        network: portNetwork(network),
        prefixLengthsBits: prefixLengths(network, endpoint),
        sealed: network.encryption === 'required',
        attachment: attachmentToMessage(attachment),
      },
      { timeoutMs: TIMEOUT_MS },
    )
    this.#ports = undefined
    return created
  }

  async detachPort(endpointId: number): Promise<void> {
    await this.#client.detachPort({ endpointId }, { timeoutMs: TIMEOUT_MS })
    this.#ports = undefined
  }

  /** The ports of the shuttle with their counters, not older than half a second. */
  listPorts(): Promise<readonly ShuttlePort[]> {
    const now = Date.now()
    if (this.#ports === undefined || now - this.#ports.at > COUNTERS_AGE_MAX_MS) {
      const list = this.#client.listPorts({}, { timeoutMs: TIMEOUT_MS }).then(({ ports }) => ports)
      list.catch(() => {
        this.#ports = undefined
      })
      this.#ports = { at: now, list }
    }
    return this.#ports.list
  }

  async listFlows(): Promise<FlowState[]> {
    const { flows } = await this.#client.listFlows({}, { timeoutMs: TIMEOUT_MS })
    return flows
  }

  async applyFlows(put: Flow[], remove: FlowKey[] = []): Promise<void> {
    await this.#client.applyFlows(
      { put, delete: remove, deleteAll: false },
      { timeoutMs: TIMEOUT_MS },
    )
  }

  ping(request: PingRequest, signal: AbortSignal): AsyncIterable<PingResponse> {
    return this.#client.ping(request, { signal })
  }

  async refreshInfo(): Promise<GetInfoResponse> {
    this.#info = await this.#client.getInfo({}, { timeoutMs: TIMEOUT_MS })
    if (this.#isJoined) this.#dependency.succeeded()
    return this.#info
  }

  async #join(listener: DataPlaneListener): Promise<void> {
    const before = this.#info
    const info = await untraced(() => this.refreshInfo())
    const isNewInstance = before?.instanceId !== info.instanceId
    if (isNewInstance || info.tableRevision !== this.#revision) {
      this.#isForeign = true
      this.#inForce.forget()
      this.#table.forgetTaken()
    }
    this.#revision = info.tableRevision
    this.#ports = undefined
    this.#isJoined = true
    await listener.onFound()
    await this.sync()
    this.#dependency.succeeded()
    this.#events.shuttleJoined({
      instanceId: info.instanceId,
      version: info.version,
      isNewInstance,
    })
    await listener.onJoined()
  }

  async #handleMisses(listener: DataPlaneListener, signal: AbortSignal): Promise<void> {
    const outbox = new Outbox<HandleMissesRequest>()
    using _closed = { [Symbol.dispose]: () => outbox.close() }
    const leaving = new AbortController()
    this.#leave = () => leaving.abort()
    const batches = this.#client.handleMisses(outbox, {
      signal: AbortSignal.any([signal, leaving.signal]),
    })
    for await (const { misses } of batches) {
      if (misses.length > 0) listener.onMisses(misses, (answers) => outbox.push(answers))
    }
    if (!signal.aborted) throw this.#unavailable('it ended the stream of misses')
  }

  async #apply(): Promise<void> {
    await this.#prepared()
    // Tables that somebody else wrote may hold what we do not know (our rows are lost, or on their way): they are replaced
    // only by a complete set, and until then things are only added to them. Rows that ran out leave nothing to wait for.
    const { self, hasRunOut } = this.#rows
    const isReplace = this.#isForeign && (self !== undefined || hasRunOut || this.#revision === 0n)
    if (!this.#isJoined) throw this.#unavailable('it has not been joined')
    if (isReplace) this.#table.forgetTaken()
    else if (!this.#table.hasChanges) return
    const changes = this.#table.takeChanges()
    this.#events.rowsPassedOver(this.#table.passedOverCount)
    try {
      const baseRevision = isReplace ? 0n : this.#revision
      const revision = this.#revision + 1n
      await applyTables(
        this.#client,
        { baseRevision, revision, localHostId: this.#hostId },
        changes.map(changeToMessage),
        { timeoutMs: TIMEOUT_MS },
      )
      this.#revision = revision
      this.#appliedAtMs = Date.now()
      this.#onApplied()
      if (isReplace) this.#isForeign = false
      this.#inForce.note(changes, isReplace)
      this.#events.tablesApplied({ revision, changes: changes.length, isReplace })
    } catch (error) {
      // Whether they were taken is not known: from here on only the whole table says what is in force.
      this.#isForeign = true
      this.#table.forgetTaken()
      this.#events.tablesNotApplied(error)
      if (asWeftError(error).code === 'invalid-argument') await this.#takeAway(changes, isReplace)
      this.#leave()
      throw error
    }
  }

  /** The shuttle refused these changes: whatever is wrong with them, what they take away goes. */
  async #takeAway(changes: readonly TableChange[], isReplace: boolean): Promise<void> {
    const deletions = this.#inForce.leftovers(changes, isReplace)
    if (deletions.length === 0 || this.#revision === 0n) return
    try {
      const revision = this.#revision + 1n
      await applyTables(
        this.#client,
        { baseRevision: this.#revision, revision, localHostId: this.#hostId },
        deletions.map(changeToMessage),
        { timeoutMs: TIMEOUT_MS },
      )
      this.#revision = revision
      this.#inForce.note(deletions, false)
      this.#onApplied()
      this.#events.deletionsApplied(deletions.length)
    } catch (error) {
      this.#events.tablesNotApplied(error)
    }
  }

  #unavailable(problem: string): UnavailableError {
    const { name, address } = this.#dependency
    return new UnavailableError({ service: name, address, problem })
  }
}
