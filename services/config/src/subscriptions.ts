import {
  type Bucket,
  type Bus,
  type Delivery,
  follow,
  keyTokens,
  events as subjects,
} from '@weft/bus'
import {
  asWeftError,
  HostNotFoundError,
  HostRevokedError,
  OverloadedError,
  PermissionDeniedError,
  StatementRefusedError,
} from '@weft/errors'
import { CLOCK_TOLERANCE_MS } from '@weft/identity/authority'
import { verifyConnections } from '@weft/identity/host-signature'
import { type Record as StoredRecord } from '@weft/proto/weftline/config/v1/records.ts'
import type { Location } from '@weft/proto/weftline/location/v1/location.ts'
import { ConnectionReport } from '@weft/proto/weftline/status/v1/status.ts'
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
    // Its own writes are in it at once, whether or not the watch has told them yet.
    known: () => replica.database.revision,
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

/** How often the room of what hosts did not say again is given back. */
const SWEEP_MS = 30_000
/** Reports of one host that come sooner after each other are not looked at. Hosts send one in 5 s at most. */
const REPORT_PAUSE_MS = 1_000

/** Hears what hosts say of their open connections. Every replica hears all of it, for each answers from its own memory. */
export function hearConnections(bus: Bus, replica: Replica, events: Events): AsyncDisposable {
  const lookedAtMs = new Map<number, number>()
  const handle = (report: ConnectionReport, delivery: Delivery): void => {
    const { hostId } = report
    try {
      checkSender(delivery, hostId)
      const host = replica.database.host(hostId)
      if (!host) throw new HostNotFoundError({ host: hostId })
      if (host.revokedAtUnixMs !== 0n) throw new HostRevokedError({ host: host.name })
      const elapsedMs = performance.now()
      if (elapsedMs - (lookedAtMs.get(hostId) ?? -Infinity) < REPORT_PAUSE_MS) {
        const limit = 1_000 / REPORT_PAUSE_MS
        throw new OverloadedError({ what: `hearing host ${hostId} each second`, limit })
      }
      lookedAtMs.set(hostId, elapsedMs)
      verifyConnections(report, host.identityKey)
      const now = Date.now()
      // One from long ago would be new to a replica that was started since.
      if (Math.abs(Number(report.sentAtUnixMs) - now) > CLOCK_TOLERANCE_MS) {
        throw new StatementRefusedError({ reason: 'outdated', purpose: 'connection-report' })
      }
      replica.hearConnections(report, now)
    } catch (error) {
      events.connectionsRefused(hostId, asWeftError(error))
    }
  }
  const hearing = bus.subscribe(subjects.connectionsReported.pattern(), ConnectionReport, handle)
  const sweeping = setInterval(() => {
    replica.connections.sweep(Date.now())
    lookedAtMs.clear()
  }, SWEEP_MS)
  sweeping.unref()
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(sweeping)
      await hearing[Symbol.asyncDispose]()
    },
  }
}

/** Servers restrict which subjects a host publishes to, not what it writes into a message: the two must agree. */
function checkSender({ subject }: Delivery, hostId: number): void {
  const parsed = subjects.connectionsReported.parse(subject)
  if (parsed?.sender === String(hostId) && parsed.id === String(hostId)) return
  throw new PermissionDeniedError({
    what: `speaking for host ${hostId} on ${subject}`,
    remedy: 'send it on the subject of that host',
  })
}

function parseKey(key: string): { kind: Kind; id: number } | undefined {
  const [kindToken, idToken] = keyTokens(key)
  const kind = kinds.find((candidate) => candidate === kindToken)
  const id = Number(idToken)
  return kind && Number.isInteger(id) ? { kind, id } : undefined
}
