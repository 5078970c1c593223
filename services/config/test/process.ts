import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { eventually, freePort, temporaryFolder } from '@weft/testing'
import { writeFolders } from './domain.ts'
import { connectAs, type Reachable, site } from './site.ts'

/** A replica in a process of its own, as it is deployed. */
export interface ReplicaProcess extends Reachable, AsyncDisposable {
  /** SIGKILL: no word to anyone. */
  kill(): Promise<void>
}

export async function startProcess(natsUrl: string, replicaId: string): Promise<ReplicaProcess> {
  await using opened = new AsyncDisposableStack()
  const address = `127.0.0.1:${await freePort()}`
  const enrolmentAddress = `127.0.0.1:${await freePort()}`
  const folder = opened.use(await temporaryFolder())
  await writeFolders(site, folder.path, [natsUrl])
  const main = fileURLToPath(new URL('../src/main.ts', import.meta.url))
  const child: ChildProcess = spawn(process.execPath, [main], {
    env: {
      WEFT_CONFIG_LISTEN: address,
      WEFT_CONFIG_ENROLMENT_LISTEN: enrolmentAddress,
      WEFT_CONFIG_AUTHORITY: join(folder.path, 'authority'),
      WEFT_IDENTITY_DIR: join(folder.path, 'config'),
      WEFT_CONFIG_AUDIT_FOLDER: join(folder.path, 'audit'),
      WEFT_REPLICA_ID: replicaId,
      WEFT_LOG_LEVEL: 'silent',
    },
    stdio: 'inherit',
  })
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill(signal)
    await once(child, 'exit')
  }
  opened.defer(() => end('SIGKILL'))
  const client = opened.use(connectAs(site.owner, address))
  const ended = once(child, 'exit').then(([code]) => {
    throw new Error(`config ended with exit code ${code}`)
  })
  const ready = eventually(async () => (await client.getServerInfo({})).replicaId === replicaId)
  await Promise.race([ready, ended])
  assert(child.pid !== undefined)
  const running = opened.move()
  return {
    address,
    enrolmentAddress,
    client,
    kill: () => end('SIGKILL'),
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  }
}
