/** Milliseconds to wait before try number `attempt` (the first is 1): full jitter over a doubling span, at most `capMs`. */
export function backOffMs(
  attempt: number,
  random: number,
  baseMs: number = 100,
  capMs: number = 5_000,
): number {
  const spanMs = Math.min(capMs, baseMs * 2 ** Math.min(attempt - 1, 16))
  return Math.max(baseMs / 4, random * spanMs)
}
