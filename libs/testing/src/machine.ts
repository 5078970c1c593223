import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** A folder of its own, removed with all that is in it when disposed. */
export async function temporaryFolder(): Promise<{ readonly path: string } & AsyncDisposable> {
  const path = await mkdtemp(join(tmpdir(), 'weft-test-'))
  return {
    path,
    [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true, maxRetries: 3 }),
  }
}

/** Below what Linux gives to outgoing connections (`ip_local_port_range`, by default from 32768): none takes it before it is listened on. */
const PORT_MIN = 10_000
const PORT_MAX = 32_000
const PORT_TRIES_MAX = 100

/** A loopback TCP port that was free a moment ago. */
export async function freePort(): Promise<number> {
  for (let tries = 0; tries < PORT_TRIES_MAX; tries++) {
    const port = randomInt(PORT_MIN, PORT_MAX)
    if (await isFree(port)) return port
  }
  throw new Error('no port is free')
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer().listen(port, '127.0.0.1')
  try {
    await once(server, 'listening')
  } catch {
    return false
  }
  server.close()
  await once(server, 'close')
  return true
}

/** For the `skip` option of a test that needs root: the reason, or false if we are root. */
export function skipUnlessRoot(): string | false {
  return process.getuid?.() === 0 ? false : 'needs root'
}
