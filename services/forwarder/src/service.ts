import { randomUUID } from 'node:crypto'
import { type Bus, connectBus } from '@weft/bus'
import { asWeftError, InvalidConfigError } from '@weft/errors'
import { ConfigServiceService } from '@weft/proto/weftline/config/v1/config_service.ts'
import { LocationServiceService } from '@weft/proto/weftline/location/v1/location.ts'
import { RoutingServiceService } from '@weft/proto/weftline/routing/v1/routing.ts'
import type { Port as ShuttlePort } from '@weft/proto/weftline/shuttle/v1/shuttle.ts'
import { type Client, connect, serve } from '@weft/rpc'
import type { RunningService, ServiceContext } from '@weft/service'
import { connectShuttle } from '@weft/shuttle'
import { untraced } from '@weft/telemetry'
import { Asking } from './asking.ts'
import type { Config } from './config.ts'
import { DataPlane } from './data-plane.ts'
import { Dependency } from './dependency.ts'
import { Answers } from './domain/answers.ts'
import { backOffMs } from './domain/back-off.ts'
import { Connections } from './domain/connections.ts'
import { DecisionCache } from './domain/decision-cache.ts'
import { HostRows, type RowsTouched } from './domain/host-rows.ts'
import { Ports } from './domain/ports.ts'
import { ResolutionCache } from './domain/resolution-cache.ts'
import { SwitchTable } from './domain/switch-table.ts'
import { Events } from './events.ts'
import type { Host } from './host.ts'
import { Locations } from './locations.ts'
import { Coalesced, pause } from './loop.ts'
import { observeHost } from './metrics.ts'
import { Misses } from './misses.ts'
import { PortDesk } from './port-desk.ts'
import { hostApi } from './rpc.ts'
import { Standing } from './standing.ts'
import {
  decodeHostState,
  decodeRows,
  encodeHostState,
  encodeRows,
  HOST_STATE_VERSION,
  type HostState,
  ROWS_VERSION,
} from './state.ts'
import { load, makeFolder, StateFile } from './store.ts'
import { watchRows, watchRules } from './subscriptions.ts'
import { Upkeep } from './upkeep.ts'

/** Rows are written to disk at most this often: what is lost by a crash comes again from the bus. */
const ROWS_WRITE_MS = 1_000
/** How often counters are read for the metrics, and ports looked at. */
const COUNT_MS = 5_000
/** How long the start waits for the shuttle; after that it is joined whenever it comes. */
const SHUTTLE_WAIT_MS = 1_500

/** Opens the bus; waits until it is there or the signal is aborted. */
export type OpenBus = (name: string, signal: AbortSignal) => Promise<Bus>

export async function start(config: Config, context: ServiceContext): Promise<RunningService> {
  const { natsServers: servers } = config
  return startOn(
    (name, signal) => connectBus({ servers, name, log: context.log, signal }),
    config,
    context,
  )
}

/** Starts with a way to open the bus, which may be there or not. */
export async function startOn(
  openBus: OpenBus,
  config: Config,
  context: ServiceContext,
): Promise<RunningService> {
  await using opened = new AsyncDisposableStack()
  const events = new Events(context.log)
  const stopping = new AbortController()
  const signal = AbortSignal.any([context.signal, stopping.signal])

  await makeFolder(config.stateFolder)
  const hostFile = new StateFile(config.stateFolder, 'host', HOST_STATE_VERSION)
  const rowsFile = new StateFile(config.stateFolder, 'rows', ROWS_VERSION)
  const stored = await loadState(hostFile, rowsFile, events)

  const configClient = opened.use(connect(config.configAddress, ConfigServiceService))
  const resolverClient = opened.use(connect(config.resolverAddress, LocationServiceService))
  const policyClient = opened.use(connect(config.policyAddress, RoutingServiceService))
  const shuttleClient = opened.use(connectShuttle(config.shuttle))

  const onBus = new Dependency('bus', config.natsServers.join(','), events)
  const onConfig = new Dependency('config', config.configAddress, events)
  const onResolver = new Dependency('location-resolver', config.resolverAddress, events)
  const onPolicy = new Dependency('routing-policy', config.policyAddress, events)
  const onShuttle = new Dependency('shuttle', config.shuttle, events)

  const { hostId, hostName } = await learnIdentity(
    config,
    stored.host,
    configClient,
    onConfig,
    events,
    signal,
  )

  const rows = new HostRows()
  for (const row of stored.rows) rows.apply(row)
  // What is on disk may be old: it holds until a complete set has come.
  rows.beginResync()
  const ports = new Ports()
  for (const port of stored.host?.ports ?? []) ports.set(port)
  const releases = new Map(stored.host?.releases.map((release) => [release.endpointId, release]))
  const leaseId = stored.host?.leaseId ?? randomUUID()
  // A new folder may stand for one that was lost: the time is beyond any number that was used with that.
  let sequence = stored.host?.sequence ?? BigInt(Date.now())
  const table = new SwitchTable(hostId, rows, ports)
  const resolutions = new ResolutionCache()
  const decisions = new DecisionCache()
  const connections = new Connections()
  const answers = new Answers(table, resolutions, decisions)
  const standing = new Standing(rows, [onResolver, onPolicy], Date.now())

  const writeHost = new Coalesced(() =>
    hostFile.write(
      encodeHostState({
        hostId,
        hostName,
        leaseId,
        sequence,
        ports: [...ports],
        releases: [...releases.values()],
      }),
    ),
  )
  const persist = async () => {
    try {
      await writeHost.run()
    } catch (error) {
      events.stateNotWritten(error)
      throw error
    }
  }
  await persist()

  const asking = new Asking({
    resolver: onResolver,
    policy: onPolicy,
    resolverClient,
    policyClient,
    table,
    resolutions,
    decisions,
  })
  const dataPlane = new DataPlane({
    client: shuttleClient,
    hostId,
    rows,
    table,
    dependency: onShuttle,
    events,
  })
  const misses = new Misses({
    table,
    answers,
    asking,
    connections,
    tableRevision: () => dataPlane.revision,
    events,
  })
  const locations = new Locations({
    hostId,
    leaseId,
    events,
    onRejected: (endpointId) => inBackground(() => desk.verifyAssignment(endpointId)),
  })
  const desk = new PortDesk({
    hostId,
    ports,
    releases,
    rows,
    table,
    dataPlane,
    locations,
    config: configClient,
    configDependency: onConfig,
    nextSequence: () => ++sequence,
    persist,
    events,
  })
  const upkeep = new Upkeep({
    hostId,
    table,
    answers,
    asking,
    connections,
    dataPlane,
    events,
  })
  const host: Host = {
    hostId,
    hostName,
    rows,
    ports,
    table,
    resolutions,
    decisions,
    connections,
    dataPlane,
    desk,
    standing,
    dependencies: [onBus, onConfig, onResolver, onPolicy, onShuttle],
  }
  desk.claimAll()

  const background = new Set<Promise<void>>()
  function inBackground(task: () => Promise<unknown>): void {
    const running = task().then(
      () => undefined,
      (error: unknown) => {
        if (!signal.aborted) events.backgroundFailed(error)
      },
    )
    background.add(running)
    void running.finally(() => background.delete(running))
  }

  const writeRows = new Coalesced(async () => {
    await pause(ROWS_WRITE_MS, signal)
    await rowsFile
      .write(encodeRows(hostId, rows.all()))
      .catch((error: unknown) => events.stateNotWritten(error))
  })

  const onTouched = (touched: readonly RowsTouched[]): void => {
    standing.note(Date.now())
    if (touched.length === 0) return
    for (const row of touched) {
      table.touch(row)
      if (row.kind === 'endpoint') resolutions.dropEndpoint(row.id)
      else resolutions.clear()
    }
    void writeRows.run()
    // A shuttle that is not there gets everything when it is joined.
    dataPlane.sync().catch(() => {})
    const endpoints = touched.filter(({ kind }) => kind === 'endpoint').map(({ id }) => id)
    if (endpoints.length > 0) inBackground(() => desk.compareRows(endpoints))
  }

  // Everything below ends by the signal, which is aborted before anything that it uses is closed.
  opened.defer(async () => {
    stopping.abort()
    await Promise.all(background)
    await writeRows.idle()
  })

  const joined = Promise.withResolvers<void>()
  inBackground(() =>
    dataPlane.run(
      {
        async onJoined() {
          await desk.compare()
          await upkeep.compareFlows()
          joined.resolve()
        },
        onApplied: () => misses.tablesApplied(),
        onMisses: (batch, reply) => inBackground(() => misses.handle(batch, reply)),
      },
      signal,
    ),
  )
  inBackground(() => upkeep.run(signal))
  inBackground(() => desk.keepReleasing(signal))
  inBackground(() =>
    onConfig.keepProbing((options) => configClient.getServerInfo({}, options), signal),
  )
  inBackground(() =>
    onResolver.keepProbing(
      (options) =>
        resolverClient.resolve(
          { queries: [], locationRevisionMin: 0n, configRevisionMin: 0n },
          options,
        ),
      signal,
    ),
  )
  inBackground(() =>
    onPolicy.keepProbing(async (options) => {
      const { revision } = await policyClient.decide({ connections: [] }, options)
      decisions.announceRevision(revision)
    }, signal),
  )
  inBackground(() => followBus({ openBus, host, locations, onBus, onTouched, events, signal }))

  let lastPorts: readonly ShuttlePort[] = []
  inBackground(async () => {
    while (!signal.aborted) {
      await pause(COUNT_MS, signal)
      lastPorts = await untraced(() => dataPlane.listPorts().catch(() => lastPorts))
      await untraced(() => dataPlane.refreshInfo().catch(() => {}))
      desk.noteLost(lastPorts)
      standing.note(Date.now())
    }
  })
  opened.use(observeHost(host, () => lastPorts))

  await Promise.race([joined.promise, pause(SHUTTLE_WAIT_MS, signal)])
  const server = opened.use(
    await serve({
      listen: config.listen,
      socketMode: config.socketMode,
      ...(config.socketGroup === undefined ? {} : { socketGroup: config.socketGroup }),
      services: [hostApi(host)],
      log: context.log,
    }),
  )
  const running = opened.move()
  return { addresses: server.addresses, [Symbol.asyncDispose]: () => running.disposeAsync() }
}

async function loadState(
  hostFile: StateFile,
  rowsFile: StateFile,
  events: Events,
): Promise<{ host: HostState | undefined; rows: ReturnType<typeof decodeRows> }> {
  const host = await load(hostFile, decodeHostState, Date.now())
  const rows = await load(rowsFile, decodeRows, Date.now())
  for (const { movedAside } of [host, rows]) if (movedAside) events.stateMovedAside(movedAside)
  if (host.value || rows.value) {
    events.stateLoaded({
      rows: rows.value?.length ?? 0,
      ports: host.value?.ports.length ?? 0,
    })
  }
  return { host: host.value, rows: rows.value ?? [] }
}

/** Who this host is: as configured, else as it is on disk, else as config says, for which it waits. */
async function learnIdentity(
  config: Config,
  stored: HostState | undefined,
  client: Client<ConfigServiceService>,
  dependency: Dependency,
  events: Events,
  signal: AbortSignal,
): Promise<{ hostId: number; hostName: string }> {
  const { hostName } = config
  const hostId = config.hostId ?? stored?.hostId
  const isOther =
    config.hostId === undefined ? stored?.hostName !== hostName : stored?.hostId !== config.hostId
  if (stored && isOther) {
    throw new InvalidConfigError([
      `WEFT_FORWARDER_STATE_DIR=${config.stateFolder} belongs to host ${stored.hostName} with id ${stored.hostId}, and this is host ${hostName}${config.hostId === undefined ? '' : ` with id ${config.hostId}`}`,
    ])
  }
  if (hostId !== undefined) return { hostId, hostName }
  for (let attempt = 1; ; attempt++) {
    try {
      const { host } = await dependency.ask(() =>
        client.getHost({ key: { $case: 'name', value: hostName } }, { signal }),
      )
      if (host) return { hostId: host.id, hostName }
    } catch (error) {
      if (signal.aborted) throw error
      events.hostUnknown(hostName, asWeftError(error))
    }
    await pause(backOffMs(attempt, Math.random()), signal)
    signal.throwIfAborted()
  }
}

/** Opens the bus whenever it comes, and then follows what it says of this host. */
async function followBus(options: {
  readonly openBus: OpenBus
  readonly host: Host
  readonly locations: Locations
  readonly onBus: Dependency
  readonly onTouched: (touched: readonly RowsTouched[]) => void
  readonly events: Events
  readonly signal: AbortSignal
}): Promise<void> {
  const { openBus, host, locations, onBus, onTouched, events, signal } = options
  const { hostId, rows, decisions, standing } = host
  await using bus = await keepTrying(() => openBus(`forwarder-${hostId}`, signal))
  if (!bus) return
  standing.busOpened(bus)
  const unwatch = bus.onStateChange((state) => {
    if (state !== 'connected') return onBus.failed('the connection is lost')
    onBus.succeeded()
    // Announcements of newer rules may have been missed.
    decisions.clear()
  })
  await using _rules = watchRules(bus, decisions)
  await Promise.all([
    onBus.keepProbing((probe) => bus.ping(probe), signal),
    locations.run(bus, signal),
    keepTrying(() => watchRows({ bus, hostId, rows, events, onTouched, signal })),
  ])
  unwatch()

  async function keepTrying<T>(task: () => Promise<T>): Promise<T | undefined> {
    for (let attempt = 1; !signal.aborted; attempt++) {
      try {
        return await task()
      } catch (error) {
        if (!signal.aborted) onBus.failed(asWeftError(error).message)
        await pause(backOffMs(attempt, Math.random()), signal)
      }
    }
    return undefined
  }
}
