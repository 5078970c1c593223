import { createPrivateKey, randomUUID } from 'node:crypto'
import {
  DeviceAlreadyAttachedError,
  InvalidArgumentError,
  NetnsMissingError,
  PortNotFoundError,
  RevisionConflictError,
  UnavailableError,
  UnimplementedError,
} from '@weft/errors'
import { publicKeyOf } from '@weft/identity'
import { Carrier, Cipher, Offload } from '@weft/proto/weftline/common/v1/common.ts'
import {
  type ConfigureSealingRequest,
  type SealedCounters,
  type SealedPeer,
  SealingServiceService,
  type WatchSealedResponse,
} from '@weft/proto/weftline/shuttle/v1/sealing.ts'
import {
  type Endpoint,
  type Flow,
  FlowAction,
  type HandleMissesRequest,
  type HandleMissesResponse,
  type Miss,
  MissReason,
  type Network,
  type Peer,
  type PingRequest,
  type PingResponse,
  type Port,
  ShuttleServiceService,
  type TableChange,
} from '@weft/proto/weftline/shuttle/v1/shuttle.ts'
import { GUARDED_BY_SOCKET, type Handlers, implement, type Server, serve } from '@weft/rpc'
import { createLogger } from '@weft/telemetry'
import { Outbox } from '../src/outbox.ts'

interface Tables {
  readonly networks: Map<number, Network>
  readonly endpoints: Map<number, Endpoint>
  /** By host and carrier. */
  readonly peers: Map<string, Peer>
}

type Sealing = Handlers<SealingServiceService>

/** The shuttle's contract in memory: tables by revision, ports, flows that table changes void, misses that wait for answers. */
export class FakeShuttle {
  /** What outlives the process: as the kernel's objects do. */
  instanceId: string = randomUUID()
  revision = 0n
  tables: Tables = { networks: new Map(), endpoints: new Map(), peers: new Map() }
  readonly ports: Map<number, Port> = new Map()
  readonly flows: Map<string, Flow> = new Map()
  readonly namespaces: Set<string> = new Set(['/run/netns/web', '/run/netns/db'])
  /** For each applied table: whether it replaced everything, and how many changes it had. */
  readonly applied: { readonly isReplace: boolean; readonly changes: number }[] = []
  /** Endpoints with which no table is taken, for a reason that nobody knows. */
  readonly refused: Set<number> = new Set()
  readonly attachCalls: number[] = []
  /** Whether it has the sealed transport. */
  canSeal = true
  /** What it was given for the sealed transport, the last one at the end. */
  readonly configured: ConfigureSealingRequest[] = []
  readonly #sealedWatchers: Set<Outbox<WatchSealedResponse>> = new Set()
  /** What it was to tell peers of void keys, the last at the end. */
  readonly toldRevocations: (readonly Buffer[])[] = []
  /** What it says that the sealed transport counted. */
  sealedCounters: SealedCounters | undefined
  #sealedSnapshot: WatchSealedResponse[] = [{ ...NOTHING_SAID, snapshotComplete: true }]
  readonly #changedAt: Map<number, bigint> = new Map()
  readonly #waiting: Map<string, (answer: Flow | 'unresolved') => void> = new Map()
  #misses: Outbox<HandleMissesResponse> | undefined
  #server: Server | undefined

  async listen(address: string): Promise<void> {
    this.#server = await serve({
      listen: [address],
      services: [
        implement(ShuttleServiceService, this.#handlers(), GUARDED_BY_SOCKET),
        implement(SealingServiceService, this.#sealing(), GUARDED_BY_SOCKET),
      ],
      security: { kind: 'socket-mode' },
      log: createLogger({ service: 'fake-shuttle', level: 'silent' }),
    })
  }

  /** Ends the process; what the kernel has stays. */
  async stop(): Promise<void> {
    this.#misses?.close()
    for (const watcher of this.#sealedWatchers) watcher.close()
    await this.#server?.[Symbol.asyncDispose]()
    this.#server = undefined
  }

  /** Loses what the kernel had. */
  loseKernelObjects(): void {
    this.instanceId = randomUUID()
    this.revision = 0n
    this.tables = { networks: new Map(), endpoints: new Map(), peers: new Map() }
    this.ports.clear()
    this.flows.clear()
    this.#changedAt.clear()
  }

  /** A first packet from one endpoint to another: resolves with the flow that answers it. */
  miss(source: number, target: number): Promise<Flow | 'unresolved'> {
    return new Promise((resolve) => {
      this.#waiting.set(`${source} ${target}`, resolve)
      this.#misses?.push({ misses: [missOf(source, target)] })
    })
  }

  /** Who comes anew is told this first. */
  startSealedWith(...chunks: readonly Partial<WatchSealedResponse>[]): void {
    this.#sealedSnapshot = chunks.map((chunk) => ({ ...NOTHING_SAID, ...chunk }))
  }

  /** Tells those who watch the sealed peers. */
  saySealed(said: Partial<WatchSealedResponse>): void {
    const message = { ...NOTHING_SAID, snapshotComplete: true, ...said }
    for (const watcher of this.#sealedWatchers) watcher.push(message)
  }

  get sealedWatcherCount(): number {
    return this.#sealedWatchers.size
  }

  /** The peers that frames of the network may be sent to sealed. */
  sealedPeers(): SealedPeer[] {
    return [...this.tables.peers.values()].flatMap(({ sealed }) => (sealed ? [sealed] : []))
  }

  /** Whether anything goes to the host, by whichever carrier. */
  hasPeer(hostId: number): boolean {
    return [...this.tables.peers.values()].some((peer) => peer.hostId === hostId)
  }

  get hasForwarder(): boolean {
    return this.#misses !== undefined
  }

  #handlers(): Handlers<ShuttleServiceService> {
    return {
      getInfo: async () => {
        return {
          version: '0.1.0',
          abi: 2,
          instanceId: this.instanceId,
          tableRevision: this.revision,
          localHostId: 1,
          kernel: '6.18',
          features: [],
          underlayDevices: [],
          flowCount: this.flows.size,
          flowCountMax: 131_072,
          hostVerdicts: {},
          hostDrops: { 'no-port': 3n },
          sealed: this.sealedCounters,
        }
      },
      applyTables: async (requests) => {
        let base: bigint | undefined
        let revision = 0n
        const changes: TableChange[] = []
        for await (const request of requests) {
          base ??= request.baseRevision
          revision = request.revision
          changes.push(...request.changes)
        }
        this.#apply(base ?? 0n, revision, changes)
        return { revision }
      },
      attachPort: async ({ endpoint, attachment }) => {
        const id = endpoint?.endpointId ?? 0
        this.attachCalls.push(id)
        if (attachment?.$case === 'netns' && !this.namespaces.has(attachment.value.path)) {
          throw new NetnsMissingError({ path: attachment.value.path })
        }
        const present = this.ports.get(id)
        if (present && JSON.stringify(present.attachment) !== JSON.stringify(attachment)) {
          throw new DeviceAlreadyAttachedError({ device: present.hostDevice, holder: `${id}` })
        }
        if (present && !present.lost)
          return { hostDevice: present.hostDevice, ifindex: id, created: false }
        this.ports.set(id, {
          endpointId: id,
          hostDevice: `wl${id}`,
          ifindex: id,
          attachment,
          lost: false,
          counters: {
            receivedPackets: 10n,
            receivedBytes: 1000n,
            sentPackets: 5n,
            sentBytes: 500n,
            verdicts: { delivered_local: 9n },
            drops: { 'spoofed-mac': 1n },
          },
        })
        return { hostDevice: `wl${id}`, ifindex: id, created: true }
      },
      detachPort: async ({ endpointId }) => {
        return { detached: this.ports.delete(endpointId) }
      },
      listPorts: async () => {
        return { ports: [...this.ports.values()].map(withoutSecret) }
      },
      handleMisses: (requests) => this.#handOverMisses(requests),
      applyFlows: async ({ put, delete: remove }) => {
        const written = put.filter((flow) => this.#putFlow(flow)).length
        const deleted = remove.filter(({ sourceEndpointId, targetEndpointId }) =>
          this.flows.delete(`${sourceEndpointId} ${targetEndpointId}`),
        ).length
        return { written, deleted }
      },
      listFlows: async () => {
        return { flows: [...this.flows.values()].map((flow) => ({ flow, idleMs: 7n })) }
      },
      ping: (request) => this.#ping(request),
    }
  }

  #sealing(): Sealing {
    return {
      configureSealing: async (request) => {
        if (!this.canSeal) throw new UnimplementedError({ what: 'the sealed transport' })
        this.configured.push(request)
        const privateKey = createPrivateKey({
          key: Buffer.concat([X25519_PKCS8, request.privateKey]),
          format: 'der',
          type: 'pkcs8',
        })
        return {
          publicKey: publicKeyOf(privateKey),
          listenPort: request.listenPort,
          cipher: Cipher.CIPHER_AES_256_GCM,
          speeds: [{ cipher: Cipher.CIPHER_AES_256_GCM, bytesPerSecond: 5_000_000_000n }],
          offloads: [{ offload: Offload.OFFLOAD_UDP_GSO, inUse: false, reason: 'a probe failed' }],
          keyLogged: request.keyLogPath !== '',
        }
      },
      watchSealed: (_request, { signal }) => this.#watchSealed(signal),
      tellRevocations: async ({ statements }) => {
        this.toldRevocations.push(statements)
        return {}
      },
    }
  }

  async *#watchSealed(signal: AbortSignal): AsyncGenerator<WatchSealedResponse, void, undefined> {
    if (this.configured.length === 0) throw new UnavailableError(NO_KEYS)
    const watcher = new Outbox<WatchSealedResponse>()
    signal.addEventListener('abort', () => watcher.close())
    for (const chunk of this.#sealedSnapshot) watcher.push(chunk)
    this.#sealedWatchers.add(watcher)
    try {
      yield* watcher
    } finally {
      this.#sealedWatchers.delete(watcher)
    }
  }

  async *#handOverMisses(
    requests: AsyncIterable<HandleMissesRequest>,
  ): AsyncGenerator<HandleMissesResponse, void, undefined> {
    this.#misses?.close()
    const misses = new Outbox<HandleMissesResponse>()
    this.#misses = misses
    for (const key of this.#waiting.keys()) {
      const [source = 0, target = 0] = key.split(' ').map(Number)
      misses.push({ misses: [missOf(source, target)] })
    }
    void this.#takeAnswers(requests, misses)
    yield* misses
  }

  async *#ping({
    sourceEndpointId,
    count,
  }: PingRequest): AsyncGenerator<PingResponse, void, undefined> {
    if (!this.ports.has(sourceEndpointId)) {
      throw new PortNotFoundError({ endpoint: sourceEndpointId, host: 1 })
    }
    for (let sequence = 1; sequence <= count; sequence++) {
      yield { sequence, outcome: { $case: 'rttNs', value: 50_000n } }
    }
  }

  async #takeAnswers(
    requests: AsyncIterable<{ flows: Flow[]; unresolved: Miss[] }>,
    misses: Outbox<HandleMissesResponse>,
  ): Promise<void> {
    try {
      for await (const { flows, unresolved } of requests) {
        for (const flow of flows) {
          const { sourceEndpointId, targetEndpointId } = flow
          if (!this.#putFlow(flow)) {
            misses.push({ misses: [missOf(sourceEndpointId, targetEndpointId)] })
            continue
          }
          this.#answer(sourceEndpointId, targetEndpointId, flow)
        }
        for (const { sourceEndpointId, targetEndpointId } of unresolved) {
          this.#answer(sourceEndpointId, targetEndpointId, 'unresolved')
        }
      }
    } catch {
      // The forwarder went away: what waits is handed to the next one.
    }
    misses.close()
    if (this.#misses === misses) this.#misses = undefined
  }

  #answer(source: number, target: number, answer: Flow | 'unresolved'): void {
    const key = `${source} ${target}`
    this.#waiting.get(key)?.(answer)
    this.#waiting.delete(key)
  }

  #putFlow(flow: Flow): boolean {
    const { sourceEndpointId, targetEndpointId, tableRevision } = flow
    const changedAt = [sourceEndpointId, targetEndpointId].map(
      (id) => this.#changedAt.get(id) ?? 0n,
    )
    if (changedAt.some((revision) => revision > tableRevision)) return false
    if (
      flow.action === FlowAction.FLOW_ACTION_DIRECT &&
      !this.tables.peers.has(`${flow.targetHostId} ${flow.carrier}`)
    ) {
      return false
    }
    this.flows.set(`${sourceEndpointId} ${targetEndpointId}`, flow)
    return true
  }

  /** What the shuttle demands of a table as a whole: one entry that does not fit, and nothing of it is taken. */
  #check({ networks, endpoints }: Tables): void {
    const problems = [
      [...networks.values()].some(({ vni }) => vni === 0) && 'a VNI is 0',
      new Set([...networks.values()].map(({ vni }) => vni)).size < networks.size && 'a VNI twice',
      [...endpoints.values()].some(({ networkId }) => !networks.has(networkId)) && 'no network',
      [...endpoints.values()].some(({ mac }) => ((mac[0] ?? 0) & 1) === 1) && 'a group MAC',
      new Set([...endpoints.values()].map(macKey)).size < endpoints.size && 'a MAC twice',
      [...endpoints.keys()].some((id) => this.refused.has(id)) &&
        'an endpoint that it does not like',
    ]
    const problem = problems.find((each) => each !== false)
    if (problem) throw new InvalidArgumentError({ field: 'changes', problem })
  }

  #apply(base: bigint, revision: bigint, changes: readonly TableChange[]): void {
    if (base !== 0n && base !== this.revision) {
      throw new RevisionConflictError({ what: 'tables', expected: base, actual: this.revision })
    }
    const before = this.tables
    const next: Tables =
      base === 0n
        ? { networks: new Map(), endpoints: new Map(), peers: new Map() }
        : {
            networks: new Map(before.networks),
            endpoints: new Map(before.endpoints),
            peers: new Map(before.peers),
          }
    for (const { change, deletePeerCarrier } of changes) {
      switch (change?.$case) {
        case 'putNetwork':
          next.networks.set(change.value.networkId, change.value)
          break
        case 'deleteNetworkId':
          next.networks.delete(change.value)
          break
        case 'putEndpoint':
          next.endpoints.set(change.value.endpointId, change.value)
          break
        case 'deleteEndpointId':
          next.endpoints.delete(change.value)
          break
        case 'putPeer':
          next.peers.set(`${change.value.hostId} ${change.value.carrier}`, change.value)
          break
        case 'deletePeerHostId':
          for (const [key, { hostId, carrier }] of next.peers) {
            const isAny = deletePeerCarrier === Carrier.CARRIER_UNSPECIFIED
            if (hostId === change.value && (isAny || carrier === deletePeerCarrier)) {
              next.peers.delete(key)
            }
          }
          break
        case undefined:
          throw new Error('a change of no kind')
      }
    }
    this.#check(next)
    for (const id of new Set([...before.endpoints.keys(), ...next.endpoints.keys()])) {
      if (text(before.endpoints.get(id)) === text(next.endpoints.get(id))) continue
      this.#changedAt.set(id, revision)
      for (const [key, flow] of this.flows) {
        if (flow.sourceEndpointId === id || flow.targetEndpointId === id) this.flows.delete(key)
      }
    }
    this.tables = next
    this.revision = revision
    this.applied.push({ isReplace: base === 0n, changes: changes.length })
  }
}

/** It never tells a preshared key back. */
function withoutSecret(port: Port): Port {
  if (port.attachment?.$case !== 'wireguard') return port
  const value = { ...port.attachment.value, presharedKey: Buffer.alloc(0) }
  return { ...port, attachment: { $case: 'wireguard', value } }
}

/** A private key of RFC 8410 up to its 32 bytes. */
const X25519_PKCS8 = Buffer.from('302e020100300506032b656e04220420', 'hex')
const NO_KEYS = { service: 'shuttle', address: 'its socket', problem: 'it has no keys' }

const NOTHING_SAID: WatchSealedResponse = {
  connections: [],
  goneHostIds: [],
  goneEndpointIds: [],
  observed: undefined,
  revocations: [],
  snapshotComplete: false,
  revision: 0n,
}

/** Of one network. */
function macKey({ networkId, mac }: Endpoint): string {
  return `${networkId} ${mac.toString('hex')}`
}

function missOf(source: number, target: number): Miss {
  return {
    sourceEndpointId: source,
    targetEndpointId: target,
    reason: MissReason.MISS_REASON_NO_FLOW,
    ethertype: 0x0800,
    ipProtocol: 1,
    sourcePort: 0,
    targetPort: 0,
    traceparent: '',
  }
}

function text(value: unknown): string {
  return JSON.stringify(value) ?? ''
}
