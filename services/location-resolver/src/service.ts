import { randomUUID } from 'node:crypto'
import { authoriser, locationAccess } from '@weft/access'
import { type Bus, buckets, connectBus } from '@weft/bus'
import { type KeyRefuser, openCredentials } from '@weft/domain'
import { hearRevocations } from '@weft/domain/revocations'
import type { Credentials } from '@weft/identity'
import { Record as StoredRecord } from '@weft/proto/weftline/config/v1/records.ts'
import { Location, LocationServiceService } from '@weft/proto/weftline/location/v1/location.ts'
import { implement, serve } from '@weft/rpc'
import type { RunningService, ServiceContext } from '@weft/service'
import type { Config } from './config.ts'
import { Events } from './events.ts'
import { LocationWriter } from './location-writer.ts'
import { Replica } from './replica.ts'
import { locationHandlers } from './rpc.ts'
import { followLocations, followRecords, hearRenewals, takeReports } from './subscriptions.ts'

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
  const replica = new Replica(replicaId, config.catchUpMs)
  const bucket = await bus.openBucket(buckets.locations, Location)
  const configBucket = await bus.openBucket(buckets.config, StoredRecord, { access: 'remote' })
  const writer = new LocationWriter(bus, bucket, replica, events)
  opened.use(await followLocations(bucket, replica, writer, events))
  opened.use(await followRecords(configBucket, replica, writer, credentials, events))
  for (const { endpointId } of replica.locations.all()) await writer.removeIfDeleted(endpointId)
  opened.defer(
    events.observe(() => ({
      leases: replica.leases.count(performance.now()),
      configRevision: replica.config.revision,
      locationRevision: replica.locations.revision,
    })),
  )
  opened.use(takeReports(bus, replica, writer, events))
  opened.use(hearRenewals(bus, replica, events))
  const server = opened.use(
    await serve({
      listen: config.listen,
      services: [
        implement(
          LocationServiceService,
          locationHandlers(replica, config.horizonMs, events),
          locationAccess,
        ),
      ],
      security: {
        kind: 'mutual-tls',
        credentials,
        authorise: authoriser({ world: replica.world }),
      },
      log,
    }),
  )
  const running = opened.move()
  return { addresses: server.addresses, [Symbol.asyncDispose]: () => running.disposeAsync() }
}
