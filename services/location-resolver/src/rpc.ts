import { asWeftError, InvalidArgumentError, toWire } from '@weft/errors'
import {
  HostLease,
  type Location as LocationMessage,
  type LocationQuery,
  type LocationServiceService,
  Resolution,
  ResolveResponse,
  WatchResponse,
} from '@weft/proto/weftline/location/v1/location.ts'
import type { Handlers } from '@weft/rpc'
import type { Location } from './domain/location-table.ts'
import { locate, resolve } from './domain/resolve.ts'
import type { Events } from './events.ts'
import { connectionToMessage } from './messages.ts'
import type { Replica } from './replica.ts'

/** Pairs of one `Resolve`. */
const QUERIES_MAX = 256
/** Endpoints that one `Locate` names. */
const ENDPOINTS_MAX = 1000
/** Keeps a chunk of a stream under 256 KiB: a location has at most 64 bytes of numbers, 64 of signature, 64 of lease and 18 for each address. */
const CHUNK_LOCATIONS_MAX = 500

export function locationHandlers(
  replica: Replica,
  horizonMs: number,
  events: Events,
): Handlers<typeof LocationServiceService> {
  const { config, locations, leases } = replica

  const resolveOne = ({ sourceEndpointId, targetEndpointId }: LocationQuery): Resolution => {
    try {
      const connection = resolve(config, locations, sourceEndpointId, targetEndpointId)
      events.resolved(connection.mechanism)
      return { outcome: { $case: 'connection', value: connectionToMessage(connection) } }
    } catch (error) {
      events.resolveRefused(asWeftError(error))
      return Resolution.create({ outcome: { $case: 'error', value: toWire(error) } })
    }
  }

  function* located(endpointIds: Iterable<number>): Generator<LocationMessage, void, undefined> {
    for (const endpointId of endpointIds) {
      const location = locate(config, locations, endpointId)
      if (location !== undefined) yield location
    }
  }

  return {
    async resolve({ queries, configRevisionMin, locationRevisionMin }) {
      checkCount('queries', queries.length, QUERIES_MAX)
      await replica.reach(configRevisionMin, locationRevisionMin)
      return ResolveResponse.create({
        resolutions: queries.map(resolveOne),
        locationRevision: locations.revision,
        configRevision: config.revision,
        horizonMs: BigInt(horizonMs),
      })
    },

    async locate({ endpointIds }) {
      checkCount('endpoint_ids', endpointIds.length, ENDPOINTS_MAX)
      const found = [...located(endpointIds.length > 0 ? endpointIds : config.endpoints.keys())]
      const now = performance.now()
      const hostLeases = [...new Set(found.map(({ hostId }) => hostId))].flatMap((hostId) => {
        const known = leases.find(hostId, now)
        if (known === undefined) return []
        const { lease, ageMs } = known
        return HostLease.create({
          hostId,
          leaseId: lease.leaseId,
          leaseTtlMs: lease.ttlMs,
          ageMs: BigInt(Math.round(ageMs)),
        })
      })
      return { locations: found, locationRevision: locations.revision, hostLeases }
    },

    async *watch({ networkId }, { signal }) {
      const watcher = replica.changes.watch(networkId, signal)
      let chunk: Location[] = []
      for (const location of located(config.endpoints.keys())) {
        if (networkId !== 0 && location.networkId !== networkId) continue
        chunk.push(location)
        if (chunk.length < CHUNK_LOCATIONS_MAX) continue
        yield WatchResponse.create({ located: chunk, locationRevision: locations.revision })
        chunk = []
      }
      yield WatchResponse.create({
        located: chunk,
        locationRevision: locations.revision,
        snapshotComplete: true,
      })
      for (;;) {
        const touched = await watcher.take()
        if (touched === undefined) return
        yield* deltas(touched)
      }
    },
  }

  function* deltas(touched: Iterable<number>): Generator<WatchResponse, void, undefined> {
    const ids = [...touched]
    for (let start = 0; start < ids.length; start += CHUNK_LOCATIONS_MAX) {
      const some = ids.slice(start, start + CHUNK_LOCATIONS_MAX)
      const there = [...located(some)]
      const thereIds = new Set(there.map(({ endpointId }) => endpointId))
      yield WatchResponse.create({
        located: there,
        goneEndpointIds: some.filter((id) => !thereIds.has(id)),
        locationRevision: locations.revision,
        snapshotComplete: true,
      })
    }
  }
}

function checkCount(field: string, count: number, max: number): void {
  if (count <= max) return
  const problem = `${count} at once, at most ${max} are answered`
  throw new InvalidArgumentError({ field, problem, remedy: 'ask in parts' })
}
