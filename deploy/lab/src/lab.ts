import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { natsServerConfig } from '@weft/bus/operator'
import { AmbiguousNameError, InternalError, InvalidArgumentError, WeftError } from '@weft/errors'
import type { IpAddress, Prefix } from '@weft/net'
import { type Context, connect, type HostStatus, type Weft } from '@weft/sdk'
import { type LaunchFolders, launch, type ProcessSpec } from './launch.ts'
import { joinHost, makeDomain, natsDomain, ownerIdentity } from './members.ts'
import { type NatMapping, remap } from './nat.ts'
import { buildNetwork } from './network.ts'
import {
  DEFAULT_LAB_NAME,
  type EndpointPlan,
  type HostPlan,
  type LabPlan,
  PORTS,
  planEndpoint,
  planLab,
} from './plan.ts'
import { attach, createRecords } from './populate.ts'
import {
  configReplicasOf,
  configSocket,
  keeperUid,
  natsConfigFile,
  natsStore,
  type ProcessOptions,
  processesOf,
} from './processes.ts'
import { processesIn, removeLab } from './remove.ts'
import { requireRoot } from './root.ts'
import { inNamespace, ip, mustRun, type Outcome, type RunOptions, run } from './shell.ts'
import { stage } from './stage.ts'
import {
  childOf,
  isAlive,
  type LabState,
  type ProcessRef,
  processRef,
  readState,
  writeState,
} from './state.ts'
import { lockTenants, signTenants, tenantKeysFile } from './tenant-keys.ts'
import { BUILT_IN_TOPOLOGIES, loadTopology, natPlace, type Topology } from './topology.ts'

const READY_DEADLINE_MS = 60_000
const END_DEADLINE_MS = 15_000
const POLL_MS = 20
const LOG_TAIL_LINES = 8
const LOG_LINE_MAX = 600

export interface LabOptions extends ProcessOptions {
  /** Built-in name or path of a file; `routed` by default. */
  readonly topology?: string
  /** Labs of different names run side by side; `weft` by default. */
  readonly name?: string
  /** Whether the topology's endpoints are created and attached; true by default. */
  readonly populate?: boolean
  /** Ends the start early; what was made is removed. */
  readonly signal?: AbortSignal
  /** Told what is being done. */
  readonly onProgress?: (what: string) => void
}

/**
 * Starts a lab: namespaces, processes, then networks and endpoints, which it makes as any client would. What an earlier lab
 * of that name left behind is removed first. If anything fails, everything is removed again.
 * @throws NeedsRootError; BrokenInputError for the topology; InvalidArgumentError if a lab of that name runs
 */
export async function startLab(options: LabOptions = {}): Promise<Lab> {
  const { topology: source = 'routed', name = DEFAULT_LAB_NAME, onProgress = () => {} } = options
  const step = (what: string): void => {
    options.signal?.throwIfAborted()
    onProgress(what)
  }
  requireRoot('a lab')
  const topology = loadTopology(source)
  const plan = planLab(topology, name)
  refuseSecond(name)
  await removeLab(name)

  writeState({
    name,
    topology: BUILT_IN_TOPOLOGIES.some((known) => known === source) ? source : resolve(source),
    startedAtUnixMs: Date.now(),
    namespaces: plan.namespaces,
    added: [],
    owner: mustRef(process.pid),
    options: {
      ...(options.configReplicas !== undefined && { configReplicas: options.configReplicas }),
      ...(options.env && { env: options.env }),
    },
  })
  const lab = new Lab(topology, plan, processesOf(plan, options), options.signal)
  try {
    step('bundling the services and building the namespaces')
    await lab.build()
    step('starting nats-server, the services and the shuttles')
    await lab.startAll()
    step('creating networks and attaching endpoints')
    await lab.populate(options.populate ?? true)
    return lab
  } catch (error) {
    const told = lab.withLogs(error)
    await removeLab(name)
    throw told
  }
}

/** Opens a lab that runs. @throws InvalidArgumentError if none of that name does */
export function openLab(name: string = DEFAULT_LAB_NAME): Lab {
  const state = readState(name)
  if (state === undefined) {
    throw new InvalidArgumentError({
      field: 'lab',
      problem: `no lab ${name} is running here`,
      remedy: 'start one: npm run lab',
    })
  }
  const topology = loadTopology(state.topology)
  const plan = planLab(topology, name)
  return new Lab(topology, plan, processesOf(plan, state.options))
}

export interface LabProcess {
  readonly name: string
  readonly uid: number
  readonly ref: ProcessRef | undefined
  /** `HOST:PORT` on the management network. */
  readonly metricsListen: string | undefined
  readonly logFile: string
  /** Finished spans as JSON lines. */
  readonly traceFile: string
}

export interface AddEndpoint {
  readonly network: string
  readonly name: string
  readonly host: string
  readonly addresses?: readonly IpAddress[]
  readonly allow?: readonly Prefix[]
  /** Name of a TAP device to make at the host and attach, instead of the endpoint's namespace. */
  readonly tap?: string
}

/** What is different for one start of a process from how the lab starts it. */
export interface StartOptions {
  /** Path of the native program that runs in the place of the process's own. */
  readonly program?: string
}

/** A running lab. */
export class Lab implements AsyncDisposable {
  readonly topology: Topology
  readonly plan: LabPlan
  readonly #specs: readonly ProcessSpec[]
  readonly #signal: AbortSignal | undefined
  #client: Weft | undefined
  #fingerprint = ''

  /** @param signal ends what the lab waits for */
  constructor(
    topology: Topology,
    plan: LabPlan,
    specs: readonly ProcessSpec[],
    signal?: AbortSignal,
  ) {
    this.topology = topology
    this.plan = plan
    this.#specs = specs
    this.#signal = signal
  }

  get name(): string {
    return this.plan.name
  }

  /** Where the lab's control server and hosts answer. */
  get context(): Context {
    const hosts = this.weftHosts.map((host) => [host.name, host.hostApi] as const)
    return {
      control: configSocket(this.plan),
      identity: ownerIdentity(this.plan),
      tenant: this.plan.tenant,
      hosts: Object.fromEntries(hosts),
      localHost: undefined,
    }
  }

  /** A client of the lab, as any program would have one. */
  get client(): Weft {
    this.#client ??= connect({ context: this.context })
    return this.#client
  }

  /** Hosts on which our processes run. */
  get weftHosts(): HostPlan[] {
    return this.plan.hosts.filter((host) => host.kind === 'weft')
  }

  /** How many replicas of config it has. */
  get configReplicas(): number {
    return configReplicasOf(this.#specs)
  }

  /** The context of one replica of config, by index. */
  contextOfReplica(index: number): Context {
    return { ...this.context, control: configSocket(this.plan, index) }
  }

  /** Makes folders, mounts and namespaces. */
  async build(): Promise<void> {
    const { plan } = this
    const folders = this.#folders
    for (const folder of [plan.folder, join(plan.folder, 'bin'), join(plan.folder, 'control')]) {
      mkdirSync(folder, { recursive: true, mode: 0o755 })
    }
    for (const folder of [folders.log, folders.trace]) {
      mkdirSync(folder, { mode: 0o755 })
      chownSync(folder, folders.keeperUid, folders.keeperUid)
    }
    this.#fingerprint = await makeDomain(plan, this.#specs)
    const shuttles = this.#specs.filter((spec) => spec.name.startsWith('shuttle@'))
    await Promise.all([
      stage().then((staged) => mustRun(['mount', '--bind', staged, join(plan.folder, 'bin')])),
      makeTun(plan.tunNode),
      buildNetwork(plan),
      ...this.weftHosts.map(async (host, index) => {
        const uid = shuttles[index]?.uid ?? 0
        mkdirSync(host.bpffs, { recursive: true })
        await mustRun([
          'mount',
          '-t',
          'bpf',
          '-o',
          'mode=0700',
          `${plan.name}-${host.name}`,
          host.bpffs,
        ])
        chownSync(host.bpffs, uid, uid)
      }),
    ])
  }

  /** Starts everything; the services once the bus is there, the hosts at the same time. */
  async startAll(): Promise<void> {
    await Promise.all([
      this.startControl(),
      ...this.#specs.filter(isHostProcess).map((spec) => this.start(spec.name)),
      this.start('keeper'),
    ])
    writeFileSync(
      join(this.plan.folder, 'context.json'),
      `${JSON.stringify(this.context, undefined, 2)}\n`,
    )
  }

  /** Has the keys of locked tenants vouch for all hosts under the keys that these have now. */
  signTenants(): Promise<void> {
    return signTenants(this.client, this.topology, this.plan)
  }

  /** Makes what the topology says, as any client would; endpoints are attached once their hosts answer. */
  async populate(withEndpoints: boolean): Promise<void> {
    const { client, topology, plan } = this
    await createRecords(client, topology, plan)
    await lockTenants(client, topology, plan)
    await Promise.all(this.weftHosts.map((host) => this.#join(host)))
    await Promise.all([this.signTenants(), this.untilReady()])
    if (!withEndpoints) return
    await Promise.all(
      this.plan.endpoints.map((endpoint) => attach(this.client, this.plan, endpoint)),
    )
  }

  async #join(host: HostPlan): Promise<void> {
    const forwarder = this.#specs.find((spec) => spec.name === `forwarder@${host.name}`)
    if (forwarder === undefined) throw new InternalError(`${host.name} has no forwarder`)
    const options = {
      fingerprint: this.#fingerprint,
      ownerUid: forwarder.uid,
      ...(this.topology.locked.length > 0 && { tenantKeys: tenantKeysFile(this.plan) }),
    }
    await joinHost(this.client, this.plan, host, options)
  }

  /** Waits until everything that hosts depend on answers them. */
  async untilReady(): Promise<void> {
    await Promise.all(this.weftHosts.map((host) => this.#untilHostIsReady(host.name)))
  }

  async #untilHostIsReady(host: string): Promise<void> {
    const needs = ['netns', 'shuttle', 'forwarder'].map((role) => `${role}@${host}`)
    await this.#untilAnswers(
      `forwarder@${host}`,
      async () => {
        const { dependencies } = await this.status(host)
        const silent = dependencies.filter(({ health }) => health !== 'ok')
        if (silent.length === 0) return true
        const texts = silent.map(({ name, error }) => `${name}: ${error || 'silent'}`)
        throw new InternalError(texts.join('; '))
      },
      needs,
    )
  }

  /** Every process of the lab with what may be asked of it; `ref` is undefined for one that does not run. */
  processes(): LabProcess[] {
    return this.#specs.map((spec) => ({
      name: spec.name,
      uid: spec.uid,
      ref: this.process(spec.name),
      metricsListen: spec.env['WEFT_METRICS_LISTEN'],
      logFile: this.logFile(spec.name),
      traceFile: join(this.#folders.trace, `${spec.name}.jsonl`),
    }))
  }

  /** The process of that name if it runs; that of a shuttle is there again soon after it was killed. */
  process(name: string): ProcessRef | undefined {
    const ref = this.#started(name)
    const isKept = this.#specs.find((spec) => spec.name === name)?.keeper !== undefined
    return ref && isKept ? childOf(ref) : ref
  }

  /** What the lab started for the process: itself, or what keeps it. */
  #started(name: string): ProcessRef | undefined {
    const ref = this.#refs()[name]
    return ref !== undefined && isAlive(ref) ? ref : undefined
  }

  /** Starts one process that does not run. */
  async start(name: string, { program }: StartOptions = {}): Promise<ProcessRef> {
    const spec = this.#specs.find((candidate) => candidate.name === name)
    if (spec === undefined) throw new InternalError(`a lab of this topology has no process ${name}`)
    if (this.#started(name) !== undefined) throw new InternalError(`${name} runs already`)
    if (name === 'nats') this.#writeNatsSettings(spec)
    const log = this.logFile(name)
    const logStart = existsSync(log) ? statSync(log).size : 0
    const argv =
      program === undefined ? spec.argv : [await this.#provide(program), ...spec.argv.slice(1)]
    const ref = await started(launch({ ...spec, argv }, this.#folders), name)
    this.#remember(name, ref)
    if (name === 'nats') {
      await this.#untilAnswers(name, async () =>
        readFileSync(log).subarray(logStart).includes('Server is ready'),
      )
    }
    return ref
  }

  /** Sends a signal. False if the process does not run. */
  kill(name: string, signal: NodeJS.Signals): boolean {
    const ref = this.process(name)
    return ref !== undefined && process.kill(ref.pid, signal)
  }

  /** Sends a signal and waits until the process has ended, and what keeps it too: it stays away. */
  async stop(name: string, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const ref = this.#started(name)
    if (ref === undefined) return
    const ends = [ref, this.process(name) ?? ref]
    process.kill(ref.pid, signal)
    const deadline = Date.now() + END_DEADLINE_MS
    while (ends.some(isAlive)) {
      if (Date.now() > deadline) throw new InternalError(`${name} does not end after ${signal}`)
      await sleep(POLL_MS)
    }
  }

  /** Ends a process, starts it again and, at a host, waits until the host answers. */
  async restart(
    name: string,
    signal: NodeJS.Signals = 'SIGKILL',
    options?: StartOptions,
  ): Promise<void> {
    await this.stop(name, signal)
    await this.start(name, options)
    const host = name.split('@')[1]
    if (host === undefined) return
    await this.#untilAnswers(name, async () => (await this.status(host)).host === host)
  }

  /** Lets another process of a shuttle follow the one that runs, which hands everything over to it. */
  async upgrade(name: string): Promise<void> {
    const keeper = this.#started(name)
    const before = this.process(name)
    if (keeper === undefined || before === undefined)
      throw new InternalError(`${name} does not run`)
    process.kill(keeper.pid, 'SIGHUP')
    const isThere = (now: ProcessRef | undefined): boolean =>
      now !== undefined && now.pid !== before.pid
    await this.#untilAnswers(name, async () => isThere(this.process(name)))
  }

  /** Ends nats-server and all services. */
  async stopControl(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    await Promise.all(this.#controlNames.map((name) => this.stop(name, signal)))
  }

  async startControl(): Promise<void> {
    await this.start('nats')
    await Promise.all(
      this.#controlNames.filter((name) => name !== 'nats').map((name) => this.start(name)),
    )
    await this.#untilAnswers('config', async () => (await this.client.serverInfo()).busConnected)
  }

  /** Resident memory of a process, in bytes. */
  residentBytes(name: string): number {
    const ref = this.process(name)
    if (ref === undefined) throw new InternalError(`${name} does not run`)
    const kib = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${ref.pid}/status`, 'utf8'))?.[1]
    return Number(kib ?? 0) * 1024
  }

  async status(host: string): Promise<HostStatus> {
    return await this.client.host(host).status()
  }

  /** Adds an endpoint beside those of the topology: its namespace, its record and its port. */
  async addEndpoint(wanted: AddEndpoint): Promise<EndpointPlan> {
    const { network, name, host, addresses = [], allow = [], tap } = wanted
    const endpoint = planEndpoint(this.name, { network, name, host, addresses, allow })
    const state = this.#mustState()
    writeState({
      ...state,
      namespaces: [...state.namespaces, endpoint.namespace],
      added: [...state.added, { network, name, host }],
    })
    await ip([`netns add ${endpoint.namespace}`])
    await ip(['link set lo up'], endpoint.namespace)
    if (tap !== undefined) await ip([`tuntap add dev ${tap} mode tap`], this.namespaceOf(host))
    await attach(this.client, this.plan, endpoint, tap)
    return endpoint
  }

  /** Detaches an endpoint, deletes it and its namespace. */
  async removeEndpoint(network: string, name: string): Promise<void> {
    const { host, namespace } = this.#endpoint(`${network}/${name}`)
    const ref = { tenant: this.plan.tenantOfNetwork(network), network, endpoint: name }
    await this.client.host(host).detach(ref)
    await this.client.endpoints.delete(ref)
    await ip([`netns delete ${namespace}`])
    const state = this.#mustState()
    writeState({
      ...state,
      added: state.added.filter((added) => added.network !== network || added.name !== name),
    })
  }

  /** Every endpoint: those of the topology and those that were added. */
  endpoints(): EndpointPlan[] {
    const { added } = this.#mustState()
    const others = added.map((endpoint) =>
      planEndpoint(this.name, { ...endpoint, addresses: [], allow: [] }),
    )
    return [...this.plan.endpoints, ...others].filter(({ namespace }) =>
      existsSync(`/run/netns/${namespace}`),
    )
  }

  /**
   * The namespace of a place: a host, `router`, `control`, `nat-UNDERLAY`, `NETWORK/ENDPOINT`, or an endpoint alone where one network has
   * it; where several have it, that of the topology's first network is meant.
   */
  namespaceOf(place: string): string {
    const { plan } = this
    if (place === 'control') return plan.controlNamespace
    if (place === 'router' && plan.routerNamespace !== undefined) return plan.routerNamespace
    const nat = plan.underlays.find(({ name, nat }) => nat && place === natPlace(name))?.nat
    if (nat) return nat.namespace
    const host = plan.hosts.find((candidate) => candidate.name === place)
    return host?.namespace ?? this.#endpoint(place).namespace
  }

  /** Makes the NAT of an underlay forget all mappings, and map so from then on; by default as the topology says. */
  async restartNat(underlay: string, mapping?: NatMapping): Promise<void> {
    const nat = this.plan.underlays.find(({ name }) => name === underlay)?.nat
    if (nat === undefined) {
      const problem = `${underlay} is not behind a NAT`
      throw new InvalidArgumentError({ field: 'underlay', problem, remedy: 'name one that is' })
    }
    await remap(nat, mapping ?? nat.kind)
  }

  /** Path of the namespace of a place. */
  netns(place: string): string {
    return `/run/netns/${this.namespaceOf(place)}`
  }

  /** Runs a command at a place to its end. */
  async run(place: string, argv: readonly string[], options?: RunOptions): Promise<Outcome> {
    return await run([...inNamespace(this.namespaceOf(place)), ...argv], options)
  }

  /** Starts a command at a place. */
  spawn(place: string, argv: readonly string[], options: SpawnOptions = {}): ChildProcess {
    const [command = '', ...words] = [...inNamespace(this.namespaceOf(place)), ...argv]
    return spawn(command, words, options)
  }

  /** Path of a process's log. */
  logFile(name: string): string {
    return join(this.#folders.log, `${name}.log`)
  }

  /** Processes in the lab's namespaces, whatever started them. */
  processIds(): number[] {
    return processesIn(
      this.#mustState().namespaces.filter((name) => existsSync(`/run/netns/${name}`)),
    )
  }

  /** Leaves the lab to itself: it stays until `weft lab down`. */
  detach(): void {
    const state = readState(this.name)
    if (state !== undefined) writeState({ ...state, owner: undefined })
  }

  /** Removes everything that the lab has made. */
  async down(): Promise<void> {
    await this.#client?.[Symbol.asyncDispose]()
    this.#client = undefined
    await removeLab(this.name)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.down()
  }

  /** An error of the start, with the last lines of the processes that have ended. */
  withLogs(error: unknown): unknown {
    const ended = this.#specs
      .map((spec) => spec.name)
      .filter((name) => existsSync(this.logFile(name)) && this.#started(name) === undefined)
    if (ended.length === 0) return error
    const ends = ended
      .map((name) => `--- ${name} has ended:\n${lastLines(this.logFile(name))}`)
      .join('\n')
    const message = error instanceof Error ? error.message : String(error)
    if (!(error instanceof WeftError))
      return new InternalError(`${message}\n${ends}`, { cause: error })
    return new WeftError(error.code, `${message}\n${ends}`, error.facts, error.remedy, {
      cause: error,
    })
  }

  get #controlNames(): string[] {
    return this.#specs
      .filter((spec) => !isHostProcess(spec) && spec.name !== 'keeper')
      .map((spec) => spec.name)
  }

  get #folders(): LaunchFolders {
    const { plan } = this
    return {
      log: join(plan.folder, 'log'),
      trace: join(plan.folder, 'trace'),
      keeperUid: keeperUid(plan),
    }
  }

  /** Asks again until the answer is yes, as long as the processes that it needs are there. */
  async #untilAnswers(
    name: string,
    ask: () => Promise<boolean>,
    needs: readonly string[] = [name],
  ): Promise<void> {
    const deadline = Date.now() + READY_DEADLINE_MS
    let problem: unknown
    while (Date.now() < deadline) {
      this.#signal?.throwIfAborted()
      const ended = needs.find((need) => this.#started(need) === undefined)
      if (ended !== undefined) throw new InternalError(`${ended} has ended`)
      try {
        if (await ask()) return
      } catch (error) {
        problem = error
      }
      await sleep(POLL_MS)
    }
    const detail = problem instanceof Error ? `: ${problem.message}` : ''
    throw new InternalError(`${name} is not ready after ${READY_DEADLINE_MS / 1000} s${detail}`)
  }

  #mustState(): LabState {
    const state = readState(this.name)
    if (state === undefined) throw new InternalError(`lab ${this.name} has been removed`)
    return state
  }

  #endpoint(place: string): EndpointPlan {
    const [network, name] = place.includes('/') ? place.split('/', 2) : [undefined, place]
    const found = this.endpoints().filter(
      (endpoint) =>
        endpoint.name === name && (network === undefined || endpoint.network === network),
    )
    const [first, ...others] = found
    if (first === undefined) {
      const names = this.endpoints().map((endpoint) => `${endpoint.network}/${endpoint.name}`)
      throw new InvalidArgumentError({
        field: 'place',
        problem: `${JSON.stringify(place)} is neither a host nor an endpoint of this lab`,
        remedy: `use one of ${[...this.plan.hosts.map((host) => host.name), ...names].join(', ')}`,
      })
    }
    const preferred = found.find((endpoint) => endpoint.network === this.topology.networks[0]?.name)
    if (others.length === 0 || preferred !== undefined) return preferred ?? first
    const candidates = found.map((endpoint) => `${endpoint.network}/${endpoint.name}`)
    throw new AmbiguousNameError({ kind: 'endpoint', name: place, candidates })
  }

  /** Mounts a program where every user of the lab may run it, and tells the path; once for each file. */
  async #provide(program: string): Promise<string> {
    const { dev, ino } = statSync(program)
    const folder = join(this.plan.folder, 'programs')
    const path = join(folder, `${basename(program)}-${dev}-${ino}`)
    if (existsSync(path)) return path
    mkdirSync(folder, { recursive: true, mode: 0o755 })
    writeFileSync(path, '')
    await mustRun(['mount', '--bind', program, path])
    return path
  }

  #writeNatsSettings(spec: ProcessSpec): void {
    const { plan } = this
    const settings = natsServerConfig({
      name: plan.name,
      listen: `${plan.controlAddress}:${PORTS.nats}`,
      monitorPort: PORTS.natsMonitor,
      storeFolder: natsStore(plan),
      ...natsDomain(plan),
    })
    writeFileSync(natsConfigFile(plan), settings)
    chownSync(natsConfigFile(plan), spec.uid, spec.uid)
  }

  #refs(): { readonly [name: string]: ProcessRef } {
    const file = join(this.plan.folder, 'processes.json')
    return existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {}
  }

  #remember(name: string, ref: ProcessRef): void {
    const file = join(this.plan.folder, 'processes.json')
    writeFileSync(`${file}.new`, JSON.stringify({ ...this.#refs(), [name]: ref }))
    renameSync(`${file}.new`, file)
  }
}

/** A lab that runs keeps its name; one that crashed does not. */
function refuseSecond(name: string): void {
  const state = readState(name)
  if (state === undefined) return
  const namespaces = state.namespaces.filter((namespace) => existsSync(`/run/netns/${namespace}`))
  const isRunning =
    state.owner === undefined ? processesIn(namespaces).length > 0 : isAlive(state.owner)
  if (!isRunning) return
  throw new InvalidArgumentError({
    field: 'lab',
    problem: `a lab ${name} is running already`,
    remedy:
      name === DEFAULT_LAB_NAME
        ? 'end it with: weft lab down'
        : `end it with: weft lab down --name ${name}`,
  })
}

function isHostProcess(spec: ProcessSpec): boolean {
  return spec.name.includes('@')
}

/** A node for TUN in a file system of its own, because /run takes no devices. */
async function makeTun(path: string): Promise<void> {
  const folder = join(path, '..')
  mkdirSync(folder, { recursive: true })
  await mustRun([
    'mount',
    '-t',
    'tmpfs',
    '-o',
    'mode=755,size=4k,nosuid,noexec',
    'weft-lab',
    folder,
  ])
  await mustRun(['mknod', path, 'c', '10', '200'])
  chmodSync(path, 0o666)
}

async function started(child: ChildProcess, name: string): Promise<ProcessRef> {
  await new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject))
  const ref = child.pid === undefined ? undefined : processRef(child.pid)
  if (ref === undefined) throw new InternalError(`${name} ended at once`)
  return ref
}

function mustRef(pid: number): ProcessRef {
  const ref = processRef(pid)
  if (ref === undefined) throw new InternalError(`process ${pid} is gone`)
  return ref
}

/** The end of a log, each line cut to what fits a few lines of a terminal. */
function lastLines(file: string): string {
  return readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .slice(-LOG_TAIL_LINES)
    .map((line) => (line.length > LOG_LINE_MAX ? `${line.slice(0, LOG_LINE_MAX)}…` : line))
    .join('\n')
}
