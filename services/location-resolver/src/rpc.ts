import type { Scope } from '@weft/access'
import { asWeftError, InvalidArgumentError, toWire, UnavailableError } from '@weft/errors'
import { formatIdentity } from '@weft/identity'
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
import { connectionToMessage, withoutReport } from './messages.ts'
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
  const { config, locations, leases, world } = replica

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

  const isInScope = ({ networkId }: Location, scope: Scope): boolean =>
    scope === 'all' || scope.has(world.tenantOfNetwork(networkId) ?? 0)

  function* located(
    endpointIds: Iterable<number>,
    scope: Scope,
  ): Generator<LocationMessage, void, undefined> {
    for (const endpointId of endpointIds) {
      const location = locate(config, locations, endpointId)
      if (location !== undefined && isInScope(location, scope)) yield withoutReport(location)
    }
  }

  /** `tenantId`: whose the endpoint was when it was touched; it may be gone since. */
  const mayHear = (endpointId: number, tenantId: number | undefined, scope: Scope): boolean => {
    if (scope === 'all') return true
    const owner = tenantId ?? world.tenantOfEndpoint(endpointId)
    return owner !== undefined && scope.has(owner)
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

    async locate({ endpointIds }, { scope }) {
      checkCount('endpoint_ids', endpointIds.length, ENDPOINTS_MAX)
      const wanted = endpointIds.length > 0 ? endpointIds : config.endpoints.keys()
      const found = [...located(wanted, scope)]
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

    async *watch({ networkId }, { signal, scope, caller, judgeAgain }) {
      // What was told under other rights cannot be put right by changes alone: a new snapshot can.
      const checkRights = (): void => {
        if (isSameScope(judgeAgain(), scope)) return
        throw new UnavailableError({
          service: 'location-resolver',
          address: replica.id,
          problem: 'what the caller may see has changed',
          remedy: 'watch again',
        })
      }
      const who = caller ? formatIdentity(caller.identity) : ''
      const watcher = replica.changes.watch(networkId, who, signal)
      let chunk: Location[] = []
      for (const location of located(config.endpoints.keys(), scope)) {
        if (networkId !== 0 && location.networkId !== networkId) continue
        chunk.push(location)
        if (chunk.length < CHUNK_LOCATIONS_MAX) continue
        checkRights()
        yield WatchResponse.create({ located: chunk, locationRevision: locations.revision })
        chunk = []
      }
      checkRights()
      yield WatchResponse.create({
        located: chunk,
        locationRevision: locations.revision,
        snapshotComplete: true,
      })
      for (;;) {
        const touched = await watcher.take()
        if (touched === undefined) return
        checkRights()
        for (const delta of deltas(touched, scope)) {
          checkRights()
          yield delta
        }
      }
    },
  }

  function* deltas(
    touched: ReadonlyMap<number, number | undefined>,
    scope: Scope,
  ): Generator<WatchResponse, void, undefined> {
    const ids = [...touched].flatMap(([id, tenantId]) => (mayHear(id, tenantId, scope) ? [id] : []))
    if (ids.length === 0) return
    for (let start = 0; start < ids.length; start += CHUNK_LOCATIONS_MAX) {
      const some = ids.slice(start, start + CHUNK_LOCATIONS_MAX)
      const there = [...located(some, scope)]
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

function isSameScope(a: Scope, b: Scope): boolean {
  if (a === 'all' || b === 'all') return a === b
  return a.size === b.size && [...a].every((tenantId) => b.has(tenantId))
}

function checkCount(field: string, count: number, max: number): void {
  if (count <= max) return
  const problem = `${count} at once, at most ${max} are answered`
  throw new InvalidArgumentError({ field, problem, remedy: 'ask in parts' })
}
