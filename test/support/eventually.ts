const DEADLINE_MS = 30_000
const POLL_MS = 20

/** Asks again until `ask` does not throw, and returns its answer; after half a minute its last error is thrown. */
export async function eventually<T>(
  ask: () => Promise<T>,
  deadlineMs: number = DEADLINE_MS,
): Promise<T> {
  const deadline = Date.now() + deadlineMs
  for (;;) {
    try {
      return await ask()
    } catch (error) {
      if (Date.now() > deadline) throw error
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS))
  }
}
