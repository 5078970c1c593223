// Simulated hosts of a lab, many in one process, that speak the real protocols: started by `Fleet` at a place of the lab, and
// told what to do over the channel to who started it.
import { AsyncLocalStorage } from 'node:async_hooks'
import { randomUUID } from 'node:crypto'
import { Socket, type TcpSocketConnectOpts } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Bus, connectBus, events } from '@weft/bus'
import { type OwnCredentials, openCredentials } from '@weft/domain'
import { joinHost } from '@weft/domain/enrolment'
import { asWeftError, type ErrorCode } from '@weft/errors'
import { signReport } from '@weft/identity'
import { ipToBytes, parseIpAddress } from '@weft/net'
import { ConfigServiceService } from '@weft/proto/weftline/config/v1/config_service.ts'
import { CertificateServiceService } from '@weft/proto/weftline/config/v1/enrolment.ts'
import {
  LocationChange,
  LocationReport,
  LocationReportReply,
} from '@weft/proto/weftline/location/v1/location.ts'
import { type Client, connect } from '@weft/rpc'
import { createLogger } from '@weft/telemetry'

/** A host that is going to join. */
export interface Joiner {
  readonly name: string
  readonly token: string
  /** Its underlay address, in text. */
  readonly address: string
  /** From where it talks to config: what a server grants to one address is meant for one host. */
  readonly source: string
  /** `HOST:PORT` of the enrolment listener that it asks. */
  readonly control: string
}

export interface JoinOrder {
  readonly kind: 'join'
  readonly joiners: readonly Joiner[]
  readonly fingerprint: string
  /** Each host has a folder in it, by its name. */
  readonly folder: string
}

/** How it went for one of them. */
export interface JoinOutcome {
  readonly name: string
  /** 0 if it has not joined. */
  readonly hostId: number
  readonly durationMs: number
  /** Why it had to repeat the join, each time. */
  readonly repeated: readonly ErrorCode[]
  /** Why it gave up; empty if it has joined. */
  readonly error: string
}

/** Has hosts that have joined renew their certificates, one after the other, as fast as they are answered. */
export interface RenewOrder {
  readonly kind: 'renew'
  readonly folder: string
  readonly names: readonly string[]
  /** `HOST:PORT` of one replica of config. */
  readonly config: string
  /** `each`: a connection for each renewal, as hosts have it; `kept`: each host keeps the connection of its first. */
  readonly connections: 'each' | 'kept'
  /** Renewals at once. */
  readonly inFlight: number
  readonly warmUpMs: number
  readonly durationMs: number
}

export interface RenewOutcome {
  /** Those that were answered in the time that counts. */
  readonly renewals: number
  readonly failed: number
  readonly firstError: string
}

/** Has a host that has joined take an endpoint and tell where it is, as its forwarder would, and stay connected to the bus. */
export interface SettleOrder {
  readonly kind: 'settle'
  readonly folder: string
  readonly hosts: readonly { readonly name: string; readonly endpoint: string }[]
  readonly tenant: string
  readonly network: string
}

export type Order = JoinOrder | RenewOrder | SettleOrder

/** Joins that are under way or refused may come to an end when they are repeated with the same keys. */
const WORTH_REPEATING: ReadonlySet<ErrorCode> = new Set([
  'unavailable',
  'deadline-exceeded',
  'overloaded',
])
const REPEATS_MAX = 20
const REPEAT_PAUSE_MAX_MS = 500
const REPORT_TIMEOUT_MS = 5000

/** Address of the host on whose behalf something is done. */
const source = new AsyncLocalStorage<string>()
connectFromSource()

const log = createLogger({ service: 'fleet', level: 'silent' })
const buses: Bus[] = []

process.once('disconnect', () => process.exit())
process.on('message', (order: Order) => {
  obey(order).then(
    (outcome) => process.send?.({ outcome }),
    (error: unknown) => process.send?.({ problem: String(error) }),
  )
})
process.send?.('ready')

function obey(order: Order): Promise<unknown> {
  switch (order.kind) {
    case 'join':
      return Promise.all(
        order.joiners.map((joiner) => source.run(joiner.source, () => joined(joiner, order))),
      )
    case 'renew':
      return renewed(order)
    case 'settle':
      return Promise.all(order.hosts.map((host, index) => settled(host, index, order)))
  }
}

async function joined(
  { name, token, address, control }: Joiner,
  { fingerprint, folder }: JoinOrder,
): Promise<JoinOutcome> {
  const parsed = parseIpAddress(address)
  if (parsed === undefined) throw new TypeError(address)
  const repeated: ErrorCode[] = []
  const startedAt = performance.now()
  for (;;) {
    try {
      const { identity } = await joinHost({
        control,
        fingerprint,
        token,
        folder: join(folder, name),
        name,
        addresses: [{ address: ipToBytes(parsed), zone: '' }],
        capabilities: [],
        wireVersions: [],
      })
      const durationMs = performance.now() - startedAt
      return { name, hostId: Number(identity.id), durationMs, repeated, error: '' }
    } catch (error) {
      const { code, message } = asWeftError(error)
      if (!WORTH_REPEATING.has(code) || repeated.length >= REPEATS_MAX) {
        const durationMs = performance.now() - startedAt
        return { name, hostId: 0, durationMs, repeated, error: `${code}: ${message}` }
      }
      repeated.push(code)
      await sleep(Math.random() * REPEAT_PAUSE_MAX_MS)
    }
  }
}

async function renewed(order: RenewOrder): Promise<RenewOutcome> {
  const { folder, names, config, connections, inFlight, warmUpMs, durationMs } = order
  await using opened = new AsyncDisposableStack()
  const hosts: { credentials: OwnCredentials; kept?: Client<CertificateServiceService> }[] = []
  for (const name of names) {
    hosts.push({ credentials: opened.use(await credentialsOf(join(folder, name))) })
  }
  const open = (credentials: OwnCredentials): Client<CertificateServiceService> =>
    connect(config, CertificateServiceService, {
      security: { kind: 'mutual-tls', credentials, peer: 'config' },
    })
  let next = 0
  let renewals = 0
  let failed = 0
  let firstError = ''
  const countsFrom = performance.now() + warmUpMs
  const endsAt = countsFrom + durationMs
  const renewNext = async (): Promise<void> => {
    const host = hosts[next++ % hosts.length]
    if (host === undefined) throw new RangeError('there are no hosts')
    const client =
      connections === 'each'
        ? open(host.credentials)
        : (host.kept ??= opened.use(open(host.credentials)))
    try {
      const { credentials } = await client.renew({})
      if (credentials?.certificates.length !== 1) throw new Error('there is no new certificate')
      const now = performance.now()
      if (now >= countsFrom && now < endsAt) renewals++
    } catch (error) {
      failed++
      firstError ||= String(error)
    } finally {
      if (connections === 'each') await client[Symbol.asyncDispose]()
    }
  }
  const worker = async (): Promise<void> => {
    while (performance.now() < endsAt) await renewNext()
  }
  await Promise.all(Array.from({ length: inFlight }, worker))
  return { renewals, failed, firstError }
}

async function settled(
  { name, endpoint }: SettleOrder['hosts'][number],
  index: number,
  { folder, tenant, network }: SettleOrder,
): Promise<void> {
  const credentials = await credentialsOf(join(folder, name))
  const hostId = Number(credentials.identity.id)
  const { config: replicas, bus: servers } = credentials.places
  await using config = connect(replicas[index % replicas.length] ?? '', ConfigServiceService, {
    security: { kind: 'mutual-tls', credentials, peer: 'config' },
    timeoutMs: 30_000,
  })
  const { endpoint: record } = await config.assignEndpoint({
    idempotencyKey: randomUUID(),
    key: { $case: 'name', value: { tenant, network, endpoint } },
    hostId,
  })
  if (record === undefined) throw new Error(`config says nothing of ${endpoint}`)
  const bus = await connectBus({ servers, credentials, name: `forwarder-${hostId}`, log })
  buses.push(bus)
  const report: LocationReport = {
    change: LocationChange.LOCATION_CHANGE_ATTACHED,
    endpointId: record.id,
    networkId: record.networkId,
    addresses: record.addresses,
    hostId,
    leaseId: randomUUID(),
    observedAtUnixMs: BigInt(Date.now()),
    sequence: 1n,
    hostSignature: Buffer.alloc(0),
    configRevision: record.meta?.revision ?? 0n,
    mac: record.mac,
    allowedPrefixes: record.allowedPrefixes,
  }
  const { outcome } = await bus.request(
    events.endpointReported.subject(hostId, record.id),
    { request: LocationReport, reply: LocationReportReply },
    signReport(report, credentials.identityKey),
    { timeoutMs: REPORT_TIMEOUT_MS },
  )
  if (outcome?.$case !== 'location') throw new Error(`nobody believes that ${endpoint} is there`)
}

/** Renewed by nobody but the bench. */
function credentialsOf(folder: string): Promise<OwnCredentials> {
  return openCredentials({ folder, renew: 'watch' })
}

/** Binds sockets to the source, which no program of ours lets its callers choose. */
function connectFromSource(): void {
  type Connectable = { connect: (this: Socket, ...words: unknown[]) => Socket }
  const prototype = Socket.prototype as unknown as Connectable
  const { connect: connectSocket } = prototype
  prototype.connect = function (...words) {
    // What `net.connect` has put in order comes in an array.
    const first = (
      Array.isArray(words[0]) ? words[0][0] : words[0]
    ) as Partial<TcpSocketConnectOpts>
    const localAddress = source.getStore()
    if (localAddress !== undefined && first.port !== undefined) first.localAddress = localAddress
    return connectSocket.apply(this, words)
  }
}
