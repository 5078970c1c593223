/** Codes of an answer that did not come: the caller cannot know whether the request was carried out. */
export const UNAVAILABLE_CODES: readonly string[] = [
  'unavailable',
  'unknown-outcome',
  'deadline-exceeded',
  'cancelled',
]
