import { setTimeout as delay } from 'node:timers/promises'

/** Generous: a test that waits for what does come should not fail on a busy machine. */
const PATIENCE_MS = 60_000
const PAUSE_MS = 20

/** Tries until the probe neither throws nor answers false or undefined, and answers what it did; throws its last error after `patienceMs`. */
export async function eventually<
  T extends object | string | number | bigint | boolean | null | undefined,
>(
  probe: () => T | Promise<T>,
  patienceMs: number = PATIENCE_MS,
): Promise<Exclude<Awaited<T>, false | undefined>> {
  const giveUpAt = performance.now() + patienceMs
  let problem: unknown = new Error(`it did not become true within ${patienceMs} ms`)
  while (performance.now() < giveUpAt) {
    try {
      const found = await probe()
      if (found !== false && found !== undefined)
        return found as Exclude<Awaited<T>, false | undefined>
    } catch (error) {
      problem = error
    }
    await delay(PAUSE_MS)
  }
  throw problem
}
