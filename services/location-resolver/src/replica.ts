import { RecordsWorld } from '@weft/access'
import { UnavailableError } from '@weft/errors'
import { ChangeFeed } from './change-feed.ts'
import { ConfigView } from './domain/config-view.ts'
import { LeaseTable } from './domain/lease-table.ts'
import { type Location, LocationTable } from './domain/location-table.ts'

interface Waiter {
  readonly isReached: () => boolean
  readonly resolve: (isReached: boolean) => void
}

/** What this replica knows: the VN database and the observed locations, each up to a revision, and the hosts' leases. */
export class Replica {
  readonly id: string
  readonly config: ConfigView = new ConfigView()
  /** What the rules of access need of the same records. */
  readonly world: RecordsWorld = new RecordsWorld((id) => this.config.endpoints.get(id)?.networkId)
  readonly locations: LocationTable = new LocationTable()
  readonly leases: LeaseTable = new LeaseTable()
  readonly changes: ChangeFeed = new ChangeFeed()
  readonly #catchUpMs: number
  readonly #waiters = new Set<Waiter>()

  /** `catchUpMs`: how long `reach` and `until` wait. */
  constructor(id: string, catchUpMs: number) {
    this.id = id
    this.#catchUpMs = catchUpMs
  }

  /** Tells those who may hear of it that an endpoint may be somewhere else, or gone: while its network is known still. */
  touch(endpointId: number, networkId: number): void {
    this.changes.touch(endpointId, networkId, this.world.tenantOfNetwork(networkId))
  }

  putLocation(record: Location): void {
    if (this.locations.put(record)) this.touch(record.endpointId, record.networkId)
  }

  deleteLocation(endpointId: number, revision: bigint): void {
    const record = this.locations.get(endpointId)
    if (record === undefined || !this.locations.delete(endpointId, revision)) return
    this.touch(endpointId, record.networkId)
  }

  configCaughtUp(revision: bigint): void {
    this.config.revision = revision
    this.#release()
  }

  locationsCaughtUp(revision: bigint): void {
    this.locations.revision = revision
    this.#release()
  }

  /** Waits until both copies are at these revisions at least. Throws `UnavailableError` if they are not in time. */
  async reach(configRevision: bigint, locationRevision: bigint): Promise<void> {
    const { config, locations } = this
    const isReached = await this.until(
      () => config.revision >= configRevision && locations.revision >= locationRevision,
    )
    if (isReached) return
    throw this.behind(
      `it knows the VN database to revision ${config.revision} and locations to ${locations.revision}, ` +
        `asked for were ${configRevision} and ${locationRevision}`,
    )
  }

  /** Waits until the condition holds, which is tried whenever the copies have moved. Returns whether it does. */
  async until(isReached: () => boolean): Promise<boolean> {
    if (isReached()) return true
    const { promise, resolve } = Promise.withResolvers<boolean>()
    const waiter = { isReached, resolve }
    this.#waiters.add(waiter)
    const timer = setTimeout(resolve, this.#catchUpMs, false)
    try {
      return await promise
    } finally {
      clearTimeout(timer)
      this.#waiters.delete(waiter)
    }
  }

  /** That this replica has not seen what it is asked about. */
  behind(problem: string): UnavailableError {
    return new UnavailableError({
      service: 'location-resolver',
      address: this.id,
      problem,
      remedy: 'try again: another replica may be further',
    })
  }

  #release(): void {
    for (const { isReached, resolve } of this.#waiters) if (isReached()) resolve(true)
  }
}
