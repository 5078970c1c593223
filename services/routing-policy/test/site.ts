import assert from 'node:assert/strict'
import { type Bucket, type Bus, buckets, ruleKey } from '@weft/bus'
import {
  DecideRequest,
  type DecideResponse,
  RoutingServiceService,
  Rule,
} from '@weft/proto/weftline/routing/v1/routing.ts'
import { type Client, connect } from '@weft/rpc'
import { createLogger } from '@weft/telemetry'
import { startOn } from '../src/service.ts'

export type RoutingClient = Client<typeof RoutingServiceService>

let replicaCount = 0

/** Starts a replica on the bus, with a client of its own. */
export async function startReplica(
  bus: Bus,
): Promise<AsyncDisposable & { readonly client: RoutingClient }> {
  await using opened = new AsyncDisposableStack()
  const service = opened.use(
    await startOn(
      bus,
      `replica-${++replicaCount}`,
      { listen: ['127.0.0.1:0'], natsUrls: [], replicaId: undefined, horizonMs: 60_000 },
      {
        name: 'routing-policy',
        log: createLogger({ service: 'routing-policy', level: 'silent' }),
        signal: new AbortController().signal,
      },
    ),
  )
  const [address] = service.addresses
  assert(address !== undefined)
  const client = opened.use(connect(address, RoutingServiceService))
  const running = opened.move()
  return { client, [Symbol.asyncDispose]: () => running.disposeAsync() }
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
