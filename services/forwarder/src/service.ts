import { randomUUID } from 'node:crypto'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type Bus, connectBus } from '@weft/bus'
import { hasIdentity, type OwnCredentials, readTenantKeys } from '@weft/domain'
import { hearRevocations } from '@weft/domain/revocations'
import { asWeftError } from '@weft/errors'
import { publicKeyOf, type ServiceName } from '@weft/identity'
import { ConfigServiceService } from '@weft/proto/weftline/config/v1/config_service.ts'
import type { Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import { LocationServiceService } from '@weft/proto/weftline/location/v1/location.ts'
import { RoutingServiceService } from '@weft/proto/weftline/routing/v1/routing.ts'
import type { Port as ShuttlePort } from '@weft/proto/weftline/shuttle/v1/shuttle.ts'
import { connect, serve } from '@weft/rpc'
import type { RunningService, ServiceContext } from '@weft/service'
import { connectSealing, connectShuttle } from '@weft/shuttle'
import { untraced } from '@weft/telemetry'
import { Asking } from './asking.ts'
import type { Config } from './config.ts'
import { ConnectionReporter } from './connection-reporter.ts'
import { DataPlane } from './data-plane.ts'
import { Dependency } from './dependency.ts'
import { Answers } from './domain/answers.ts'
import { backOffMs } from './domain/back-off.ts'
import { Connections } from './domain/connections.ts'
import { DecisionCache } from './domain/decision-cache.ts'
import { HostRows, ownAddresses, type RowsTouched } from './domain/host-rows.ts'
import { openConnections } from './domain/open-connections.ts'
import { Ports } from './domain/ports.ts'
import { ResolutionCache } from './domain/resolution-cache.ts'
import type { StampedRow } from './domain/rows.ts'
import { SwitchTable } from './domain/switch-table.ts'
import { type Pins, TenantLocks, type TenantPin } from './domain/tenant-locks.ts'
import { Events } from './events.ts'
import type { Host } from './host.ts'
import { Locations } from './locations.ts'
import { LockKeeper } from './lock-keeper.ts'
import { Coalesced, pause } from './loop.ts'
import { hostIdOf, type Member, openMember, placesOf } from './member.ts'
import { observeHost } from './metrics.ts'
import { Misses } from './misses.ts'
import { PortDesk } from './port-desk.ts'
import { RevocationPasser } from './revocation-passer.ts'
import { RightsKeeper } from './rights-keeper.ts'
import { RowGate, untrustedRows } from './row-gate.ts'
import { hostApi, hostApiBeforeJoin } from './rpc.ts'
import { Sealing } from './sealing.ts'
import { Standing } from './standing.ts'
import {
  CLOCK_VERSION,
  decodeClock,
  decodeHostState,
  decodePins,
  decodeRows,
  encodeHostState,
  encodeRows,
  HOST_STATE_VERSION,
  HOST_STATE_VERSIONS_OLDER,
  type HostState,
  PINS_VERSION,
  ROWS_VERSION,
  type StoredRows,
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

/** Waits until this host has joined; until then the host API says so. */
export async function start(config: Config, context: ServiceContext): Promise<RunningService> {
  await using opened = new AsyncDisposableStack()
  const member = opened.use(await enrolled(config, context))
  const hostId = hostIdOf(member, config.identityFolder)
  const { nats: servers } = placesOf(config, member, hostId)
  const { log } = context
  const { addresses } = opened.use(
    await startOn(
      (name, signal) => connectBus({ servers, credentials: member, name, log, signal }),
      member,
      config,
      context,
    ),
  )
  const running = opened.move()
  return { addresses, [Symbol.asyncDispose]: () => running.disposeAsync() }
}

async function enrolled(config: Config, context: ServiceContext): Promise<OwnCredentials> {
  const { identityFolder, listen, socketMode, socketGroup } = config
  const { log } = context
  await using _door = (await hasIdentity(identityFolder))
    ? undefined
    : await serve({
        listen,
        socketMode,
        ...(socketGroup === undefined ? {} : { socketGroup }),
        services: [hostApiBeforeJoin(identityFolder)],
        security: { kind: 'socket-mode' },
        log,
      })
  return await openMember(config, context, new Events(log))
}

/** Starts as a member, with a way to open the bus, which may be there or not. */
export async function startOn(
  openBus: OpenBus,
  member: Member,
  config: Config,
  context: ServiceContext,
): Promise<RunningService> {
  await using opened = new AsyncDisposableStack()
  const events = new Events(context.log)
  const stopping = new AbortController()
  const signal = AbortSignal.any([context.signal, stopping.signal])
  const hostId = hostIdOf(member, config.identityFolder)
  const { hostName } = member
  const places = placesOf(config, member, hostId)
  events.enrolled({ hostId, host: hostName })

  await makeFolder(config.stateFolder)
  const hostFile = new StateFile(
    config.stateFolder,
    'host',
    HOST_STATE_VERSION,
    HOST_STATE_VERSIONS_OLDER,
  )
  const rowsFile = new StateFile(config.stateFolder, 'rows', ROWS_VERSION)
  const clockFile = new StateFile(config.stateFolder, 'clock', CLOCK_VERSION)
  const pinsFile = new StateFile(config.stateFolder, 'pins', PINS_VERSION)
  const { domain } = member.identity
  const stored = await loadState(
    { folder: config.stateFolder, hostFile, rowsFile, clockFile, pinsFile },
    { domain, hostId },
    events,
  )

  const as = (peer: ServiceName) => ({
    security: { kind: 'mutual-tls', credentials: member, peer } as const,
  })
  const configClient = opened.use(connect(places.config, ConfigServiceService, as('config')))
  const resolverClient = opened.use(
    connect(places.resolver, LocationServiceService, as('location-resolver')),
  )
  const policyClient = opened.use(
    connect(places.policy, RoutingServiceService, as('routing-policy')),
  )
  const shuttleClient = opened.use(connectShuttle(config.shuttle))
  const sealingClient = opened.use(connectSealing(config.shuttle))

  const onBus = new Dependency('bus', places.nats.join(','), events)
  const onConfig = new Dependency('config', places.config, events)
  const onResolver = new Dependency('location-resolver', places.resolver, events)
  const onPolicy = new Dependency('routing-policy', places.policy, events)
  const onShuttle = new Dependency('shuttle', config.shuttle, events)

  const isRevoked = (identityKey: string): boolean =>
    member.isRevoked(Buffer.from(identityKey, 'hex'))
  const gate = new RowGate(hostId, () => member.directoryKey, domain)
  const rows = new HostRows(isRevoked)
  const { clockFloorMs } = stored
  const rights = new RightsKeeper({ member, rows, clockFile, clockFloorMs, events })
  const rightsNowMs = (): number => rights.nowMs()
  const locks = new TenantLocks(rows)
  locks.restore(stored.pins)
  const contradicted = locks.tell(await toldKeys(config.identityFolder))
  if (contradicted.length > 0) events.tenantKeysContradicted(contradicted)
  rows.restore(vouchedFor(stored.rows.proofs, gate, events), stored.rows)
  rights.expire()
  locks.review()
  // What is on disk may be old: it holds until a complete set has come.
  rows.beginResync()
  const ports = new Ports()
  for (const port of stored.host?.ports ?? []) ports.set(port)
  const releases = new Map(stored.host?.releases.map((release) => [release.endpointId, release]))
  const leaseId = stored.host?.leaseId ?? randomUUID()
  // A new folder may stand for one that was lost: the time is beyond any number that was used with that.
  let sequence = stored.host?.sequence ?? BigInt(Date.now())
  const table = new SwitchTable(hostId, rows, ports, locks)
  const lockKeeper = new LockKeeper({
    hostId,
    identityKey: () => publicKeyOf(member.identityKey),
    rows,
    locks,
    table,
    pinsFile,
    onPinned: () => inBackground(persist),
    events,
    signal,
  })
  await lockKeeper.write()
  const resolutions = new ResolutionCache()
  const decisions = new DecisionCache()
  const connections = new Connections()
  const answers = new Answers(table, resolutions, decisions)
  const standing = new Standing(rows, [onResolver, onPolicy], Date.now())

  const writeHost = new Coalesced(() =>
    hostFile.write(
      encodeHostState({
        domain,
        hostId,
        hostName,
        leaseId,
        sequence,
        ports: [...ports],
        releases: [...releases.values()],
        lockedTenants: locks.lockedTenants,
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
  const revocations = new RevocationPasser({ client: sealingClient, member, events })
  const sealing = new Sealing({
    client: sealingClient,
    rows,
    table,
    tunnelKey: () => member.tunnelKey,
    switches: config.sealing,
    nowMs: rightsNowMs,
    trustedMs: () => rights.trustedMs(),
    revocations,
    events,
  })
  table.endTunnelKeys(rightsNowMs())
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
    identityKey: () => member.identityKey,
    nowMs: rightsNowMs,
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
    isVouchedFor: (network) => lockKeeper.isVouchedFor(network),
    hasLocks: () => !locks.isIdle,
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
    locks,
    ports,
    table,
    resolutions,
    decisions,
    connections,
    dataPlane,
    sealing,
    desk,
    standing,
    rightsNowMs,
    dependencies: [onBus, onConfig, onResolver, onPolicy, onShuttle],
  }
  const reporter = new ConnectionReporter({
    hostId,
    connections: () => openConnections(table.peerEntries(), sealing.states, ownAddresses(rows)),
    observed: () => sealing.states.observed,
    identityKey: () => member.identityKey,
    nowMs: rightsNowMs,
  })
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
    await rowsFile.write(encodeRows(rows)).catch((error: unknown) => events.stateNotWritten(error))
  })

  const onTouched = (touched: readonly RowsTouched[]): void => {
    standing.note(Date.now())
    // Also where nothing is another: what was signed again holds for longer.
    void writeRows.run()
    if (touched.length === 0) return
    lockKeeper.noteRows(touched)
    for (const row of touched) {
      table.touch(row)
      if (row.kind === 'endpoint') resolutions.dropEndpoint(row.id)
      else resolutions.clear()
    }
    // Whether and how this host seals may be another; tables wait for it.
    if (touched.some(({ kind }) => kind === 'self')) inBackground(() => sealing.configure())
    // A shuttle that is not there gets everything when it is joined.
    dataPlane.sync().catch(() => {})
    const endpoints = touched.filter(({ kind }) => kind === 'endpoint').map(({ id }) => id)
    if (endpoints.length > 0) inBackground(() => desk.compareRows(endpoints))
  }

  let saidBy = publicKeyOf(member.identityKey)
  rights.noteSelf()
  opened.defer(
    member.onChange((what) => {
      if (what === 'revoked') return onTouched(rights.reviewRevocations())
      rights.noteCertificate()
      // What the time is the shuttle hears too.
      inBackground(() => sealing.configure())
      const key = publicKeyOf(member.identityKey)
      if (key.equals(saidBy)) return
      saidBy = key
      inBackground(() => desk.claimAnew())
      inBackground(() => sealing.noteKeys(rightsNowMs()))
    }),
  )

  // Everything below ends by the signal, which is aborted before anything that it uses is closed.
  opened.defer(async () => {
    stopping.abort()
    await Promise.all(background)
    await writeRows.idle()
  })

  inBackground(() =>
    rights.run(
      {
        onEnded: onTouched,
        onRanOut() {
          void writeRows.run()
          dataPlane.sync().catch(() => {})
        },
      },
      signal,
    ),
  )
  inBackground(() => rights.keepClock(signal))

  const joined = Promise.withResolvers<void>()
  inBackground(() =>
    dataPlane.run(
      {
        onFound: () => sealing.shuttleFound(),
        prepared: () => sealing.settled(),
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
  inBackground(() => sealing.watch(signal))
  inBackground(() => sealing.keep(() => void dataPlane.sync().catch(() => {}), signal))
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
  inBackground(() =>
    followBus({
      openBus,
      host,
      member,
      gate,
      locations,
      reporter,
      revocations,
      onBus,
      onTouched,
      events,
      signal,
    }),
  )

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
      security: { kind: 'socket-mode' },
      log: context.log,
    }),
  )
  const running = opened.move()
  return { addresses: server.addresses, [Symbol.asyncDispose]: () => running.disposeAsync() }
}

/** Keys of tenants that this host was told to trust when it joined. */
async function toldKeys(identityFolder: string): Promise<TenantPin[]> {
  const told = await readTenantKeys(identityFolder)
  return told.map(({ tenant, tenantId, number, publicKey }) => {
    const key = publicKey.toString('hex')
    return { tenant, tenantId, number, publicKey: key, signer: key, chain: [key] }
  })
}

/** Rows of our disk that the directory signed. */
function* vouchedFor(
  proofs: readonly Uint8Array[],
  gate: RowGate,
  events: Events,
): Generator<StampedRow, void, undefined> {
  for (const proof of proofs) {
    const admission = gate.admit(untrustedRows.decode(proof))
    if (admission.kind === 'row') yield admission.change
    else if (admission.kind === 'refused') events.rowRefused(admission.reason, 'disk')
  }
}

interface StateFiles {
  readonly folder: string
  readonly hostFile: StateFile
  readonly rowsFile: StateFile
  readonly clockFile: StateFile
  readonly pinsFile: StateFile
}

/** Reads what this host has kept; what is of another one is put away. */
async function loadState(
  files: StateFiles,
  own: Pick<HostState, 'domain' | 'hostId'>,
  events: Events,
): Promise<{
  readonly host: HostState | undefined
  readonly rows: StoredRows
  readonly clockFloorMs: number
  readonly pins: Pins
}> {
  const found = await load(files.hostFile, decodeHostState, Date.now())
  const isFormer =
    found.value && (found.value.hostId !== own.hostId || found.value.domain !== own.domain)
  if (found.value && isFormer) await putAway(files, found.value, own, events)
  const host = isFormer ? { ...found, value: undefined } : found
  const rows = await load(files.rowsFile, decodeRows, Date.now())
  const clock = await load(files.clockFile, decodeClock, Date.now())
  const pins = await load(files.pinsFile, decodePins, Date.now())
  for (const { movedAside } of [host, rows, clock, pins]) {
    if (movedAside) events.stateMovedAside(movedAside)
  }
  // Whoever has a host file wrote pins before it, in the domain that it is of.
  const isOther = found.value && found.value.domain !== own.domain
  const isLost = !isOther && !pins.value && (found.value ?? found.movedAside ?? pins.movedAside)
  const known = isLost
    ? { tenants: [], networks: [], lost: found.value?.lockedTenants ?? [] }
    : (pins.value ?? { tenants: [], networks: [] })
  if (host.value || rows.value) {
    events.stateLoaded({
      rows: rows.value?.proofs.length ?? 0,
      ports: host.value?.ports.length ?? 0,
    })
  }
  return {
    host: host.value,
    rows: rows.value ?? { newestConfigRevision: 0n, hasRunOut: false, proofs: [] },
    clockFloorMs: clock.value ?? 0,
    pins: await givenUp(known, files.folder, events),
  }
}

/** The file by which somebody says that lost pins are given up. */
const FORGET_PINS = 'forget-lost-pins'

/** Tells of lost pins, or has done with them where somebody says so. */
async function givenUp(pins: Pins, folder: string, events: Events): Promise<Pins> {
  if (!pins.lost) return pins
  const forget = join(folder, FORGET_PINS)
  const isForgotten = await rm(forget).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return false
      throw error
    },
  )
  if (isForgotten) {
    events.pinsForgotten()
    const { tenants, networks } = pins
    return { tenants, networks }
  }
  events.pinsLost({ tenants: pins.lost, forget })
  return pins
}

/**
 * Ends what this machine was before it joined under another number. Rows that ran out stand in for those that are put away:
 * so whatever the shuttle does by them ends when it is joined, and not only when there are new ones.
 */
async function putAway(
  files: StateFiles,
  former: HostState,
  own: Pick<HostState, 'domain'>,
  events: Events,
): Promise<void> {
  const { folder, hostFile, rowsFile, clockFile, pinsFile } = files
  for (const file of [rowsFile, clockFile]) await file.putAway()
  // Tenants of the same domain are who they were.
  if (former.domain !== own.domain) await pinsFile.putAway()
  const ended = new HostRows()
  ended.restore([], { newestConfigRevision: 0n, hasRunOut: true })
  await rowsFile.write(encodeRows(ended))
  // Last: as long as it is there, all of this is done again.
  await hostFile.putAway()
  const { domain, hostId, hostName: host, ports } = former
  events.statePutAway({ folder, former: { domain, hostId, host, ports: ports.length } })
}

/** Opens the bus whenever it comes, and then follows what it says of this host. */
async function followBus(options: {
  readonly openBus: OpenBus
  readonly host: Host
  readonly member: Member
  readonly gate: RowGate
  readonly locations: Locations
  readonly reporter: ConnectionReporter
  readonly revocations: RevocationPasser
  readonly onBus: Dependency
  readonly onTouched: (touched: readonly RowsTouched[]) => void
  readonly events: Events
  readonly signal: AbortSignal
}): Promise<void> {
  const { openBus, host, member, gate, locations, reporter, onBus, onTouched, events, signal } =
    options
  const pass = (statement: Signed) => void options.revocations.pass(statement)
  const { hostId, rows, decisions, standing, rightsNowMs: nowMs } = host
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
  await using _revocations = hearRevocations(bus, member, events, pass)
  await Promise.all([
    onBus.keepProbing((probe) => bus.ping(probe), signal),
    locations.run(bus, signal),
    reporter.run(bus, signal),
    keepTrying(() => watchRows({ bus, hostId, rows, gate, nowMs, events, onTouched, signal })),
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
