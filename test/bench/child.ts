import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'

/** The next message of a process; throws if it ends before. */
export async function nextMessage(child: ChildProcess): Promise<unknown> {
  const ended = new AbortController()
  const end = (): void => ended.abort()
  child.once('exit', end)
  try {
    const [message] = await once(child, 'message', { signal: ended.signal })
    return message
  } catch (error) {
    throw new Error(`a process of the bench has ended with ${child.exitCode}`, { cause: error })
  } finally {
    child.off('exit', end)
  }
}

/** Lets a process go, which ends when nobody listens to it any more, and waits for its end. */
export async function letGo(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = once(child, 'exit')
  if (child.connected) child.disconnect()
  await ended
}
