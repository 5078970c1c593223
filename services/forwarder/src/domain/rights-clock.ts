/** A clock that leaps further than this is not believed: hosts renew what they have long before so much of it is left. */
export const LEAP_MAX_MS: number = 48 * 3_600_000

/**
 * Tells whether a right is over, by a wall clock that may be wrong. Rights have to end when they end, also where somebody
 * or something sets the clock back; and a clock that is wrong for a while must not end them all.
 *
 * Of the wall clock and the time since the machine started (also while it slept) one is checked against the other: the wall
 * clock is not believed when it leaps forward by more than `LEAP_MAX_MS`, and never again comes to be earlier than it was. At
 * the start there is nothing to compare it with but the time that was kept on disk: it is believed, so that rights end which
 * ran out meanwhile, but when it is far ahead it is not held to what it says.
 *
 * All times are in milliseconds, since 1970 or since the machine started.
 */
export class RightsClock {
  /** It is this time at least. */
  #floorMs: number
  #shownMs: number
  #uptimeMs: number

  /** `floorMs`: the last time that is known to have come, 0 for none. */
  constructor(floorMs: number, wallMs: number, uptimeMs: number) {
    this.#floorMs = floorMs === 0 ? wallMs : floorMs
    this.#shownMs = Math.max(wallMs, this.#floorMs)
    this.#uptimeMs = uptimeMs
    this.at(wallMs, uptimeMs)
  }

  /** To be kept on disk now and then. */
  get floorMs(): number {
    return this.#floorMs
  }

  /** The time by which rights end. */
  at(wallMs: number, uptimeMs: number): number {
    const passedMs = Math.max(0, uptimeMs - this.#uptimeMs)
    this.#uptimeMs = Math.max(this.#uptimeMs, uptimeMs)
    this.#floorMs += passedMs
    this.#shownMs += passedMs
    const isLeap = wallMs - this.#shownMs > LEAP_MAX_MS
    if (!isLeap) this.#shownMs = Math.max(wallMs, this.#floorMs)
    if (this.#shownMs - this.#floorMs <= LEAP_MAX_MS) this.#floorMs = this.#shownMs
    return this.#shownMs
  }

  /** The control plane signed something at this time. */
  noteSigned(signedMs: number): void {
    this.#floorMs = Math.max(this.#floorMs, signedMs)
    this.#shownMs = Math.max(this.#shownMs, signedMs)
  }
}
