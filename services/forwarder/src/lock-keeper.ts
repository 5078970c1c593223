import type { HostRows, RowsTouched } from './domain/host-rows.ts'
import type { Network } from './domain/rows.ts'
import type { SwitchTable } from './domain/switch-table.ts'
import type { TenantLocks, TenantPin } from './domain/tenant-locks.ts'
import type { Events } from './events.ts'
import { Coalesced, pause } from './loop.ts'
import { encodePins } from './state.ts'
import type { StateFile } from './store.ts'

/** How long an attach waits for what a locked tenant says of the network, which comes with the first endpoint there. */
const VOUCH_WAIT_MS = 3_000
const VOUCH_LOOK_MS = 20
/** How long keys that could not be written wait for the next attempt. */
const WRITE_AGAIN_MS = 5_000

/** Has the switch table follow what locked tenants say, keeps their keys on disk, and says what does not count. */
export class LockKeeper {
  readonly #hostId: number
  readonly #identityKey: () => Buffer
  readonly #rows: HostRows
  readonly #locks: TenantLocks
  readonly #table: SwitchTable
  readonly #events: Events
  readonly #signal: AbortSignal
  readonly #write: Coalesced
  readonly #onPinned: () => void
  #notedUnvouched = ''
  #notedOutside = ''

  constructor(options: {
    readonly hostId: number
    /** Of this host: Ed25519 public key, 32 bytes. */
    readonly identityKey: () => Buffer
    readonly rows: HostRows
    readonly locks: TenantLocks
    readonly table: SwitchTable
    readonly pinsFile: StateFile
    /** Other tenants are locked than before. */
    readonly onPinned: () => void
    readonly events: Events
    readonly signal: AbortSignal
  }) {
    this.#hostId = options.hostId
    this.#identityKey = options.identityKey
    this.#rows = options.rows
    this.#locks = options.locks
    this.#table = options.table
    this.#events = options.events
    this.#signal = options.signal
    this.#onPinned = options.onPinned
    const { pinsFile, locks } = options
    this.#write = new Coalesced(() => pinsFile.write(encodePins(locks.pins)))
  }

  /** Resolves once the present keys are on disk. */
  async write(): Promise<void> {
    try {
      await this.#write.run()
    } catch (error) {
      this.#events.stateNotWritten(error)
      throw error
    }
  }

  /** Writes the present keys, again and again until that is done: a host that forgets them believes whoever comes first. */
  async #keepWriting(): Promise<void> {
    for (let isWritten = false; !isWritten && !this.#signal.aborted; ) {
      isWritten = await this.write().then(
        () => true,
        () => false,
      )
      if (!isWritten) await pause(WRITE_AGAIN_MS, this.#signal)
    }
  }

  /** Rows came or went: what counts by them is touched in the switch table. */
  noteRows(touched: readonly RowsTouched[]): void {
    const isSaid = touched.some(({ kind }) => kind === 'statement')
    if (isSaid) this.#review()
    if (isSaid || touched.some(({ kind }) => kind === 'network')) this.#tell()
  }

  /** Whether the network counts; waits a little for it. */
  async isVouchedFor(network: Network): Promise<boolean> {
    const untilMs = performance.now() + VOUCH_WAIT_MS
    while (!this.#locks.isVouchedFor(network)) {
      if (performance.now() >= untilMs || this.#signal.aborted) return false
      await pause(VOUCH_LOOK_MS, this.#signal)
    }
    return true
  }

  #review(): void {
    const known = new Set(this.#locks.pins.tenants.map(keyText))
    if (this.#locks.review()) {
      const others = this.#locks.pins.tenants.map(keyText).filter((text) => !known.has(text))
      if (others.length > 0) this.#events.tenantKeysPinned(others)
      void this.#keepWriting()
      this.#onPinned()
    }
    this.#table.touchLocks()
  }

  #tell(): void {
    const guarded = [...this.#rows.networks.values()].flatMap(({ value }) =>
      this.#locks.isGuarded(value) ? [value] : [],
    )
    const unvouched = guarded.filter((network) => !this.#locks.isVouchedFor(network))
    const key = this.#identityKey().toString('hex')
    const outside = guarded.filter(
      (network) =>
        this.#locks.isVouchedFor(network) &&
        !this.#locks.isDelegate(network, { hostId: this.#hostId, identityKey: key }),
    )
    this.#notedUnvouched = told(unvouched, this.#notedUnvouched, (networks) =>
      this.#events.networksNotVouchedFor(networks),
    )
    this.#notedOutside = told(outside, this.#notedOutside, (networks) =>
      this.#events.outsideNetworks(networks),
    )
  }
}

/** Tells of networks unless it is the same ones as before; returns which they are. */
function told(
  networks: readonly Network[],
  before: string,
  tell: (names: readonly string[]) => void,
): string {
  const names = networks.map(({ tenant, name }) => `${tenant}/${name}`)
  const text = names.join()
  if (text !== '' && text !== before) tell(names)
  return text
}

function keyText({ tenant, number }: TenantPin): string {
  return `${tenant}: key ${number}`
}
