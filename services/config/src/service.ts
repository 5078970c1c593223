import { randomUUID } from 'node:crypto'
import { type Bus, buckets, connectBus } from '@weft/bus'
import { ConfigServiceService } from '@weft/proto/weftline/config/v1/config_service.ts'
import { Record as StoredRecord } from '@weft/proto/weftline/config/v1/records.ts'
import { Location } from '@weft/proto/weftline/location/v1/location.ts'
import { implement, serve } from '@weft/rpc'
import type { RunningService, ServiceContext } from '@weft/service'
import { Commits } from './commits.ts'
import type { Config } from './config.ts'
import { Controller } from './controller.ts'
import { Events } from './events.ts'
import { Replica } from './replica.ts'
import { configHandlers } from './rpc.ts'
import { followLocations, followRecords } from './subscriptions.ts'

export async function start(config: Config, context: ServiceContext): Promise<RunningService> {
  await using opened = new AsyncDisposableStack()
  const { log, signal } = context
  const replicaId = config.replicaId ?? `${context.name}-${randomUUID()}`
  const bus = opened.use(
    await connectBus({ servers: config.natsUrls, name: replicaId, log, signal }),
  )
  const { addresses } = opened.use(await startOn(bus, replicaId, config, context))
  const running = opened.move()
  return { addresses, [Symbol.asyncDispose]: () => running.disposeAsync() }
}

/** Starts on a bus that is there. */
export async function startOn(
  bus: Bus,
  replicaId: string,
  config: Config,
  { log }: ServiceContext,
): Promise<RunningService> {
  await using opened = new AsyncDisposableStack()
  const events = new Events(log)
  const replica = new Replica()
  const records = await bus.openBucket(buckets.config, StoredRecord)
  const locations = await bus.openBucket(buckets.locations, Location)
  opened.use(await followRecords(records, replica, events))
  opened.use(await followLocations(locations, replica, events))
  const commits = opened.use(new Commits(records, replica, events))
  const controller = opened.use(
    new Controller({ replicaId, bus, replica, records, locations, events }),
  )
  opened.defer(
    events.observe({
      counts: () => replica.database.counts,
      queueDepth: () => commits.queueDepth,
      isController: () => controller.isLeading,
    }),
  )
  const busServers = config.natsUrls
  const api = { bus, busServers, replicaId, replica, commits, controller }
  const server = opened.use(
    await serve({
      listen: config.listen,
      services: [implement(ConfigServiceService, configHandlers(api))],
      log,
    }),
  )
  const running = opened.move()
  return { addresses: server.addresses, [Symbol.asyncDispose]: () => running.disposeAsync() }
}
