import { join } from 'node:path'
import { natsFiles } from '@weft/domain'
import type { ProcessSpec } from './launch.ts'
import { type HostPlan, type LabPlan, PORTS } from './plan.ts'
import { NODE_FLAGS } from './stage.ts'

/** User ids within a lab's slot. */
const UID_KEEPER = 0
const UID_NATS = 1
const UID_RESOLVER = 2
const UID_POLICY = 3
const UID_CONFIG = 4
/** Replicas of config that a lab may have. */
export const CONFIG_REPLICAS_MAX = 4
const UID_HOSTS = UID_CONFIG + CONFIG_REPLICAS_MAX
const UIDS_PER_HOST = 3

/** How a lab's processes are started, beyond what its topology says. */
export interface ProcessOptions {
  /** Replicas of config, 1 by default. */
  readonly configReplicas?: number
  /** Environment by name of the process, over what the lab gives it. */
  readonly env?: { readonly [process: string]: { readonly [name: string]: string } }
}

/** All processes of a lab: those of the control plane first, then host by host. */
export function processesOf(plan: LabPlan, options: ProcessOptions = {}): ProcessSpec[] {
  const specs = [
    ...controlProcesses(plan, options.configReplicas ?? 1),
    ...plan.hosts.flatMap(hostProcesses(plan)),
  ]
  return specs.map((spec) => withEnv(spec, options.env?.[spec.name]))
}

function withEnv(spec: ProcessSpec, env: ProcessSpec['env'] | undefined): ProcessSpec {
  return env === undefined ? spec : { ...spec, env: { ...spec.env, ...env } }
}

/** Name of a replica of config: the first is plain `config`. */
export function configName(index: number): string {
  return index === 0 ? 'config' : `config-${index + 1}`
}

/** How many of them are among these processes. */
export function configReplicasOf(specs: readonly ProcessSpec[]): number {
  return specs.filter(({ name }) => /^config(-[0-9]+)?$/.test(name)).length
}

/** Folder of a process of the control plane. */
export function controlFolder(plan: LabPlan, name: string): string {
  return `${plan.folder}/control/${name}`
}

/** Where a replica of config answers to the machine itself. */
export function configSocket(plan: LabPlan, index = 0): string {
  return `unix:${controlFolder(plan, configName(index))}/grpc.sock`
}

export function natsUrl(plan: LabPlan): string {
  return `tls://${plan.controlAddress}:${PORTS.nats}`
}

/** Where a host keeps who it is. */
export function identityFolder(host: HostPlan): string {
  return `${host.folder}/identity`
}

export function natsConfigFile(plan: LabPlan): string {
  return `${controlFolder(plan, 'nats')}/nats.conf`
}

function natsPidFile(plan: LabPlan): string {
  return `${controlFolder(plan, 'nats')}/nats.pid`
}

export function natsStore(plan: LabPlan): string {
  return `${controlFolder(plan, 'nats')}/store`
}

/** What `weft init` has made for nats-server. */
export function natsDomainFolder(plan: LabPlan): string {
  return `${controlFolder(plan, 'nats')}/domain`
}

/** User that owns the logs. */
export function keeperUid(plan: LabPlan): number {
  return plan.uidBase + UID_KEEPER
}

function controlProcesses(plan: LabPlan, configReplicas: number): ProcessSpec[] {
  const address = (port: number): string => `${plan.controlAddress}:${port}`
  const service = (
    name: string,
    bundle: string,
    uid: number,
    metrics: number,
    env: ProcessSpec['env'],
  ): ProcessSpec => ({
    name,
    namespace: plan.controlNamespace,
    argv: node(plan, bundle),
    env: {
      NATS_URL: natsUrl(plan),
      WEFT_IDENTITY_DIR: `${controlFolder(plan, name)}/identity`,
      WEFT_REPLICA_ID: name,
      WEFT_METRICS_LISTEN: address(PORTS.metrics + metrics),
      ...env,
    },
    uid: plan.uidBase + uid,
    groups: [],
    capabilities: [],
    folders: [{ path: controlFolder(plan, name), mode: 0o755 }],
  })
  return [
    {
      name: 'keeper',
      namespace: plan.controlNamespace,
      argv: [...node(plan, 'keeper'), `${plan.folder}/log`, `${plan.folder}/trace`],
      env: {},
      uid: keeperUid(plan),
      groups: [],
      capabilities: [],
      folders: [],
    },
    {
      name: 'nats',
      namespace: plan.controlNamespace,
      argv: [
        `${plan.folder}/bin/nats-server`,
        ...['--config', natsConfigFile(plan), '--pid', natsPidFile(plan)],
      ],
      env: {},
      uid: plan.uidBase + UID_NATS,
      groups: [],
      capabilities: [],
      folders: [
        { path: controlFolder(plan, 'nats'), mode: 0o755 },
        { path: natsStore(plan), mode: 0o700 },
      ],
    },
    {
      // As the user of nats-server: it writes the server's files and sends it a signal.
      name: 'nats-certificate',
      namespace: plan.controlNamespace,
      argv: [
        ...[...node(plan, 'weft'), 'certificate', 'keep'],
        ...['--identity', `${controlFolder(plan, 'nats')}/identity`],
        ...['--tls', join(natsDomainFolder(plan), natsFiles.tls), '--pid-file', natsPidFile(plan)],
      ],
      env: {},
      uid: plan.uidBase + UID_NATS,
      groups: [],
      capabilities: [],
      folders: [],
    },
    service('location-resolver', 'location-resolver', UID_RESOLVER, 2, {
      WEFT_LOCATION_RESOLVER_LISTEN: address(PORTS.resolver),
    }),
    service('routing-policy', 'routing-policy', UID_POLICY, 3, {
      WEFT_ROUTING_POLICY_LISTEN: address(PORTS.policy),
    }),
    ...Array.from({ length: configReplicas }, (_, index) =>
      service(configName(index), 'config', UID_CONFIG + index, UID_CONFIG + index, {
        WEFT_CONFIG_LISTEN: `${address(PORTS.config + index)},${configSocket(plan, index)}`,
        WEFT_CONFIG_ENROLMENT_LISTEN: address(PORTS.enrolment + index),
        WEFT_CONFIG_AUTHORITY: `${controlFolder(plan, configName(index))}/authority`,
        WEFT_CONFIG_AUDIT_FOLDER: `${controlFolder(plan, configName(index))}/audit`,
      }),
    ),
  ]
}

/** The helper that enters namespaces, the shuttle and the forwarder of each host; each may use the socket of the one before. */
function hostProcesses(plan: LabPlan): (host: HostPlan, index: number) => ProcessSpec[] {
  return (host, index) => {
    if (host.kind !== 'weft') return []
    const first = plan.uidBase + UID_HOSTS + UIDS_PER_HOST * index
    const [netnsUid, shuttleUid, forwarderUid] = [first, first + 1, first + 2]
    const place = { namespace: host.namespace, groups: [] }
    const netnsSocket = `${host.folder}/netns/netns.sock`
    const shuttleSocket = `${host.folder}/shuttle/shuttle.sock`
    return [
      {
        ...place,
        name: `netns@${host.name}`,
        argv: [`${plan.folder}/bin/weft-netns`],
        env: { WEFT_NETNS_SOCKET: netnsSocket, WEFT_NETNS_ADMIT_UID: String(shuttleUid) },
        uid: netnsUid,
        capabilities: ['sys_admin', 'net_raw'],
        folders: [{ path: `${host.folder}/netns`, mode: 0o2750, gid: shuttleUid }],
      },
      {
        ...place,
        name: `shuttle@${host.name}`,
        keeper: [`${plan.folder}/bin/weft-keep`],
        argv: [`${plan.folder}/bin/weft-shuttle`],
        env: {
          WEFT_SHUTTLE_SOCKET: shuttleSocket,
          WEFT_SHUTTLE_NETNS_SOCKET: netnsSocket,
          WEFT_SHUTTLE_ADMIT_UID: String(forwarderUid),
          WEFT_SHUTTLE_BPFFS: host.bpffs,
          WEFT_SHUTTLE_STATE_FOLDER: `${host.folder}/shuttle/state`,
          WEFT_SHUTTLE_TUN_NODE: plan.tunNode,
          WEFT_HOST_NAME: host.name,
          WEFT_METRICS_LISTEN: `${host.managementAddress}:${PORTS.metrics + 1}`,
        },
        uid: shuttleUid,
        capabilities: ['net_admin', 'net_raw', 'bpf', 'perfmon'],
        folders: [
          { path: `${host.folder}/shuttle`, mode: 0o2750, gid: forwarderUid },
          { path: `${host.folder}/shuttle/state`, mode: 0o700 },
        ],
      },
      {
        ...place,
        name: `forwarder@${host.name}`,
        argv: node(plan, 'forwarder'),
        env: {
          WEFT_IDENTITY_DIR: identityFolder(host),
          WEFT_FORWARDER_STATE_DIR: `${host.folder}/forwarder`,
          WEFT_FORWARDER_SHUTTLE: `unix:${shuttleSocket}`,
          WEFT_FORWARDER_LISTEN: host.hostApi,
          WEFT_METRICS_LISTEN: `${host.managementAddress}:${PORTS.metrics}`,
        },
        uid: forwarderUid,
        capabilities: [],
        folders: [
          { path: identityFolder(host), mode: 0o700 },
          { path: `${host.folder}/forwarder`, mode: 0o700 },
          { path: `${host.folder}/api`, mode: 0o755 },
        ],
      },
    ]
  }
}

function node(plan: LabPlan, bundle: string): string[] {
  return [`${plan.folder}/bin/node`, ...NODE_FLAGS, `${plan.folder}/bin/${bundle}.mjs`]
}
