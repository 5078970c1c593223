const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS

/** Kept offline; made once for a domain. */
export const ROOT_LIFETIME_MS: number = 3_650 * DAY_MS
/** The authority that config runs. */
export const INTERMEDIATE_LIFETIME_MS: number = 30 * DAY_MS
/** Of a host's or user's certificate, and of each of a service's. */
export const LEAF_LIFETIME_MS: number = DAY_MS
/** Certificates begin so long before they are issued, for clocks that are behind. */
export const CLOCK_TOLERANCE_MS: number = 5 * 60_000
/** The void key of a host or user is remembered so long: no certificate, bus login or row that was made for it lives longer. */
export const VOID_KEY_LIFE_MS: number = 8 * DAY_MS
/** A service's certificates: 16, one more every 12 hours, so that the last ends 8.5 days after the first begins. */
export const LADDER_LENGTH = 16
export const LADDER_STEP_MS: number = 12 * HOUR_MS
