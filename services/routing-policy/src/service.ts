import { randomUUID } from 'node:crypto'
import { authoriser, RecordsWorld, routingAccess } from '@weft/access'
import { type Bus, connectBus } from '@weft/bus'
import { type KeyRefuser, openCredentials } from '@weft/domain'
import { hearRevocations } from '@weft/domain/revocations'
import type { Credentials } from '@weft/identity'
import { RoutingServiceService } from '@weft/proto/weftline/routing/v1/routing.ts'
import { implement, serve } from '@weft/rpc'
import type { RunningService, ServiceContext } from '@weft/service'
import type { Config } from './config.ts'
import { RuleTable } from './domain/rule-table.ts'
import { Events } from './events.ts'
import { routingHandlers } from './rpc.ts'
import { followRules, followWorld, type Rules } from './subscriptions.ts'

export async function start(config: Config, context: ServiceContext): Promise<RunningService> {
  await using opened = new AsyncDisposableStack()
  const { log, signal } = context
  const replicaId = config.replicaId ?? `${context.name}-${randomUUID()}`
  const folder = config.identityFolder
  const credentials = opened.use(await openCredentials({ folder, log }))
  const servers = config.natsUrls ?? credentials.places.bus
  const bus = opened.use(await connectBus({ servers, credentials, name: replicaId, log, signal }))
  opened.use(hearRevocations(bus, credentials, new Events(log)))
  const { addresses } = opened.use(await startOn(bus, replicaId, config, context, credentials))
  const running = opened.move()
  return { addresses, [Symbol.asyncDispose]: () => running.disposeAsync() }
}

/** Starts on a bus that is there. */
export async function startOn(
  bus: Bus,
  replicaId: string,
  config: Config,
  { log }: ServiceContext,
  credentials: Credentials & KeyRefuser,
): Promise<RunningService> {
  await using opened = new AsyncDisposableStack()
  const events = new Events(log)
  const rules: Rules = { table: new RuleTable(), revision: 0n }
  const world = new RecordsWorld()
  opened.use(await followWorld(bus, world, credentials, events))
  opened.use(await followRules(bus, replicaId, rules, events))
  opened.defer(events.observeSize(() => rules.table.size))
  const server = opened.use(
    await serve({
      listen: config.listen,
      services: [
        implement(
          RoutingServiceService,
          routingHandlers(rules, world, config.horizonMs, events),
          routingAccess,
        ),
      ],
      security: {
        kind: 'mutual-tls',
        credentials,
        authorise: authoriser({ world }),
      },
      log,
    }),
  )
  const running = opened.move()
  return { addresses: server.addresses, [Symbol.asyncDispose]: () => running.disposeAsync() }
}
