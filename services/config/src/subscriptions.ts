import { type Bucket, follow, keyTokens } from '@weft/bus'
import { type Record as StoredRecord } from '@weft/proto/weftline/config/v1/records.ts'
import type { Location } from '@weft/proto/weftline/location/v1/location.ts'
import { type Kind, kinds, type Write } from './domain/database.ts'
import type { Events } from './events.ts'
import type { Replica } from './replica.ts'

/** Fills the replica's VN database from its bucket and keeps it in step. */
export function followRecords(
  bucket: Bucket<StoredRecord>,
  replica: Replica,
  events: Events,
): Promise<AsyncDisposable> {
  const keys = new Set<string>()
  return follow(bucket, {
    put({ key, value, revision }) {
      if (replica.lost) return
      keys.add(key)
      const address = parseKey(key)
      if (address && value.kind?.$case === address.kind) {
        replica.apply({ ...address, record: value.kind.value } as Write, revision)
        return
      }
      events.recordNotUnderstood(key)
      if (address) replica.distrust(address.kind, address.id, revision)
      else replica.caughtUp(revision)
    },
    delete(key, revision) {
      if (replica.lost) return
      keys.delete(key)
      const address = parseKey(key)
      if (address) replica.apply({ ...address, record: undefined }, revision)
    },
    damaged(key, revision) {
      if (replica.lost) return
      keys.add(key)
      const address = parseKey(key)
      if (address) replica.distrust(address.kind, address.id, revision)
    },
    keys: () => keys,
    reset(reason) {
      // Nothing was known yet: nothing is lost.
      if (replica.database.revision === 0n) return
      replica.lose(reason)
      events.storeLost(reason, replica.database.revision)
    },
    caughtUp(revision) {
      if (!replica.lost) replica.caughtUp(revision)
    },
  })
}

/** Fills the replica's locations from their bucket and keeps them in step. */
export function followLocations(
  bucket: Pick<Bucket<Location>, 'watch'>,
  replica: Replica,
  events: Events,
): Promise<AsyncDisposable> {
  const keys = new Map<string, number>()
  return follow(bucket, {
    put({ key, value: { endpointId, hostId, epoch, report } }) {
      keys.set(key, endpointId)
      replica.locate(endpointId, { hostId, epoch, report })
    },
    delete(key) {
      const endpointId = keys.get(key)
      keys.delete(key)
      if (endpointId !== undefined) replica.locate(endpointId, undefined)
    },
    // It stays where it was last known to be.
    damaged: () => undefined,
    keys: () => keys.keys(),
    // Hosts announce their endpoints again; until then they are where they were.
    reset: (reason) => events.locationsLost(reason),
    caughtUp: (revision) => replica.locationsCaughtUp(revision),
  })
}

function parseKey(key: string): { kind: Kind; id: number } | undefined {
  const [kindToken, idToken] = keyTokens(key)
  const kind = kinds.find((candidate) => candidate === kindToken)
  const id = Number(idToken)
  return kind && Number.isInteger(id) ? { kind, id } : undefined
}
