import assert from 'node:assert/strict'
import { type Bucket, type Bus, buckets, recordKey, ruleKey } from '@weft/bus'
import {
  type Grant,
  Network,
  RevokedKey,
  Role,
  Record as StoredRecord,
  User,
} from '@weft/proto/weftline/config/v1/records.ts'
import {
  DecideRequest,
  type DecideResponse,
  RoutingServiceService,
  Rule,
} from '@weft/proto/weftline/routing/v1/routing.ts'
import { type Client, connect } from '@weft/rpc'
import { createLogger } from '@weft/telemetry'
import { type TestCredentials, type TestDomain, testDomain } from '@weft/testing'
import { startOn } from '../src/service.ts'

export type RoutingClient = Client<typeof RoutingServiceService>

export const domain: TestDomain = testDomain()
/** The user who may see everything. */
const OWNER_ID = 1

let replicaCount = 0

export interface TestReplica extends AsyncDisposable {
  /** Of a user who may see everything. */
  readonly client: RoutingClient
  readonly address: string
}

/** Starts a replica on the bus, with a client of its own. `recordsBus`: for whoever may write the VN database. */
export async function startReplica(bus: Bus, recordsBus: Bus = bus): Promise<TestReplica> {
  await using opened = new AsyncDisposableStack()
  await putUser(recordsBus, OWNER_ID, { tenantId: 0, role: Role.ROLE_OWNER })
  const service = opened.use(
    await startOn(
      bus,
      `replica-${++replicaCount}`,
      {
        listen: ['127.0.0.1:0'],
        identityFolder: '',
        natsUrls: undefined,
        replicaId: undefined,
        horizonMs: 60_000,
      },
      {
        name: 'routing-policy',
        log: createLogger({ service: 'routing-policy', level: 'silent' }),
        signal: new AbortController().signal,
      },
      domain.credentials({ kind: 'service', id: 'routing-policy' }),
    ),
  )
  const [address] = service.addresses
  assert(address !== undefined)
  const client = opened.use(connectAs({ kind: 'user', id: OWNER_ID }, address))
  const running = opened.move()
  return { client, address, [Symbol.asyncDispose]: () => running.disposeAsync() }
}

/** A client of a replica for a member of the domain. */
export function connectAs(
  member: { readonly kind: 'user' | 'host'; readonly id: number },
  address: string,
  credentials: TestCredentials = domain.credentials(member),
): RoutingClient {
  return connect(address, RoutingServiceService, {
    security: { kind: 'mutual-tls', credentials, peer: 'routing-policy' },
  })
}

export async function putUser(bus: Bus, id: number, ...grants: readonly Grant[]): Promise<void> {
  const value = User.create({ id, name: `user${id}`, grants: [...grants] })
  await putRecord(bus, { $case: 'user', value })
}

/** Says, as config does when a member is removed, that its key is void. */
export async function putVoidKey(bus: Bus, id: number, identityKey: Buffer): Promise<void> {
  const revokedAtUnixMs = BigInt(Date.now())
  await putRecord(bus, {
    $case: 'revokedKey',
    value: RevokedKey.create({ id, identityKey, revokedAtUnixMs }),
  })
}

export async function putNetwork(bus: Bus, id: number, tenantId: number): Promise<void> {
  await putRecord(bus, { $case: 'network', value: Network.create({ id, tenantId }) })
}

export async function putRecord(bus: Bus, kind: NonNullable<StoredRecord['kind']>): Promise<void> {
  const records = await bus.openBucket(buckets.config, StoredRecord)
  await records.put(recordKey(kind.$case, kind.value.id), { kind })
}

export function openRules(bus: Bus): Promise<Bucket<Rule>> {
  return bus.openBucket(buckets.rules, Rule)
}

/** Stores a rule under its number. Returns the revision. */
export async function putRule(
  rules: Bucket<Rule>,
  ruleId: number,
  some: Partial<Rule>,
): Promise<bigint> {
  const rule = Rule.create({ name: `rule-${ruleId}`, protocol: 'shortest-path', ...some })
  return (await rules.put(ruleKey(rule.networkId, ruleId), rule)).revision
}

/** Asks about one TCP connection to port 443 in each of the networks. */
export function decide(
  client: RoutingClient,
  networkIds: readonly number[],
): Promise<DecideResponse> {
  const connections = networkIds.map((networkId) => ({
    networkId,
    sourceEndpointId: 11,
    targetEndpointId: 12,
    ipProtocol: 6,
    targetPort: 443,
  }))
  return client.decide(DecideRequest.create({ connections }))
}

/** The rule by which a connection in the network is decided. */
export async function ruleFor(
  client: RoutingClient,
  networkId: number,
): Promise<string | undefined> {
  return (await decide(client, [networkId])).decisions[0]?.rule
}
