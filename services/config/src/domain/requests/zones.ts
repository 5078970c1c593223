import { LimitReachedError, ZoneExistsError, ZoneInUseError, ZoneNotFoundError } from '@weft/errors'
import type {
  CreateZoneRequest,
  DeleteZoneRequest,
  UpdateZoneRequest,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import type { Zone } from '@weft/proto/weftline/config/v1/records.ts'
import type { Database } from '../database.ts'
import { limits } from '../limits.ts'
import {
  answer,
  type Caller,
  checkName,
  checkRevision,
  createdMeta,
  newId,
  type Plan,
  put,
  remove,
  repeated,
  rewrittenMeta,
} from './plan.ts'

export function createZone(
  database: Database,
  { name, trusted, labels }: CreateZoneRequest,
  caller: Caller,
): Plan<Zone> {
  checkName('zone', name)
  const earlier = repeated(database, caller, 'zone', (zone) => zone.name === name)
  if (earlier) return answer(earlier)
  if (database.zoneNames.get(name) !== undefined) throw new ZoneExistsError({ zone: name })
  if (database.counts.zone >= limits.zones) {
    throw new LimitReachedError({ what: 'zones', limit: limits.zones })
  }
  const id = newId(database)
  return put('zone', id, { id, name, trusted, meta: createdMeta(database, caller, labels) })
}

export function updateZone(
  database: Database,
  { name, trusted, expectedRevision }: UpdateZoneRequest,
  caller: Caller,
): Plan<Zone> {
  const earlier = repeated(database, caller, 'zone', (zone) => zone.name === name)
  if (earlier) return answer(earlier)
  const zone = zoneNamed(database, name)
  checkRevision(`zone ${name}`, zone.meta, expectedRevision)
  return put('zone', zone.id, { ...zone, trusted, meta: rewrittenMeta(zone.meta, caller) })
}

export function deleteZone(database: Database, { name }: DeleteZoneRequest): Plan<boolean> {
  const id = database.zoneNames.get(name)
  if (id === undefined) return answer(false)
  const hosts = database.hostsOfZone(id).size
  if (hosts > 0) throw new ZoneInUseError({ zone: name, hosts })
  return remove('zone', id)
}

export function zoneNamed(database: Database, name: string): Zone {
  const id = database.zoneNames.get(name)
  const zone = id === undefined ? undefined : database.zone(id)
  if (!zone) throw new ZoneNotFoundError({ zone: name })
  return zone
}
